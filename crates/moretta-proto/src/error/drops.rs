//! Why a datagram went no further. A drop never ends a tunnel by itself.

use serde::Serialize;

use super::coded;

/// One row of the table of drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DropRow {
    /// Stable; metric label and word in records.
    pub code: &'static str,
    /// One sentence without a full stop.
    pub sentence: &'static str,
}

coded! {
    /// Why a datagram was dropped. Each is one counter.
    pub enum DropReason: DropRow {
        NoContextId = "no_context_id", "the datagram ends inside its Context ID", {}
        UnknownContext = "unknown_context", "nobody registered the Context ID", {}
        TunnelFinished = "tunnel_finished", "the sender had already finished the stream", {}
        UnknownTunnel = "unknown_tunnel", "there is no tunnel on this stream", {}
        EarlyOverflow = "early_overflow", "too much came before its request", {}
        EarlyExpired = "early_expired", "it came before its request and the request did not come in time", {}
        TooLargeForTarget = "too_large_for_target", "it does not fit the path to the target", {}
        TooLargeForPath = "too_large_for_path", "it does not fit a QUIC datagram of the connection", {}
        CapsuleTooLarge = "capsule_too_large", "a DATAGRAM capsule holds more than the path to the target can carry", {}
        CapsuleBudget = "capsule_budget", "the connection holds as many unfinished DATAGRAM capsules as it may", {}
        QueueFull = "queue_full", "newer datagrams pushed it out of its queue", {}
        Stale = "stale", "it waited longer than datagrams may", {}
        NoStreamCredit = "no_stream_credit", "the client does not read its capsules", {}
        SocketFull = "socket_full", "the system's send buffer was full", {}
        SocketError = "socket_error", "the system would not send it", {}
        ForeignSource = "foreign_source", "it waited on the socket before the socket was connected to its target", {}
        Shed = "shed", "the gateway was overloaded", {}
    }
}

impl DropReason {
    /// How many there are; the length of a counter array.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in a counter array, below [`COUNT`](Self::COUNT).
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }
}
