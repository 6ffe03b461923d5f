//! Worlds under load and under silence: who waits, who is dropped, and what survives.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::{CLIENT, GATEWAY, Small, address, all_different, seed, target, token};
use moretta_core::Event;
use moretta_proto::admission::ResolveError;
use moretta_sim::{GatewaySpec, LinkCounters, LinkModel, TargetKind};

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// 2 Mbit/s each way with a queue of a tenth of a second.
fn narrow() -> LinkModel {
    LinkModel { rate: Some(250_000), queue_bytes: 25_000, delay: milliseconds(10), ..LinkModel::default() }
}

/// A tunnel that floods gets what is left over; one that whispers loses nothing and waits little, in both directions;
/// and streams pass all the while: new tunnels open.
#[test]
fn a_flood_starves_neither_a_quiet_tunnel_nor_streams() {
    let mut small = Small::new(seed(50), &narrow(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(2, TargetKind::Echo);
    small.send(1, 0, 100);
    small.send(2, 0, 100);
    small.world.run_for(milliseconds(500));
    let mut opened = None;
    for serial in 1..=1500_u64 {
        // Tunnel 1: 1.2 MB/s each way, five times what the path carries. Tunnel 2: one small datagram in 20 ms.
        for copy in 0..3 {
            small.send(1, serial * 10 + copy, 1150);
            small.target_sends(1, 1_000_000 + serial * 10 + copy, 1150);
        }
        if serial % 7 == 0 {
            small.send(2, serial, 60);
        }
        if serial == 700 {
            small.world.add_target(target(3), TargetKind::Echo);
            small.open(3);
            opened = Some(small.world.now());
        }
        small.world.run_for(milliseconds(3));
        if let Some(asked) = opened.filter(|_| small.world.opened(small.client, token(3)).is_some()) {
            let waited = small.world.now().saturating_sub(asked);
            assert!(waited < Duration::from_secs(1), "a new tunnel took {waited:?} under load");
            opened = None;
        }
    }
    assert!(opened.is_none(), "a new tunnel never opened under load");
    small.settle();
    let whispered = 1500 / 7 + 1;
    let up: usize = small.at_target(2).values().map(|serials| all_different(serials)).sum();
    let down = all_different(&small.at_application(2));
    // What the wire's own queue drops hits everyone; what we queue and drop must hit the flood alone.
    assert!(up * 100 > whispered * 85, "{up} of {whispered} arrived");
    assert!(down * 100 > up * 85, "{down} of {up} came back");
    let flooded: usize = small.at_target(1).values().map(|serials| all_different(serials)).sum();
    assert!(flooded > 300, "the flood gets what is left: {flooded}");
    let client = small.world.client_counters(small.client);
    assert!(client.down_dropped_stale + client.down_dropped_queue_full > 1000, "{client:?}");
}

/// Nothing at all passes for three seconds; then everything goes on as before.
#[test]
fn tunnels_survive_a_blackout() {
    let mut small = Small::new(seed(51), &LinkModel::default(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(3, TargetKind::Echo);
    for tunnel in 1..=3 {
        small.send(tunnel, 0, 400);
    }
    small.world.run_for(milliseconds(300));
    let nothing = LinkModel { loss_per_mille: 1000, ..LinkModel::default() };
    small.world.set_path(address(CLIENT), address(GATEWAY), &nothing);
    for serial in 1..300 {
        for tunnel in 1..=3 {
            small.send(tunnel, serial, 400);
            small.target_sends(tunnel, 10_000 + serial, 400);
        }
        small.world.run_for(milliseconds(10));
    }
    small.world.set_path(address(CLIENT), address(GATEWAY), &LinkModel::default());
    small.world.run_for(Duration::from_secs(10));
    for tunnel in 1..=3 {
        small.at_application(tunnel);
        small.send(tunnel, 5000, 400);
    }
    small.settle();
    for tunnel in 1..=3 {
        assert!(small.at_application(tunnel).contains(&5000), "tunnel {tunnel} is dead");
    }
}

/// UDP-65: names are resolved by the proxy; each way to fail is told, and none costs the connection.
#[test]
fn names_resolve_fail_and_take_their_time() {
    let mut small = Small::new(seed(52), &LinkModel::default(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.world.add_target(target(1), TargetKind::Echo);
    let answers = [
        (1, "good", Ok(vec![target(1).ip()])),
        (2, "missing", Err(ResolveError::NxDomain)),
        (3, "slow", Err(ResolveError::Timeout)),
        (4, "broken", Err(ResolveError::Failed("SERVFAIL"))),
        // The rule names the suffix, but the address is private: the check of every address is what counts.
        (5, "inside", Ok(vec!["10.1.2.3".parse().unwrap()])),
        (6, "second", Ok(vec!["9.9.9.250".parse().unwrap(), target(1).ip()])),
    ];
    for (index, name, answer) in answers {
        let name = format!("{name}.target.test");
        small.world.set_name(&name, answer);
        small.world.open_udp(small.client, common::ID, token(index), &name, target(1).port());
    }
    small.world.run_for(Duration::from_secs(1));
    let status = |index| {
        small.world.events(small.client).iter().find_map(|event| match event {
            Event::TunnelOpened { tunnel, status, .. } if *tunnel == token(index) => Some(*status),
            Event::TunnelRefused { tunnel, status, .. } if *tunnel == token(index) => *status,
            Event::GatewayConnected { .. }
            | Event::GatewayFailed { .. }
            | Event::GatewayClosed { .. }
            | Event::TunnelOpened { .. }
            | Event::TunnelRefused { .. }
            | Event::TunnelClosed { .. }
            | Event::Drained => None,
        })
    };
    let statuses: Vec<_> = (1..=6).map(status).collect();
    // RFC 9209 section 2.3: dns_error 502, dns_timeout 504, destination_ip_prohibited 403; address 2 after address 1
    // had no route.
    assert_eq!(statuses, [Some(200), Some(502), Some(504), Some(502), Some(403), Some(200)]);
    assert_eq!(small.world.gateway_load(small.site), (1, 2, 2));
}

/// What the path from the gateway to the client did so far.
fn sent_by_the_gateway(small: &mut Small) -> LinkCounters {
    let (Some(from), Some(to)) = (small.world.host_of(address(GATEWAY)), small.world.host_of(address(CLIENT))) else {
        panic!("both hosts are known");
    };
    small.world.network.link_counters(from, to)
}

/// H3D-24, UDP-69: a target that floods is held to what the path carries. The sender meets losses of the narrow queue,
/// slows down, and drops the rest itself: few packets of those it sends die on the wire.
#[test]
fn a_flood_from_the_target_obeys_congestion_control() {
    let mut small = Small::new(seed(52), &narrow(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(1, TargetKind::Echo);
    small.send(1, 0, 100);
    small.world.run_for(milliseconds(500));
    let before = sent_by_the_gateway(&mut small);
    for serial in 1..=4000_u64 {
        // Five times what the path carries, for four seconds.
        small.target_sends(1, serial, 1150);
        small.world.run_for(milliseconds(1));
    }
    let after = sent_by_the_gateway(&mut small);
    let (offered, died) = (after.offered - before.offered, after.queue_full - before.queue_full);
    assert!(offered > 500, "the path is used: {offered} packets");
    assert!(offered < 2000, "{offered} packets offered where about 800 pass");
    assert!(died * 5 < offered, "{died} of {offered} packets died in the path's queue");
    small.settle();
}
