//! A gateway's core and a client's core with nothing between them but memory and a clock that is moved by hand.
//!
//! Both are the [`Core`] that the engine drives. A packet takes [`TICK`] from one to the other; none is lost or
//! overtaken. Unlike a [`World`](moretta_sim::World) this does only what a shell must do, always in the same order, so
//! that the same trace is the same work to the instruction.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use moretta_core::{
    Action, Command, ConnectionCount, Core, CoreConfig, Event, FlowId, FlowKind, FlowPath, GatewayId, Input, LinkId,
    Now, OpenGateway, OpenUdp, Outputs, Shared, SharedTokenLog, SlotId, TokenKeys, Train, TransportOptions,
    TunnelToken, Wake,
};
use moretta_proto::ledger::LocalLedger;
use moretta_sim::{GatewaySpec, Identity, LISTENER_NAME, Random, SERVER_NAME, START};
use moretta_wire::template::UriTemplate;
use rustls::client::Resumption;

use crate::meter::Meter;

/// How long a packet is on its way.
pub(crate) const TICK: Duration = Duration::from_millis(1);

const SEED: u64 = 1;
const LISTENER: LinkId = LinkId(0);
const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
const TARGET: &str = "9.9.9.9";
const PATIENCE: Duration = Duration::from_secs(10);
const SLAB_BYTES: usize = 64 * 1024;

/// One core and what its shell keeps for it.
struct Side {
    core: Core,
    outputs: Outputs,
    wake: Wake,
    /// It was given something since its last turn.
    fed: bool,
    /// Buffers for what arrives; each is used again once nothing of it is left.
    slabs: Vec<BytesMut>,
    /// What arrives with the next tick.
    arriving: Vec<Train>,
}

impl Side {
    fn new(slot: u8, transport: TransportOptions, identity: &Identity, now: Now) -> Self {
        let mut random = Random::new(SEED, &format!("core {slot}"));
        let spec = GatewaySpec::new(GATEWAY);
        let mut tls = (*identity.server().unwrap()).clone();
        // As the product's listeners have it.
        tls.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let config = CoreConfig {
            slot: SlotId::new(slot).unwrap(),
            seed: random.bytes(),
            shared: Arc::new(Shared {
                reset_key: random.bytes(),
                token_keys: TokenKeys::new(&random.bytes(), None),
                token_log: Arc::new(SharedTokenLog::default()),
                ledger: Arc::new(LocalLedger::new(spec.limits.max_tunnels)),
                connections: ConnectionCount::default(),
            }),
            transport,
        };
        Self {
            core: Core::new(config, spec.snapshot(Arc::new(tls)).unwrap(), now),
            outputs: Outputs::new(),
            wake: Wake::default(),
            fed: false,
            slabs: Vec::new(),
            arriving: Vec::new(),
        }
    }

    /// A copy of these bytes in a slab, as a receive leaves them.
    fn slab(&mut self, bytes: &[u8]) -> BytesMut {
        let free = self.slabs.iter_mut().position(|slab| {
            slab.clear();
            slab.try_reclaim(SLAB_BYTES)
        });
        let index = free.unwrap_or_else(|| {
            self.slabs.push(BytesMut::with_capacity(SLAB_BYTES));
            self.slabs.len() - 1
        });
        self.slabs[index].extend_from_slice(bytes);
        self.slabs[index].split()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.fed || self.wake.again_now || self.wake.at.is_some_and(|at| at <= now)
    }
}

/// How the packets of one send reach the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// As one train: the kernel kept it whole.
    Whole,
    /// One by one.
    Single,
}

/// A tunnel as its two ends know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel {
    pub(crate) token: TunnelToken,
    /// The client's flow.
    pub(crate) client: FlowId,
    /// The gateway's flow.
    pub(crate) gateway: FlowId,
}

/// Packets that the gateway was sent, and that it sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packets {
    pub(crate) r#in: u64,
    pub(crate) out: u64,
}

/// The two cores.
pub(crate) struct Rig {
    now: Now,
    client_tls: Arc<rustls::ClientConfig>,
    gateway: Side,
    client: Side,
    arrival: Arrival,
    addresses: BTreeMap<LinkId, SocketAddr>,
    next_link: u32,
    next_token: u64,
    /// Open flows of the gateway by the port of their target.
    gateway_flows: BTreeMap<u16, FlowId>,
    /// What the client's core told since it was last asked.
    events: Vec<Event>,
    /// What left by flows, kept until the tick's checks.
    pub(crate) at_target: Vec<(FlowId, Bytes)>,
    pub(crate) at_application: Vec<(FlowId, Bytes)>,
    pub(crate) packets: Packets,
}

