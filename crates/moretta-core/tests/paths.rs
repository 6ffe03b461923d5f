//! Paths that change under a tunnel: addresses, MTU, losses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::time::Duration;

use moretta_core::{Command, Event, Input, TransportOptions};
use support::{CLIENT, World, snapshot};

const A_WHILE: Duration = Duration::from_millis(500);

#[test]
fn a_client_behind_a_nat_that_rebinds_keeps_its_tunnel() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let (inside, outside) = (CLIENT.parse().unwrap(), "198.51.100.99:41000".parse().unwrap());
    world.nat.insert(inside, outside);
    let link = *world.nodes[1].links.keys().next().unwrap();
    world.addresses.insert(outside, (1, link));
    world.addresses.remove(&inside);
    world.send(1, flow, b"from elsewhere");
    world.run(A_WHILE);
    world.send(0, target, b"answer");
    world.run(A_WHILE);
    assert_eq!(
        (world.texts(0, target), world.texts(1, flow)),
        (vec![b"from elsewhere".to_vec()], vec![b"answer".to_vec()])
    );
    assert_eq!(world.nodes[0].core.counters().connections_migrated, 1);
}

#[test]
fn a_client_that_moves_to_another_socket_keeps_its_tunnel() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let old = *world.nodes[1].links.keys().next().unwrap();
    let link = world.attach(1, "198.51.100.8:6000");
    world.command(1, Command::Rebind { gateway, link });
    world.addresses.remove(&CLIENT.parse().unwrap());
    world.input(1, Input::LinkError { link: old, detail: "interface gone".into() });
    world.run(A_WHILE);
    world.send(0, target, b"answer");
    world.send(1, flow, b"question");
    world.run(A_WHILE);
    assert_eq!((world.texts(0, target), world.texts(1, flow)), (vec![b"question".to_vec()], vec![b"answer".to_vec()]));
    assert_eq!(world.nodes[0].core.counters().connections_migrated, 1);
    assert_eq!(world.nodes[1].core.tunnels(), 1);
}

/// CF-4, I-4: 1,200 bytes fit from the first datagram on; more once the path has shown that it carries more.
#[test]
fn the_largest_payload_grows_with_the_path() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let Some(Event::TunnelOpened { max_datagram_bytes: first, .. }) = world.nodes[1].events.last() else { panic!() };
    assert!((1200..1452).contains(first), "{first}");
    // The search sends when there is something to send.
    for _ in 0..20 {
        world.send(1, flow, b"x");
        world.run(Duration::from_millis(50));
    }
    let (of, most) = *world.nodes[1].limits.last().expect("a new limit");
    assert!(of == flow && (1380..1452).contains(&most), "{most}");
    let payload = vec![3; most];
    world.send(1, flow, &payload);
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].delivered.last().unwrap().1, payload);
}

/// A path that shrinks is noticed by its losses; the tunnel lives with less and says so.
#[test]
fn a_path_that_shrinks_is_followed_down() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    for _ in 0..20 {
        world.send(1, flow, b"x");
        world.run(Duration::from_millis(50));
    }
    let (_, before) = *world.nodes[1].limits.last().unwrap();
    world.mtu = 1210;
    for _ in 0..100 {
        let most = world.nodes[1].limits.last().unwrap().1;
        world.send(1, flow, &vec![1; most]);
        world.run(Duration::from_millis(50));
    }
    let (_, after) = *world.nodes[1].limits.last().unwrap();
    assert!(after < before && (1100..1200).contains(&after), "{before} → {after}");
    world.nodes[0].delivered.clear();
    world.send(1, flow, &vec![5; after]);
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].delivered.last().unwrap().1, vec![5; after]);
    assert_eq!(world.nodes[1].core.tunnels(), 1);
}

/// Losses in bursts look like a black hole to the library when all packets are smaller than the last probe. The path
/// is then searched again at once, not after a minute: 1,200 bytes must fit nearly always (CF-4).
#[test]
fn congestion_that_looks_like_a_black_hole_costs_a_moment() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    world.run(A_WHILE);
    assert!(world.nodes[1].limits.last().is_some_and(|(_, most)| *most > 1400), "the search is over");
    let mut seen = 0;
    world.lose = Box::new(move |packet, from, _| {
        let is_payload = packet.len() > 1200 && from == CLIENT.parse().unwrap();
        seen += usize::from(is_payload);
        is_payload && seen % 4 < 2
    });
    for _ in 0..10 {
        world.flow_input(1, flow, &[7; 12_000], 1200);
        world.turn(1);
    }
    world.run(A_WHILE);
    world.lose = Box::new(|_, _, _| false);
    for _ in 0..30 {
        world.send(1, flow, b"x");
        world.run(Duration::from_millis(100));
    }
    let most = world.nodes[1].limits.last().unwrap().1;
    assert!(most > 1400, "{most} bytes fit: {:?}", world.nodes[1].limits);
    let fell = world.nodes[1].limits.iter().any(|(_, most)| *most < 1200);
    assert!(fell, "the library was not misled, so this test shows nothing");
}

/// H3D-23, HG-7: what is lost stays lost, and nothing else suffers.
#[test]
fn a_lossy_path_loses_datagrams_and_nothing_else() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let mut count = 0_u32;
    world.lose = Box::new(move |_, _, _| {
        count += 1;
        count.is_multiple_of(10)
    });
    for index in 0..500_u32 {
        world.send(1, flow, &index.to_be_bytes());
        world.run(Duration::from_millis(4));
    }
    world.run(A_WHILE);
    let got = world.texts(0, target);
    let mut distinct = got.clone();
    distinct.dedup();
    assert!((400..500).contains(&got.len()) && distinct.len() == got.len(), "{}", got.len());
    world.open_udp(1, gateway, 2);
}

/// A gateway shows that it is alive; without it the connection would be given up.
#[test]
fn an_idle_gateway_keeps_its_connection_alive() {
    let transport = TransportOptions { idle_timeout: Duration::from_secs(30), ..TransportOptions::default() };
    let (mut world, gateway) = World::pair_with(snapshot(), snapshot(), transport);
    world.run(Duration::from_secs(100));
    world.open_udp(1, gateway, 1);
}

/// UDP-41, UDP-42, UDP-43.
#[test]
fn an_idle_tunnel_is_closed_after_its_time_and_not_before() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    world.run(Duration::from_secs(119));
    world.send(1, flow, b"still there");
    world.run(Duration::from_secs(119));
    assert_eq!(world.texts(0, target), [b"still there"]);
    assert_eq!(world.nodes[0].core.tunnels(), 1);
    world.run(Duration::from_secs(10));
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (0, 0));
    assert_eq!(world.nodes[0].core.connections(), 1, "the connection lives");
}
