//! A seed that can be set from outside, and the usual small world: one gateway, one client, some targets.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use moretta_core::{Counters, Event, GatewayId, TransportOptions, TunnelToken};
use moretta_sim::{ClientId, GatewaySpec, LinkModel, SiteId, Stamp, TargetKind, World};

pub(crate) const GATEWAY: &str = "192.0.2.1:4433";
pub(crate) const CLIENT: &str = "10.0.0.2:5000";
pub(crate) const OUTSIDE: &str = "198.51.100.7:40000";
pub(crate) const ID: GatewayId = GatewayId(1);

/// The seed of this run: `SEED` from the environment, or the test's own. Printed, so that a failure can be repeated.
pub(crate) fn seed(default: u64) -> u64 {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    println!("repeat with SEED={seed}");
    seed
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The address of target number `index`; the world's rule allows it.
pub(crate) fn target(index: u8) -> SocketAddr {
    SocketAddr::from(([9, 9, 9, index], 7000 + u16::from(index)))
}

pub(crate) fn token(index: u8) -> TunnelToken {
    TunnelToken(u64::from(index))
}

/// One gateway, one client behind a translator, on a path of this kind.
pub(crate) struct Small {
    pub(crate) world: World,
    pub(crate) site: SiteId,
    pub(crate) client: ClientId,
}

impl Small {
    pub(crate) fn new(seed: u64, path: &LinkModel, spec: &GatewaySpec) -> Self {
        Self::with_transport(seed, path, spec, TransportOptions::default())
    }

    pub(crate) fn with_transport(seed: u64, path: &LinkModel, spec: &GatewaySpec, transport: TransportOptions) -> Self {
        let mut world = World::new(seed, LinkModel::default()).unwrap();
        let site = world.add_gateway(spec).unwrap();
        let client = world.add_client(address(CLIENT), transport).unwrap();
        world.network.translate(address(CLIENT), address(OUTSIDE));
        world.set_path(address(CLIENT), spec.address, path);
        Self { world, site, client }
    }

    /// Connects and waits for the gateway.
    pub(crate) fn connect(&mut self) {
        let remote = self.world.gateway_address(self.site).unwrap();
        self.world.connect(self.client, ID, vec![remote], Duration::from_secs(20)).unwrap();
        let client = self.client;
        let connected = self.world.run_until(Duration::from_secs(20), |world| {
            world.events(client).iter().any(|event| matches!(event, Event::GatewayConnected { .. }))
        });
        assert!(connected, "{:?}", self.world.events(client));
    }

    /// Adds targets, opens a tunnel to each and waits until all are open.
    pub(crate) fn open_tunnels(&mut self, count: u8, kind: TargetKind) {
        for index in 1..=count {
            self.world.add_target(target(index), kind);
            self.open(index);
        }
        let client = self.client;
        let open = self.world.run_until(Duration::from_secs(20), |world| {
            (1..=count).all(|index| world.opened(client, token(index)).is_some())
        });
        assert!(open, "{:?}", self.world.events(client));
    }

    /// Asks for a tunnel to target `index`.
    pub(crate) fn open(&mut self, index: u8) {
        let target = target(index);
        self.world.open_udp(self.client, ID, token(index), &target.ip().to_string(), target.port());
    }

    /// The application of tunnel `index` sends a stamped payload.
    pub(crate) fn send(&mut self, index: u8, serial: u64, bytes: usize) {
        let payload = Stamp { tunnel: index.into(), serial }.payload(bytes);
        assert!(self.world.send(self.client, token(index), &payload), "tunnel {index} is not open");
    }

    /// Tunnel `index` was accepted and has not ended.
    pub(crate) fn still_open(&self, index: u8) -> bool {
        let ended = |event: &Event| matches!(event, Event::TunnelClosed { tunnel, .. } if *tunnel == token(index));
        self.world.opened(self.client, token(index)).is_some() && !self.world.events(self.client).iter().any(ended)
    }

    /// What arrived at target `index`, each payload checked in full: serial numbers by sender.
    pub(crate) fn at_target(&self, index: u8) -> BTreeMap<SocketAddr, Vec<u64>> {
        let mut serials: BTreeMap<SocketAddr, Vec<u64>> = BTreeMap::new();
        for (from, payload) in self.world.target_received(target(index)) {
            serials.entry(*from).or_default().push(checked(index, payload));
        }
        serials
    }

    /// What the application of tunnel `index` got since the last call, checked likewise.
    pub(crate) fn at_application(&mut self, index: u8) -> Vec<u64> {
        let received = self.world.take_received(self.client, token(index));
        received.iter().map(|payload| checked(index, payload)).collect()
    }

    /// The tunnel's socket at the gateway, known once the target has heard from it.
    pub(crate) fn socket_of(&self, index: u8) -> SocketAddr {
        self.world.target_received(target(index)).first().expect("the target has heard nothing yet").0
    }

    pub(crate) fn target_sends(&mut self, index: u8, serial: u64, bytes: usize) {
        let socket = self.socket_of(index);
        let payload = Stamp { tunnel: index.into(), serial }.payload(bytes);
        self.world.target_sends(target(index), socket, &payload);
    }
}

/// The serial number of a payload, which must be whole and belong to tunnel `index`.
pub(crate) fn checked(index: u8, payload: &Bytes) -> u64 {
    let stamp = Stamp::read(payload).expect("a payload was changed on its way");
    assert_eq!(stamp.tunnel, u64::from(index), "a payload arrived in the wrong tunnel");
    stamp.serial
}

/// Fails if a number appears twice; returns how many there are.
pub(crate) fn all_different(serials: &[u64]) -> usize {
    let mut sorted = serials.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), serials.len(), "a datagram was delivered twice");
    serials.len()
}

/// The books of one side balance: what came in went out or was dropped for a counted reason. To be called when nothing
/// is under way, waits in a queue, or is held for a request.
pub(crate) fn check_books(side: &str, counters: &Counters) {
    let sum =
        |prefix: &str| counters.entries().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum();
    let up_dropped: u64 = sum("up_dropped_");
    let down_dropped: u64 = sum("down_dropped_");
    assert_eq!(
        counters.datagrams_from_peer,
        counters.datagrams_to_flows + up_dropped,
        "{side}, from its peer: {counters:?}"
    );
    assert_eq!(
        counters.datagrams_from_flows,
        counters.datagrams_to_peer + counters.datagrams_to_peer_in_capsules + down_dropped,
        "{side}, from its flows: {counters:?}"
    );
    assert_eq!(counters.panicked_connections + counters.panicked_endpoints, 0, "{side}: {counters:?}");
}

impl Small {
    /// Lets everything settle and checks both sides' books.
    pub(crate) fn settle(&mut self) {
        self.world.run_for(Duration::from_secs(3));
        check_books("gateway", &self.world.gateway_counters(self.site));
        check_books("client", &self.world.client_counters(self.client));
    }
}
