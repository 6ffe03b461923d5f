//! Going away, changing policy, and failing: what ends, what lives on, and what is said about it.

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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moretta_core::{
    Command, ConnectionCount, Event, FlowError, FlowPath, GatewayFailure, Input, Record, Shared, SharedTokenLog,
    TokenKeys, TransportOptions, TunnelToken,
};
use moretta_proto::error::{EndReason, Reason};
use moretta_proto::ledger::{Ledger, LedgerFull, LocalLedger};
use moretta_proto::policy::Policy;
use moretta_proto::profile::Profile;
use support::{CLIENT, SERVER, World, shared, snapshot, snapshot_with};

const A_WHILE: Duration = Duration::from_millis(300);

fn last_close(world: &World) -> EndReason {
    world.nodes[0]
        .records
        .iter()
        .rev()
        .find_map(|record| match record {
            Record::Closed(record) => Some(record.reason),
            _ => None,
        })
        .expect("a close record")
}

fn is_drained(world: &World, node: usize) -> bool {
    world.nodes[node].events.iter().any(|event| matches!(event, Event::Drained))
}

/// RFC 9114 §5.2: what runs goes on, what is new is refused, and with the last tunnel the connection goes.
#[test]
fn a_draining_gateway_keeps_its_tunnels_and_takes_no_new_ones() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let deadline = world.now.instant + Duration::from_secs(30);
    world.command(0, Command::Drain { deadline });
    world.run(A_WHILE);
    world.ask_udp(1, gateway, 2, support::TARGET, 9002);
    world.run(A_WHILE);
    assert!(
        matches!(world.nodes[1].events.last(), Some(Event::TunnelRefused { reason: Reason::Draining, .. })),
        "{:?}",
        world.nodes[1].events.last()
    );
    world.send(1, flow, b"still works");
    world.run(A_WHILE);
    assert_eq!(world.texts(0, target), [b"still works"]);
    assert!(!is_drained(&world, 0));

    // Others are told that nobody is served.
    world.connect(1, "198.51.100.7:5001", SERVER);
    world.run(A_WHILE);
    assert!(matches!(world.nodes[1].events.last(), Some(Event::GatewayFailed { .. })));

    world.command(1, Command::FinishTunnel(TunnelToken(1)));
    world.run(A_WHILE);
    assert!(is_drained(&world, 0));
    assert!(
        world.nodes[1]
            .events
            .iter()
            .any(|event| matches!(event, Event::GatewayClosed { failure: GatewayFailure::GoingAway, .. })),
        "{:?}",
        world.nodes[1].events
    );
}

/// A request that was on its way when the drain began is answered, not lost.
#[test]
fn a_request_that_crosses_the_first_goaway_is_answered() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let deadline = world.now.instant + Duration::from_secs(30);
    world.ask_udp(1, gateway, 2, support::TARGET, 9002);
    world.command(0, Command::Drain { deadline });
    world.run(A_WHILE);
    assert!(
        world.nodes[1]
            .events
            .iter()
            .any(|event| matches!(event, Event::TunnelRefused { tunnel: TunnelToken(2), status: Some(503), .. })),
        "{:?}",
        world.nodes[1].events
    );
    assert!(
        matches!(world.nodes[0].records.last(), Some(Record::Refused(record)) if record.reason == Reason::Draining),
        "tunnels live long and the gateway goes away"
    );
}

#[test]
fn a_core_that_drains_connects_to_no_gateway() {
    for at_once in [false, true] {
        let (mut world, _) = World::pair();
        let deadline = world.now.instant + Duration::from_secs(60);
        world.command(1, if at_once { Command::Close } else { Command::Drain { deadline } });
        let late = world.connect(1, "10.0.0.9:7000", SERVER);
        world.ask_udp(1, late, 7, support::TARGET, 9007);
        world.run(Duration::from_secs(1));
        let events = &world.nodes[1].events;
        let failed = |event: &Event| matches!(event, Event::GatewayFailed { gateway, failure: GatewayFailure::Closed } if *gateway == late);
        assert!(events.iter().any(failed), "{events:?}");
        let refused = |event: &Event| matches!(event, Event::TunnelRefused { tunnel: TunnelToken(7), .. });
        assert!(events.iter().any(refused), "{events:?}");
        assert_eq!(world.nodes[1].core.counters().connections_opened, 1);
    }
}

