//! A core in the world, and what the world does for it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use moretta_core::{
    Action, Core, Event, FlowId, FlowKind, FlowPath, Input, LinkId, Outputs, Record, TunnelToken, Wake,
};
use moretta_proto::admission::{OpenError, ResolveError};

use super::{MAX_TURNS_AT_ONCE, Owner, Scheduled, World};
use crate::network::HostId;

/// Bytes that the kernel would hold for a flow that is not read.
const FLOW_BUFFER_BYTES: usize = 1 << 20;

/// How long the resolver thinks.
const RESOLVE_TIME: Duration = Duration::from_millis(3);

/// A flow as its driver sees it.
pub(super) struct Flow {
    pub(super) kind: FlowKind,
    /// The socket towards the target; none for flows of the application.
    pub(super) socket: Option<SocketAddr>,
    /// Arrived and not read yet.
    pub(super) waiting: VecDeque<Bytes>,
    pub(super) waiting_bytes: usize,
}

/// A tunnel as its application sees it.
#[derive(Default)]
pub(super) struct Application {
    pub(super) flow: Option<FlowId>,
    pub(super) received: Vec<Bytes>,
    pub(super) max_datagram_bytes: usize,
}

/// A core with its driver's state.
pub(super) struct Node {
    pub(super) core: Core,
    pub(super) host: HostId,
    /// The site whose listener it serves.
    pub(super) site: Option<usize>,
    pub(super) links: BTreeMap<LinkId, SocketAddr>,
    pub(super) flows: BTreeMap<FlowId, Flow>,
    pub(super) applications: BTreeMap<TunnelToken, Application>,
    pub(super) events: Vec<Event>,
    pub(super) records: Vec<Record>,
    /// Datagrams that reached a flow's socket and will not be read.
    pub(super) unread_by_flows: u64,
    outputs: Outputs,
    wake: Wake,
    /// Something was handed to it since its last turn.
    fed: bool,
    turns_at: (Duration, u32),
}

impl Node {
    pub(super) fn new(core: Core, host: HostId, site: Option<usize>) -> Self {
        Self {
            core,
            host,
            site,
            links: BTreeMap::new(),
            flows: BTreeMap::new(),
            applications: BTreeMap::new(),
            events: Vec::new(),
            records: Vec::new(),
            unread_by_flows: 0,
            outputs: Outputs::new(),
            wake: Wake::default(),
            fed: true,
            turns_at: (Duration::ZERO, 0),
        }
    }

    /// When it should be turned next.
    pub(super) fn due(&self, now: Duration, start: Instant) -> Option<Duration> {
        let since = |instant: Instant| instant.saturating_duration_since(start);
        if self.wake.again_now {
            return Some(now);
        }
        let fed = self.fed.then(|| self.wake.not_before.map_or(now, since).max(now));
        [fed, self.wake.at.map(|at| since(at).max(now))].into_iter().flatten().min()
    }

    fn counts_turn(&mut self, now: Duration) {
        if self.turns_at.0 != now {
            self.turns_at = (now, 0);
        }
        self.turns_at.1 += 1;
        assert!(
            self.turns_at.1 < MAX_TURNS_AT_ONCE,
            "a core does not let time pass at {now:?}: {:?}, {:?}",
            self.wake,
            self.core
        );
    }
}

impl World {
    pub(super) fn feed(&mut self, node: usize, input: Input<'_>) {
        let now = self.core_now();
        if let Some(node) = self.nodes.get_mut(node) {
            node.core.handle(now, input);
            node.fed = true;
        }
    }

    pub(super) fn turn_nodes(&mut self) {
        loop {
            let due = |node: &Node| node.due(self.now, self.start).is_some_and(|time| time <= self.now);
            let Some(index) = self.nodes.iter().position(due) else { return };
            self.turn_node(index);
        }
    }

    fn turn_node(&mut self, index: usize) {
        let now = self.core_now();
        let Some(node) = self.nodes.get_mut(index) else { return };
        node.counts_turn(self.now);
        node.fed = false;
        let mut outputs = std::mem::take(&mut node.outputs);
        node.wake = node.core.turn(now, &mut outputs);
        if self.watched {
            let levels = node.core.levels();
            assert!(levels.is_ok(), "seed {}, {:?}: {levels:?}", self.seed, self.now);
        }

        let links = node.links.clone();
        for train in outputs.trains() {
            let Some(socket) = links.get(&train.link) else { continue };
            let size = train.segment_size.unwrap_or(train.data.len()).max(1);
            for packet in train.data.chunks(size) {
                let packet = Bytes::copy_from_slice(packet);
                self.network.send(self.now, *socket, train.remote, train.ecn, &packet);
            }
        }
        for (flow, payloads) in outputs.flow_sends() {
            self.send_from_flow(index, flow, payloads);
        }
        for action in outputs.actions.drain(..) {
            self.act(index, action);
        }
        outputs.clear();
        if let Some(node) = self.nodes.get_mut(index) {
            node.outputs = outputs;
        }
    }

    fn send_from_flow(&mut self, index: usize, flow: FlowId, payloads: &[Bytes]) {
        let Some(node) = self.nodes.get_mut(index) else { return };
        let Some(state) = node.flows.get(&flow) else { return };
        match (state.kind, state.socket) {
            (FlowKind::Connected { target }, Some(socket)) => {
                for payload in payloads {
                    // A copy: what the core forwarded are slices of packets that it wants back.
                    let payload = Bytes::copy_from_slice(payload);
                    self.network.send(self.now, socket, target, 0, &payload);
                }
            }
            (FlowKind::Local { tunnel }, _) => {
                let application = node.applications.entry(tunnel).or_default();
                application.received.extend(payloads.iter().map(|payload| Bytes::copy_from_slice(payload)));
            }
            (FlowKind::Connected { .. }, None) => {}
        }
    }

