//! A gateway and a client exchange datagrams through CONNECT-UDP tunnels.

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

use moretta_core::{Command, Event, FlowPath, Input, Record, TransportOptions, TunnelToken};
use moretta_proto::admission::{OpenError, ResolveError};
use moretta_proto::error::{EndReason, Reason};
use support::{TARGET, World, snapshot};

const A_WHILE: Duration = Duration::from_millis(300);

/// UDP-30, UDP-35, UDP-36, UDP-37, CF-4.
#[test]
fn payloads_of_every_size_travel_unmodified_both_ways() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let Some(Event::TunnelOpened { max_datagram_bytes, datagrams: true, status: 200, .. }) =
        world.nodes[1].events.last()
    else {
        panic!("{:?}", world.nodes[1].events);
    };
    assert!(*max_datagram_bytes >= 1200, "CF-4: {max_datagram_bytes}");
    let payloads: Vec<Vec<u8>> =
        [0_u16, 1, 64, 1199, 1200].iter().map(|size| vec![*size as u8; usize::from(*size)]).collect();
    for payload in &payloads {
        world.send(1, flow, payload);
        world.send(0, target, payload);
    }
    world.run(A_WHILE);
    assert_eq!(world.texts(0, target), payloads);
    assert_eq!(world.texts(1, flow), payloads);
    assert!(
        matches!(&world.nodes[0].records[..], [Record::Opened(record)] if record.target.to_string() == format!("{TARGET}:9001"))
    );
}

/// A write that QUIC takes in part must be tried again: only then does it say when the connection has credit again.
#[test]
fn capsules_go_on_after_the_credit_of_the_connection_was_used_up() {
    let transport = TransportOptions { datagrams: false, receive_window: 4096, ..TransportOptions::default() };
    let (mut world, gateway) = World::pair_with(snapshot(), snapshot(), transport);
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    for _ in 0..20 {
        world.flow_input(1, flow, &[7; 1000], 1000);
        world.flow_input(0, target, &[8; 1000], 1000);
    }
    world.turn(0);
    world.turn(1);
    world.run(A_WHILE);
    assert_eq!((world.texts(0, target).len(), world.texts(1, flow).len()), (20, 20));
}

#[test]
fn a_client_that_finishes_ends_the_tunnel_on_both_sides() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    world.send(1, flow, b"last words");
    world.command(1, Command::FinishTunnel(TunnelToken(1)));
    world.run(A_WHILE);
    assert_eq!(world.texts(0, target), [b"last words"]);
    assert_eq!(world.nodes[0].closed_flows, [target]);
    assert!(
        matches!(world.nodes[0].records.last(), Some(Record::Closed(record)) if record.reason == EndReason::ClientFinished && record.counters.client_to_target.datagrams == 1)
    );
    assert!(
        matches!(world.nodes[1].events.last(), Some(Event::TunnelClosed { reason: EndReason::ClientFinished, .. })),
        "{:?}",
        world.nodes[1].events.last()
    );
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (0, 0));
}

#[test]
fn a_client_that_resets_ends_the_tunnel_on_both_sides() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    world.command(1, Command::ResetTunnel(TunnelToken(1)));
    world.run(A_WHILE);
    assert!(
        matches!(world.nodes[0].records.last(), Some(Record::Closed(record)) if record.reason == EndReason::ClientReset)
    );
    assert!(matches!(world.nodes[1].events.last(), Some(Event::TunnelClosed { reason: EndReason::ClientReset, .. })));
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (0, 0));
}

/// UDP-29, UDP-31, UDP-63: a refusal is an answer with a reason, and opens nothing.
#[test]
fn refused_targets_are_refused_with_their_reason() {
    let (mut world, gateway) = World::pair();
    world.nodes[0].names.insert("a.names.example".into(), Err(ResolveError::Timeout));
    for (token, host, status, reason) in [
        (1, "9.9.9.9", 403, Reason::PolicyRefused),
        (2, "127.0.0.1", 403, Reason::TargetProhibited),
        (3, "a.names.example", 504, Reason::DnsTimeout),
        (4, "b.names.example", 502, Reason::NameNotFound),
    ] {
        world.ask_udp(1, gateway, token, host, 9);
        world.run(A_WHILE);
        match world.nodes[1].events.last() {
            Some(Event::TunnelRefused { tunnel, status: Some(got), proxy_status: Some(_), .. }) => {
                assert_eq!((tunnel.0, *got), (token, status), "{host}");
            }
            other => panic!("{host}: {other:?}"),
        }
        assert!(
            matches!(world.nodes[0].records.last(), Some(Record::Refused(record)) if record.reason == reason),
            "{host}: {:?}",
            world.nodes[0].records.last()
        );
    }
    assert!(world.nodes[0].flows.is_empty());
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (0, 0));
}

/// CF-1, UDP-4: 2xx waits for the resolver and for the socket.
#[test]
fn success_is_answered_only_once_the_flow_is_open() {
    let (mut world, gateway) = World::pair();
    world.nodes[0].names.insert("target.example".into(), Ok(vec!["203.0.113.1".parse().unwrap()]));
    world.nodes[0].open_answer = None;
    world.ask_udp(1, gateway, 1, "target.example", 9001);
    world.run(Duration::from_secs(3));
    assert!(!world.nodes[1].events.iter().any(|event| matches!(event, Event::TunnelOpened { .. })));
    let flow = world.server_flow(0, 9001);
    world.input(0, moretta_core::Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) });
    world.run(A_WHILE);
    world.client_flow(1, 1);
}

/// RFC 6724: the next address is tried after the first could not be opened.
/// RFC 9298 §5: datagrams may overtake the answer, or come in one packet with it.
#[test]
fn what_comes_with_the_answer_reaches_the_application() {
    let (mut world, gateway) = World::pair();
    world.nodes[0].open_answer = None;
    world.ask_udp(1, gateway, 1, TARGET, 9001);
    world.run_until("asked for", |world| !world.nodes[0].flows.is_empty());
    let target = world.server_flow(0, 9001);
    world.input(0, Input::FlowOpened { flow: target, result: Ok(FlowPath::ETHERNET) });
    world.send(0, target, b"with the answer");
    world.run(A_WHILE);
    assert_eq!(world.texts(1, world.client_flow(1, 1)), [b"with the answer"]);
}

#[test]
fn the_next_address_is_tried_when_one_cannot_be_opened() {
    let (mut world, gateway) = World::pair();
    let addresses = vec!["203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap()];
    world.nodes[0].names.insert("target.example".into(), Ok(addresses));
    world.nodes[0].open_answer = None;
    world.ask_udp(1, gateway, 1, "target.example", 9001);
    world.run(A_WHILE);
    let first = world.server_flow(0, 9001);
    world.nodes[0].flows.remove(&first);
    world.nodes[0].open_answer = Some(Ok(FlowPath::ETHERNET));
    world.input(0, moretta_core::Input::FlowOpened { flow: first, result: Err(OpenError::NoRoute) });
    world.run(A_WHILE);
    world.client_flow(1, 1);
    assert!(
        matches!(&world.nodes[0].records[..], [Record::Opened(record)] if record.target.to_string() == "203.0.113.2:9001")
    );
}