#[test]
fn at_the_deadline_a_draining_gateway_closes_what_is_left() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    let deadline = world.now.instant + Duration::from_secs(2);
    world.command(0, Command::Drain { deadline });
    world.run(Duration::from_millis(1900));
    assert!(!is_drained(&world, 0));
    world.run(A_WHILE);
    assert!(is_drained(&world, 0));
    assert_eq!(last_close(&world), EndReason::Drained);
    assert_eq!(world.nodes[1].core.tunnels(), 0);
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[0].core.connections(), 0);
}

/// RFC 9002 §7: CONNECTION_CLOSE is not subject to congestion control. A peer that was flooded hears the end at once.
#[test]
fn a_close_leaves_although_the_window_is_full() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    world.lose = Box::new(|_, from, _| from == support::SERVER.parse().unwrap());
    for _ in 0..10 {
        world.flow_input(1, flow, &[7; 12_000], 1200);
        world.turn(1);
    }
    world.command(1, Command::CloseGateway(gateway));
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].core.tunnels(), 0);
    assert_eq!(last_close(&world), EndReason::ConnectionClosed);
}

#[test]
fn close_ends_everything_at_once_on_either_side() {
    for node in [0, 1] {
        let (mut world, gateway) = World::pair();
        world.open_udp(1, gateway, 1);
        world.command(node, Command::Close);
        assert!(is_drained(&world, node), "node {node}");
        world.run(A_WHILE);
        assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (0, 0));
        assert!(world.nodes[1].events.iter().any(|event| matches!(event, Event::GatewayClosed { .. })));
    }
}

/// RFC 9000 §10.2.2: the answer is optional, and whoever has closed hears it no more.
#[test]
fn a_connection_that_its_client_closed_is_answered_with_silence() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    world.run(A_WHILE);
    let sent = world.nodes[0].core.counters().packets_sent;
    world.command(1, Command::CloseGateway(gateway));
    world.run(A_WHILE);
    assert_eq!(last_close(&world), EndReason::ConnectionClosed);
    assert_eq!(world.nodes[0].core.counters().packets_sent, sent);
}

#[test]
fn connections_that_are_over_are_forgotten_together() {
    let (mut world, first) = World::pair();
    let others = (1..8).map(|number| world.connect(1, &format!("192.0.2.10:{}", 6000 + number), SERVER));
    let gateways: Vec<_> = std::iter::once(first).chain(others).collect();
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].core.connections(), gateways.len());
    for gateway in gateways {
        world.command(1, Command::CloseGateway(gateway));
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_millis(10));
    let turns = world.nodes[0].core.counters().turns;
    world.run(Duration::from_secs(5));
    assert_eq!(world.nodes[0].core.connections(), 0);
    let turns = world.nodes[0].core.counters().turns - turns;
    assert!(turns <= 2, "{turns} turns for eight connections that ended within eight milliseconds");
}

/// Live tunnels are rechecked against a new snapshot; what it does not allow ends.
#[test]
fn a_new_policy_ends_the_tunnels_it_does_not_allow() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    world.ask_udp(1, gateway, 2, "203.0.113.77", 53);
    world.run(A_WHILE);
    let only_77 = support::policy(&serde_json::json!({"rules": [{
        "id": "77", "action": "allow", "protocol": "udp", "destination": ["203.0.113.77"], "ports": "*"
    }]}));
    let newer = snapshot_with(|snapshot| {
        snapshot.generation = 2;
        snapshot.policy = only_77;
    });
    world.input(0, Input::Snapshot(newer));
    world.run(A_WHILE);
    assert_eq!(last_close(&world), EndReason::PolicyChanged);
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (1, 1));
    assert!(matches!(
        world.nodes[1].events.last(),
        Some(Event::TunnelClosed { tunnel: TunnelToken(1), reason: EndReason::ProxyReset, .. })
    ));
}

