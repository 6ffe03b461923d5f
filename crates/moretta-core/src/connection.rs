//! One QUIC connection and what it carries, both roles.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use moretta_h3::UniKind;
use moretta_proto::tunnel::budget::CapsuleBudget;
use quinn_proto::{ConnectionEvent, ConnectionHandle};

use crate::Http3;
use crate::address::PeerAddress;
use crate::endpoint::Listener;
use crate::output::GatewayFailure;
use crate::store::Key;
use crate::timer::TimerId;
use crate::transmit::Feed;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The handshake is under way.
    Handshaking,
    /// Requests are served or sent.
    Open,
    /// Closed by us or lost; kept until the endpoint has drained it, so that late packets find an answer.
    Closed,
}

/// Which end of the connection we are.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Server(Arc<Listener>),
    Client(Key),
}

/// One QUIC connection and what it carries.
///
/// While it is served it is lent out of the core's store, so that the core's other parts can be changed beside it.
pub(crate) struct Connection {
    pub(crate) key: Key,
    pub(crate) endpoint: Key,
    pub(crate) handle: ConnectionHandle,
    pub(crate) quic: quinn_proto::Connection,
    pub(crate) http: Http3,
    pub(crate) end: End,
    pub(crate) stage: Stage,
    pub(crate) timer: TimerId,
    /// In the core's list of connections to serve.
    pub(crate) dirty: bool,
    /// In the core's list of connections that may have something to send.
    pub(crate) sending: bool,
    /// The endpoint has forgotten it; it goes at the end of the turn.
    pub(crate) drained: bool,
    /// Its endpoint panicked and was rebuilt.
    pub(crate) orphaned: bool,
    /// The peer has closed it or is not there any more: nothing is said to it. RFC 9000 §10.2.2 leaves the answer to us,
    /// and it mostly meets a closed port.
    pub(crate) silent: bool,
    /// Why it is over, for the gateway.
    pub(crate) over: Option<GatewayFailure>,
    /// Something happened that may have given streams something to write.
    pub(crate) http_dirty: bool,
    /// Packets that the endpoint sorted to us and that are not decrypted yet.
    pub(crate) inbox: VecDeque<ConnectionEvent>,
    /// Where packets to the peer go, as of the last turn.
    pub(crate) remote: SocketAddr,
    /// The stream that was last read with success in this turn.
    pub(crate) last_read: Option<u64>,
    /// Streams that the application must not read yet: their request is not decided.
    pub(crate) unread: Vec<u64>,
    /// Datagrams that found no tunnel; looked at again after this turn's stream events.
    pub(crate) strays: Vec<(u64, Bytes)>,
    /// Datagrams that HTTP/3 holds for requests that are not decided.
    pub(crate) held_datagrams: u64,
    /// Unidirectional streams that HTTP/3 asked for and QUIC could not open yet.
    pub(crate) unopened: Vec<UniKind>,
    /// Request stream → tunnel.
    pub(crate) tunnels: StreamTable,
    /// Tunnels with datagrams waiting, in the order of their turns.
    pub(crate) ready: VecDeque<Key>,
    /// Bytes in the queues of all tunnels, with overhead.
    pub(crate) queued_bytes: usize,
    /// Flows whose share was 0 when the driver asked.
    pub(crate) paused_flows: Vec<Key>,
    /// Tunnels whose replies in capsules wait for stream credit.
    pub(crate) capsule_ready: Vec<Key>,
    /// Tunnels whose FIN waits for their queue.
    pub(crate) finishing: Vec<Key>,
    pub(crate) capsule_budget: CapsuleBudget,
    /// What was handed to the library's datagram queue.
    pub(crate) feed: Feed,
    /// Where the peer is, as far as it has proved that.
    pub(crate) address: PeerAddress,
    /// Bytes of the largest packet now.
    pub(crate) max_packet: usize,
    /// The largest HTTP Datagram (prefix included) that fits now; `None` if the peer takes none.
    pub(crate) max_datagram: Option<usize>,
    /// Both sides allow HTTP Datagrams (RFC 9297 §2.1.1) and QUIC can carry them.
    pub(crate) datagrams: bool,
    pub(crate) drain: DrainStage,
    /// When the second GOAWAY follows the first.
    pub(crate) second_goaway_at: Option<Instant>,
    /// When a handshake is given up; once the connection is over, when it is forgotten at the latest.
    pub(crate) give_up_at: Option<Instant>,
}

