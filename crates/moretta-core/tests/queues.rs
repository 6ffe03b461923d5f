//! What waits, what is dropped, and who goes first.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use moretta_core::{Counters, Input, Train, TransportOptions};
use support::{ONE_WAY, World, snapshot, snapshot_with};

const A_WHILE: Duration = Duration::from_millis(500);

/// Every datagram is either delivered, or counted under one reason, or waits.
fn assert_books_balance(counters: &Counters, waiting: u64) {
    let sum = |prefix: &str| -> u64 {
        counters.entries().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    };
    assert_eq!(
        counters.datagrams_from_flows,
        counters.datagrams_to_peer + counters.datagrams_to_peer_in_capsules + sum("down_dropped_") + waiting,
        "down: {counters:#?}"
    );
    assert_eq!(counters.datagrams_from_peer, counters.datagrams_to_flows + sum("up_dropped_"), "up: {counters:#?}");
}

/// The kernel's train: many equal datagrams and a shorter last one.
fn train(size: usize, count: usize, last: usize) -> Vec<u8> {
    vec![7; size * count + last]
}

#[test]
fn a_train_from_a_flow_arrives_as_the_datagrams_it_was() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let now = world.now;
    world.nodes[0].core.handle(now, Input::Flow { flow: target, data: &train(100, 20, 30), segment_size: 100 });
    world.turn(0);
    world.run(A_WHILE);
    let sizes: Vec<usize> = world.texts(1, flow).iter().map(Vec::len).collect();
    assert_eq!(sizes, [vec![100; 20], vec![30]].concat());
    assert_books_balance(world.nodes[0].core.counters(), 0);
    assert_books_balance(world.nodes[1].core.counters(), 0);
}

/// Small datagrams share packets.
#[test]
fn small_datagrams_share_packets() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    world.run(Duration::from_secs(2));
    let before = world.nodes[0].core.counters().packets_sent;
    world.flow_input(0, target, &train(64, 100, 0), 64);
    world.turn(0);
    let sent = world.nodes[0].core.counters().packets_sent - before;
    assert!(sent <= 7, "100 × 64 bytes in {sent} packets");
}

/// The tunnel's queue is bounded in bytes, its oldest datagrams go, and the counters say how many.
#[test]
fn a_queue_that_is_full_drops_its_oldest() {
    let limit = 64 * 1024;
    let server = snapshot_with(|snapshot| snapshot.limits.tunnel_queue_bytes = limit);
    let (mut world, gateway) = World::pair_with(server, snapshot(), TransportOptions::default());
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    // No turn in between: nothing leaves.
    let count = 300;
    for index in 0..count {
        let mut payload = vec![0; 1000];
        payload[..4].copy_from_slice(&u32::to_be_bytes(index));
        world.flow_input(0, target, &payload, 0);
    }
    world.turn(0);
    world.run(A_WHILE);
    let got: Vec<u32> =
        world.texts(1, flow).iter().map(|text| u32::from_be_bytes(text[..4].try_into().unwrap())).collect();
    let counters = *world.nodes[0].core.counters();
    assert!(got.len() * 1064 <= limit && got.len() > 50, "{}", got.len());
    assert_eq!(got, (count - got.len() as u32..count).collect::<Vec<u32>>(), "the newest, in order");
    assert_eq!(counters.down_dropped_queue_full, u64::from(count) - got.len() as u64);
    assert_books_balance(&counters, 0);
}

/// What has waited longer than the sojourn limit is worth nothing to anybody.
#[test]
fn what_waited_too_long_is_dropped_and_counted() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    // Nothing comes back from the client: the congestion window fills up.
    world.lose = Box::new(|_, from, _| from.port() == 5000);
    for _ in 0..40 {
        world.flow_input(0, target, &train(1100, 20, 0), 1100);
        world.turn(0);
        world.run(Duration::from_millis(20));
    }
    let counters = *world.nodes[0].core.counters();
    assert!(counters.down_dropped_stale > 0 || counters.down_dropped_queue_full > 0, "{counters:#?}");
    world.lose = Box::new(|_, _, _| false);
    world.run(Duration::from_secs(5));
    world.send(0, target, b"fresh");
    world.run(A_WHILE);
    assert_eq!(world.texts(1, flow).last().unwrap(), b"fresh");
    let counters = *world.nodes[0].core.counters();
    assert!(counters.down_dropped_stale > 0, "{counters:#?}");
    assert_books_balance(&counters, 0);
}

/// HG-6: a tunnel that floods does not silence one that whispers.
#[test]
fn a_flood_does_not_delay_a_whisper() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let whisper = world.open_udp(1, gateway, 2);
    let (flood_target, whisper_target) = (world.server_flow(0, 9001), world.server_flow(0, 9002));
    let mut sent = 0;
    for _ in 0..200 {
        let share = world.nodes[0].core.flow_share(flood_target);
        world.flow_input(0, flood_target, &train(1100, (share / 1100).min(200), 0), 1100);
        assert!(world.nodes[0].core.flow_share(whisper_target) > 0, "the whisper may always be read");
        world.flow_input(0, whisper_target, &u32::to_be_bytes(sent), 0);
        sent += 1;
        world.turn(0);
        world.run(Duration::from_millis(5));
    }
    world.run(A_WHILE);
    let got = world.texts(1, whisper).len();
    assert_eq!(got, sent as usize, "of the whisper");
    assert_books_balance(world.nodes[0].core.counters(), 0);
}