/// 256 tunnels in a turn, so that a swap does not stop the world.
#[test]
fn live_tunnels_are_rechecked_a_part_in_each_turn() {
    let (mut world, gateway) = World::pair();
    for token in 1..=600 {
        world.ask_udp(1, gateway, token, support::TARGET, 9000);
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.nodes[0].core.tunnels(), 600);
    let newer = snapshot_with(|snapshot| snapshot.policy = Policy::deny_all());
    let now = world.now;
    world.nodes[0].core.handle(now, Input::Snapshot(newer));
    let mut out = moretta_core::Outputs::new();
    let wake = world.nodes[0].core.turn(now, &mut out);
    assert!(wake.again_now);
    assert_eq!((world.nodes[0].core.counters().tunnels_rechecked, world.nodes[0].core.tunnels()), (256, 344));
    world.turn(0);
    assert_eq!((world.nodes[0].core.counters().tunnels_rechecked, world.nodes[0].core.tunnels()), (600, 0));
}

/// Requests that wait for something pin their snapshot and are still judged by the newer one before 2xx.
#[test]
fn a_request_that_waits_is_judged_by_the_newer_policy_too() {
    let (mut world, gateway) = World::pair();
    world.nodes[0].open_answer = None;
    world.ask_udp(1, gateway, 1, support::TARGET, 9001);
    world.run(A_WHILE);
    let flow = world.server_flow(0, 9001);
    world.input(0, Input::Snapshot(snapshot_with(|snapshot| snapshot.policy = Policy::deny_all())));
    world.input(0, Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) });
    world.run(A_WHILE);
    assert!(matches!(world.nodes[1].events.last(), Some(Event::TunnelRefused { status: Some(403), .. })));
    assert_eq!(world.nodes[0].closed_flows, [flow]);
}

/// A client that gives up cancels what its request waits for.
#[test]
fn a_request_that_is_reset_cancels_its_question() {
    let (mut world, gateway) = World::pair();
    world.nodes[0].answer_names = false;
    world.ask_udp(1, gateway, 1, "target.example", 9001);
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].core.tunnels(), 1);
    world.command(1, Command::ResetTunnel(TunnelToken(1)));
    world.run(A_WHILE);
    assert_eq!(world.nodes[0].cancelled, world.nodes[0].asked);
    assert_eq!(world.nodes[0].core.tunnels(), 0);
    assert!(
        matches!(world.nodes[0].records.last(), Some(Record::Refused(record)) if record.reason == Reason::RequestCancelled)
    );
}

#[test]
fn a_client_gives_up_a_request_that_is_not_answered_in_time() {
    let (mut world, gateway) = World::pair();
    world.nodes[0].answer_names = false;
    world.ask_udp(1, gateway, 1, "target.example", 9001);
    world.run(Duration::from_secs(11));
    assert!(world.nodes[1].events.iter().any(|event| matches!(event, Event::TunnelRefused { .. })));
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[1].core.tunnels()), (0, 0));
}

/// UDP-44, C-19: hardened counts, interop ends the stream.
#[test]
fn a_socket_error_ends_a_tunnel_only_where_the_profile_says_so() {
    for (profile, lives) in [(Profile::hardened(), true), (Profile::interop(), false)] {
        let server = snapshot_with(|snapshot| snapshot.profile = profile);
        let (mut world, gateway) = World::pair_with(server, snapshot(), TransportOptions::default());
        world.open_udp(1, gateway, 1);
        let flow = world.server_flow(0, 9001);
        for error in [FlowError::TooLarge, FlowError::Overloaded] {
            world.input(0, Input::FlowError { flow, error });
        }
        world.run(A_WHILE);
        assert_eq!(world.nodes[0].core.tunnels(), 1, "these end nothing in either profile");
        world.input(0, Input::FlowError { flow, error: FlowError::Unreachable });
        world.run(A_WHILE);
        assert_eq!(world.nodes[1].core.tunnels() == 1, lives);
        if !lives {
            assert_eq!(last_close(&world), EndReason::TargetError);
        }
    }
}

