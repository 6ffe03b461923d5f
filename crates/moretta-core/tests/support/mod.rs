//! A small world for two or more cores: links without a kernel, a clock that jumps, a shell that only keeps books.
//!
//! The real simulator is `moretta-sim`; this one exists so that the core's own tests depend on nothing above it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the world")]

pub mod raw;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use moretta_core::{
    Action, Command, ConnectionCount, Core, CoreConfig, CoreSnapshot, Event, FlowId, FlowKind, FlowPath, GatewayId,
    Input, LinkId, Now, OpenGateway, OpenUdp, Outputs, Record, Shared, SharedTokenLog, SlotId, TokenKeys, Train,
    TransportOptions, TunnelToken, Wake,
};
use moretta_proto::admission::{OpenError, ResolveError};
use moretta_proto::ledger::LocalLedger;
use moretta_proto::limits::Limits;
use moretta_proto::policy::{OwnAddresses, PolicyDocument};
use moretta_proto::profile::Profile;
use moretta_proto::snapshot::{Listener, Snapshot};
use moretta_wire::template::UriTemplate;

pub const SERVER: &str = "192.0.2.1:443";
pub const CLIENT: &str = "198.51.100.7:5000";
pub const TARGET: &str = "203.0.113.9";
pub const SERVER_NAME: &str = "proxy.example";
pub const ONE_WAY: Duration = Duration::from_millis(5);

#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made up")]
pub fn some_instant() -> Instant {
    Instant::now()
}

pub struct Tls {
    pub server: Arc<rustls::ServerConfig>,
    pub client: Arc<rustls::ClientConfig>,
}

/// One certificate for all tests: making it costs more than most of them.
pub fn tls() -> &'static Tls {
    static TLS: OnceLock<Tls> = OnceLock::new();
    TLS.get_or_init(|| tls_by(rustls::crypto::aws_lc_rs::default_provider()))
}

/// TLS with the cryptography of `provider`, and a certificate of its own.
pub fn tls_by(provider: rustls::crypto::CryptoProvider) -> Tls {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![made.cert.der().clone()];
    let provider = Arc::new(provider);
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .unwrap();
    server.alpn_protocols = vec![b"h3".to_vec()];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h3".to_vec()];
    Tls { server: Arc::new(server), client: Arc::new(client) }
}

/// Allows the documentation prefix of [`TARGET`] and what is around it.
pub fn policy(document: &serde_json::Value) -> moretta_proto::policy::Policy {
    PolicyDocument::parse(document).unwrap().compile().unwrap()
}

pub fn open_policy() -> moretta_proto::policy::Policy {
    policy(&serde_json::json!({
        "rules": [{
            "id": "tests", "action": "allow", "protocol": "udp",
            "destination": ["203.0.113.0/24", "target.example", "*.names.example"], "ports": "*"
        }],
    }))
}

pub fn snapshot_with(change: impl FnOnce(&mut Snapshot)) -> Arc<CoreSnapshot> {
    let mut snapshot = Snapshot {
        generation: 1,
        profile: Profile::hardened(),
        limits: Limits::default(),
        policy: open_policy(),
        proxy_name: SERVER_NAME.to_owned(),
        listeners: BTreeMap::from([(
            "main".to_owned(),
            Listener {
                templates: vec![UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).unwrap()],
                danger_allow_anonymous: true,
            },
        )]),
    };
    change(&mut snapshot);
    Arc::new(CoreSnapshot {
        proto: Arc::new(snapshot),
        tls: vec![("main".to_owned(), tls().server.clone())],
        own_addresses: Arc::new(OwnAddresses::default()),
    })
}

pub fn snapshot() -> Arc<CoreSnapshot> {
    snapshot_with(|_| {})
}

pub fn shared() -> Arc<Shared> {
    Arc::new(Shared {
        reset_key: [1; 64],
        token_keys: TokenKeys::new(&[2; 64], None),
        token_log: Arc::new(SharedTokenLog::default()),
        ledger: Arc::new(LocalLedger::new(10_000)),
        connections: ConnectionCount::default(),
    })
}

