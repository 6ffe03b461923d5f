//! What only a raw socket or a network namespace of one's own can show. Each test says why it skips where it may not.
#![cfg(test)]
#![allow(unsafe_code, reason = "raw sockets, ioctl and unshare have no safe wrapper; every block says why it is sound")]

mod common;

use std::{
    ffi::{c_int, c_ulong},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use bytes::Bytes;
use common::{Link, payloads, readable};
use moretta_io::{ErrorKind, OutgoingTrain, OwnAddresses, SendBatch, SocketOptions, UdpSocket};

fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor that was just created has no other owner.
    unsafe {
        match libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: ifreq consists of integers and a union of integers; zero is valid for each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request
}

fn ioctl(request: c_ulong, argument: &mut libc::ifreq) {
    let control = socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
    // SAFETY: the requests used here take an ifreq that is valid for reads and writes.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request as _, std::ptr::from_mut(argument)) };
    assert_eq!(result, 0, "ioctl {request:#x}: {}", io::Error::last_os_error());
}

/// Runs `body` on a thread with a network namespace of its own, whose loopback is up with this MTU.
fn in_own_network(mtu: c_int, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: concerns the calling thread only, which ends with this closure.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                println!("skipped: no network namespace of one's own: {}", io::Error::last_os_error());
                return;
            }
            let mut up = interface_request("lo");
            up.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
            ioctl(libc::SIOCSIFFLAGS, &mut up);
            let mut request = interface_request("lo");
            request.ifr_ifru.ifru_mtu = mtu;
            ioctl(libc::SIOCSIFMTU, &mut request);
            body();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// The next IPv4 packet to `port` that the raw socket sees.
fn captured(raw: &OwnedFd, port: u16) -> Vec<u8> {
    loop {
        readable(raw);
        let mut packet = vec![0; 65_536];
        // SAFETY: the buffer is valid for writes of its length.
        let length = unsafe { libc::recv(raw.as_raw_fd(), packet.as_mut_ptr().cast(), packet.len(), 0) };
        packet.truncate(usize::try_from(length).unwrap());
        let header = usize::from(packet[0] & 0x0f) * 4;
        if packet[header + 2..header + 4] == port.to_be_bytes() {
            return packet;
        }
    }
}

/// UDP-48, UDP-50, UDP-52: on the wire, towards a target.
#[test]
fn packets_to_targets_carry_df_not_ect_and_a_checksum() {
    let raw = match socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP) {
        Ok(raw) => raw,
        Err(error) => {
            println!("skipped: no raw socket: {error}");
            return;
        }
    };
    let mut link = Link::open("127.0.0.1:0".parse().unwrap());
    let port = link.target.local_address().port();
    link.flow_sends(&payloads(&[300]));
    let train = OutgoingTrain { remote: None, local: None, ecn: 3, segment_size: None, data: &[0; 40] };
    assert_eq!(link.flow.send_train(&train).sent, 1);
    for length in [300, 40] {
        let packet = captured(&raw, port);
        assert_eq!(packet.len(), 20 + 8 + length);
        assert_eq!(packet[6] & 0x40, 0x40, "DF");
        assert_eq!(packet[6] & 0x3f | packet[7], 0, "not a fragment");
        assert_eq!(packet[1] & 0b11, 0, "Not-ECT");
        assert_ne!(packet[26..28], [0, 0], "checksum");
    }
}