#[test]
fn a_lost_connection_ends_its_tunnels_with_a_reason() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    world.lose = Box::new(|_, _, _| true);
    world.run(Duration::from_secs(400));
    assert_eq!(last_close(&world), EndReason::IdleTimeout);
    assert!(
        world.nodes[1]
            .events
            .iter()
            .any(|event| matches!(event, Event::GatewayClosed { failure: GatewayFailure::TimedOut, .. })),
        "{:?}",
        world.nodes[1].events
    );
    assert_eq!((world.nodes[0].core.connections(), world.nodes[1].core.connections()), (0, 0));
    assert_eq!(world.nodes[1].core.tunnels(), 0);
}

/// Addresses are tried in order, each with a share of the time.
#[test]
fn the_next_address_of_a_proxy_is_tried_when_one_is_silent() {
    let mut world = World::new();
    world.add_node(0, &shared(), snapshot(), TransportOptions::default());
    world.listen(0, SERVER);
    world.add_node(9, &shared(), snapshot(), TransportOptions::default());
    let remotes = vec!["192.0.2.250:443".parse().unwrap(), "192.0.2.251:443".parse().unwrap(), SERVER.parse().unwrap()];
    world.connect_any(1, CLIENT, remotes, Duration::from_secs(6));
    world.run(Duration::from_secs(5));
    assert!(
        world.nodes[1]
            .events
            .iter()
            .any(|event| matches!(event, Event::GatewayConnected { remote, .. } if remote.to_string() == SERVER)),
        "{:?}",
        world.nodes[1].events
    );
}

#[test]
fn a_proxy_that_nobody_finds_fails_at_the_deadline() {
    let mut world = World::new();
    world.add_node(9, &shared(), snapshot(), TransportOptions::default());
    let gateway = world.connect_any(0, CLIENT, vec!["192.0.2.250:443".parse().unwrap()], Duration::from_secs(3));
    world.ask_udp(0, gateway, 1, support::TARGET, 53);
    world.run(Duration::from_millis(2900));
    assert!(world.nodes[0].events.is_empty());
    world.run(Duration::from_millis(200));
    assert!(
        matches!(
            &world.nodes[0].events[..],
            [
                Event::TunnelRefused { reason: Reason::GatewayLost, .. },
                Event::GatewayFailed { failure: GatewayFailure::TimedOut, .. }
            ]
        ),
        "{:?}",
        world.nodes[0].events
    );
    world.run(Duration::from_secs(10));
    assert_eq!(world.nodes[0].core.connections(), 0);
}

/// A ledger that panics when it is told to, as a stand-in for a bug of ours.
#[derive(Debug)]
struct Trap {
    ledger: LocalLedger,
    armed: AtomicBool,
}

impl Ledger for Trap {
    fn take_tunnel(&self) -> Result<(), LedgerFull> {
        assert!(!self.armed.load(Ordering::Relaxed), "a bug");
        self.ledger.take_tunnel()
    }

    fn return_tunnel(&self) {
        self.ledger.return_tunnel();
    }

    fn tunnels(&self) -> u64 {
        self.ledger.tunnels()
    }
}