/// With a flood of datagrams a stream still gets its part of the path.
#[test]
fn streams_are_not_starved_by_datagrams() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    for token in 2..40 {
        // 2xx to these are stream data at the server.
        world.ask_udp(1, gateway, token, support::TARGET, 9000 + token as u16);
        for _ in 0..4 {
            let share = world.nodes[0].core.flow_share(target);
            world.flow_input(0, target, &train(64, (share / 64).min(4000), 0), 64);
            world.turn(0);
            world.run(Duration::from_millis(3));
        }
    }
    // Still flooded, within a few round trips every answer is there.
    for _ in 0..30 {
        let share = world.nodes[0].core.flow_share(target);
        world.flow_input(0, target, &train(64, (share / 64).min(4000), 0), 64);
        world.turn(0);
        world.run(2 * ONE_WAY);
    }
    for token in 2..40 {
        world.client_flow(1, token);
    }
}

/// A flow whose share is used up is resumed once there is room.
#[test]
fn a_flow_that_may_not_be_read_is_resumed() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let mut waited = 0;
    while world.nodes[0].core.flow_share(target) > 0 {
        world.flow_input(0, target, &train(1100, 10, 0), 1100);
        waited += 1;
        assert!(waited < 1000, "never full");
    }
    assert!(world.nodes[0].resumed.is_empty());
    world.turn(0);
    world.run(Duration::from_secs(2));
    assert_eq!(world.nodes[0].resumed, [target]);
    assert!(world.nodes[0].core.flow_share(target) > 0);
    assert_books_balance(world.nodes[0].core.counters(), 0);
}

/// The kernel hands over whole trains. The largest of them still finds room when the flow may just be read.
#[test]
fn a_whole_train_finds_room_whenever_its_flow_may_be_read() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    while world.nodes[0].core.flow_share(target) > 0 {
        let left = world.nodes[0].core.flow_share(target);
        if left < 3000 {
            world.flow_input(0, target, &train(1023, 64, 0), 1023);
            assert_eq!(world.nodes[0].core.counters().down_dropped_queue_full, 0, "with a share of {left}");
            return;
        }
        world.flow_input(0, target, &train(500, 1, 0), 500);
    }
    panic!("the share went from 3000 to nothing at once");
}

/// UDP-53: a payload that does not fit is dropped and counted, never put in a capsule, and ends nothing.
#[test]
fn a_payload_that_does_not_fit_is_dropped_and_counted() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    world.send(0, target, &[1; 1450]);
    world.send(1, flow, &vec![1; 60_000]);
    world.send(0, target, b"after");
    world.send(1, flow, b"after");
    world.run(A_WHILE);
    assert_eq!((world.texts(1, flow), world.texts(0, target)), (vec![b"after".to_vec()], vec![b"after".to_vec()]));
    for node in 0..2 {
        let counters = *world.nodes[node].core.counters();
        assert_eq!((counters.down_dropped_too_large, counters.datagrams_to_peer_in_capsules), (1, 0));
        assert_books_balance(&counters, 0);
    }
}

/// Datagrams of a flow that is gone reach nobody.
#[test]
fn a_stale_flow_is_counted_and_ignored() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    world.command(1, moretta_core::Command::ResetTunnel(moretta_core::TunnelToken(1)));
    world.run(A_WHILE);
    let again = world.open_udp(1, gateway, 2);
    assert_eq!(again.index, flow.index, "the index is used again");
    world.send(1, flow, b"stale");
    world.run(A_WHILE);
    assert_eq!(world.nodes[1].core.counters().stale_flow_inputs, 1);
    assert!(world.nodes[0].delivered.is_empty());
}

/// RFC 9298 §6 (UDP-68): a light load never waits; a heavy one gathers, for at most 150 µs.
#[test]
fn only_a_loaded_worker_is_told_to_wait() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    for _ in 0..50 {
        world.send(0, target, &[1; 100]);
        assert_eq!(world.nodes[0].wake.not_before, None);
        world.run(Duration::from_micros(500));
    }
    let mut waited = 0;
    for _ in 0..50 {
        world.flow_input(0, target, &train(100, 10, 0), 100);
        world.turn(0);
        if let Some(not_before) = world.nodes[0].wake.not_before {
            let gap = not_before - world.now.instant;
            assert!(gap <= Duration::from_micros(150), "{gap:?}");
            waited += 1;
        }
        world.run(Duration::from_micros(100));
    }
    assert!(waited > 40, "{waited}");
    world.run(Duration::from_millis(20));
    world.send(0, target, &[1; 100]);
    assert_eq!(world.nodes[0].wake.not_before, None, "the load is over");
}

/// What a worker cannot keep up with is shed before it is decrypted, per connection, and counted.
#[test]
fn a_flood_of_packets_is_shed_in_the_inbox() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let last = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&last);
    world.lose = Box::new(move |packet, from, _| {
        if from.port() == 5000 {
            *seen.lock().unwrap() = packet.to_vec();
        }
        false
    });
    world.send(1, flow, b"one");
    world.run(A_WHILE);
    let packet = last.lock().unwrap().clone();
    let link = *world.nodes[0].links.keys().next().unwrap();
    let now = world.now;
    for _ in 0..50 {
        let data = BytesMut::from(&packet.repeat(100)[..]);
        let train = Train {
            link,
            remote: support::CLIENT.parse().unwrap(),
            local: None,
            ecn: 0,
            segment_size: packet.len(),
            data,
        };
        world.nodes[0].core.handle(now, Input::Train(train));
    }
    world.turn(0);
    let counters = *world.nodes[0].core.counters();
    assert_eq!(counters.dropped_inbox_full, 5000 - 4096, "{counters:?}");
    world.send(1, flow, b"two");
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].delivered.last().unwrap().1, b"two");
}
