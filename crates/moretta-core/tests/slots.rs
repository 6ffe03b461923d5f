//! Several slots behind one address: whose packet is whose, and what they share.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use moretta_core::{CONNECTION_ID_OCTETS, Command, Destination, Event, Input, SlotId, Train, TransportOptions};
use support::{CLIENT, SERVER, World, shared, snapshot, snapshot_with};

const A_WHILE: Duration = Duration::from_millis(300);

/// Two slots of one gateway at [`SERVER`], nodes 0 and 1; a client at node 2.
fn two_slots() -> World {
    let mut world = World::new();
    let shared = shared();
    for slot in [0, 1] {
        world.add_node(slot, &shared, snapshot(), TransportOptions::default());
        world.listen(slot.into(), SERVER);
    }
    world.add_node(9, &support::shared(), snapshot(), TransportOptions::default());
    world
}

/// What steering does: everything that arrives at [`SERVER`] goes to this slot.
fn steer_to(world: &mut World, slot: usize) {
    let address = SERVER.parse().unwrap();
    let link = world.addresses[&address].1;
    world.addresses.insert(address, (slot, link));
}

fn connected(world: &World, gateway: moretta_core::GatewayId) -> bool {
    let wanted = gateway;
    world.nodes[2]
        .events
        .iter()
        .any(|event| matches!(event, Event::GatewayConnected { gateway, .. } if *gateway == wanted))
}

/// A packet of another slot is passed on, never answered: a stateless reset would kill a healthy connection.
#[test]
fn a_packet_of_another_slot_is_forwarded_and_not_reset() {
    let mut world = two_slots();
    steer_to(&mut world, 0);
    let gateway = world.connect(2, CLIENT, SERVER);
    world.run(A_WHILE);
    assert!(connected(&world, gateway));
    let flow = world.open_udp(2, gateway, 1);

    // A new socket joined the group, say: packets of slot 0 come to slot 1.
    steer_to(&mut world, 1);
    world.send(2, flow, b"astray");
    world.run(Duration::from_millis(20));
    let forwarded = std::mem::take(&mut world.nodes[1].forwarded);
    assert!(!forwarded.is_empty());
    assert_eq!(world.nodes[1].core.counters().endpoint_answers, 0, "no stateless reset");
    for (slot, train) in forwarded {
        assert_eq!(slot, SlotId::new(0).unwrap());
        assert_eq!(Destination::of(&train.data), Destination::Slot(slot));
        world.input(0, Input::Train(train));
    }
    steer_to(&mut world, 0);
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].delivered.last().unwrap().1, b"astray");
    assert_eq!(world.nodes[2].core.tunnels(), 1);
}

/// RFC 9000 §10.3: any slot can end a connection whose slot lost it, since the key is shared.
#[test]
fn a_connection_that_a_slot_has_lost_is_reset_by_it() {
    let mut world = two_slots();
    let shared = shared();
    steer_to(&mut world, 0);
    let gateway = world.connect(2, CLIENT, SERVER);
    world.run(A_WHILE);
    let flow = world.open_udp(2, gateway, 1);
    // The gateway restarts: same keys, same slot, no connections.
    let restarted = world.add_node(0, &shared, snapshot(), TransportOptions::default());
    let link = world.listen(restarted, SERVER);
    world.addresses.insert(SERVER.parse().unwrap(), (restarted, link));
    world.send(2, flow, &[0; 600]);
    world.run(A_WHILE);
    assert!(
        matches!(
            world.nodes[2].events.last(),
            Some(Event::GatewayClosed { failure: moretta_core::GatewayFailure::Reset, .. })
        ),
        "{:?}",
        world.nodes[2].events.last()
    );
}

/// RFC 9000 §8.1.3: a token of slot 0 validates the client's address at slot 1, and is good once.
#[test]
fn a_new_token_of_one_slot_is_good_at_another() {
    let mut world = two_slots();
    steer_to(&mut world, 0);
    let first = world.connect(2, CLIENT, SERVER);
    world.run(A_WHILE);
    assert!(connected(&world, first));
    assert_eq!(world.nodes[0].core.counters().connections_address_validated, 0);

    steer_to(&mut world, 1);
    // Tokens are bound to the client's address, not to its port.
    let second = world.connect(2, "198.51.100.7:5001", SERVER);
    world.run(A_WHILE);
    assert!(connected(&world, second));
    assert_eq!(world.nodes[1].core.counters().connections_address_validated, 1);
}

