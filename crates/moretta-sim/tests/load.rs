//! Worlds under load and under silence: who waits, who is dropped, and what survives.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::{CLIENT, GATEWAY, Small, address, all_different, check_books, seed, target, token};
use moretta_core::{Command, Event, Levels};
use moretta_proto::admission::ResolveError;
use moretta_sim::{GatewaySpec, LinkCounters, LinkModel, Stamp, TargetKind, bytes3};
use moretta_wire::datagram::ContextId;

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

/// Jain's index of equal shares, per mille: 1000 when all are equal, 1000/n when one has everything.
fn fairness(shares: &[u64]) -> u64 {
    let sum: u64 = shares.iter().sum();
    let squares: u64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as u64 * squares / 1000)
}

/// Six tunnels flood in both directions, with datagrams of different sizes: each gets its share of the bytes. A seventh
/// whispers, loses next to nothing, and waits for the wire's own queue and its turn, not for theirs.
#[test]
fn floods_share_fairly_and_a_whisper_does_not_wait() {
    let mut small = Small::new(seed(53), &narrow(), &GatewaySpec::new(address(GATEWAY)));
    small.world.watch_levels();
    small.connect();
    small.open_tunnels(7, TargetKind::Sink);
    let sizes = [1150, 1150, 600, 600, 200, 200];
    for index in 1..=7 {
        small.send(index, 0, 60);
    }
    small.world.run_for(milliseconds(500));
    let (mut asked, mut waits) = (Vec::new(), Vec::new());
    for serial in 1..=4000_u64 {
        for (index, size) in (1..=6).zip(sizes) {
            // 100 kB/s each, each way: two and a half times what the path carries in all.
            if serial % (size as u64 / 100) == 0 {
                small.send(index, serial, size);
                small.target_sends(index, 1_000_000 + serial, size);
            }
        }
        if serial % 50 == 0 {
            small.target_sends(7, serial, 60);
            asked.push(small.world.now());
        }
        small.world.run_for(milliseconds(1));
        for got in small.at_application(7) {
            waits.push(small.world.now().saturating_sub(asked[(got / 50 - 1) as usize]));
        }
    }
    small.settle();
    let up: Vec<u64> = (1..=6)
        .map(|index| small.world.target_received(target(index)).iter().map(|it| it.1.len() as u64).sum())
        .collect();
    let down: Vec<u64> = (1..=6)
        .map(|index| small.world.take_received(small.client, token(index)).iter().map(|it| it.len() as u64).sum())
        .collect();
    let (up_index, down_index) = (fairness(&up), fairness(&down));
    waits.sort_unstable();
    let median = waits[waits.len() / 2];
    println!(
        "bytes there {up:?}: {up_index} ‰; bytes back {down:?}: {down_index} ‰; {} whispers, median {median:?}",
        waits.len()
    );
    assert!(up_index > 950 && down_index > 950, "{up:?}: {up_index} ‰, {down:?}: {down_index} ‰");
    assert!(waits.len() >= 70, "{} of 80 whispers arrived", waits.len());
    // 10 ms of way, 100 ms of the wire's queue, and half a round of the six others' quanta of 3072 bytes, 37 ms; our own
    // queues, if it had to wait in theirs, would keep it for up to 200 ms more.
    assert!(median < milliseconds(160), "{median:?}");
}

/// C-12: a client that never reads its streams: replies in capsules stop at its credit, grow old and are dropped; what is
/// kept stays bounded, the other clients notice nothing, and once it reads the stream goes on.
#[test]
fn a_client_that_never_reads_costs_its_own_tunnel_only() {
    let mut small = Small::new(seed(54), &LinkModel::default(), &GatewaySpec::new(address(GATEWAY)));
    small.world.watch_levels();
    small.connect();
    small.open_tunnels(1, TargetKind::Echo);
    let own = address("10.0.0.9:6000");
    small.world.add_target(target(2), TargetKind::Echo);
    let peer = small.world.add_peer(own, address(GATEWAY)).unwrap();
    assert!(small.world.run_until(Duration::from_secs(5), |world| world.peer(peer).is_connected()));
    let control = small.world.peer(peer).open_uni().unwrap();
    small.world.peer(peer).write(control, &bytes3::control_stream(), false);
    let stream = small.world.peer(peer).open_request().unwrap();
    let head = bytes3::connect_udp("gateway.test", &target(2).ip().to_string(), target(2).port());
    small.world.peer(peer).write(stream, &head, false);
    small.world.run_for(milliseconds(100));
    small.world.peer(peer).set_reading(false);
    // Three megabytes; a stream's credit here is 1.25 MB.
    for serial in 0..3000 {
        let mut capsule = Vec::new();
        let payload = Stamp { tunnel: 2, serial }.payload(1000);
        moretta_wire::capsule::write_datagram(ContextId::UDP_PAYLOAD, &payload, &mut capsule);
        small.world.peer(peer).write(stream, &bytes3::data(&capsule), false);
        small.send(1, serial, 500);
        small.world.run_for(milliseconds(2));
    }
    small.world.run_for(milliseconds(100));
    assert_eq!(small.world.peer(peer).held_back(stream), 0, "what it sends is read all the same");
    let counters = small.world.gateway_counters(small.site);
    let kept = counters.datagrams_to_peer_in_capsules;
    assert!(kept < 1600 && counters.down_dropped_stale > 1000, "{kept} kept, {counters:?}");
    assert_eq!(small.world.target_received(target(2)).len(), 3000);
    assert_eq!(small.at_application(1).len(), 3000, "the neighbour lost nothing");

    small.world.peer(peer).set_reading(true);
    small.world.run_for(Duration::from_secs(1));
    let before = small.world.peer(peer).received(stream).bytes.len();
    let mut capsule = Vec::new();
    let payload = Stamp { tunnel: 2, serial: 9999 }.payload(1000);
    moretta_wire::capsule::write_datagram(ContextId::UDP_PAYLOAD, &payload, &mut capsule);
    small.world.peer(peer).write(stream, &bytes3::data(&capsule), false);
    small.world.run_for(milliseconds(200));
    let after = small.world.peer(peer).received(stream).bytes;
    assert!(after[before..].windows(payload.len()).any(|window| window == payload), "the stream goes on");
}