/// UDP-48, UDP-49: a datagram above the MTU does not leave in pieces.
#[test]
fn nothing_is_fragmented_at_an_mtu_of_1500() {
    in_own_network(1500, || {
        for (address, fits) in [("127.0.0.1:0", 1472), ("[::1]:0", 1452)] {
            let Ok(address) = address.parse::<SocketAddr>() else { continue };
            if address.is_ipv6() && !common::ipv6_available() {
                continue;
            }
            let mut link = Link::open(address);
            // As runs that segmentation offload takes whole, with a shorter end that fits, and singly.
            let sizes = [fits, fits, 9, fits + 1, fits + 1, fits + 1, fits, fits + 1, 8, fits + 100, 7, fits + 1];
            let payloads = payloads(&sizes);
            let outcome = link.flow.send_batch(&mut SendBatch::new(), &payloads);
            let fitting: Vec<Bytes> = payloads.iter().filter(|payload| payload.len() <= fits).cloned().collect();
            assert_eq!((outcome.sent, outcome.dropped), (fitting.len(), 6), "{address}");
            assert_eq!(outcome.error, Some(ErrorKind::MessageTooLong));
            assert_eq!(link.target_receives(fitting.len()), fitting, "{address}");
            let counters = link.flow.counters();
            assert_eq!((counters.send_dropped.message_too_long, counters.send_dropped.total()), (6, 6));
            assert_eq!(counters.fallback_gso, 0, "a long segment says nothing about segmentation");
            // QUIC probes of the path behave the same.
            let mut client = UdpSocket::open_client(address, &SocketOptions::quic()).unwrap();
            let remote = Some(link.target.local_address());
            let data = vec![5; 2 * (fits + 1) + 3];
            let train = OutgoingTrain { remote, local: None, ecn: 2, segment_size: Some(fits + 1), data: &data };
            let outcome = client.send_train(&train);
            assert_eq!((outcome.sent, outcome.dropped), (1, 2), "{address}");
            assert_eq!(link.target_receives(1), [Bytes::from_static(&[5; 3])]);
        }
    });
}

/// What is said to fit is exactly what the kernel takes, at any MTU: also at loopback's own, above what UDP can carry.
#[test]
fn the_largest_payload_of_a_path_is_what_fits_it() {
    for mtu in [1280, 1400, 1500, 9000, 65_536] {
        in_own_network(mtu, || {
            for address in ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse::<SocketAddr>().unwrap()) {
                if address.is_ipv6() && !common::ipv6_available() {
                    continue;
                }
                let mut link = Link::open(address);
                let fits = link.flow.path_payload_bytes().unwrap();
                let outcome = link.flow.send_batch(&mut SendBatch::new(), &payloads(&[fits, fits + 1]));
                assert_eq!((outcome.sent, outcome.dropped), (1, 1), "{address} at {mtu}: {fits}");
                assert_eq!(outcome.error, Some(ErrorKind::MessageTooLong));
                assert_eq!(link.target_receives(1), payloads(&[fits]));
                assert_eq!(link.target.path_payload_bytes(), None, "it is connected to nobody");
            }
        });
    }
}

#[test]
fn an_unreachable_network_is_told_apart() {
    in_own_network(1500, || {
        let error = UdpSocket::open_connected("192.0.2.1:9".parse().unwrap(), None, &SocketOptions::target());
        assert_eq!(error.unwrap_err().kind, ErrorKind::NetworkUnreachable);
        let mut client = UdpSocket::open_client("0.0.0.0:0".parse().unwrap(), &SocketOptions::quic()).unwrap();
        let remote = Some("192.0.2.1:9".parse().unwrap());
        let train = OutgoingTrain { remote, local: None, ecn: 0, segment_size: None, data: &[1] };
        let outcome = client.send_train(&train);
        assert_eq!((outcome.dropped, outcome.error), (1, Some(ErrorKind::NetworkUnreachable)));
        assert_eq!(client.counters().send_dropped.network_unreachable, 1);
    });
}

#[test]
fn own_addresses_follow_the_interfaces() {
    in_own_network(1500, || {
        let mut watcher = OwnAddresses::open().unwrap();
        let own: IpAddr = "192.0.2.9".parse().unwrap();
        assert!(watcher.addresses().contains(&"127.0.0.1".parse().unwrap()));
        assert!(!watcher.addresses().contains(&own));
        let set = |name: &str, address: [u8; 4]| {
            let mut request = interface_request(name);
            let name = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_in and sockaddr have the same size, and the union holds either.
            request.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(name) };
            ioctl(libc::SIOCSIFADDR, &mut request);
        };
        set("lo:1", [192, 0, 2, 9]);
        readable(&watcher);
        assert!(watcher.drain());
        assert!(watcher.addresses().contains(&own), "{:?}", watcher.addresses());
        assert!(watcher.addresses().contains(&"192.0.2.255".parse().unwrap()), "its subnet's broadcast address");
        set("lo:1", [0, 0, 0, 0]);
        readable(&watcher);
        while watcher.addresses().contains(&own) {
            readable(&watcher);
            watcher.drain();
        }
        assert!(!watcher.addresses().contains(&"192.0.2.255".parse().unwrap()));
    });
}
