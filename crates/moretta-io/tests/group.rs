//! Four real sockets on one port: the kernel steers as the rule says, also after one of them has left.
#![cfg(test)]

mod common;

use std::collections::BTreeMap;

use common::ipv6_available;
use moretta_io::{
    ErrorKind, OutgoingTrain, ReceiveBatch, ReuseportGroup, SocketOptions, UdpSocket,
    steering::{self, CID_BYTES, SteeringTable},
};

/// xorshift64*: repeatable, and good enough to vary bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 32) as u8
    }

    /// A packet that takes each branch of the rule with fair probability; `serial` makes it recognisable.
    fn packet(&mut self, serial: u32) -> Vec<u8> {
        let mut packet = match self.next() % 4 {
            0 => vec![self.byte() & 0x7f],
            kind => {
                let version = if kind == 3 { self.next() as u32 } else { 1 };
                let length = if self.byte() < 128 { CID_BYTES as u8 } else { self.byte() % 21 };
                let mut packet = vec![0x80 | self.byte()];
                packet.extend(version.to_be_bytes());
                packet.push(length);
                packet
            }
        };
        // Half of the CIDs name one of the lower slots.
        packet.push(if self.byte() < 128 { self.byte() & 0xe7 } else { self.byte() });
        packet.extend((0..self.next() % 12).map(|_| self.byte()));
        packet.extend(serial.to_be_bytes());
        packet
    }
}

struct Member {
    slot: u8,
    socket: UdpSocket,
}

/// Sends `count` packets and checks that each arrives at the slot that the rule names.
fn check(members: &mut [Member], table: &SteeringTable, client: &mut UdpSocket, random: &mut Random, count: u32) {
    let mut expected = BTreeMap::new();
    let mut hits = BTreeMap::new();
    let mut batch = ReceiveBatch::new(16);
    for serial in 0..count {
        let packet = random.packet(serial);
        let remote = members.first().map(|member| member.socket.local_address());
        let train = OutgoingTrain { remote, local: None, ecn: 0, segment_size: None, data: &packet };
        assert_eq!(client.send_train(&train).sent, 1);
        let slot = table.slot_at(steering::steer(&packet, table));
        expected.insert(packet, slot);
        // Loopback delivers within the call that sends: all arrived packets can be read now.
        if serial % 16 == 15 || serial + 1 == count {
            for member in members.iter_mut() {
                while member.socket.receive(&mut batch).unwrap() > 0 {
                    for train in batch.drain() {
                        let wanted = expected.remove(&train.data[..]).expect("a packet arrived twice");
                        assert_eq!(wanted, Some(member.slot), "packet {:02x?}", &train.data[..]);
                        *hits.entry(member.slot).or_insert(0) += 1;
                    }
                }
            }
            assert!(expected.is_empty(), "lost: {expected:02x?}");
        }
    }
    assert_eq!(hits.len(), members.len(), "every socket got something");
}

#[test]
fn the_kernel_steers_by_the_rule_while_sockets_join_and_leave() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed_0001);
    println!("SEED={seed}");
    let mut addresses = vec!["127.0.0.1:0"];
    if ipv6_available() {
        addresses.push("[::1]:0");
    }
    for address in addresses {
        let mut random = Random(seed);
        let address = address.parse().unwrap();
        let options = SocketOptions::quic();
        let mut client = UdpSocket::open_client(address, &options).unwrap();
        // Slots in another order than indices.
        let (mut group, socket) = ReuseportGroup::open(address, 6, &options).unwrap();
        let mut members = vec![Member { slot: 6, socket }];
        for slot in [1, 4, 2] {
            members.push(Member { slot, socket: group.join(slot).unwrap() });
            assert_eq!(members.last().unwrap().socket.local_address(), group.local_address());
        }
        check(&mut members, group.table(), &mut client, &mut random, 2000);

        // Member 1 of 4 leaves: the kernel moves the last into its place.
        drop(members.remove(1));
        group.leave(1).unwrap();
        assert_eq!(group.table().slot_at(1), Some(2));
        check(&mut members, group.table(), &mut client, &mut random, 2000);

        // A draining slot keeps its connections and gets no new ones.
        group.set_accepting(4, false).unwrap();
        check(&mut members, group.table(), &mut client, &mut random, 2000);

        // The first, which was bound alone, leaves; another joins.
        drop(members.remove(0));
        group.leave(6).unwrap();
        members.push(Member { slot: 7, socket: group.join(7).unwrap() });
        check(&mut members, group.table(), &mut client, &mut random, 2000);
    }
}

#[test]
fn a_group_may_shrink_to_one_and_grow_again() {
    let options = SocketOptions::quic();
    let mut random = Random(7);
    let address = "127.0.0.1:0".parse().unwrap();
    let mut client = UdpSocket::open_client(address, &options).unwrap();
    let (mut group, socket) = ReuseportGroup::open(address, 0, &options).unwrap();
    let mut members = vec![Member { slot: 0, socket }];
    check(&mut members, group.table(), &mut client, &mut random, 100);
    members.push(Member { slot: 1, socket: group.join(1).unwrap() });
    check(&mut members, group.table(), &mut client, &mut random, 500);
    members.remove(0);
    group.leave(0).unwrap();
    check(&mut members, group.table(), &mut client, &mut random, 100);
    members.push(Member { slot: 0, socket: group.join(0).unwrap() });
    check(&mut members, group.table(), &mut client, &mut random, 500);
}

#[test]
fn a_socket_leaves_only_after_its_worker_let_go() {
    let options = SocketOptions::quic();
    let (mut group, first) = ReuseportGroup::open("127.0.0.1:0".parse().unwrap(), 3, &options).unwrap();
    assert_eq!(group.leave(3).unwrap_err().kind, ErrorKind::Other(libc::EBUSY));
    assert_eq!(group.leave(4).unwrap_err().kind, ErrorKind::Other(libc::ENOENT));
    assert_eq!(group.join(3).unwrap_err().kind, ErrorKind::Other(libc::EEXIST));
    assert_eq!(group.set_accepting(9, false).unwrap_err().kind, ErrorKind::Other(libc::ENOENT));
    let address = group.local_address();
    drop(first);
    group.leave(3).unwrap();
    UdpSocket::open_listener(address, &options).expect("the port is free again");
}
