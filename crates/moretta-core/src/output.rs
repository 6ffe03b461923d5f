//! What comes out of a core: packet trains, datagrams for flows, and actions. All are values; the driver acts on them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_proto::error::{EndReason, Reason};
use moretta_proto::tunnel::TunnelCounters;
use moretta_wire::host::Name;

use crate::ids::{FlowId, GatewayId, LinkId, QueryId, SlotId, TunnelId, TunnelToken};
use crate::input::{FlowKind, Train};

/// When the driver should call [`Core::turn`](crate::Core::turn) next, if no input comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// Work is left: call again as soon as the outputs are drained and the sockets were looked at.
    pub again_now: bool,
    /// Coalescing: under load, inputs that arrive before this wait for it, so that batches deepen.
    /// `None` when the worker is lightly loaded: then nothing waits (RFC 9298 §6).
    pub not_before: Option<Instant>,
    /// The next timer.
    pub at: Option<Instant>,
}

/// One send on a link: packets of equal size for one receiver, ready for generic segmentation offload.
#[derive(Clone, Copy, Debug)]
pub struct TrainOut<'a> {
    /// Where it leaves.
    pub link: LinkId,
    /// Who gets it.
    pub remote: SocketAddr,
    /// The local address it must leave from, where known.
    pub local: Option<IpAddr>,
    /// The two ECN bits for the IP header.
    pub ecn: u8,
    /// Bytes of each packet, the last may be shorter; `None`: `data` is one packet.
    pub segment_size: Option<usize>,
    /// The packets, one after the other.
    pub data: &'a [u8],
}

/// What the driver has to do beside sending.
#[derive(Debug)]
pub enum Action {
    /// Open what this flow sends to, then answer with [`Input::FlowOpened`](crate::Input::FlowOpened).
    OpenFlow {
        /// Its name from now on.
        flow: FlowId,
        /// What it is.
        kind: FlowKind,
    },
    /// The flow is over: close its socket. Comes after everything it had to send.
    CloseFlow {
        /// Which.
        flow: FlowId,
    },
    /// [`Core::flow_share`](crate::Core::flow_share) was 0 for this flow and no longer is.
    ResumeFlow {
        /// Which.
        flow: FlowId,
    },
    /// A capsule was skipped because it holds more than this flow's path carried when last asked: read what it carries
    /// now, answer with [`Input::FlowPath`](crate::Input::FlowPath).
    ReadFlowPath {
        /// Which.
        flow: FlowId,
    },
    /// The largest UDP payload that fits one HTTP Datagram of this client tunnel has changed.
    FlowLimit {
        /// Which.
        flow: FlowId,
        /// In bytes; datagrams above it are dropped, counted, and end nothing.
        max_datagram_bytes: usize,
    },
    /// Ask the resolver for the addresses of a name, answer with [`Input::Resolved`](crate::Input::Resolved).
    Resolve {
        /// Names the question.
        query: QueryId,
        /// What to look up: one A and one AAAA question at most, no search list.
        name: Name,
        /// The client's address: the key of the resolver's fair share.
        source: IpAddr,
    },
    /// Nobody waits for this answer any more.
    CancelResolve(QueryId),
    /// This packet belongs to another slot of the same listener.
    Forward {
        /// Whose.
        slot: SlotId,
        /// The packet, as a train of its own.
        train: Train,
    },
    /// A line for the log of tunnels.
    Record(Record),
    /// Something happened to a gateway, a client tunnel, or the core.
    Event(Event),
}

/// News for whoever gave the commands.
#[derive(Clone, Debug)]
pub enum Event {
    /// The gateway answered: TLS, SETTINGS and extended CONNECT are there.
    GatewayConnected {
        /// Which.
        gateway: GatewayId,
        /// The proxy's address in use.
        remote: SocketAddr,
        /// Both sides allow HTTP Datagrams; without, payloads travel in capsules.
        datagrams: bool,
    },
    /// The gateway could not be reached; its id is free again.
    GatewayFailed {
        /// Which.
        gateway: GatewayId,
        /// Why.
        failure: GatewayFailure,
    },
    /// The gateway's connection ended after it was connected; every tunnel through it was closed before this.
    GatewayClosed {
        /// Which.
        gateway: GatewayId,
        /// Why.
        failure: GatewayFailure,
    },
    /// The proxy accepted a tunnel.
    TunnelOpened {
        /// Which.
        tunnel: TunnelToken,
        /// Its flow.
        flow: FlowId,
        /// The largest UDP payload that fits now; [`Action::FlowLimit`] follows every change.
        max_datagram_bytes: usize,
        /// Payloads travel as HTTP Datagrams; otherwise in capsules, reliable and in order.
        datagrams: bool,
        /// The proxy's status, 200 to 299.
        status: u16,
        /// The proxy's Proxy-Status field, as it came.
        proxy_status: Option<String>,
    },
    /// The proxy refused, or the request failed before an answer.
    TunnelRefused {
        /// Which.
        tunnel: TunnelToken,
        /// The proxy's final status, if there was one.
        status: Option<u16>,
        /// The proxy's Proxy-Status field, as it came.
        proxy_status: Option<String>,
        /// Why, in our words.
        reason: Reason,
    },
    /// An open tunnel ended.
    TunnelClosed {
        /// Which.
        tunnel: TunnelToken,
        /// Why.
        reason: EndReason,
        /// What it carried and dropped.
        counters: TunnelCounters,
    },
    /// After `Drain` or `Close`: no connection is left. Packets of this turn's outputs are the last.
    Drained,
}