/// RFC 9000 §8.1.2: under load a client has to show its address before anything is spent on it.
#[test]
fn with_too_many_handshakes_under_way_clients_must_retry() {
    let server = snapshot_with(|snapshot| snapshot.limits.half_open_before_retry = 1);
    let mut world = World::new();
    world.add_node(0, &shared(), server, TransportOptions::default());
    world.listen(0, SERVER);
    world.add_node(9, &shared(), snapshot(), TransportOptions::default());
    // The first client begins a handshake and then falls silent.
    world.lose = Box::new(|_, from, _| from.port() == 5009);
    world.connect(1, "198.51.100.7:5008", SERVER);
    world.run(Duration::from_millis(7));
    world.lose = Box::new(|_, from, to| from.port() == 5008 || to.port() == 5008);
    assert_eq!(world.nodes[0].core.counters().retries_sent, 0);

    let second = world.connect(1, "198.51.100.7:5009", SERVER);
    world.run(A_WHILE);
    assert!(
        world.nodes[1]
            .events
            .iter()
            .any(|event| matches!(event, Event::GatewayConnected { gateway, .. } if *gateway == second)),
        "{:?}",
        world.nodes[1].events
    );
    let counters = world.nodes[0].core.counters();
    // One for each packet of a ClientHello that a post-quantum key share makes too long for one.
    assert!((1..=2).contains(&counters.retries_sent), "{}", counters.retries_sent);
    assert_eq!(counters.connections_address_validated, 1);
}

#[test]
fn connections_above_the_limit_are_refused() {
    let server = snapshot_with(|snapshot| snapshot.limits.max_connections = 1);
    let mut world = World::new();
    world.add_node(0, &shared(), server, TransportOptions::default());
    world.listen(0, SERVER);
    world.add_node(9, &shared(), snapshot(), TransportOptions::default());
    world.connect(1, CLIENT, SERVER);
    world.run(A_WHILE);
    world.connect(1, "198.51.100.7:5001", SERVER);
    world.run(A_WHILE);
    assert!(world.nodes[0].core.counters().refused_connection_limit >= 1);
    assert!(
        matches!(
            world.nodes[1].events.last(),
            Some(Event::GatewayFailed { failure: moretta_core::GatewayFailure::ClosedByPeer { .. }, .. })
        ),
        "{:?}",
        world.nodes[1].events.last()
    );
}

/// Every ID that a slot issues names it, in handshakes and later; and no two alike.
#[test]
fn packets_towards_a_slot_carry_its_number() {
    let mut world = two_slots();
    steer_to(&mut world, 1);
    let seen = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let ids = Arc::clone(&seen);
    world.lose = Box::new(move |packet, _, to| {
        if to == SERVER.parse().unwrap() {
            match Destination::of(packet) {
                Destination::Accepting => {}
                Destination::Slot(slot) => {
                    assert_eq!(slot, SlotId::new(1).unwrap());
                    if packet[0] & 0x80 == 0 {
                        ids.lock().unwrap().insert(packet[1..=CONNECTION_ID_OCTETS].to_vec());
                    }
                }
                Destination::Malformed => panic!("{packet:x?}"),
            }
        }
        false
    });
    let gateway = world.connect(2, CLIENT, SERVER);
    world.run(A_WHILE);
    let link = world.attach(2, "198.51.100.8:7000");
    world.command(2, Command::Rebind { gateway, link });
    world.run(A_WHILE);
    assert!(connected(&world, gateway));
    assert_eq!(seen.lock().unwrap().len(), 2, "another ID after the move");
}

/// Whatever arrives: no panic, no answer to what is too short.
#[test]
fn junk_is_counted_and_dropped() {
    let mut world = two_slots();
    let link = world.addresses[&SERVER.parse().unwrap()].1;
    for size in 0..40 {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            let mut data = BytesMut::from(&vec![first; size][..]);
            let train = Train {
                link,
                remote: CLIENT.parse().unwrap(),
                local: None,
                ecn: 0,
                segment_size: 17,
                data: data.split(),
            };
            world.input(1, Input::Train(train));
        }
    }
    assert_eq!(world.nodes[1].core.connections(), 0);
    assert!(world.nodes[1].core.counters().dropped_malformed_packets > 0);
}
