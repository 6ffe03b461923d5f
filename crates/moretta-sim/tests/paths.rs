//! Paths that lose, corrupt, repeat and shrink, keys that change, and where every single datagram has gone.
#![cfg(test)]

mod common;

use std::time::Duration;

use common::{CLIENT, GATEWAY, ID, Small, address, all_different, seed, token};
use moretta_core::{Command, Counters, Event, LinkId};
use moretta_sim::{GatewaySpec, LinkModel, Tally, TargetKind};

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// A world whose wires are tapped, with this many open tunnels to echoing targets.
fn tapped(seed: u64, path: &LinkModel, slots: &[u8], tunnels: u8) -> Small {
    let spec = GatewaySpec { slots: slots.to_vec(), ..GatewaySpec::new(address(GATEWAY)) };
    let mut small = Small::new(seed, path, &spec);
    small.world.watch_levels();
    small.world.tap_wires();
    small.connect();
    small.open_tunnels(tunnels, TargetKind::Echo);
    small
}

fn tallies(small: &Small) -> [Tally; 2] {
    let host = small.world.host_of(address(CLIENT)).unwrap();
    [true, false].map(|from_client| small.world.network.tally(host, from_client))
}

fn set_one_way(small: &mut Small, from: &str, to: &str, model: LinkModel) {
    let (from, to) = (small.world.host_of(address(from)).unwrap(), small.world.host_of(address(to)).unwrap());
    small.world.network.set_link(from, to, model);
}

fn max_payload(small: &Small) -> usize {
    small.world.opened(small.client, token(1)).unwrap().max_datagram_bytes
}

fn lives(small: &Small) {
    let ended = |event: &Event| {
        matches!(event, Event::TunnelClosed { .. } | Event::GatewayClosed { .. } | Event::GatewayFailed { .. })
    };
    assert!(!small.world.events(small.client).iter().any(ended), "{:?}", small.world.events(small.client));
}

/// What one side was given for its peer and did not put on the wire.
fn dropped(counters: &Counters, prefix: &str) -> u64 {
    counters.entries().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
}

/// Offered = delivered + counted drops, exactly: through the application's queue, the wire, the gateway, the echoing
/// target, and all the way back, at any loss up to 30 %, with corruption and repeats. (Nothing is reordered: what arrives
/// under keys that were just replaced may be taken or not.)
#[test]
fn every_datagram_is_accounted_for_there_and_back() {
    let first = seed(60);
    for (seed, loss_per_mille) in (first..).zip([0, 10, 100, 300]) {
        let path = LinkModel {
            delay: milliseconds(8),
            loss_per_mille,
            corrupt_per_mille: loss_per_mille / 5,
            duplicate_per_mille: 100,
            rate: Some(300_000),
            ..LinkModel::default()
        };
        // A handshake that loses this much may take longer than it is given.
        let mut small = tapped(seed, &LinkModel::default(), &[0], 3);
        small.world.set_path(address(CLIENT), address(GATEWAY), &path);
        for serial in 0..600 {
            for tunnel in 1..=3 {
                small.send(tunnel, serial, 24 + (serial as usize * 41 + usize::from(tunnel) * 333) % 1150);
            }
            small.world.run_for(milliseconds(4));
        }
        small.settle();
        // One more packet each way: the wiretap counts as arrived what was answered later.
        small.world.command_client(small.client, Command::Ping(ID));
        small.world.run_for(Duration::from_secs(2));
        let (client, gateway) = (small.world.client_counters(small.client), small.world.gateway_counters(small.site));
        let [there, back] = tallies(&small);
        assert_eq!((there.uncertain, there.after_close, back.uncertain, back.after_close), (0, 0, 0, 0));

        let at_targets: u64 =
            (1..=3).map(|index| small.at_target(index).values().map(Vec::len).sum::<usize>() as u64).sum();
        let unread = small.world.unread_by_flows(small.site);
        let on_the_way_there = dropped(&client, "down_dropped_") + client.datagrams_to_peer_lost_mtu_shrank;
        let on_the_way_back = dropped(&gateway, "down_dropped_") + gateway.datagrams_to_peer_lost_mtu_shrank;
        assert_eq!(1800, on_the_way_there + there.lost() + dropped(&gateway, "up_dropped_") + at_targets, "{client:?}");
        let received: u64 = (1..=3).map(|index| all_different(&small.at_application(index)) as u64).sum();
        assert_eq!(
            at_targets,
            unread + on_the_way_back + back.lost() + dropped(&client, "up_dropped_") + received,
            "{gateway:?}"
        );
        println!("{loss_per_mille} ‰: 1800 offered, {at_targets} at targets, {received} back; {there:?}, {back:?}");
        assert!(loss_per_mille > 0 || there.lost() + back.lost() < 200, "only the narrow queue loses");
        assert!(at_targets > 100 && received > 30, "{at_targets}, {received}");
        lives(&small);
    }
}

