//! What a connection tells its caller: events for the application, actions for QUIC, answers to calls.

use bytes::Bytes;
use moretta_wire::head::{Fields, RequestHead, ResponseHead};

/// Something the application wants to know. Events come in the order of the bytes that caused them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's SETTINGS arrived: [`peer_settings`](crate::Connection::peer_settings) is there from now on.
    Settings,
    /// Server: a well-formed request. Never reported: a malformed, oversized or rejected one.
    Request {
        /// The request stream.
        stream_id: u64,
        /// The head; `authority` is filled from Host where only that came.
        head: RequestHead,
        /// The stream ended right here; no [`Event::Finished`] follows.
        fin: bool,
    },
    /// Client: a response head, interim or final.
    Response {
        /// The request stream.
        stream_id: u64,
        /// The head.
        head: ResponseHead,
        /// 1xx: another response follows.
        interim: bool,
        /// The stream ended right here; no [`Event::Finished`] follows.
        fin: bool,
    },
    /// Content, or the bytes of a tunnel's data stream. A slice of what `handle_stream` was given; never empty.
    Data {
        /// The request stream.
        stream_id: u64,
        /// The payload.
        bytes: Bytes,
    },
    /// The trailer section; only the end follows.
    Trailers {
        /// The request stream.
        stream_id: u64,
        /// The fields.
        fields: Fields,
    },
    /// The peer ended its side in order, the message complete. Our side may still send.
    Finished {
        /// The request stream.
        stream_id: u64,
    },
    /// The peer reset its side. Our side may still send; the caller usually resets it too.
    Reset {
        /// The request stream.
        stream_id: u64,
        /// The peer's code.
        code: u64,
    },
    /// The peer wants no more of what we send. Our side is reset already (RFC 9000 §3.5).
    StopSending {
        /// The request stream.
        stream_id: u64,
        /// The peer's code.
        code: u64,
    },
    /// We ended both sides of a stream that the application knows, because the peer broke a rule on it.
    Aborted {
        /// The request stream.
        stream_id: u64,
        /// The code we reset it with.
        code: u64,
        /// What was wrong, for logs.
        reason: &'static str,
    },
    /// The peer drains. Client: requests at or above `id` were not processed and may be retried elsewhere; the caller
    /// resets those it has. Server: a push id, of no consequence.
    GoAway {
        /// Stream id (from a server) or push id (from a client).
        id: u64,
    },
}

/// Something to do with QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a unidirectional stream and tell [`handle_uni_opened`](crate::Connection::handle_uni_opened) its id.
    OpenUni {
        /// What it will be.
        kind: UniKind,
    },
    /// Reset our side of a stream (RESET_STREAM).
    Reset {
        /// The stream.
        stream_id: u64,
        /// The application error code.
        code: u64,
    },
    /// Ask the peer to stop (STOP_SENDING). What still comes on the stream may be dropped unread.
    StopSending {
        /// The stream.
        stream_id: u64,
        /// The application error code.
        code: u64,
    },
    /// Close the connection. Nothing else is done after it.
    Close {
        /// The application error code.
        code: u64,
        /// A fixed text; never holds bytes of the peer.
        reason: &'static str,
    },
}

/// The unidirectional streams an endpoint opens (RFC 9114 §6.2, RFC 9204 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UniKind {
    /// Control stream, type 0x00.
    Control,
    /// QPACK encoder stream, type 0x02.
    QpackEncoder,
    /// QPACK decoder stream, type 0x03.
    QpackDecoder,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramDrop {
    /// Our settings or the peer's do not allow HTTP Datagrams (RFC 9297 §2.1.1).
    NotNegotiated,
    /// The receiving side of the request is closed (RFC 9297 §2.1).
    Closed,
    /// The request is not there yet and the room for early datagrams is used up.
    EarlyFull,
    /// No request with this id can come soon: a client never opened it, or it is far above those open.
    OutOfReach,
    /// The connection is closing.
    ConnectionClosed,
}

/// What became of a datagram given to [`route_datagram`](crate::Connection::route_datagram).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramRoute {
    /// For an open request with datagram semantics: the caller delivers it.
    Deliver,
    /// Kept until the request comes or is decided; see [`take_early_datagrams`](crate::Connection::take_early_datagrams).
    Held,
    /// Gone and counted.
    Dropped(DatagramDrop),
    /// The request has no datagram semantics: its stream was aborted with `H3_DATAGRAM_ERROR` (RFC 9297 §2).
    AbortedStream,
    /// The connection is being closed because of it.
    ClosedConnection,
}

/// Why something was not sent. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The stream is finished, was reset, or never was.
    #[error("no such open stream")]
    UnknownStream,
    /// Not allowed now, such as content before a head or after the end, or the wrong role.
    #[error("not allowed in this state of the stream")]
    WrongState,
    /// Client: `:protocol` before the peer's SETTINGS allowed it (RFC 8441 §4, RFC 9220 §3).
    #[error("the peer has not enabled extended CONNECT")]
    ExtendedConnectUnavailable,
    /// Client: the peer sent GOAWAY (RFC 9114 §5.2).
    #[error("the peer takes no new requests on this connection")]
    GoingAway,
    /// The peer announced a smaller `SETTINGS_MAX_FIELD_SECTION_SIZE` (RFC 9114 §4.2.2).
    #[error("field section of {actual} bytes exceeds the peer's limit of {limit}")]
    FieldSectionTooLarge {
        /// Size of ours.
        actual: u64,
        /// The peer's limit.
        limit: u64,
    },
    /// The head or the trailers would be malformed.
    #[error("malformed message: {reason}")]
    Malformed {
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A GOAWAY id that is above an earlier one or of the wrong kind (RFC 9114 §5.2).
    #[error("GOAWAY identifier not allowed")]
    GoAwayId,
    /// The connection is closing.
    #[error("the connection is closed")]
    Closed,
}