/// A bug costs the connection that meets it, and no other.
#[test]
fn a_panic_ends_one_connection_and_nothing_else() {
    let mut world = World::new();
    let trap = Arc::new(Trap { ledger: LocalLedger::new(100), armed: AtomicBool::new(false) });
    let shared = Arc::new(Shared {
        reset_key: [1; 64],
        token_keys: TokenKeys::new(&[2; 64], None),
        token_log: Arc::new(SharedTokenLog::default()),
        ledger: Arc::clone(&trap) as Arc<dyn Ledger>,
        connections: ConnectionCount::default(),
    });
    world.add_node(0, &shared, snapshot(), TransportOptions::default());
    world.listen(0, SERVER);
    world.add_node(9, &support::shared(), snapshot(), TransportOptions::default());
    let first = world.connect(1, CLIENT, SERVER);
    let second = world.connect(1, "198.51.100.7:5001", SERVER);
    world.run(A_WHILE);
    world.open_udp(1, first, 1);
    let flow = world.open_udp(1, second, 2);
    let target = world.server_flow(0, 9002);

    trap.armed.store(true, Ordering::Relaxed);
    world.ask_udp(1, first, 3, support::TARGET, 9003);
    world.run(A_WHILE);
    trap.armed.store(false, Ordering::Relaxed);
    assert_eq!(world.nodes[0].core.counters().panicked_connections, 1);
    assert_eq!(last_close(&world), EndReason::InternalError);
    assert_eq!(trap.tunnels(), 1, "its slot came back");

    world.send(1, flow, b"unharmed");
    world.run(A_WHILE);
    assert_eq!(world.texts(0, target), [b"unharmed"]);
    // The client learns it by a stateless reset.
    assert!(
        world.nodes[1].events.iter().any(
            |event| matches!(event, Event::GatewayClosed { gateway, failure: GatewayFailure::Reset } if *gateway == first)
        ),
        "{:?}",
        world.nodes[1].events
    );
    world.connect(1, "198.51.100.7:5002", SERVER);
    world.run(A_WHILE);
    assert!(matches!(world.nodes[1].events.last(), Some(Event::GatewayConnected { .. })));
}

/// A bug in an endpoint costs its connections; the listener goes on with a new one.
///
/// The certificate resolver stands in for the bug: it is called while a first packet is accepted.
#[test]
fn a_panic_of_an_endpoint_costs_its_connections_and_not_the_listener() {
    #[derive(Debug)]
    struct Resolver {
        inner: Arc<dyn rustls::server::ResolvesServerCert>,
        armed: AtomicBool,
    }
    impl rustls::server::ResolvesServerCert for Resolver {
        fn resolve(&self, hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            assert!(!self.armed.load(Ordering::Relaxed), "a bug");
            self.inner.resolve(hello)
        }
    }
    let mut tls = rustls::ServerConfig::clone(&support::tls().server);
    let resolver = Arc::new(Resolver { inner: tls.cert_resolver.clone(), armed: AtomicBool::new(false) });
    tls.cert_resolver = resolver.clone();
    let mut server = (*snapshot()).clone();
    server.tls = vec![("main".to_owned(), Arc::new(tls))];
    let (mut world, gateway) = World::pair_with(Arc::new(server), snapshot(), TransportOptions::default());
    world.open_udp(1, gateway, 1);

    resolver.armed.store(true, Ordering::Relaxed);
    world.connect_any(1, "198.51.100.7:5001", vec![SERVER.parse().unwrap()], Duration::from_millis(200));
    world.run(Duration::from_secs(1));
    resolver.armed.store(false, Ordering::Relaxed);
    let counters = *world.nodes[0].core.counters();
    assert!(counters.panicked_endpoints + counters.panicked_connections >= 1, "{counters:?}");

    world.connect(1, "198.51.100.7:5002", SERVER);
    world.run(A_WHILE);
    assert!(
        matches!(world.nodes[1].events.last(), Some(Event::GatewayConnected { .. })),
        "{:?}",
        world.nodes[1].events
    );
    // What was lost is counted out again.
    world.command(1, Command::Close);
    world.run(Duration::from_secs(20));
    assert_eq!((world.nodes[0].core.tunnels(), world.nodes[0].core.connections()), (0, 0));
    world.command(0, Command::Close);
    assert!(is_drained(&world, 0));
}