/// UDP-35: one flipped bit in a fifth of all packets costs those packets and nothing else.
#[test]
fn corrupted_packets_are_lost_packets() {
    let path = LinkModel { corrupt_per_mille: 200, delay: milliseconds(5), ..LinkModel::default() };
    let mut small = tapped(seed(61), &path, &[0, 7], 2);
    for serial in 0..500 {
        small.send(1, serial, 700);
        small.send(2, serial, 30);
        small.world.run_for(milliseconds(10));
    }
    small.settle();
    for tunnel in 1..=2 {
        let up: usize = small.at_target(tunnel).values().map(|serials| all_different(serials)).sum();
        let down = all_different(&small.at_application(tunnel));
        assert!(up > 350 && down > 250, "{up} there, {down} back of 500");
    }
    lives(&small);
}

/// H3D-23: every packet arrives twice, the second time up to two seconds later, long after the library has forgotten the
/// first. No datagram comes out twice.
#[test]
fn what_the_network_repeats_is_delivered_once() {
    let path = LinkModel {
        duplicate_per_mille: 1000,
        duplicate_delay: Duration::from_secs(2),
        delay: milliseconds(5),
        ..LinkModel::default()
    };
    let mut small = tapped(seed(62), &path, &[3, 9], 2);
    small.world.set_misrouting(small.site, 500);
    for serial in 0..1000 {
        small.send(1, serial, 600);
        small.send(2, serial, 60);
        small.world.run_for(milliseconds(5));
    }
    small.settle();
    for tunnel in 1..=2 {
        let up: Vec<_> = small.at_target(tunnel).into_values().collect();
        assert_eq!(up.len(), 1, "one socket");
        assert_eq!(all_different(&up[0]), 1000);
        assert_eq!(all_different(&small.at_application(tunnel)), 1000);
    }
    let counters = small.world.gateway_counters(small.site);
    let client = small.world.client_counters(small.client);
    assert!(counters.packets_received > client.packets_sent * 19 / 10, "the network did repeat: {counters:?}");
    lives(&small);
}

/// RFC 9001 §6: the library changes keys after 10 to 1,000 packets; both sides did, on a path that loses, and nothing
/// but what the path lost is missing.
#[test]
fn tunnels_outlive_key_updates_on_a_lossy_path() {
    let path = LinkModel { loss_per_mille: 50, delay: milliseconds(5), reorder_per_mille: 50, ..LinkModel::default() };
    let mut small = tapped(seed(63), &path, &[0], 1);
    for serial in 0..3000 {
        small.send(1, serial, 200);
        small.world.run_for(milliseconds(4));
    }
    small.settle();
    let [there, back] = tallies(&small);
    assert!(there.key_updates >= 1 && back.key_updates >= 1, "{there:?}, {back:?}");
    let received = small.at_application(1);
    assert!(received.iter().any(|serial| *serial >= 2990), "still alive at the end");
    let client = small.world.client_counters(small.client);
    // Under old keys a late packet may be refused; all others that arrived were taken.
    assert!(client.datagrams_from_peer >= back.arrived && client.datagrams_from_peer <= back.arrived + back.uncertain);
    lives(&small);
}

