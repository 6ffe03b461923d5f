//! A client that is not ours: early datagrams, half-close, capsules, and what must not happen.
#![cfg(test)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{GATEWAY, address, checked, seed, target};
use moretta_core::Record;
use moretta_proto::error::EndReason;
use moretta_sim::{GatewaySpec, LinkModel, PeerId, SiteId, Stamp, TargetKind, World, bytes3};

const AUTHORITY: &str = "gateway.test";

struct Raw {
    world: World,
    site: SiteId,
    peer: PeerId,
}

impl Raw {
    /// A connected peer whose SETTINGS are sent, before a gateway with two echo targets.
    fn new(seed: u64, path: &LinkModel) -> Self {
        let mut world = World::new(seed, LinkModel::default()).unwrap();
        let site = world.add_gateway(&GatewaySpec::new(address(GATEWAY))).unwrap();
        for index in 1..=2 {
            world.add_target(target(index), TargetKind::Echo);
        }
        let own = address("10.0.0.9:6000");
        let peer = world.add_peer(own, address(GATEWAY)).unwrap();
        world.set_path(own, address(GATEWAY), path);
        assert!(world.run_until(Duration::from_secs(10), |world| world.peer(peer).is_connected()));
        let control = world.peer(peer).open_uni().unwrap();
        world.peer(peer).write(control, &bytes3::control_stream(), false);
        Self { world, site, peer }
    }

    fn run(&mut self, milliseconds: u64) {
        self.world.run_for(Duration::from_millis(milliseconds));
    }

    fn open(&mut self) -> u64 {
        self.world.peer(self.peer).open_request().unwrap()
    }

    fn request(&mut self, stream: u64, index: u8) {
        let target = target(index);
        let head = bytes3::connect_udp(AUTHORITY, &target.ip().to_string(), target.port());
        self.world.peer(self.peer).write(stream, &head, false);
    }

    fn send(&mut self, stream: u64, index: u8, serial: u64) {
        let payload = Stamp { tunnel: index.into(), serial }.payload(200);
        assert!(self.world.peer(self.peer).send_datagram(Bytes::from(bytes3::datagram(stream, &payload))));
    }

    /// Serial numbers of the datagrams that came back for `stream`, checked to belong to tunnel `index`.
    fn echoes(&mut self, stream: u64, index: u8) -> Vec<u64> {
        let head = bytes3::datagram(stream, &[]);
        let datagrams = self.world.peer(self.peer).take_datagrams();
        let payloads = datagrams.iter().map(|datagram| datagram.strip_prefix(&head[..]).expect("another stream"));
        payloads.map(|payload| checked(index, &Bytes::copy_from_slice(payload))).collect()
    }

    fn ends(&self) -> Vec<EndReason> {
        let records = self.world.records(self.site);
        let end = |record: &&Record| if let Record::Closed(closed) = record { Some(closed.reason) } else { None };
        records.iter().filter_map(end).collect()
    }
}

/// RFC 9298 §5: datagrams may overtake their request; they wait for it, bounded in bytes and time.
#[test]
fn datagrams_that_come_before_their_request_are_delivered_once_it_is_granted() {
    let mut raw = Raw::new(seed(21), &LinkModel::default());
    let stream = raw.open();
    for serial in 0..5 {
        raw.send(stream, 1, serial);
    }
    raw.run(50);
    assert!(raw.world.target_received(target(1)).is_empty(), "nothing leaves before the request is judged");
    raw.request(stream, 1);
    raw.run(200);
    assert_eq!(raw.echoes(stream, 1), [0, 1, 2, 3, 4]);
    assert_eq!(raw.world.gateway_counters(raw.site).up_dropped_early, 0);
}

