//! The core itself: what it owns, and what goes where.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use moretta_proto::Now;
use quinn_proto::ConnectionEvent;

use crate::client::Gateway;
use crate::coalesce::Coalescer;
use crate::config::{CoreConfig, CoreSnapshot};
use crate::connection::Connection;
use crate::counters::Counters;
use crate::demux::Answers;
use crate::drain::{Drain, Recheck};
use crate::endpoint::{Endpoint, Quic, Waiting};
use crate::ids::{FlowId, GatewayId, LinkId, QueryId, SlotId, TunnelToken};
use crate::input::{Command, Input};
use crate::output::Action;
use crate::queue::{Arena, SpareQueues};
use crate::request::Named;
use crate::store::{Key, Store};
use crate::timer::{TimerId, Timers};
use crate::tunnel::{Flow, Tunnel};

/// Bytes that may wait for one connection before its flows are no longer read: the kernel's buffers are the better
/// queue, since they are each flow's own.
const CONNECTION_SHARE_BYTES: usize = 256 * 1024;
/// What a flow may still bring whose tunnel has nothing waiting, however much the others of its connection have: so a
/// flood never silences a whisper.
const QUIET_FLOW_SHARE_BYTES: usize = 8 * 1024;
/// A smaller share is none: a call of the kernel for a datagram or two costs more than it brings.
const LEAST_SHARE_BYTES: usize = 2048;
/// Bytes that may wait in all queues of a core.
pub(crate) const CORE_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// One worker without I/O.
///
/// The contract: call [`handle`](Self::handle) for everything that arrived, then [`turn`](Self::turn) once, drain the
/// [`Outputs`](crate::Outputs), and wait as [`Wake`](crate::Wake) says. Time never runs backwards between calls.
pub struct Core {
    pub(crate) slot: SlotId,
    pub(crate) quic: Quic,
    pub(crate) snapshot: Arc<CoreSnapshot>,
    pub(crate) counters: Counters,
    /// Rises with each turn; tells this turn's flow batches from old ones.
    pub(crate) turn: u64,

    pub(crate) links: BTreeMap<LinkId, Key>,
    pub(crate) endpoints: Store<Endpoint>,
    pub(crate) connections: Store<Box<Connection>>,
    pub(crate) tunnels: Store<Tunnel>,
    pub(crate) flows: Store<Flow>,
    pub(crate) gateways: Store<Gateway>,
    pub(crate) gateway_names: BTreeMap<GatewayId, Key>,
    pub(crate) tunnel_names: BTreeMap<TunnelToken, Named>,
    /// Questions to the resolver → the tunnels that wait for them.
    pub(crate) queries: BTreeMap<QueryId, Key>,
    pub(crate) next_query: u64,
    pub(crate) next_tunnel: u64,

    pub(crate) began: Instant,
    pub(crate) timers: Timers,
    pub(crate) drain_timer: TimerId,
    pub(crate) coalescer: Coalescer,
    /// Datagrams handled up to the end of the last turn.
    pub(crate) datagrams_before: u64,
    pub(crate) drain: Option<Drain>,
    pub(crate) recheck: Option<Recheck>,

    /// Connections with something to do: packets, timers.
    pub(crate) dirty: VecDeque<Key>,
    /// Connections that may have something to send.
    pub(crate) sending: VecDeque<Key>,
    /// Tunnels with a decision or a timeout due.
    pub(crate) tunnel_work: VecDeque<Key>,
    pub(crate) gateway_work: VecDeque<Key>,
    /// Flows that may be read again.
    pub(crate) resumable: Vec<Key>,
    /// Payloads for flows that were opened in this turn; they follow in the next.
    pub(crate) newborn: Vec<(Key, Bytes)>,
    /// Actions of inputs, for the next turn's outputs.
    pub(crate) pending: Vec<Action>,