/// Whether a packet is lost: its bytes, from, to.
pub type Lose = Box<dyn FnMut(&[u8], SocketAddr, SocketAddr) -> bool>;

/// What a test shell remembers of a flow.
#[derive(Debug)]
pub struct OpenFlow {
    pub kind: FlowKind,
    pub limit: usize,
}

/// One core and the books of its shell.
pub struct Node {
    pub core: Core,
    pub outputs: Outputs,
    pub wake: Wake,
    /// Where each of its links is in the world.
    pub links: BTreeMap<LinkId, SocketAddr>,
    pub flows: BTreeMap<FlowId, OpenFlow>,
    /// Everything that left by flows, in order.
    pub delivered: Vec<(FlowId, Vec<u8>)>,
    pub events: Vec<Event>,
    pub records: Vec<Record>,
    pub forwarded: Vec<(SlotId, Train)>,
    pub resumed: Vec<FlowId>,
    /// Flows whose path the core wanted to know again.
    pub asked_paths: Vec<FlowId>,
    pub closed_flows: Vec<FlowId>,
    /// Trains of the last turn as (datagrams of the train, bytes).
    pub echo: bool,
    /// What `OpenFlow` is answered with; `None`: not at all.
    pub open_answer: Option<Result<FlowPath, OpenError>>,
    pub names: BTreeMap<String, Result<Vec<IpAddr>, ResolveError>>,
    pub answer_names: bool,
    pub asked: Vec<moretta_core::QueryId>,
    /// On whose account.
    pub asked_for: Vec<IpAddr>,
    pub cancelled: Vec<moretta_core::QueryId>,
    pub limits: Vec<(FlowId, usize)>,
}

struct Packet {
    at: Instant,
    order: u64,
    to: SocketAddr,
    from: SocketAddr,
    ecn: u8,
    data: Vec<u8>,
}

pub struct World {
    pub now: Now,
    pub nodes: Vec<Node>,
    /// Which node and link is behind an address; for a shared port, the slot that steering chooses.
    pub addresses: BTreeMap<SocketAddr, (usize, LinkId)>,
    /// What gateways of this world are believed by.
    pub trust: Arc<rustls::ClientConfig>,
    /// Clients that speak QUIC by hand.
    pub raw: Vec<raw::RawClient>,
    flying: VecDeque<Packet>,
    order: u64,
    /// Decides about each packet: delivered or lost.
    pub lose: Lose,
    /// Packets above this are lost.
    pub mtu: usize,
    /// Source address seen by receivers, for NAT rebinding: from → to.
    pub nat: BTreeMap<SocketAddr, SocketAddr>,
    pub packets: u64,
    pub turns: u64,
}

impl World {
    pub fn new() -> Self {
        Self {
            now: Now { instant: some_instant(), unix: Duration::from_secs(1_800_000_000) },
            nodes: Vec::new(),
            addresses: BTreeMap::new(),
            trust: tls().client.clone(),
            raw: Vec::new(),
            flying: VecDeque::new(),
            order: 0,
            lose: Box::new(|_, _, _| false),
            mtu: 1500,
            nat: BTreeMap::new(),
            packets: 0,
            turns: 0,
        }
    }

    /// A server at [`SERVER`] and a client, connected.
    pub fn pair() -> (Self, GatewayId) {
        Self::pair_with(snapshot(), snapshot(), TransportOptions::default())
    }

    pub fn pair_with(
        server: Arc<CoreSnapshot>,
        client: Arc<CoreSnapshot>,
        transport: TransportOptions,
    ) -> (Self, GatewayId) {
        let mut world = Self::new();
        let gateway = world.pair_up(server, client, transport);
        (world, gateway)
    }