/// Why a gateway is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayFailure {
    /// No address answered in time.
    TimedOut,
    /// No address was given, or none can be used.
    NoUsableAddress,
    /// The TLS handshake failed, here or there.
    Tls(String),
    /// The proxy refused or closed the connection: its code and reason.
    ClosedByPeer {
        /// The HTTP/3 error code, or the transport's.
        code: u64,
        /// Whether `code` is HTTP/3's.
        application: bool,
        /// The peer's words; untrusted.
        reason: String,
    },
    /// The proxy lost its state (stateless reset).
    Reset,
    /// A peer broke QUIC or HTTP/3.
    Protocol(String),
    /// The proxy does not offer extended CONNECT (RFC 9220).
    NoExtendedConnect,
    /// The local socket failed.
    Link(String),
    /// We closed it.
    Closed,
    /// The proxy is going away (GOAWAY) and the last tunnel has ended.
    GoingAway,
    /// Our own code failed; a bug.
    Internal,
}

impl GatewayFailure {
    /// A stable name, for documents and metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::NoUsableAddress => "no_usable_address",
            Self::Tls(_) => "tls_failed",
            Self::ClosedByPeer { .. } => "closed_by_peer",
            Self::Reset => "reset_by_peer",
            Self::Protocol(_) => "protocol_error",
            Self::NoExtendedConnect => "no_extended_connect",
            Self::Link(_) => "link_failed",
            Self::Closed => "closed",
            Self::GoingAway => "going_away",
            Self::Internal => "internal_error",
        }
    }
}

/// One line of the log of tunnels, server side. `Opened` and `Closed` come in pairs; `Refused` stands alone.
#[derive(Clone, Debug)]
pub enum Record {
    /// 2xx was sent.
    Opened(Box<OpenedRecord>),
    /// The request was refused or cancelled before 2xx.
    Refused(Box<RefusedRecord>),
    /// An opened tunnel ended.
    Closed(Box<ClosedRecord>),
}

/// Who asked for what; in every record.
#[derive(Clone, Debug)]
pub struct TunnelFacts {
    /// Unique within this core.
    pub tunnel: TunnelId,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The client's address when it asked.
    pub client: SocketAddr,
    /// The `:protocol` of the request, `connect-udp`; empty when it could not be understood.
    pub protocol: &'static str,
    /// The target as it was asked for; empty when the request could not be understood.
    pub target_host: String,
    /// As it was asked for; 0 when the request could not be understood.
    pub target_port: u16,
    /// Unix time of the event.
    pub time: Duration,
}

/// A tunnel that was opened.
#[derive(Clone, Debug)]
pub struct OpenedRecord {
    /// Who asked for what.
    pub facts: TunnelFacts,
    /// The address that was checked and connected.
    pub target: SocketAddr,
    /// The rule that allowed it.
    pub rule: Option<String>,
    /// From the request's arrival to 2xx.
    pub setup: Duration,
}

/// A request that was not granted.
#[derive(Clone, Debug)]
pub struct RefusedRecord {
    /// Who asked for what.
    pub facts: TunnelFacts,
    /// The row of the error table.
    pub reason: Reason,
    /// The rule that denied it.
    pub rule: Option<String>,
    /// For the operator only.
    pub detail: Option<String>,
}

/// A tunnel that ended.
#[derive(Clone, Debug)]
pub struct ClosedRecord {
    /// Who asked for what.
    pub facts: TunnelFacts,
    /// The address it was connected to.
    pub target: SocketAddr,
    /// Why it ended.
    pub reason: EndReason,
    /// From 2xx to the end.
    pub duration: Duration,
    /// What it carried and dropped.
    pub counters: TunnelCounters,
}