    pub(crate) waiting: Waiting,
    /// Accepted connections whose handshake is under way.
    pub(crate) half_open: usize,
    /// Connections that are not over.
    pub(crate) live_connections: usize,
    pub(crate) inbox_packets: usize,
    pub(crate) spare_inboxes: Vec<VecDeque<ConnectionEvent>>,
    pub(crate) answers: Answers,
    pub(crate) arena: Arena,
    pub(crate) spare_queues: SpareQueues,
    /// Bytes in the queues of all tunnels.
    pub(crate) queued_bytes: usize,
    /// What was just read from a stream; always empty between calls.
    pub(crate) read_chunks: Vec<Bytes>,
    /// What was just found in capsules; always empty between calls.
    pub(crate) found_payloads: Vec<Bytes>,
    /// Until then packets are copied out of their trains: streams hold bytes that cannot be read yet.
    pub(crate) copy_until: Instant,
    /// When used address tokens are next looked through for expired ones.
    pub(crate) forget_tokens_at: Instant,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("slot", &self.slot)
            .field("connections", &self.connections.len())
            .field("tunnels", &self.tunnels.len())
            .field("queued_bytes", &self.queued_bytes)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A core with no links: it does nothing until it is given commands.
    #[must_use]
    pub fn new(config: CoreConfig, snapshot: Arc<CoreSnapshot>, now: Now) -> Self {
        let mut timers = Timers::default();
        let drain_timer = timers.register(crate::timer::Owner::Drain);
        let core = Self {
            slot: config.slot,
            quic: Quic::new(config),
            snapshot,
            counters: Counters::default(),
            turn: 0,
            links: BTreeMap::new(),
            endpoints: Store::default(),
            connections: Store::default(),
            tunnels: Store::default(),
            flows: Store::default(),
            gateways: Store::default(),
            gateway_names: BTreeMap::new(),
            tunnel_names: BTreeMap::new(),
            queries: BTreeMap::new(),
            next_query: 0,
            next_tunnel: 0,
            began: now.instant,
            timers,
            drain_timer,
            coalescer: Coalescer::new(now.instant),
            datagrams_before: 0,
            drain: None,
            recheck: None,
            dirty: VecDeque::new(),
            sending: VecDeque::new(),
            tunnel_work: VecDeque::new(),
            gateway_work: VecDeque::new(),
            resumable: Vec::new(),
            newborn: Vec::new(),
            pending: Vec::new(),
            waiting: Waiting::default(),
            half_open: 0,
            live_connections: 0,
            inbox_packets: 0,
            spare_inboxes: Vec::new(),
            answers: Answers::default(),
            arena: Arena::default(),
            spare_queues: SpareQueues::default(),
            queued_bytes: 0,
            read_chunks: Vec::new(),
            found_payloads: Vec::new(),
            copy_until: now.instant,
            forget_tokens_at: now.instant,
        };
        core.quic.set_time(now);
        core
    }

