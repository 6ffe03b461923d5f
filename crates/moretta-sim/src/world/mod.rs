//! A world: cores, targets and hand-written clients on simulated links, in one thread, under one clock.
//!
//! The world is the driver that the engine is in the product: it hands packets to cores, turns them as [`Wake`] asks,
//! and acts on their outputs. It does so as the engine does (trains merged as the kernel merges them, packets steered by
//! the same rule, a kernel buffer before each flow that is not read), but its clock jumps from event to event.

mod client;
mod gateway;
mod node;
mod target;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use moretta_core::{FlowId, Input, LinkId, Train};
use moretta_io::steering::steer;
use moretta_proto::{Now, admission::ResolveError};

pub use client::{ClientId, OpenedTunnel};
pub use gateway::{GatewaySpec, LISTENER_NAME, SiteId};
pub use target::TargetKind;

use crate::{
    link::LinkModel,
    network::{Arrival, HostId, Network},
    peer::Peer,
    random::Random,
    tls::{Identity, START, SetupError},
    trace::Trace,
    wiretap::Secrets,
};
use gateway::Site;
use node::Node;
use target::Target;

/// A hand-written client in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(usize);

/// What a socket's packets are for.
#[derive(Debug, Clone, Copy)]
enum Owner {
    Listener(usize),
    Flow(usize, FlowId),
    Link(usize, LinkId),
    Target,
    Peer(usize),
}

/// Something that happens by itself at a time.
#[derive(Debug)]
enum Scheduled {
    Resolved { node: usize, query: moretta_core::QueryId, result: Result<Vec<IpAddr>, ResolveError> },
}

/// Turns of one core without time passing, after which it is taken to be stuck.
const MAX_TURNS_AT_ONCE: u32 = 10_000;

/// The whole world. Everything in it follows from the seed and the calls made on it.
pub struct World {
    seed: u64,
    random: Random,
    identity: Identity,
    /// The only look at a real clock: instants cannot be made otherwise. All times are relative to it.
    start: Instant,
    now: Duration,
    /// The wires, open to tests: models, translation, counters.
    pub network: Network,
    hosts: u32,
    owners: BTreeMap<SocketAddr, Owner>,
    nodes: Vec<Node>,
    sites: Vec<Site>,
    targets: BTreeMap<SocketAddr, Target>,
    peers: Vec<Peer>,
    names: BTreeMap<String, Result<Vec<IpAddr>, ResolveError>>,
    scheduled: BTreeMap<(Duration, u64), Scheduled>,
    schedules: u64,
    watched: bool,
    secrets: Option<Arc<Secrets>>,
}

impl World {
    /// An empty world whose paths behave as `default_model` unless set otherwise.
    ///
    /// # Errors
    /// If no certificate can be made.
    pub fn new(seed: u64, default_model: LinkModel) -> Result<Self, SetupError> {
        Ok(Self {
            seed,
            random: Random::new(seed, "world"),
            identity: Identity::of(seed)?,
            start: Instant::now(),
            now: Duration::ZERO,
            network: Network::new(seed, default_model),
            hosts: 0,
            owners: BTreeMap::new(),
            nodes: Vec::new(),
            sites: Vec::new(),
            targets: BTreeMap::new(),
            peers: Vec::new(),
            names: BTreeMap::new(),
            scheduled: BTreeMap::new(),
            schedules: 0,
            watched: false,
            secrets: None,
        })
    }

    /// The seed it was made from, to print.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// From now on the DATAGRAM frames of clients that connect are counted on the wire: [`Network::tally`].
    pub fn tap_wires(&mut self) {
        self.secrets = Some(self.network.tap());
    }

    /// From now on every core's queues are held against their bounds after each of its turns, and its totals against
    /// the sum of their parts; what does not hold panics.
    pub fn watch_levels(&mut self) {
        self.watched = true;
    }

    /// Virtual time since the world began.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// All packets so far.
    pub fn trace(&self) -> &Trace {
        self.network.trace()
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn core_now(&self) -> Now {
        Now { instant: self.instant(), unix: START + self.now }
    }

    /// The instant after so much time, for deadlines in commands.
    pub fn instant_after(&self, time: Duration) -> Instant {
        self.instant() + time
    }

    fn since_start(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.start)
    }

    fn add_host(&mut self) -> HostId {
        self.hosts += 1;
        HostId(self.hosts)
    }

    fn add_socket(&mut self, address: SocketAddr, host: HostId, owner: Owner) {
        self.network.add_socket(address, host);
        self.owners.insert(address, owner);
    }

    fn remove_socket(&mut self, address: SocketAddr) {
        self.network.remove_socket(address);
        self.owners.remove(&address);
    }

    /// What the resolver answers for a name from now on; names that are not set do not exist.
    pub fn set_name(&mut self, name: &str, answer: Result<Vec<IpAddr>, ResolveError>) {
        self.names.insert(name.to_owned(), answer);
    }

    fn schedule(&mut self, after: Duration, what: Scheduled) {
        self.schedules += 1;
        self.scheduled.insert((self.now + after, self.schedules), what);
    }

    /// Adds a client that is not ours and starts its connection to `remote`.
    ///
    /// # Errors
    /// If TLS refuses its configuration.
    pub fn add_peer(&mut self, address: SocketAddr, remote: SocketAddr) -> Result<PeerId, SetupError> {
        let host = self.add_host();
        let mut random = Random::new(self.seed, &format!("peer {}", self.peers.len()));
        let peer = Peer::connect(
            self.instant(),
            address,
            remote,
            self.identity.client_with(self.secrets.clone())?,
            &mut random,
        )?;
        let index = self.peers.len();
        self.peers.push(peer);
        self.add_socket(address, host, Owner::Peer(index));
        Ok(PeerId(index))
    }