/// The outputs of turns: reused, so that a steady worker allocates nothing. The driver drains them after each turn and
/// calls [`clear`](Self::clear); a turn only appends.
#[derive(Debug, Default)]
pub struct Outputs {
    /// What to do, in order, after trains and flow sends: a `CloseFlow` comes after what the flow had to send.
    pub actions: Vec<Action>,
    trains: Vec<TrainEntry>,
    /// Small trains, one after the other.
    small: Vec<u8>,
    /// Large trains, one buffer each.
    large: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    batches: Vec<FlowBatch>,
    open_batches: usize,
    sent_bytes: usize,
}

#[derive(Debug)]
struct TrainEntry {
    link: LinkId,
    remote: SocketAddr,
    local: Option<IpAddr>,
    ecn: u8,
    segment_size: Option<usize>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Small { start: usize, end: usize },
    Large { index: usize },
}

#[derive(Debug)]
struct FlowBatch {
    flow: FlowId,
    payloads: Vec<Bytes>,
}

/// Trains up to this size are gathered in one buffer: a lone acknowledgement must not hold 64 KiB until it is sent.
const SMALL_TRAIN_BYTES: usize = 4096;
/// Buffers and batches kept for the next turn; more are freed.
const SPARE_BUFFERS: usize = 64;
const SPARE_BATCH_PAYLOADS: usize = 1024;

impl Outputs {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Packets to send, in order.
    pub fn trains(&self) -> impl Iterator<Item = TrainOut<'_>> {
        self.trains.iter().map(|entry| TrainOut {
            link: entry.link,
            remote: entry.remote,
            local: entry.local,
            ecn: entry.ecn,
            segment_size: entry.segment_size,
            data: match entry.place {
                Place::Small { start, end } => self.small.get(start..end).unwrap_or_default(),
                Place::Large { index } => self.large.get(index).map_or(&[], Vec::as_slice),
            },
        })
    }

    /// Payloads for flows, those of one flow together and in order.
    pub fn flow_sends(&self) -> impl Iterator<Item = (FlowId, &[Bytes])> {
        self.batches.iter().take(self.open_batches).map(|batch| (batch.flow, batch.payloads.as_slice()))
    }

    /// Nothing to send and nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trains.is_empty() && self.open_batches == 0 && self.actions.is_empty()
    }

    /// Forgets everything; buffers stay for the next turn.
    pub fn clear(&mut self) {
        self.actions.clear();
        self.trains.clear();
        self.small.clear();
        self.spare.append(&mut self.large);
        self.spare.truncate(SPARE_BUFFERS);
        for batch in self.batches.iter_mut().take(self.open_batches) {
            batch.payloads.clear();
            batch.payloads.shrink_to(SPARE_BATCH_PAYLOADS);
        }
        self.batches.truncate(SPARE_BUFFERS);
        self.open_batches = 0;
        self.sent_bytes = 0;
    }

    /// Bytes in all trains so far.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.sent_bytes
    }

    /// An empty buffer to write a train into; comes back by [`push_train`](Self::push_train).
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// Returns a buffer that was not needed.
    pub(crate) fn return_buffer(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS {
            self.spare.push(buffer);
        }
    }

    /// Adds a train whose packets are in `buffer`.
    pub(crate) fn push_train(&mut self, header: TrainHeader, buffer: Vec<u8>) {
        self.sent_bytes += buffer.len();
        let place = if buffer.len() <= SMALL_TRAIN_BYTES {
            let start = self.small.len();
            self.small.extend_from_slice(&buffer);
            self.return_buffer(buffer);
            Place::Small { start, end: self.small.len() }
        } else {
            self.large.push(buffer);
            Place::Large { index: self.large.len() - 1 }
        };
        let TrainHeader { link, remote, local, ecn, segment_size } = header;
        self.trains.push(TrainEntry { link, remote, local, ecn, segment_size, place });
    }

    /// Starts the batch of a flow; the caller remembers the index for the rest of the turn.
    pub(crate) fn open_batch(&mut self, flow: FlowId) -> usize {
        let index = self.open_batches;
        match self.batches.get_mut(index) {
            Some(batch) => batch.flow = flow,
            None => self.batches.push(FlowBatch { flow, payloads: Vec::new() }),
        }
        self.open_batches += 1;
        index
    }

    /// Adds a payload to a batch of this turn.
    pub(crate) fn push_payload(&mut self, batch: usize, payload: Bytes) {
        if let Some(batch) = self.batches.get_mut(batch) {
            batch.payloads.push(payload);
        }
    }
}

/// Where a train goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrainHeader {
    pub(crate) link: LinkId,
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) ecn: u8,
    pub(crate) segment_size: Option<usize>,
}