    /// Takes one input. Cheap, so that a burst can be taken before a turn: packets are sorted into bounded inboxes,
    /// datagrams into bounded queues, the rest into lists.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Train(train) => self.guarded_train(now, train),
            Input::Flow { flow, data, segment_size } => self.handle_flow(now, flow, data, segment_size),
            Input::FlowError { flow, error } => self.handle_flow_error(flow, error),
            Input::FlowOpened { flow, result } => self.handle_flow_opened(flow, result),
            Input::FlowPath { flow, path } => self.handle_flow_path(flow, path),
            Input::Resolved { query, result } => self.handle_resolved(query, result),
            Input::LinkError { link, detail } => self.handle_link_error(link, detail),
            Input::Snapshot(snapshot) => self.handle_snapshot(snapshot),
            Input::Command(command) => self.handle_command(now, command),
        }
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::AddListener { link, name, loopback } => self.add_listener(link, name, loopback),
            Command::RemoveListener { link } => self.remove_listener(link),
            Command::OpenGateway(open) => self.open_gateway(open),
            Command::OpenUdp(open) => self.open_udp(open),
            Command::FinishTunnel(token) => self.finish_named_tunnel(token),
            Command::ResetTunnel(token) => self.reset_named_tunnel(token),
            Command::CloseGateway(gateway) => self.close_gateway(gateway),
            Command::Ping(gateway) => self.ping_gateway(gateway),
            Command::Rebind { gateway, link } => self.rebind_gateway(gateway, link),
            Command::Drain { deadline } => self.begin_drain(deadline),
            Command::Close => self.begin_drain(now.instant),
        }
    }

    /// How many bytes of datagrams the driver may read from this flow now. 0: stop reading, and wait for
    /// [`Action::ResumeFlow`]; the kernel's buffer is the queue meanwhile.
    pub fn flow_share(&mut self, flow: FlowId) -> usize {
        let key = flow_key(flow);
        let Some(flow) = self.flows.get_mut(key) else { return 0 };
        let Some(tunnel) = self.tunnels.get(flow.tunnel) else { return 0 };
        let Some(connection) = self.connections.get_mut(tunnel.connection) else { return 0 };
        let own = read_limit(self.snapshot.proto.limits.tunnel_queue_bytes).saturating_sub(tunnel.queue.bytes());
        let left = CONNECTION_SHARE_BYTES.saturating_sub(connection.queued_bytes);
        let share = if self.queued_bytes >= CORE_QUEUE_BYTES {
            0
        } else if tunnel.queue.bytes() < QUIET_FLOW_SHARE_BYTES {
            own.min(left.max(QUIET_FLOW_SHARE_BYTES))
        } else {
            own.min(left)
        };
        if share >= LEAST_SHARE_BYTES {
            return share;
        }
        if !flow.paused {
            flow.paused = true;
            connection.paused_flows.push(key);
        }
        0
    }

    /// Finds the flows of this connection that may be read again: once half of what stopped them has left, so that they
    /// do not stop and go with every datagram.
    pub(crate) fn resume_flows(&mut self, connection: &mut Connection) {
        if connection.paused_flows.is_empty()
            || connection.queued_bytes > CONNECTION_SHARE_BYTES / 2
            || self.queued_bytes > CORE_QUEUE_BYTES / 2
        {
            return;
        }
        let half = read_limit(self.snapshot.proto.limits.tunnel_queue_bytes) / 2;
        connection.paused_flows.retain(|&key| {
            let Some(flow) = self.flows.get_mut(key) else { return false };
            if self.tunnels.get(flow.tunnel).is_some_and(|tunnel| tunnel.queue.bytes() > half) {
                return true;
            }
            flow.paused = false;
            self.resumable.push(key);
            false
        });
    }

    /// What happened so far, by reason.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections that are not drained yet, both roles.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Tunnels that are open or being decided, both roles.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.tunnels.len()
    }

    /// This connection has something to do in the next turn.
    pub(crate) fn mark(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(key);
        }
    }

    /// This connection may have something to send in this turn.
    pub(crate) fn mark_sending(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.sending
        {
            connection.sending = true;
            self.sending.push_back(key);
        }
    }

    /// This tunnel has something due.
    pub(crate) fn mark_tunnel(&mut self, key: Key) {
        if let Some(tunnel) = self.tunnels.get_mut(key)
            && !tunnel.in_work
        {
            tunnel.in_work = true;
            self.tunnel_work.push_back(key);
        }
    }
}

/// How full a tunnel's queue may get before its flow is no longer read. The kernel hands over whole trains, and what
/// they bring beyond the share should still find room: 64 KiB and the cost of 64 datagrams, by the default limit.
const fn read_limit(tunnel_queue_bytes: usize) -> usize {
    tunnel_queue_bytes / 16 * 11
}

pub(crate) fn flow_id(key: Key) -> FlowId {
    FlowId { index: key.index, generation: key.generation }
}

pub(crate) fn flow_key(flow: FlowId) -> Key {
    Key { index: flow.index, generation: flow.generation }
}
