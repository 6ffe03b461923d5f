//! Several workers behind one port.

use crate::support::misleading::Misleading;
use crate::support::{Client, Echo, Gateway};
use moretta_engine::document::Event;
use serde_json::{Value, json};

fn each(stats: &Value, counter: &str) -> Vec<u64> {
    stats["workers"].as_array().unwrap().iter().map(|worker| worker["core"][counter].as_u64().unwrap()).collect()
}

/// Steering by the slot in connection IDs: every connection stays with the worker that accepted it.
#[test]
fn connections_spread_over_four_workers_and_each_keeps_its_own() {
    const CONNECTIONS: u64 = 24;
    let gateway = Gateway::start(4);
    let mut client = gateway.client(2);
    let echo = Echo::start();
    for number in 2..=CONNECTIONS {
        client.connect(&gateway, number);
    }
    let tunnels: Vec<_> = (1..=CONNECTIONS).map(|number| client.open_through(number, echo.address)).collect();
    for round in 0..10_u8 {
        for tunnel in &tunnels {
            client.echo(tunnel, &[round; 300]);
        }
    }
    let stats = gateway.driven.stats();
    let accepted = each(&stats, "connections_accepted");
    assert_eq!(accepted.iter().sum::<u64>(), CONNECTIONS);
    assert!(accepted.iter().filter(|accepted| **accepted > 0).count() >= 2, "{accepted:?}");
    assert_eq!(each(&stats, "tunnels_opened"), accepted, "each tunnel is where its connection is");
    assert_eq!(stats["core"]["packets_forwarded"], 0, "the kernel steered every packet");
}

/// What the kernel gives to the wrong worker crosses the ring: nothing is lost, and no stranger's answer, a stateless
/// reset, ends a healthy connection.
#[test]
fn packets_at_the_wrong_socket_reach_their_worker_through_the_ring() {
    const ROUNDS: u8 = 100;
    let gateway = Gateway::start(2);
    let relay = Misleading::start(gateway.address);
    let mut client = Client::start();
    let echo = Echo::start();
    let mut tunnels = Vec::new();
    // Where a connection lands is chance; each worker needs one.
    while each(&gateway.driven.stats(), "connections_accepted").contains(&0) || tunnels.len() < 2 {
        let number = tunnels.len() as u64 + 1;
        client.connect_at(&gateway, relay.address, number);
        tunnels.push(client.open_through(number, echo.address));
    }
    for round in 0..ROUNDS {
        for tunnel in &tunnels {
            // Long enough now and then to lead others astray.
            client.echo(tunnel, &vec![round; if round % 10 == 0 { 1200 } else { usize::from(round) }]);
        }
    }
    if relay.is_powerless() {
        eprintln!("skipped: without segmentation offload no packet can be led astray");
        return;
    }
    let misled = relay.misled();
    assert!(misled >= u64::from(ROUNDS), "only {misled} packets went astray");
    // A busy worker's counters may be those of a moment ago.
    let stats = gateway.driven.wait_for_stats("packets from the ring", |stats| {
        let through = stats["shell"]["trains_from_ring"].as_u64().unwrap();
        through >= misled && stats["core"]["packets_forwarded"] == through
    });
    assert_eq!(stats["shell"]["ring_dropped"], 0);
    assert_eq!(stats["shell"]["packets_of_no_slot"], 0);
    assert_eq!(stats["core"]["endpoint_answers"], 0, "no stateless reset");
    assert!(each(&stats, "packets_forwarded").iter().all(|forwarded| *forwarded > 0), "both ways: {stats:#}");
    assert_eq!(stats["core"]["connections_migrated"], 0, "a duplicate from elsewhere moves nobody");
    assert!(!client.driven.has_told(|event| matches!(event, Event::TunnelClosed(_) | Event::GatewayClosed(_))));
}

/// NAT rebinding and migration across workers: the connection ID, not the address, names the worker.
#[test]
fn a_client_whose_address_changes_keeps_its_tunnel_with_four_workers() {
    let gateway = Gateway::start(4);
    let mut client = gateway.client(1);
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"before");
    for round in 0..6_u8 {
        client.driven.submit(json!({"command": "rebind_gateway", "gateway": 1}));
        client.driven.wait_for_stats("new socket", |stats| stats["gauges"]["links"].as_u64().unwrap() == 2);
        client.echo(&tunnel, &[round; 800]);
    }
    let stats = gateway.driven.stats();
    assert_eq!(stats["core"]["connections_accepted"], 1);
    assert!(stats["core"]["connections_migrated"].as_u64().unwrap() >= 1, "{stats:#}");
    assert!(!client.driven.has_told(|event| matches!(event, Event::TunnelClosed(_) | Event::GatewayClosed(_))));
}

/// RFC 9000 §8.1.3: a NEW_TOKEN of one worker proves the client's address at another one.
#[test]
fn a_connection_at_another_worker_needs_no_further_proof_of_its_address() {
    let gateway = Gateway::start(2);
    let mut client = gateway.client(1);
    let stats = gateway.driven.wait_for_stats("a connection", |stats| stats["core"]["connections_accepted"] == 1);
    let first = each(&stats, "connections_accepted");
    let other = first.iter().position(|accepted| *accepted == 0).unwrap();
    let mut connections = 1;
    // Where a connection lands is chance. Until one lands there, all tokens are from the first worker.
    loop {
        client.driven.submit(json!({"command": "close_gateway", "gateway": 1}));
        client.driven.wait_until("gateway_closed", |event| matches!(event, Event::GatewayClosed(_)));
        client.connect(&gateway, 1);
        connections += 1;
        // Each but the first had a token.
        let stats = gateway.driven.wait_for_stats("proofs", |stats| {
            let core = &stats["core"];
            core["connections_accepted"] == connections && core["connections_address_validated"] == connections - 1
        });
        let validated = each(&stats, "connections_address_validated");
        if each(&stats, "connections_accepted")[other] == 1 {
            assert_eq!(validated[other], 1);
            break;
        }
    }
    let echo = Echo::start();
    let tunnel = client.open(echo.address);
    client.echo(&tunnel, b"again");
}

/// HG-E5: the count is exact over all workers.
#[test]
fn the_limit_of_tunnels_is_exact_over_workers() {
    const LIMIT: u64 = 5;
    let gateway = Gateway::start_with(4, |document| document["limits"] = json!({"max_tunnels": LIMIT}));
    let mut client = gateway.client(1);
    let echo = Echo::start();
    for number in 2..=8 {
        client.connect(&gateway, number);
    }
    let asked: Vec<u64> = (0..16)
        .map(|number| client.ask_through(1 + number % 8, &echo.address.ip().to_string(), echo.address.port()))
        .collect();
    let mut opened = 0;
    for number in asked {
        let status = client.driven.wait_for("an answer", |event| match event {
            Event::TunnelOpened(answer) if answer.tunnel == number => Some(answer.status),
            Event::TunnelRefused(answer) if answer.tunnel == number => answer.status,
            _ => None,
        });
        opened += u64::from(status == 200);
        assert!(status == 200 || status == 503, "{status}");
    }
    assert_eq!(opened, LIMIT);
    assert_eq!(gateway.driven.stats()["tunnels"]["open"], LIMIT);
}
