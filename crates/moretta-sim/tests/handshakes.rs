//! Many clients at once, Retry, and address tokens that are redeemed at another slot than the one that gave them.
#![cfg(test)]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{GATEWAY, ID, address, check_books, checked, seed, target, token};
use moretta_core::{Command, Event, GatewayId, LinkId, TransportOptions, TunnelToken};
use moretta_proto::limits::Limits;
use moretta_sim::{ClientId, GatewaySpec, LinkModel, SiteId, Stamp, TargetKind, World};

const SLOTS: [u8; 2] = [4, 19];

fn two_slots(seed: u64, half_open_before_retry: usize) -> (World, SiteId) {
    let limits = Limits { half_open_before_retry, ..Limits::default() };
    let mut world = World::new(seed, LinkModel { delay: Duration::from_millis(10), ..LinkModel::default() }).unwrap();
    world.watch_levels();
    let spec = GatewaySpec { slots: SLOTS.to_vec(), limits, ..GatewaySpec::new(address(GATEWAY)) };
    let site = world.add_gateway(&spec).unwrap();
    (world, site)
}

fn accept_only(world: &mut World, site: SiteId, slot: u8) {
    for each in SLOTS {
        world.set_accepting(site, each, each == slot);
    }
}

fn is_connected(world: &World, client: ClientId, gateway: GatewayId) -> bool {
    let connected = |event: &Event| matches!(event, Event::GatewayConnected { gateway: of, .. } if *of == gateway);
    world.events(client).iter().any(connected)
}

/// RFC 9000 §8.1.2: the slot that sent Retry stops accepting while the answer is under way; the other one validates the
/// token, and the connection is its own.
#[test]
fn a_retry_token_is_good_at_another_slot() {
    let (mut world, site) = two_slots(seed(70), 0);
    let client = world.add_client(address("10.0.0.2:5000"), TransportOptions::default()).unwrap();
    accept_only(&mut world, site, SLOTS[0]);
    world.connect(client, ID, vec![address(GATEWAY)], Duration::from_secs(10)).unwrap();
    let asked = |world: &mut World| world.slot_counters(site, SLOTS[0]).unwrap().retries_sent > 0;
    assert!(world.run_until(Duration::from_secs(1), asked));
    accept_only(&mut world, site, SLOTS[1]);
    assert!(world.run_until(Duration::from_secs(5), |world| is_connected(world, client, ID)));
    let [first, second] = SLOTS.map(|slot| world.slot_counters(site, slot).unwrap());
    assert_eq!((first.connections_accepted, second.connections_accepted), (0, 1));
    assert_eq!((second.retries_sent, second.connections_address_validated), (0, 1));
}

/// RFC 9000 §8.1.3: a client comes back with the token of its first connection; another slot validates it, without a
/// Retry although every stranger gets one.
#[test]
fn a_new_token_is_good_at_another_slot() {
    let (mut world, site) = two_slots(seed(71), 0);
    let client = world.add_client(address("10.0.0.2:5000"), TransportOptions::default()).unwrap();
    accept_only(&mut world, site, SLOTS[0]);
    world.connect(client, ID, vec![address(GATEWAY)], Duration::from_secs(10)).unwrap();
    assert!(world.run_until(Duration::from_secs(5), |world| is_connected(world, client, ID)));
    world.run_for(Duration::from_millis(200));
    world.command_client(client, Command::CloseGateway(ID));
    world.run_for(Duration::from_secs(2));

    accept_only(&mut world, site, SLOTS[1]);
    let again = GatewayId(2);
    world.add_client_link(client, LinkId(1), address("10.0.0.2:5001"));
    world.connect_over(client, again, LinkId(1), vec![address(GATEWAY)], Duration::from_secs(10)).unwrap();
    assert!(world.run_until(Duration::from_secs(5), |world| is_connected(world, client, again)));
    let second = world.slot_counters(site, SLOTS[1]).unwrap();
    assert_eq!((second.retries_sent, second.connections_address_validated, second.connections_accepted), (0, 1, 1));
}

/// Forty clients in a tenth of a second, above the limit of handshakes that a slot has under way, on paths that lose:
/// those above it prove their addresses, all are served, and each tunnel carries its own.
#[test]
fn a_rush_of_clients_is_held_off_by_retry_and_served() {
    let (mut world, site) = two_slots(seed(72), 4);
    world.set_misrouting(site, 300);
    world.add_target(target(1), TargetKind::Echo);
    let path = LinkModel { loss_per_mille: 30, delay: Duration::from_millis(20), ..LinkModel::default() };
    let clients: Vec<ClientId> = (0..40_u8)
        .map(|index| {
            let own = SocketAddr::from(([10, 0, 1, index], 5000));
            let client = world.add_client(own, TransportOptions::default()).unwrap();
            world.set_path(own, address(GATEWAY), &path);
            world.connect(client, ID, vec![address(GATEWAY)], Duration::from_secs(30)).unwrap();
            world.open_udp(client, ID, token(index), &target(1).ip().to_string(), target(1).port());
            world.run_for(Duration::from_millis(2));
            client
        })
        .collect();
    let all_open = |world: &mut World| {
        clients.iter().zip(0_u8..).all(|(client, index)| world.opened(*client, token(index)).is_some())
    };
    assert!(world.run_until(Duration::from_secs(15), all_open));
    let counters = world.gateway_counters(site);
    assert!(counters.retries_sent >= 20 && counters.connections_address_validated >= 20, "{counters:?}");
    for round in 0..5 {
        for (client, index) in clients.iter().zip(0_u64..) {
            let payload = Stamp { tunnel: index, serial: round }.payload(300);
            assert!(world.send(*client, TunnelToken(index), &payload));
        }
        world.run_for(Duration::from_millis(100));
    }
    world.run_for(Duration::from_secs(2));
    for (client, index) in clients.iter().zip(0_u8..) {
        let received = world.take_received(*client, token(index));
        assert!(received.len() >= 3, "{} of 5 came back", received.len());
        assert!(received.iter().all(|payload| checked(index, payload) < 5));
        check_books("client", &world.client_counters(*client));
    }
    check_books("gateway", &world.gateway_counters(site));
}