    /// Adds a server at [`SERVER`] and a client, and connects them.
    pub fn pair_up(
        &mut self,
        server: Arc<CoreSnapshot>,
        client: Arc<CoreSnapshot>,
        transport: TransportOptions,
    ) -> GatewayId {
        self.add_node(0, &shared(), server, transport.clone());
        self.listen(0, SERVER);
        self.add_node(9, &shared(), client, transport);
        let gateway = self.connect(1, CLIENT, SERVER);
        self.run_until("connected", |world| {
            world.nodes[1].events.iter().any(|event| matches!(event, Event::GatewayConnected { .. }))
        });
        gateway
    }

    /// Lets time pass in small steps until something is so, 10 s at most.
    pub fn run_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if is_so(self) {
                return;
            }
            self.run(Duration::from_millis(1));
        }
        let events: Vec<_> = self.nodes.iter().map(|node| &node.events).collect();
        panic!("never {what}: {events:?}");
    }

    pub fn add_node(
        &mut self,
        slot: u8,
        shared: &Arc<Shared>,
        snapshot: Arc<CoreSnapshot>,
        transport: TransportOptions,
    ) -> usize {
        let mut seed = [slot; 32];
        seed[31] = self.nodes.len() as u8;
        let config = CoreConfig { slot: SlotId::new(slot).unwrap(), seed, shared: Arc::clone(shared), transport };
        self.nodes.push(Node {
            core: Core::new(config, snapshot, self.now),
            outputs: Outputs::new(),
            wake: Wake::default(),
            links: BTreeMap::new(),
            flows: BTreeMap::new(),
            delivered: Vec::new(),
            events: Vec::new(),
            records: Vec::new(),
            forwarded: Vec::new(),
            resumed: Vec::new(),
            closed_flows: Vec::new(),
            echo: false,
            asked_paths: Vec::new(),
            open_answer: Some(Ok(FlowPath::ETHERNET)),
            names: BTreeMap::new(),
            answer_names: true,
            asked: Vec::new(),
            asked_for: Vec::new(),
            cancelled: Vec::new(),
            limits: Vec::new(),
        });
        self.nodes.len() - 1
    }

    pub fn attach(&mut self, node: usize, address: &str) -> LinkId {
        let address: SocketAddr = address.parse().unwrap();
        let link = LinkId(self.nodes[node].links.len() as u32 + 1);
        self.nodes[node].links.insert(link, address);
        self.addresses.insert(address, (node, link));
        link
    }

    pub fn listen(&mut self, node: usize, address: &str) -> LinkId {
        let link = self.attach(node, address);
        self.command(node, Command::AddListener { link, name: "main".to_owned(), loopback: false });
        link
    }

    pub fn connect(&mut self, node: usize, from: &str, to: &str) -> GatewayId {
        let remotes = vec![to.parse().unwrap()];
        self.connect_any(node, from, remotes, Duration::from_secs(10))
    }

    pub fn connect_any(&mut self, node: usize, from: &str, remotes: Vec<SocketAddr>, within: Duration) -> GatewayId {
        let link = self.attach(node, from);
        let gateway = GatewayId(u64::from(link.0));
        let open = OpenGateway {
            gateway,
            link,
            remotes,
            server_name: SERVER_NAME.to_owned(),
            tls: self.trust.clone(),
            template: UriTemplate::for_origin("https://proxy.example").unwrap(),
            deadline: self.now.instant + within,
        };
        self.command(node, Command::OpenGateway(open));
        gateway
    }

    pub fn command(&mut self, node: usize, command: Command) {
        let now = self.now;
        self.nodes[node].core.handle(now, Input::Command(command));
        self.turn(node);
    }

    pub fn ask_udp(&mut self, node: usize, gateway: GatewayId, token: u64, host: &str, port: u16) {
        let tunnel = TunnelToken(token);
        self.command(
            node,
            Command::OpenUdp(OpenUdp {
                gateway,
                tunnel,
                flow_kind: FlowKind::Local { tunnel },
                host: host.to_owned(),
                port,
                deadline: self.now.instant + Duration::from_secs(10),
            }),
        );
    }

    /// Opens a tunnel and returns its flow at the client.
    pub fn open_udp(&mut self, node: usize, gateway: GatewayId, token: u64) -> FlowId {
        self.ask_udp(node, gateway, token, TARGET, 9000 + token as u16);
        self.run_until("open", |world| {
            let is_it = |event: &Event| matches!(event, Event::TunnelOpened { tunnel, .. } if tunnel.0 == token);
            world.nodes[node].events.iter().any(is_it)
        });
        self.client_flow(node, token)
    }

    pub fn client_flow(&self, node: usize, token: u64) -> FlowId {
        let found = self.nodes[node].events.iter().rev().find_map(|event| match event {
            Event::TunnelOpened { tunnel, flow, .. } if tunnel.0 == token => Some(*flow),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("tunnel {token} is not open: {:?}", self.nodes[node].events))
    }

    /// The server's flow towards a port of the target.
    pub fn server_flow(&self, node: usize, port: u16) -> FlowId {
        let found = self.nodes[node].flows.iter().find_map(|(id, flow)| match flow.kind {
            FlowKind::Connected { target } if target.port() == port => Some(*id),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("no flow to port {port}: {:?}", self.nodes[node].flows))
    }

    pub fn flow_input(&mut self, node: usize, flow: FlowId, data: &[u8], segment_size: usize) {
        let now = self.now;
        self.nodes[node].core.handle(now, Input::Flow { flow, data, segment_size });
    }

    /// Sends one datagram into a flow and lets the node take its turn.
    pub fn send(&mut self, node: usize, flow: FlowId, data: &[u8]) {
        self.flow_input(node, flow, data, 0);
        self.turn(node);
    }

    pub fn input(&mut self, node: usize, input: Input<'_>) {
        let now = self.now;
        self.nodes[node].core.handle(now, input);
        self.turn(node);
    }

    /// Turns of one node until it has nothing more to do now.
    pub fn turn(&mut self, node: usize) {
        for _ in 0..10_000 {
            let now = self.now;
            let node_ref = &mut self.nodes[node];
            node_ref.wake = node_ref.core.turn(now, &mut node_ref.outputs);
            self.turns += 1;
            let fed = self.drain_outputs(node);
            if !self.nodes[node].wake.again_now && !fed {
                return;
            }
        }
        panic!("node {node} never comes to rest");
    }

    /// Acts on the outputs; true if the core was told something.
    fn drain_outputs(&mut self, node: usize) -> bool {
        let now = self.now;
        let at = now.instant + ONE_WAY;
        let mut fed = false;
        let mut outputs = std::mem::take(&mut self.nodes[node].outputs);
        for train in outputs.trains() {
            let from = self.nodes[node].links[&train.link];
            let from = self.nat.get(&from).copied().unwrap_or(from);
            let size = train.segment_size.unwrap_or(train.data.len()).max(1);
            for packet in train.data.chunks(size) {
                self.packets += 1;
                if packet.len() > self.mtu || (self.lose)(packet, from, train.remote) {
                    continue;
                }
                self.order += 1;
                let (to, data) = (train.remote, packet.to_vec());
                self.flying.push_back(Packet { at, order: self.order, to, from, ecn: train.ecn, data });
            }
        }
        let mut echoes = Vec::new();
        for (flow, payloads) in outputs.flow_sends() {
            assert!(self.nodes[node].flows.contains_key(&flow), "{flow:?} is not open yet, or no longer");
            for payload in payloads {
                let node = &mut self.nodes[node];
                node.delivered.push((flow, payload.to_vec()));
                if node.echo && matches!(node.flows[&flow].kind, FlowKind::Connected { .. }) {
                    echoes.push((flow, payload.to_vec()));
                }
            }
        }
        let actions = std::mem::take(&mut outputs.actions);
        outputs.clear();
        self.nodes[node].outputs = outputs;
        for action in actions {
            fed |= self.act(node, action);
        }
        for (flow, payload) in echoes {
            self.nodes[node].core.handle(now, Input::Flow { flow, data: &payload, segment_size: 0 });
            fed = true;
        }
        fed
    }

    fn act(&mut self, node: usize, action: Action) -> bool {
        let now = self.now;
        let node = &mut self.nodes[node];
        match action {
            Action::OpenFlow { flow, kind } => {
                let answer = match kind {
                    FlowKind::Local { .. } => None,
                    FlowKind::Connected { .. } => Some(node.open_answer),
                };
                node.flows.insert(flow, OpenFlow { kind, limit: 0 });
                if let Some(Some(result)) = answer {
                    if result.is_err() {
                        node.flows.remove(&flow);
                    }
                    node.core.handle(now, Input::FlowOpened { flow, result });
                    return true;
                }
            }
            Action::CloseFlow { flow } => {
                assert!(node.flows.remove(&flow).is_some(), "closes a flow that is not open");
                node.closed_flows.push(flow);
            }
            Action::ResumeFlow { flow } => node.resumed.push(flow),
            Action::ReadFlowPath { flow } => node.asked_paths.push(flow),
            Action::FlowLimit { flow, max_datagram_bytes } => node.limits.push((flow, max_datagram_bytes)),
            Action::Resolve { query, name, source } => {
                node.asked.push(query);
                node.asked_for.push(source);
                if node.answer_names {
                    let result = node.names.get(name.as_str()).cloned().unwrap_or(Err(ResolveError::NxDomain));
                    node.core.handle(now, Input::Resolved { query, result });
                    return true;
                }
            }
            Action::CancelResolve(query) => node.cancelled.push(query),
            Action::Forward { slot, train } => node.forwarded.push((slot, train)),
            Action::Record(record) => node.records.push(record),
            Action::Event(event) => node.events.push(event),
        }
        false
    }

    /// The next moment at which something happens.
    fn next(&self) -> Option<Instant> {
        let packet = self.flying.front().map(|packet| packet.at);
        let timers = self.nodes.iter().filter_map(|node| node.wake.at);
        packet.into_iter().chain(timers).min()
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.advance(next);
            let mut due: BTreeSet<usize> = BTreeSet::new();
            // One train per sender and receiver, as a kernel would coalesce them.
            while self.flying.front().is_some_and(|packet| packet.at <= self.now.instant) {
                let packet = self.flying.pop_front().unwrap();
                let Some(&(node, link)) = self.addresses.get(&packet.to) else {
                    let now = self.now.instant;
                    for raw in self.raw.iter_mut().filter(|raw| raw.address == packet.to) {
                        raw.handle(now, packet.from, &packet.data);
                    }
                    continue;
                };
                let train = Train {
                    link,
                    remote: packet.from,
                    local: None,
                    ecn: packet.ecn,
                    segment_size: packet.data.len(),
                    data: BytesMut::from(packet.data.as_slice()),
                };
                self.nodes[node].core.handle(self.now, Input::Train(train));
                due.insert(node);
            }
            for (index, node) in self.nodes.iter().enumerate() {
                if node.wake.at.is_some_and(|at| at <= self.now.instant) {
                    due.insert(index);
                }
            }
            for node in due {
                self.turn(node);
            }
            self.raw_turns();
        }
        self.advance(end);
    }

    /// Lets the raw clients send what they have.
    pub fn raw_turns(&mut self) {
        for index in 0..self.raw.len() {
            let now = self.now.instant;
            let from = self.raw[index].address;
            for (to, data) in self.raw[index].turn(now) {
                self.order += 1;
                self.packets += 1;
                if data.len() > self.mtu || (self.lose)(&data, from, to) {
                    continue;
                }
                self.flying.push_back(Packet { at: now + ONE_WAY, order: self.order, to, from, ecn: 0, data });
            }
        }
    }

    fn advance(&mut self, to: Instant) {
        let passed = to.saturating_duration_since(self.now.instant);
        self.now.instant += passed;
        self.now.unix += passed;
    }

    pub fn texts(&self, node: usize, flow: FlowId) -> Vec<Vec<u8>> {
        self.nodes[node].delivered.iter().filter(|(of, _)| *of == flow).map(|(_, data)| data.clone()).collect()
    }
}