/// The path gets narrower in one direction alone, to QUIC's least; the tunnel goes on with what fits. It gets wider
/// again, and so does the tunnel, in either direction.
#[test]
fn a_black_hole_in_either_direction_is_survived_and_forgotten() {
    let first = seed(64);
    for (seed, (from, to)) in (first..).zip([(CLIENT, GATEWAY), (GATEWAY, CLIENT)]) {
        let wide = LinkModel { mtu: 1472, delay: milliseconds(4), ..LinkModel::default() };
        let mut small = tapped(seed, &wide, &[0], 1);
        let mut serial = 0;
        let mut exchange = |small: &mut Small, count: u64, bytes: usize| {
            let before = serial;
            for _ in 0..count {
                small.send(1, serial, bytes);
                serial += 1;
                small.world.run_for(milliseconds(10));
            }
            small.world.run_for(milliseconds(300));
            small.at_application(1).into_iter().filter(|got| *got >= before).count() as u64
        };
        small.world.run_for(Duration::from_secs(3));
        assert_eq!(exchange(&mut small, 20, 1390), 20, "wide from {from}");
        set_one_way(&mut small, from, to, LinkModel { mtu: 1200, ..wide.clone() });
        // Some are lost until the hole is noticed; then what fits 1200 passes, whatever the application goes on sending.
        let passed = exchange(&mut small, 300, 1390);
        assert!(passed < 200, "a hole from {from}: {passed} of 300 passed");
        assert_eq!(exchange(&mut small, 30, 1100), 30, "narrow from {from}");
        set_one_way(&mut small, from, to, wide);
        // A search that found nothing is repeated after PMTU_RAISE_TIMER, 600 s (RFC 8899 §5.1.1).
        for _ in 0..62 {
            exchange(&mut small, 1, 1100);
            small.world.run_for(Duration::from_secs(10));
        }
        exchange(&mut small, 30, 1100);
        assert_eq!(exchange(&mut small, 20, 1390), 20, "wide again from {from}, {} fit", max_payload(&small));
        lives(&small);
    }
}

/// IPv6 promises a link of 1280 bytes, 1232 of UDP payload, which is less than we begin with; QUIC promises 1200. The
/// handshake completes over both, and the tunnel carries what fits.
#[test]
fn the_narrowest_paths_carry_tunnels_from_the_first_packet_on() {
    let first = seed(65);
    for (seed, mtu) in (first..).zip([1200, 1232, 1279]) {
        let mut small = tapped(seed, &LinkModel { mtu, delay: milliseconds(10), ..LinkModel::default() }, &[0], 1);
        for serial in 0..200 {
            small.send(1, serial, 1100);
            small.world.run_for(milliseconds(10));
        }
        for serial in 200..220 {
            small.send(1, serial, 1100);
            small.world.run_for(milliseconds(10));
        }
        small.settle();
        let received = small.at_application(1);
        assert_eq!(received.iter().filter(|got| **got >= 200).count(), 20, "on a path of {mtu}: {received:?}");
        lives(&small);
    }
}

/// Two slots, a fifth of all packets lost, half of all trains steered wrongly: the client changes its socket, then its
/// translator forgets it, several times.
#[test]
fn a_client_moves_under_loss_and_keeps_its_slot_and_its_sockets() {
    let path = LinkModel { loss_per_mille: 200, delay: milliseconds(10), ..LinkModel::default() };
    let mut small = tapped(seed(66), &path, &[3, 11], 2);
    small.world.set_misrouting(small.site, 500);
    for serial in 0..1200_u64 {
        if serial % 200 == 100 {
            let link = LinkId(serial as u32);
            let own = std::net::SocketAddr::from(([10, 0, 0, 3], 5000 + serial as u16));
            small.world.add_client_link(small.client, link, own);
            small.world.rebind(small.client, ID, link);
        }
        for tunnel in 1..=2 {
            small.send(tunnel, serial, 300);
        }
        small.world.run_for(milliseconds(20));
    }
    small.settle();
    for tunnel in 1..=2 {
        let senders = small.at_target(tunnel);
        assert_eq!(senders.len(), 1, "the tunnel kept its socket");
        let up = senders.into_values().next().unwrap();
        assert!(all_different(&up) > 700, "{} of 1200", up.len());
        assert!(up.iter().any(|serial| *serial > 1190) && small.at_application(tunnel).iter().any(|got| *got > 1190));
    }
    let counters = small.world.gateway_counters(small.site);
    let (moved, forwarded) = (counters.connections_migrated, counters.packets_forwarded);
    assert!(moved >= 3 && forwarded > 100, "{moved} moves seen, {forwarded} packets passed on");
    lives(&small);
}