impl Rig {
    /// Two cores that know nothing of each other yet; `client` may change the client's knobs.
    pub(crate) fn new(arrival: Arrival, client: impl FnOnce(&mut TransportOptions)) -> Self {
        let now = Now { instant: Instant::now(), unix: START };
        let identity = Identity::with_real_key_exchange(SEED).unwrap();
        let mut transport = TransportOptions::default();
        client(&mut transport);
        let mut rig = Self {
            now,
            gateway: Side::new(0, TransportOptions::default(), &identity, now),
            client: Side::new(9, transport, &identity, now),
            client_tls: identity.client().unwrap(),
            arrival,
            addresses: BTreeMap::new(),
            next_link: 1,
            next_token: 1,
            gateway_flows: BTreeMap::new(),
            events: Vec::new(),
            at_target: Vec::new(),
            at_application: Vec::new(),
            packets: Packets::default(),
        };
        let listen = Command::AddListener { link: LISTENER, name: LISTENER_NAME.to_owned(), loopback: false };
        rig.gateway.core.handle(now, Input::Command(listen));
        rig.gateway.fed = true;
        rig.turn(&mut Meter::Off);
        rig
    }

    /// Connections and tunnels of the gateway.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.gateway.core.connections(), self.gateway.core.tunnels())
    }

    /// Forgets the tickets of earlier connections, so that the next handshake is a full one.
    pub(crate) fn forget_tickets(&mut self) {
        let mut tls = (*self.client_tls).clone();
        tls.resumption = Resumption::in_memory_sessions(16);
        self.client_tls = Arc::new(tls);
    }

    /// A connection to the gateway, from a socket of its own.
    pub(crate) fn connect(&mut self) -> GatewayId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let port = 5000 + (link.0 % 50_000) as u16;
        self.addresses.insert(link, SocketAddr::new(Ipv4Addr::new(198, 51, 100, 7).into(), port));
        let gateway = GatewayId(u64::from(link.0));
        let open = OpenGateway {
            gateway,
            link,
            remotes: vec![GATEWAY],
            server_name: SERVER_NAME.to_owned(),
            tls: Arc::clone(&self.client_tls),
            template: UriTemplate::for_origin(&format!("https://{SERVER_NAME}")).unwrap(),
            deadline: self.now.instant + PATIENCE,
        };
        self.command(Command::OpenGateway(open));
        gateway
    }

    /// Ends a connection and waits until the gateway has forgotten it.
    pub(crate) fn disconnect(&mut self, gateway: GatewayId, meter: &mut Meter) {
        self.command(Command::CloseGateway(gateway));
        self.run_until(meter, "forgotten", |rig| rig.gateway.core.connections() == 0);
        self.addresses.retain(|link, _| u64::from(link.0) != gateway.0);
    }

    /// Asks for a tunnel and waits until both ends have it.
    pub(crate) fn open(&mut self, gateway: GatewayId, meter: &mut Meter) -> Tunnel {
        let token = TunnelToken(self.next_token);
        self.next_token += 1;
        let port = 9000 + (token.0 % 50_000) as u16;
        self.command(Command::OpenUdp(OpenUdp {
            gateway,
            tunnel: token,
            flow_kind: FlowKind::Local { tunnel: token },
            host: TARGET.to_owned(),
            port,
            deadline: self.now.instant + PATIENCE,
        }));
        let is_it = |event: &Event| matches!(event, Event::TunnelOpened { tunnel, .. } if *tunnel == token);
        self.run_until(meter, "open", |rig| rig.events.iter().any(is_it));
        let opened = self.events.drain(..).find(is_it);
        let Some(Event::TunnelOpened { flow: client, .. }) = opened else { panic!("no tunnel: {opened:?}") };
        Tunnel { token, client, gateway: self.gateway_flows[&port] }
    }

    /// Ends a tunnel and waits until the gateway has forgotten it.
    pub(crate) fn finish(&mut self, tunnel: Tunnel, meter: &mut Meter) {
        let before = self.gateway.core.tunnels();
        self.command(Command::FinishTunnel(tunnel.token));
        self.run_until(meter, "finished", |rig| rig.gateway.core.tunnels() < before);
        let is_it =
            |event: &Event| matches!(event, Event::TunnelClosed { tunnel: token, .. } if *token == tunnel.token);
        self.run_until(meter, "closed at the client", |rig| rig.events.iter().any(is_it));
        self.events.clear();
    }

    fn command(&mut self, command: Command) {
        self.client.core.handle(self.now, Input::Command(command));
        self.client.fed = true;
    }

    /// Payloads of the client's application, sent at once.
    pub(crate) fn send_up(&mut self, flow: FlowId, data: &[u8], segment_size: usize) {
        self.client.core.handle(self.now, Input::Flow { flow, data, segment_size });
        self.client.fed = true;
    }

    /// Payloads of the target, as one receive brings them.
    pub(crate) fn send_down(&mut self, flow: FlowId, data: &[u8], segment_size: usize, meter: &mut Meter) {
        let (core, now) = (&mut self.gateway.core, self.now);
        let share = meter.run(|| {
            let share = core.flow_share(flow);
            core.handle(now, Input::Flow { flow, data, segment_size });
            share
        });
        self.gateway.fed = true;
        assert!(share >= data.len(), "the gateway would not read {} bytes now, but {share}", data.len());
    }

    /// Time passes, and what was sent before it arrives. What both make of it comes with [`turn`](Self::turn), so that a
    /// round may bring packets and payloads, as an engine's does.
    pub(crate) fn receive(&mut self, time: Duration, meter: &mut Meter) {
        self.now.instant += time;
        self.now.unix += time;
        let now = self.now;
        for train in self.gateway.arriving.drain(..) {
            let core = &mut self.gateway.core;
            meter.run(|| core.handle(now, Input::Train(train)));
            self.gateway.fed = true;
        }
        for train in self.client.arriving.drain(..) {
            self.client.core.handle(now, Input::Train(train));
            self.client.fed = true;
        }
    }

    /// Turns of both cores, where something is due.
    pub(crate) fn turn(&mut self, meter: &mut Meter) {
        while self.gateway.is_due(self.now.instant) {
            self.turn_gateway(meter);
        }
        while self.client.is_due(self.now.instant) {
            self.turn_client();
        }
    }

    /// Time passes, event by event, until something is so.
    fn run_until(&mut self, meter: &mut Meter, what: &str, is_so: impl Fn(&Self) -> bool) {
        self.turn(meter);
        let end = self.now.instant + PATIENCE;
        while !is_so(self) {
            let flying = !self.client.arriving.is_empty() || !self.gateway.arriving.is_empty();
            let due = self.client.wake.at.into_iter().chain(self.gateway.wake.at).min();
            let time = match due {
                Some(due) if !flying => due.saturating_duration_since(self.now.instant),
                _ => TICK,
            };
            self.receive(time, meter);
            assert!(self.now.instant < end, "never {what}: {:?}", self.events);
            self.turn(meter);
        }
    }

    fn turn_gateway(&mut self, meter: &mut Meter) {
        let (now, side, client) = (self.now, &mut self.gateway, &mut self.client);
        let (core, outputs) = (&mut side.core, &mut side.outputs);
        side.fed = false;
        side.wake = meter.run(|| core.turn(now, outputs));
        for train in outputs.trains() {
            let segment_size = train.segment_size.unwrap_or(train.data.len());
            self.packets.out += train.data.len().div_ceil(segment_size) as u64;
            let link = self.addresses.iter().find(|(_, address)| **address == train.remote);
            // A client that has closed its socket hears nothing more.
            let Some((&link, _)) = link else { continue };
            let data = client.slab(train.data);
            client.arriving.push(Train { link, remote: GATEWAY, local: None, ecn: train.ecn, segment_size, data });
        }
        for (flow, payloads) in outputs.flow_sends() {
            self.at_target.extend(payloads.iter().map(|payload| (flow, Bytes::copy_from_slice(payload))));
        }
        let actions = std::mem::take(&mut outputs.actions);
        meter.run(|| outputs.clear());
        for action in actions {
            self.act_for_gateway(&action, meter);
        }
    }

    fn act_for_gateway(&mut self, action: &Action, meter: &mut Meter) {
        match *action {
            Action::OpenFlow { flow, kind: FlowKind::Connected { target } } => {
                self.gateway_flows.insert(target.port(), flow);
                let (core, now) = (&mut self.gateway.core, self.now);
                meter.run(|| core.handle(now, Input::FlowOpened { flow, result: Ok(FlowPath::ETHERNET) }));
                self.gateway.fed = true;
            }
            Action::CloseFlow { flow } => self.gateway_flows.retain(|_, open| *open != flow),
            Action::Record(_) | Action::ResumeFlow { .. } => {}
            Action::OpenFlow { .. }
            | Action::ReadFlowPath { .. }
            | Action::FlowLimit { .. }
            | Action::Resolve { .. }
            | Action::CancelResolve(_)
            | Action::Forward { .. }
            | Action::Event(_) => panic!("no trace asks a gateway for {action:?}"),
        }
    }

    fn turn_client(&mut self) {
        let (now, side, gateway) = (self.now, &mut self.client, &mut self.gateway);
        side.fed = false;
        side.wake = side.core.turn(now, &mut side.outputs);
        for train in side.outputs.trains() {
            let segment_size = train.segment_size.unwrap_or(train.data.len());
            self.packets.r#in += train.data.len().div_ceil(segment_size) as u64;
            let step = if self.arrival == Arrival::Whole { train.data.len() } else { segment_size };
            for part in train.data.chunks(step) {
                let data = gateway.slab(part);
                let remote = self.addresses[&train.link];
                let train = Train { link: LISTENER, remote, local: None, ecn: train.ecn, segment_size, data };
                gateway.arriving.push(train);
            }
        }
        for (flow, payloads) in side.outputs.flow_sends() {
            self.at_application.extend(payloads.iter().map(|payload| (flow, Bytes::copy_from_slice(payload))));
        }
        for action in side.outputs.actions.drain(..) {
            if let Action::Event(event) = action {
                self.events.push(event);
            }
        }
        side.outputs.clear();
    }
}