/// H3D-24: a client that acknowledges nothing: the target's flood fills one queue to its bound, grows old and is dropped;
/// after the connection's idle time nothing is left.
#[test]
fn a_client_that_falls_silent_under_a_flood_leaves_nothing() {
    let mut small = Small::new(seed(55), &LinkModel::default(), &GatewaySpec::new(address(GATEWAY)));
    small.world.watch_levels();
    small.connect();
    small.open_tunnels(2, TargetKind::Sink);
    small.send(1, 0, 100);
    small.send(2, 0, 100);
    small.world.run_for(milliseconds(300));
    let silence = LinkModel { loss_per_mille: 1000, ..LinkModel::default() };
    let (from, to) = (small.world.host_of(address(CLIENT)).unwrap(), small.world.host_of(address(GATEWAY)).unwrap());
    small.world.network.set_link(from, to, silence);
    for serial in 1..5000 {
        for index in 1..=2 {
            small.target_sends(index, serial, 1100);
        }
        small.world.run_for(milliseconds(1));
    }
    let held = small.world.gateway_levels(small.site).unwrap();
    assert!(held[0].queued_bytes <= 2 * 262_144, "{held:?}");
    small.world.run_for(Duration::from_secs(400));
    let nothing = Levels { timers: 1, ..Levels::default() };
    assert_eq!(small.world.gateway_levels(small.site).unwrap(), [nothing]);
    assert_eq!((small.world.counted_tunnels(small.site), small.world.gateway_load(small.site)), (0, (0, 0, 0)));
    check_books("gateway", &small.world.gateway_counters(small.site));
}

/// A gateway drains while tunnels flood both ways on a narrow path: it says so at once, the old tunnels go on, and at
/// the deadline every client hears the end within a round trip or two, although windows and queues are full.
#[test]
fn a_drain_under_load_is_announced_and_ends_on_time() {
    let mut small = Small::new(seed(56), &narrow(), &GatewaySpec::new(address(GATEWAY)));
    small.world.watch_levels();
    small.connect();
    small.open_tunnels(3, TargetKind::Sink);
    for index in 1..=3 {
        small.send(index, 0, 100);
    }
    small.world.run_for(milliseconds(500));
    let began = small.world.now();
    let mut serial = 0;
    let mut flood = |small: &mut Small, time: u64| {
        for _ in 0..time {
            serial += 1;
            for index in 1..=3 {
                if small.still_open(index) {
                    small.send(index, serial, 1100);
                    small.target_sends(index, 1_000_000 + serial, 1100);
                }
            }
            small.world.run_for(milliseconds(1));
        }
    };
    flood(&mut small, 1000);
    let deadline = small.world.instant_after(Duration::from_secs(2));
    small.world.command_gateway(small.site, |_| Command::Drain { deadline });
    flood(&mut small, 500);
    small.world.add_target(target(4), TargetKind::Echo);
    small.open(4);
    flood(&mut small, 500);
    let is_refused = |event: &Event| matches!(event, Event::TunnelRefused { tunnel, .. } if *tunnel == token(4));
    assert!(small.world.events(small.client).iter().any(is_refused), "{:?}", small.world.events(small.client));
    let at_application = small.at_application(1).len();
    assert!(at_application > 100, "old tunnels carry while the gateway drains: {at_application}");
    assert!((1..=3).all(|index| small.still_open(index)), "until the deadline");
    flood(&mut small, 1300);
    let ended = small.world.now().saturating_sub(began);
    assert!((1..=3).all(|index| !small.still_open(index)), "after {ended:?}: {:?}", small.world.events(small.client));
    let is_over = |event: &Event| matches!(event, Event::GatewayClosed { .. });
    assert!(small.world.events(small.client).iter().any(is_over), "{:?}", small.world.events(small.client));
    assert!(small.world.gateway_events(small.site).iter().any(|event| matches!(event, Event::Drained)));
    small.world.run_for(Duration::from_secs(15));
    assert_eq!(small.world.gateway_load(small.site), (0, 0, 0));
    check_books("gateway", &small.world.gateway_counters(small.site));
    check_books("client", &small.world.client_counters(small.client));
}
