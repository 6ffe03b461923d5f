//! One HTTP/3 connection.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use moretta_wire::head::{Fields, RequestHead, ResponseHead};

use crate::config::{Config, Role};
use crate::event::{Action, DatagramDrop, DatagramRoute, Event, SendError, UniKind};
use crate::settings::Settings;

/// One HTTP/3 connection, client or server.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    peer_settings: Option<Settings>,
    events: VecDeque<Event>,
    actions: VecDeque<Action>,
}

impl Connection {
    /// A connection that has said nothing yet.
    pub fn new(role: Role, config: Config) -> Self {
        Self { role, config, peer_settings: None, events: VecDeque::new(), actions: VecDeque::new() }
    }

    /// Asks for the control and QPACK streams and queues SETTINGS. Call once, when QUIC can open streams.
    pub fn start(&mut self) {
        for kind in [UniKind::Control, UniKind::QpackEncoder, UniKind::QpackDecoder] {
            self.actions.push_back(Action::OpenUni { kind });
        }
    }

    /// Bytes of a stream, in order, of any kind and size; `fin` if nothing follows them.
    pub fn handle_stream(&mut self, _now: Instant, _stream_id: u64, _data: Bytes, _fin: bool) {}

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, _stream_id: u64, _code: u64) {}

    /// The peer asked us to stop sending on a stream.
    pub fn handle_stop_sending(&mut self, _stream_id: u64, _code: u64) {}

    /// The stream asked for with [`Action::OpenUni`] is open.
    pub fn handle_uni_opened(&mut self, _kind: UniKind, _stream_id: u64) {}

    /// Says what to do with a datagram for request stream `stream_id`; `payload` follows the Quarter Stream ID.
    ///
    /// This is the slow path: callers look into their own table of tunnels first.
    pub fn route_datagram(&mut self, _now: Instant, _stream_id: u64, _payload: &Bytes) -> DatagramRoute {
        DatagramRoute::Dropped(DatagramDrop::NotNegotiated)
    }

    /// Takes the datagrams held for a request, oldest first.
    pub fn take_early_datagrams(&mut self, _stream_id: u64) -> impl Iterator<Item = Bytes> + use<> {
        std::iter::empty()
    }

    /// Declares that this request has datagram semantics: from now on its datagrams are delivered. Call it when the
    /// request is accepted (server) or sent (client).
    pub fn enable_datagrams(&mut self, _stream_id: u64) {}

    /// Declares that this extended CONNECT has no datagram semantics: a datagram for it aborts the stream with
    /// `H3_DATAGRAM_ERROR` (RFC 9297 §2). Requests that are not extended CONNECT never have them.
    pub fn refuse_datagrams(&mut self, _stream_id: u64) {}

    /// A DATAGRAM frame whose Quarter Stream ID is truncated or too large: closes the connection with
    /// `H3_DATAGRAM_ERROR` (RFC 9297 §2.1).
    pub fn handle_bad_datagram(&mut self) {}

    /// Lets go of what has waited too long.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Client: queues a request on a bidirectional stream that the caller has opened.
    pub fn send_request(&mut self, _stream_id: u64, _head: &RequestHead, _fin: bool) -> Result<(), SendError> {
        Err(SendError::UnknownStream)
    }

    /// Server: queues a response head. Interim ones (1xx) may precede the final one.
    pub fn send_response(&mut self, _stream_id: u64, _head: &ResponseHead, _fin: bool) -> Result<(), SendError> {
        Err(SendError::UnknownStream)
    }

    /// Queues content or tunnel bytes as one DATA frame: a small header and `data` itself, not copied.
    pub fn send_data(&mut self, _stream_id: u64, _data: Bytes, _fin: bool) -> Result<(), SendError> {
        Err(SendError::UnknownStream)
    }

    /// Queues a trailer section and the end of the stream.
    pub fn send_trailers(&mut self, _stream_id: u64, _fields: &Fields) -> Result<(), SendError> {
        Err(SendError::UnknownStream)
    }

    /// Ends our side after what is queued.
    pub fn finish(&mut self, _stream_id: u64) -> Result<(), SendError> {
        Err(SendError::UnknownStream)
    }

    /// Ends both sides at once: RESET_STREAM for ours and STOP_SENDING for the peer's, each unless already over.
    /// What is queued is dropped. Of no effect on a stream that is gone.
    pub fn reset(&mut self, _stream_id: u64, _code: u64) {}

    /// Queues GOAWAY (RFC 9114 §5.2). Server: requests with an id at or above `id` are rejected from now on; drain
    /// begins with [`GOAWAY_ALL`](Self::GOAWAY_ALL) and ends with [`next_request_id`](Self::next_request_id).
    pub fn goaway(&mut self, _id: u64) -> Result<(), SendError> {
        Err(SendError::GoAwayId)
    }

    /// The largest request stream id: the first GOAWAY of a graceful drain, which rejects nothing yet.
    pub const GOAWAY_ALL: u64 = (1 << 62) - 4;

    /// Server: the id above every request seen so far.
    pub fn next_request_id(&self) -> u64 {
        0
    }

    /// Closes the connection: queues the action, drops what else is queued.
    pub fn close(&mut self, code: u64, reason: &'static str) {
        self.actions.push_back(Action::Close { code, reason });
    }

    /// Bytes queued on a stream and not yet handed to QUIC, frame headers included.
    pub fn queued_bytes(&self, _stream_id: u64) -> usize {
        0
    }

    /// What the peer announced, once its SETTINGS are here.
    pub fn peer_settings(&self) -> Option<&Settings> {
        self.peer_settings.as_ref()
    }

    /// Whether datagrams may be sent: both sides announced `SETTINGS_H3_DATAGRAM = 1` (RFC 9297 §2.1.1).
    pub fn datagrams_allowed(&self) -> bool {
        self.config.h3_datagram && self.peer_settings.is_some_and(|settings| settings.h3_datagram)
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The next event for the application.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to do with QUIC.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next stream that has bytes or a FIN to hand to QUIC.
    ///
    /// The caller then writes [`front`](Self::front), tells [`wrote`](Self::wrote), and when
    /// [`wants_fin`](Self::wants_fin) says so finishes the QUIC stream and tells [`wrote_fin`](Self::wrote_fin). If QUIC
    /// takes no more, it tells [`blocked`](Self::blocked). A stream that was neither emptied nor blocked comes again
    /// after the others.
    pub fn poll_writable(&mut self) -> Option<u64> {
        None
    }

    /// The next buffers to write, in order; empty if there are none. There may be more once these are written.
    pub fn front(&mut self, _stream_id: u64) -> &[Bytes] {
        &[]
    }

    /// QUIC took this many bytes of [`front`](Self::front).
    pub fn wrote(&mut self, _stream_id: u64, _bytes: usize) {}

    /// Whether all is written and the stream is to be finished now.
    pub fn wants_fin(&self, _stream_id: u64) -> bool {
        false
    }

    /// The QUIC stream was finished.
    pub fn wrote_fin(&mut self, _stream_id: u64) {}

    /// QUIC takes no more of this stream for now: it is not writable until [`unblocked`](Self::unblocked).
    pub fn blocked(&mut self, _stream_id: u64) {}

    /// QUIC takes bytes of this stream again.
    pub fn unblocked(&mut self, _stream_id: u64) {}
}