    /// A hand-written client. What it is told to send leaves with the next step.
    ///
    /// # Panics
    /// If the id is of another world.
    #[allow(clippy::indexing_slicing, reason = "a wrong id is a mistake in the test, best shown at its place")]
    pub fn peer(&mut self, id: PeerId) -> &mut Peer {
        &mut self.peers[id.0]
    }

    /// The host that a socket is on, for [`Network::set_link`].
    pub fn host_of(&self, address: SocketAddr) -> Option<HostId> {
        self.network.host_of(address)
    }

    /// Sets both directions between the hosts of two sockets.
    pub fn set_path(&mut self, one: SocketAddr, other: SocketAddr, model: &LinkModel) {
        if let (Some(one), Some(other)) = (self.host_of(one), self.host_of(other)) {
            self.network.set_link(one, other, model.clone());
            self.network.set_link(other, one, model.clone());
        }
    }

    /// When something happens next.
    fn next_event(&mut self) -> Option<Duration> {
        let peers = self.peers.iter_mut().filter_map(Peer::timeout).min();
        let nodes = self.nodes.iter().filter_map(|node| node.due(self.now, self.start)).min();
        let scheduled = self.scheduled.first_key_value().map(|((time, _), _)| *time);
        let peers = peers.map(|instant| self.since_start(instant));
        [self.network.next_arrival(), nodes, scheduled, peers].into_iter().flatten().min()
    }

    /// Does everything that is due at the present time, then jumps to the next event; false if nothing will ever
    /// happen again, or not before `limit`, which is then the time.
    pub fn step(&mut self, limit: Duration) -> bool {
        self.turn_peers();
        self.turn_nodes();
        let next = self.next_event().map(|time| time.max(self.now));
        let Some(next) = next.filter(|time| *time <= limit) else {
            self.now = self.now.max(limit);
            return false;
        };
        self.now = next;
        self.deliver();
        while let Some(entry) = self.scheduled.first_entry().filter(|entry| entry.key().0 <= next) {
            match entry.remove() {
                Scheduled::Resolved { node, query, result } => self.feed(node, Input::Resolved { query, result }),
            }
        }
        true
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
    }

    /// Steps until `done`, at most for `limit`; whether it came true.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let limit = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(limit) {
                return done(self);
            }
        }
    }

    fn turn_peers(&mut self) {
        let instant = self.instant();
        for peer in &mut self.peers {
            peer.turn(instant);
            while let Some((to, ecn, data)) = peer.take_packet() {
                self.network.send(self.now, peer.address(), to, ecn, &data);
            }
        }
    }

    /// Hands over what has arrived, merged as the kernel merges: equal sizes from one sender, the last may be shorter.
    fn deliver(&mut self) {
        let mut next = self.network.arrive(self.now);
        while let Some(first) = next.take() {
            let size = first.packet.data.len();
            let mut data = BytesMut::from(&first.packet.data[..]);
            let mut last = size;
            loop {
                next = self.network.arrive(self.now);
                let Some(arrival) = &next else { break };
                let bytes = arrival.packet.data.len();
                let same = arrival.socket == first.socket
                    && arrival.packet.from == first.packet.from
                    && arrival.packet.ecn == first.packet.ecn;
                if !same || size == 0 || bytes == 0 || bytes > size || last < size || data.len() + bytes > 65_000 {
                    break;
                }
                data.extend_from_slice(&arrival.packet.data);
                last = bytes;
            }
            self.deliver_train(&first, data, size);
        }
    }

    fn deliver_train(&mut self, first: &Arrival, data: BytesMut, segment_size: usize) {
        let Some(owner) = self.owners.get(&first.socket).copied() else { return };
        let train = |link, data| Train {
            link,
            remote: first.packet.from,
            local: None,
            ecn: first.packet.ecn,
            segment_size: segment_size.max(1),
            data,
        };
        match owner {
            Owner::Listener(site) => {
                if let Some(node) = self.member_for(site, &first.packet.data) {
                    self.feed(node, Input::Train(train(gateway::LISTENER, data)));
                }
            }
            Owner::Link(node, link) => self.feed(node, Input::Train(train(link, data))),
            Owner::Flow(node, flow) => {
                let chunks = data.chunks(segment_size.max(1)).map(bytes::Bytes::copy_from_slice);
                let payloads = if data.is_empty() { vec![bytes::Bytes::new()] } else { chunks.collect() };
                self.arrive_at_flow(node, flow, first.packet.from, payloads);
            }
            Owner::Target => {
                for payload in data.chunks(segment_size.max(1)) {
                    self.arrive_at_target(first.socket, first.packet.from, payload);
                }
                if data.is_empty() {
                    self.arrive_at_target(first.socket, first.packet.from, &[]);
                }
            }
            Owner::Peer(index) => {
                let now = self.instant();
                if let Some(peer) = self.peers.get_mut(index) {
                    for packet in data.chunks(segment_size.max(1)) {
                        peer.handle(now, first.packet.from, first.packet.ecn, packet);
                    }
                }
            }
        }
    }

    /// The member of a reuseport group that the kernel would choose, or any other while the steering is out of date.
    fn member_for(&mut self, site: usize, packet: &[u8]) -> Option<usize> {
        let site = self.sites.get_mut(site)?;
        let index = if site.misroute_per_mille > 0 && self.random.chance(site.misroute_per_mille) {
            self.random.below(site.table.len() as u64) as usize
        } else {
            steer(packet, &site.table)
        };
        let slot = site.table.slot_at(index)?;
        site.members.get(&slot).copied()
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("seed", &self.seed).field("now", &self.now).finish_non_exhaustive()
    }
}