/// What a connection begins with.
pub(crate) struct Parts {
    pub(crate) key: Key,
    pub(crate) endpoint: Key,
    pub(crate) handle: ConnectionHandle,
    pub(crate) quic: quinn_proto::Connection,
    pub(crate) http: Http3,
    pub(crate) end: End,
    pub(crate) timer: TimerId,
    /// Bytes of unfinished capsules that its tunnels may hold together.
    pub(crate) capsule_bytes: usize,
    pub(crate) give_up_at: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { key, endpoint, handle, quic, http, end, timer, capsule_bytes, give_up_at } = parts;
        Self {
            key,
            endpoint,
            handle,
            remote: quic.remote_address(),
            address: PeerAddress::proved(quic.remote_address()),
            max_packet: usize::from(quic.stats().path.current_mtu),
            quic,
            http,
            end,
            stage: Stage::Handshaking,
            timer,
            dirty: false,
            sending: false,
            drained: false,
            orphaned: false,
            silent: false,
            over: None,
            http_dirty: false,
            inbox: VecDeque::new(),
            last_read: None,
            unread: Vec::new(),
            strays: Vec::new(),
            held_datagrams: 0,
            unopened: Vec::new(),
            tunnels: StreamTable::default(),
            ready: VecDeque::new(),
            queued_bytes: 0,
            paused_flows: Vec::new(),
            capsule_ready: Vec::new(),
            finishing: Vec::new(),
            capsule_budget: CapsuleBudget::new(capsule_bytes),
            feed: Feed::default(),
            max_datagram: None,
            datagrams: false,
            drain: DrainStage::Not,
            second_goaway_at: None,
            give_up_at,
        }
    }
}

/// How far the drain of a server connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainStage {
    /// Not draining.
    Not,
    /// The first GOAWAY is sent; requests on their way still count as opened before it.
    Announced,
    /// The second GOAWAY is sent; requests above it are rejected.
    Final,
}

/// Request stream → tunnel, with the last hit at hand: a train of datagrams mostly belongs to one tunnel.
#[derive(Debug, Default)]
pub(crate) struct StreamTable {
    by_stream: BTreeMap<u64, Key>,
    last: Option<(u64, Key)>,
}

impl StreamTable {
    #[inline]
    pub(crate) fn find(&mut self, stream: u64) -> Option<Key> {
        if let Some((last, key)) = self.last
            && last == stream
        {
            return Some(key);
        }
        let key = self.by_stream.get(&stream).copied()?;
        self.last = Some((stream, key));
        Some(key)
    }

    pub(crate) fn insert(&mut self, stream: u64, tunnel: Key) {
        self.by_stream.insert(stream, tunnel);
    }

    pub(crate) fn remove(&mut self, stream: u64) -> Option<Key> {
        self.last = None;
        self.by_stream.remove(&stream)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_stream.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_stream.is_empty()
    }

    /// Every tunnel in the order of its stream. For rare occasions only.
    pub(crate) fn all(&self) -> Vec<Key> {
        self.by_stream.values().copied().collect()
    }

    /// Tunnels of streams at or above an id, in order.
    pub(crate) fn from(&self, stream: u64) -> Vec<Key> {
        self.by_stream.range(stream..).map(|(_, key)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hit_is_forgotten_with_its_tunnel() {
        let key = |index| Key { index, generation: 0 };
        let mut table = StreamTable::default();
        table.insert(0, key(1));
        table.insert(4, key(2));
        assert_eq!((table.find(0), table.find(0), table.find(4)), (Some(key(1)), Some(key(1)), Some(key(2))));
        assert_eq!(table.remove(4), Some(key(2)));
        assert_eq!((table.find(4), table.find(0), table.len()), (None, Some(key(1)), 1));
        assert_eq!(table.from(1), vec![]);
    }
}