/// New connections get the new certificate, those that live keep theirs.
#[test]
fn a_new_certificate_is_for_new_connections() {
    let (mut world, gateway) = World::pair();
    let flow = world.open_udp(1, gateway, 1);
    let target = world.server_flow(0, 9001);
    let mut other = rustls::ServerConfig::clone(&support::tls().server);
    other.alpn_protocols = vec![b"something-else".to_vec()];
    let mut newer = (*snapshot()).clone();
    newer.tls = vec![("main".to_owned(), Arc::new(other))];
    world.input(0, Input::Snapshot(Arc::new(newer)));
    world.connect(1, "198.51.100.7:5001", SERVER);
    world.run(A_WHILE);
    assert!(
        matches!(
            world.nodes[1].events.last(),
            Some(Event::GatewayFailed { failure: GatewayFailure::Tls(_) | GatewayFailure::ClosedByPeer { .. }, .. })
        ),
        "{:?}",
        world.nodes[1].events.last()
    );
    world.send(1, flow, b"unharmed");
    world.run(A_WHILE);
    assert_eq!(world.texts(0, target), [b"unharmed"]);

    // A listener without a certificate says nothing.
    let mut none = (*snapshot()).clone();
    none.tls.clear();
    world.input(0, Input::Snapshot(Arc::new(none)));
    let answers = world.nodes[0].core.counters().endpoint_answers;
    world.connect(1, "198.51.100.7:5002", SERVER);
    world.run(A_WHILE);
    let counters = world.nodes[0].core.counters();
    assert!(counters.refused_no_configuration > 0 && counters.endpoint_answers == answers);
}

/// A handshake that does not come to an end makes room after its time.
#[test]
fn a_handshake_that_is_not_finished_is_given_up() {
    let mut world = World::new();
    world.add_node(0, &shared(), snapshot(), TransportOptions::default());
    world.listen(0, SERVER);
    world.add_node(9, &shared(), snapshot(), TransportOptions::default());
    world.lose = Box::new(|_, from, _| from.port() == 443);
    world.connect(1, CLIENT, SERVER);
    world.run(Duration::from_millis(50));
    world.lose = Box::new(|_, _, _| true);
    assert_eq!(world.nodes[0].core.connections(), 1);
    world.run(Duration::from_secs(9));
    assert_eq!(world.nodes[0].core.connections(), 1);
    world.run(Duration::from_secs(11));
    assert_eq!((world.nodes[0].core.connections(), world.nodes[0].core.counters().failed_handshakes), (0, 1));
}

/// A bug in the core itself costs what the core carried: it is recorded and told, and the core goes on with new numbers.
#[test]
fn a_core_that_starts_over_ends_what_it_carried_and_serves_again() {
    let (mut world, gateway) = World::pair();
    world.open_udp(1, gateway, 1);
    world.ask_udp(1, gateway, 2, support::TARGET, 9002);
    world.run(A_WHILE);
    let before = world.nodes[0].records.len();
    for node in [0, 1] {
        let now = world.now;
        let served = &mut world.nodes[node];
        served.core.start_over(now, [77 + node as u8; 32], &mut served.outputs);
        world.turn(node);
        let core = &world.nodes[node].core;
        assert_eq!((core.tunnels(), core.connections(), core.counters().panicked_cores), (0, 0, 1));
    }
    let ends = &world.nodes[0].records[before..];
    assert!(
        ends.iter().all(|record| matches!(record, Record::Closed(closed) if closed.reason == EndReason::InternalError))
    );
    assert_eq!(ends.len(), 2);
    let told = &world.nodes[1].events;
    let closed = told.iter().filter(|event| matches!(event, Event::TunnelClosed { .. })).count();
    assert_eq!(closed, 2, "{told:?}");
    assert!(matches!(told.last(), Some(Event::GatewayClosed { failure: GatewayFailure::Internal, .. })), "{told:?}");

    world.listen(0, SERVER);
    let again = world.connect(1, "198.51.100.7:5002", SERVER);
    world.run(A_WHILE);
    let flow = world.open_udp(1, again, 3);
    let target = world.server_flow(0, 9003);
    world.send(1, flow, b"again");
    world.run(A_WHILE);
    assert_eq!(world.texts(0, target), [b"again"]);
    let mut ids: Vec<_> = world.nodes[0]
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Opened(opened) => Some(opened.facts.tunnel),
            _ => None,
        })
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 3, "no number twice");
    assert_eq!(world.nodes[0].core.counters().connections_accepted, 2, "counters go on");
}