    fn act(&mut self, index: usize, action: Action) {
        match action {
            Action::OpenFlow { flow, kind } => self.open_flow(index, flow, kind),
            Action::CloseFlow { flow } => {
                let Some(node) = self.nodes.get_mut(index) else { return };
                let Some(state) = node.flows.remove(&flow) else { return };
                node.unread_by_flows += state.waiting.len() as u64;
                if let Some(socket) = state.socket {
                    self.remove_socket(socket);
                }
            }
            Action::ResumeFlow { flow } => self.read_flow(index, flow),
            Action::ReadFlowPath { flow } => self.read_flow_path(index, flow),
            Action::FlowLimit { flow, max_datagram_bytes } => {
                let Some(node) = self.nodes.get_mut(index) else { return };
                let application = node.applications.values_mut().find(|application| application.flow == Some(flow));
                if let Some(application) = application {
                    application.max_datagram_bytes = max_datagram_bytes;
                }
            }
            Action::Resolve { query, name, source: _ } => {
                let result = self.names.get(name.as_str()).cloned().unwrap_or(Err(ResolveError::NxDomain));
                self.schedule(RESOLVE_TIME, Scheduled::Resolved { node: index, query, result });
            }
            // The answer comes all the same, as from a real resolver; the core must not mind.
            Action::CancelResolve(_) => {}
            Action::Forward { slot, train } => {
                let site = self.nodes.get(index).and_then(|node| node.site).and_then(|site| self.sites.get(site));
                if let Some(member) = site.and_then(|site| site.members.get(&slot.get()).copied()) {
                    self.feed(member, Input::Train(train));
                }
            }
            Action::Record(record) => {
                if let Some(node) = self.nodes.get_mut(index) {
                    node.records.push(record);
                }
            }
            Action::Event(event) => self.note_event(index, event),
        }
    }

    fn note_event(&mut self, index: usize, event: Event) {
        let Some(node) = self.nodes.get_mut(index) else { return };
        if let Event::TunnelOpened { tunnel, flow, max_datagram_bytes, .. } = &event {
            let application = node.applications.entry(*tunnel).or_default();
            application.flow = Some(*flow);
            application.max_datagram_bytes = *max_datagram_bytes;
        }
        node.events.push(event);
    }

    fn read_flow_path(&mut self, index: usize, flow: FlowId) {
        let Some(node) = self.nodes.get(index) else { return };
        let Some(FlowKind::Connected { target }) = node.flows.get(&flow).map(|flow| flow.kind) else { return };
        let Some(there) = self.network.host_of(target) else { return };
        let path = FlowPath { max_payload_bytes: self.network.mtu(node.host, there) };
        self.feed(index, Input::FlowPath { flow, path });
    }

    fn open_flow(&mut self, index: usize, flow: FlowId, kind: FlowKind) {
        let Some(node) = self.nodes.get(index) else { return };
        let host = node.host;
        let (socket, result) = match kind {
            FlowKind::Local { .. } => (None, Ok(FlowPath::ANY)),
            FlowKind::Connected { target } => {
                let site = node.site.and_then(|site| self.sites.get_mut(site));
                match (site, self.network.host_of(target)) {
                    (Some(_), None) => (None, Err(OpenError::NoRoute)),
                    (Some(site), Some(there)) => {
                        (Some(site.next_egress()), Ok(FlowPath { max_payload_bytes: self.network.mtu(host, there) }))
                    }
                    (None, _) => (None, Err(OpenError::Exhausted)),
                }
            }
        };
        if let Some(socket) = socket {
            self.add_socket(socket, host, Owner::Flow(index, flow));
        }
        if let (Ok(_), Some(node)) = (result, self.nodes.get_mut(index)) {
            node.flows.insert(flow, Flow { kind, socket, waiting: VecDeque::new(), waiting_bytes: 0 });
        }
        self.feed(index, Input::FlowOpened { flow, result });
    }

    /// Datagrams for a flow's socket; only its target's get in.
    pub(super) fn arrive_at_flow(&mut self, index: usize, flow: FlowId, from: SocketAddr, payloads: Vec<Bytes>) {
        let Some(node) = self.nodes.get_mut(index) else { return };
        let Some(state) = node.flows.get_mut(&flow) else { return };
        if !matches!(state.kind, FlowKind::Connected { target } if target == from) {
            node.unread_by_flows += payloads.len() as u64;
            return;
        }
        for payload in payloads {
            if state.waiting_bytes + payload.len() > FLOW_BUFFER_BYTES {
                node.unread_by_flows += 1;
            } else {
                state.waiting_bytes += payload.len();
                state.waiting.push_back(payload);
            }
        }
        self.read_flow(index, flow);
    }

    /// Reads a flow's buffer up to the share that the core allows, in runs of equal size.
    pub(super) fn read_flow(&mut self, index: usize, flow: FlowId) {
        let now = self.core_now();
        let Some(node) = self.nodes.get_mut(index) else { return };
        while let Some(state) = node.flows.get_mut(&flow).filter(|state| !state.waiting.is_empty()) {
            let share = node.core.flow_share(flow);
            if share == 0 {
                return;
            }
            let size = state.waiting.front().map_or(0, Bytes::len);
            let mut run = Vec::new();
            while let Some(payload) = state.waiting.front() {
                let fits = run.is_empty() || (size > 0 && payload.len() == size && run.len() + size <= share);
                if !fits {
                    break;
                }
                run.extend_from_slice(payload);
                state.waiting_bytes -= payload.len();
                state.waiting.pop_front();
                if size == 0 {
                    break;
                }
            }
            node.core.handle(now, Input::Flow { flow, data: &run, segment_size: size });
            node.fed = true;
        }
    }
}