#[test]
fn early_datagrams_of_a_request_that_never_comes_are_dropped_and_counted() {
    let mut raw = Raw::new(seed(22), &LinkModel::default());
    let (stream, other) = (raw.open(), raw.open());
    for serial in 0..5 {
        raw.send(stream, 1, serial);
    }
    raw.run(5_000);
    raw.request(other, 2);
    raw.send(other, 2, 9);
    raw.run(500);
    assert_eq!(raw.echoes(other, 2), [9], "the connection goes on");
    let counters = raw.world.gateway_counters(raw.site);
    assert_eq!(counters.up_dropped_early + counters.up_dropped_no_tunnel, 5, "{counters:?}");
    assert!(raw.world.target_received(target(1)).is_empty());
}

/// Both profiles end a tunnel when the client finishes its side; nothing that came before is lost.
#[test]
fn a_half_closed_request_ends_the_tunnel_in_good_order() {
    let mut raw = Raw::new(seed(23), &LinkModel::default());
    let stream = raw.open();
    raw.request(stream, 1);
    raw.run(100);
    raw.send(stream, 1, 1);
    raw.run(100);
    assert_eq!(raw.echoes(stream, 1), [1]);
    raw.world.peer(raw.peer).write(stream, &[], true);
    raw.run(500);
    assert_eq!(raw.ends(), [EndReason::ClientFinished]);
    let received = raw.world.peer(raw.peer).received(stream);
    assert!(received.finished && received.reset.is_none(), "{received:?}");
    assert_eq!(raw.world.gateway_load(raw.site), (1, 0, 0));
}

/// CAP: payloads may come in capsules, in any pieces; the answer is in capsules too until a QUIC datagram comes.
#[test]
fn capsules_in_single_bytes_carry_payloads_both_ways() {
    let mut raw = Raw::new(seed(24), &LinkModel::default());
    let stream = raw.open();
    raw.request(stream, 1);
    raw.run(100);
    let head = raw.world.peer(raw.peer).received(stream).bytes.len();
    let payload = Stamp { tunnel: 1, serial: 77 }.payload(150);
    let mut capsule = Vec::new();
    moretta_wire::capsule::write_datagram(moretta_wire::datagram::ContextId::UDP_PAYLOAD, &payload, &mut capsule);
    for byte in &capsule {
        raw.world.peer(raw.peer).write(stream, &bytes3::data(&[*byte]), false);
        raw.run(3);
    }
    raw.run(200);
    let back = raw.world.peer(raw.peer).received(stream).bytes;
    assert!(back[head..].windows(payload.len()).any(|window| window == payload), "the echo came in a capsule");
    assert!(raw.world.peer(raw.peer).take_datagrams().is_empty());
    raw.send(stream, 1, 78);
    raw.run(200);
    assert_eq!(raw.echoes(stream, 1), [78], "and as a QUIC datagram after one came");
}

/// A stranger's connection never sees another's tunnel, even with the same stream numbers.
#[test]
fn two_connections_with_the_same_stream_numbers_stay_apart() {
    let mut raw = Raw::new(seed(25), &LinkModel::rough());
    let second_address = address("10.0.0.10:6000");
    let second = raw.world.add_peer(second_address, address(GATEWAY)).unwrap();
    raw.world.set_path(second_address, address(GATEWAY), &LinkModel::rough());
    assert!(raw.world.run_until(Duration::from_secs(10), |world| world.peer(second).is_connected()));
    let control = raw.world.peer(second).open_uni().unwrap();
    raw.world.peer(second).write(control, &bytes3::control_stream(), false);
    let first = raw.peer;
    for (peer, index) in [(first, 1), (second, 2)] {
        raw.peer = peer;
        let stream = raw.open();
        assert_eq!(stream, 0);
        raw.request(stream, index);
    }
    raw.run(1_000);
    for serial in 0..200 {
        for (peer, index) in [(first, 1), (second, 2)] {
            raw.peer = peer;
            raw.send(0, index, serial);
        }
        raw.run(2);
    }
    raw.run(2_000);
    for (peer, index) in [(first, 1), (second, 2)] {
        raw.peer = peer;
        let echoes = raw.echoes(0, index);
        assert!(common::all_different(&echoes) > 160, "{} came back", echoes.len());
        for (_, payload) in raw.world.target_received(target(index)) {
            checked(index, payload);
        }
    }
}
