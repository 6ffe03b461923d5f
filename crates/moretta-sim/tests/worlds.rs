//! Whole worlds: data both ways over bad paths, limits, ends, and moving clients.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::{GATEWAY, ID, Small, address, all_different, seed, target, token};
use moretta_core::{Command, Event, LinkId, Record};
use moretta_proto::error::EndReason;
use moretta_sim::{GatewaySpec, LinkModel, TargetKind};

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Four tunnels, 300 datagrams each of all sizes, both ways, on a path where everything goes wrong.
fn rough_run(seed: u64) -> Small {
    let mut small = Small::new(seed, &LinkModel::rough(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(4, TargetKind::Echo);
    for serial in 0..300 {
        for tunnel in 1..=4 {
            small.send(tunnel, serial, 24 + (serial as usize * 37 + usize::from(tunnel) * 211) % 1150);
        }
        // Slow enough for a congestion window that loses 3 %: what is dropped then is the path's doing alone.
        small.world.run_for(milliseconds(20));
    }
    small.settle();
    small
}

/// UDP-35, UDP-36: payloads come out whole, once, and only where they belong, whatever the path does.
#[test]
fn data_crosses_a_bad_path_both_ways_whole_once_and_in_its_own_tunnel() {
    let mut small = rough_run(seed(1));
    let (mut up, mut down) = (0, 0);
    for tunnel in 1..=4 {
        let senders = small.at_target(tunnel);
        assert_eq!(senders.len(), 1, "one tunnel, one socket: {senders:?}");
        up += senders.values().map(|serials| all_different(serials)).sum::<usize>();
        down += all_different(&small.at_application(tunnel));
    }
    // 3 % loss each way, and a congestion window that suffers from it; what the path lost is not sent again.
    assert!(up > 1000 && down > 900, "{up} of 1200 arrived at the targets, {down} came back");
    let (gateway, client) = (small.world.gateway_counters(small.site), small.world.client_counters(small.client));
    assert_eq!(client.datagrams_from_flows, 1200);
    assert_eq!(gateway.datagrams_to_flows, up as u64, "what the gateway sent arrived: {gateway:?}");
    assert_eq!(gateway.datagrams_from_flows, up as u64, "every echo was read: {gateway:?}");
    assert_eq!(client.datagrams_to_flows, down as u64, "what arrived reached the application: {client:?}");
    // Whatever the core itself dropped, it dropped because the window was shut for longer than a datagram may wait.
    for counters in [gateway, client] {
        for (name, count) in counters.entries().filter(|(name, _)| name.contains("dropped")) {
            assert!(count == 0 || name == "down_dropped_stale", "{name}: {count}");
        }
    }
}

/// The seed decides every packet's time, direction and contents.
#[test]
fn a_seed_repeats_its_world_packet_for_packet() {
    let seed = seed(2);
    let first = rough_run(seed);
    println!("{} packets, trace {:016x}", first.world.trace().entries().len(), first.world.trace().hash());
    assert!(first.world.trace().entries().len() > 2000);
    for _ in 0..3 {
        let again = rough_run(seed);
        assert_eq!(first.world.trace().first_difference(again.world.trace()), None);
        assert_eq!(first.world.trace().hash(), again.world.trace().hash());
    }
    let other = rough_run(seed + 1);
    assert_ne!(first.world.trace().hash(), other.world.trace().hash());
}

/// UDP-53: what does not fit is dropped and counted, in both directions, and ends nothing.
#[test]
fn oversize_datagrams_are_dropped_counted_and_end_nothing() {
    let seed = seed(3);
    let path = LinkModel { mtu: 1280, ..LinkModel::default() };
    let mut small = Small::new(seed, &path, &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(1, TargetKind::Sink);
    small.send(1, 0, 100);
    small.world.run_for(Duration::from_secs(5));
    let max = small.world.opened(small.client, token(1)).unwrap().max_datagram_bytes;
    // CF-4: an inner QUIC handshake fits from its first packet.
    assert!((1200..1280).contains(&max), "{max}");
    for (serial, bytes) in [(1, max), (2, max + 1), (3, 1472), (4, max)] {
        small.send(1, serial, bytes);
    }
    small.world.run_for(milliseconds(200));
    assert_eq!(small.at_target(1).into_values().collect::<Vec<_>>(), [[0, 1, 4]]);
    assert_eq!(small.world.client_counters(small.client).down_dropped_too_large, 2);

    for (serial, bytes) in [(5, max - 50), (6, 1472), (7, 9000), (8, max - 50)] {
        small.target_sends(1, serial, bytes);
    }
    small.world.run_for(milliseconds(200));
    assert_eq!(small.at_application(1), [5, 8]);
    assert_eq!(small.world.gateway_counters(small.site).down_dropped_too_large, 2);
    assert!(!small.world.events(small.client).iter().any(|event| matches!(event, Event::TunnelClosed { .. })));
}

/// The path gets narrower under a running tunnel: a black hole is noticed, and the tunnel goes on with less.
#[test]
fn a_path_that_shrinks_is_noticed_and_the_tunnel_lives() {
    let seed = seed(4);
    let mut small =
        Small::new(seed, &LinkModel { mtu: 1500, ..LinkModel::default() }, &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(1, TargetKind::Echo);
    small.world.run_for(Duration::from_secs(5));
    let wide = small.world.opened(small.client, token(1)).unwrap().max_datagram_bytes;
    assert!(wide >= 1400, "{wide}");
    let narrow = LinkModel { mtu: 1250, ..LinkModel::default() };
    small.world.set_path(address(common::CLIENT), address(GATEWAY), &narrow);
    let mut serial = 0;
    let noticed = {
        let client = small.client;
        let mut noticed = false;
        while !noticed && serial < 2000 {
            let size = small.world.opened(client, token(1)).unwrap().max_datagram_bytes;
            small.send(1, serial, size);
            serial += 1;
            small.world.run_for(milliseconds(5));
            noticed = small.world.opened(client, token(1)).unwrap().max_datagram_bytes < 1250;
        }
        noticed
    };
    assert!(noticed, "still wide after {:?}", small.world.now());
    small.at_application(1);
    for _ in 0..10 {
        small.send(1, serial, 1100);
        serial += 1;
    }
    small.world.run_for(Duration::from_secs(3));
    let got = small.at_application(1).iter().filter(|got| **got >= serial - 10).count();
    assert_eq!(got, 10);
}

/// UDP-45: the tunnel is over on both sides, its socket is closed, and the connection is as good as before.
#[test]
fn finishing_a_tunnel_ends_it_in_good_order_and_frees_its_socket() {
    let seed = seed(5);
    let mut small = Small::new(seed, &LinkModel::rough(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(2, TargetKind::Echo);
    small.send(1, 0, 500);
    small.send(2, 0, 500);
    small.world.run_for(Duration::from_secs(1));
    small.world.command_client(small.client, Command::FinishTunnel(token(1)));
    small.world.command_client(small.client, Command::ResetTunnel(token(2)));
    small.world.run_for(Duration::from_secs(5));
    let reasons: Vec<_> = small
        .world
        .records(small.site)
        .iter()
        .filter_map(|record| if let Record::Closed(closed) = record { Some(closed.reason) } else { None })
        .collect();
    assert!(reasons.contains(&EndReason::ClientFinished), "{reasons:?}");
    assert!(reasons.contains(&EndReason::ClientReset), "{reasons:?}");
    let (connections, tunnels, flows) = small.world.gateway_load(small.site);
    assert_eq!((connections, tunnels, flows), (1, 0, 0), "sockets are closed, the connection lives");
    let closed = small.world.events(small.client).iter().filter(|event| matches!(event, Event::TunnelClosed { .. }));
    assert_eq!(closed.count(), 2);
    // And the connection is good for another tunnel.
    small.open_tunnels(3, TargetKind::Echo);
    for serial in 0..20 {
        small.send(3, serial, 300);
        small.world.run_for(milliseconds(20));
    }
    small.settle();
    assert!(small.at_target(3).into_values().map(|serials| all_different(&serials)).sum::<usize>() > 12);
}

/// A translator forgets its mapping in mid-flight: the client seems to come from elsewhere, and nothing ends.
#[test]
fn a_translators_rebinding_keeps_tunnels_alive() {
    let seed = seed(6);
    let spec = GatewaySpec { slots: vec![3, 11], ..GatewaySpec::new(address(GATEWAY)) };
    let mut small = Small::new(seed, &LinkModel::default(), &spec);
    small.connect();
    small.open_tunnels(2, TargetKind::Echo);
    let mut serial = 0;
    for rebinding in 0..3_u16 {
        for _ in 0..50 {
            for tunnel in 1..=2 {
                small.send(tunnel, serial, 800);
            }
            serial += 1;
            small.world.run_for(milliseconds(2));
        }
        let outside = std::net::SocketAddr::from(([198, 51, 100, 7], 41_000 + rebinding));
        small.world.network.translate(address(common::CLIENT), outside);
    }
    for _ in 0..50 {
        for tunnel in 1..=2 {
            small.send(tunnel, serial, 800);
        }
        serial += 1;
        small.world.run_for(milliseconds(2));
    }
    small.settle();
    for tunnel in 1..=2 {
        let senders = small.at_target(tunnel);
        assert_eq!(senders.len(), 1, "the tunnel kept its socket");
        let up = all_different(senders.values().next().unwrap());
        assert_eq!(up as u64, serial, "nothing on the way up was lost");
        // Replies that were under way to the old mapping are lost, a round trip's worth for each rebinding.
        let down = all_different(&small.at_application(tunnel));
        assert!(down as u64 > serial - 40, "{down} of {serial} came back");
    }
    let counters = small.world.gateway_counters(small.site);
    assert!(counters.connections_migrated >= 3, "{counters:?}");
    assert!(!small.world.events(small.client).iter().any(|event| matches!(event, Event::TunnelClosed { .. })));
}

/// Two slots; the client moves to another socket; the kernel steers wrongly for half of all trains.
#[test]
fn a_moving_client_reaches_its_slot_even_through_the_wrong_socket() {
    let seed = seed(7);
    let spec = GatewaySpec { slots: vec![3, 11], ..GatewaySpec::new(address(GATEWAY)) };
    let mut small = Small::new(seed, &LinkModel::rough(), &spec);
    small.connect();
    small.open_tunnels(2, TargetKind::Echo);
    small.world.set_misrouting(small.site, 500);
    let elsewhere = address("10.0.0.3:5001");
    small.world.add_client_link(small.client, LinkId(1), elsewhere);
    for serial in 0..400 {
        if serial == 200 {
            small.world.rebind(small.client, ID, LinkId(1));
        }
        for tunnel in 1..=2 {
            small.send(tunnel, serial, 900);
        }
        small.world.run_for(milliseconds(20));
    }
    small.settle();
    for tunnel in 1..=2 {
        let senders = small.at_target(tunnel);
        assert_eq!(senders.len(), 1, "the tunnel kept its socket");
        let up = all_different(senders.values().next().unwrap());
        let down = all_different(&small.at_application(tunnel));
        assert!(up > 330 && down > 300, "{up} up, {down} down of 400");
    }
    let counters = small.world.gateway_counters(small.site);
    assert!(counters.packets_forwarded > 100, "{counters:?}");
    assert!(counters.connections_migrated >= 1, "{counters:?}");
    let opened: Vec<_> =
        [3, 11].iter().map(|slot| small.world.slot_counters(small.site, *slot).unwrap().tunnels_opened).collect();
    assert_eq!(opened.iter().sum::<u64>(), 2);
    assert!(!small.world.events(small.client).iter().any(|event| {
        matches!(event, Event::TunnelClosed { .. } | Event::GatewayClosed { .. } | Event::GatewayFailed { .. })
    }));
}

/// GOAWAY, no new tunnels, the old ones until the deadline, then the end, and nothing is left.
#[test]
fn draining_refuses_new_tunnels_keeps_old_ones_and_ends_at_its_deadline() {
    let seed = seed(8);
    let mut small = Small::new(seed, &LinkModel::default(), &GatewaySpec::new(address(GATEWAY)));
    small.connect();
    small.open_tunnels(1, TargetKind::Echo);
    let deadline = small.world.instant_after(Duration::from_secs(5));
    small.world.command_gateway(small.site, |_| Command::Drain { deadline });
    small.world.run_for(milliseconds(500));
    // The old tunnel still carries.
    small.send(1, 1, 700);
    small.world.run_for(milliseconds(500));
    assert_eq!(small.at_application(1), [1]);
    // A new one is refused, whether by the client that heard GOAWAY or by the gateway.
    small.world.add_target(target(2), TargetKind::Echo);
    small.open(2);
    small.world.run_for(milliseconds(500));
    assert!(small.world.opened(small.client, token(2)).is_none());
    let refused = |event: &Event| matches!(event, Event::TunnelRefused { tunnel, .. } if *tunnel == token(2));
    assert!(small.world.events(small.client).iter().any(refused), "{:?}", small.world.events(small.client));
    assert!(!small.world.gateway_events(small.site).iter().any(|event| matches!(event, Event::Drained)));
    small.world.run_for(Duration::from_secs(10));
    assert!(small.world.gateway_events(small.site).iter().any(|event| matches!(event, Event::Drained)));
    assert_eq!(small.world.gateway_load(small.site), (0, 0, 0));
    let closed = |event: &Event| matches!(event, Event::TunnelClosed { tunnel, .. } if *tunnel == token(1));
    assert!(small.world.events(small.client).iter().any(closed), "{:?}", small.world.events(small.client));
}
