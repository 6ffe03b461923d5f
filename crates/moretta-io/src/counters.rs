//! Everything a socket counts; plain numbers, read by whoever owns the socket.

use crate::ErrorKind;

/// One number per reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field counts the ErrorKind of the same name")]
pub struct ErrorCounts {
    pub would_block: u64,
    pub message_too_long: u64,
    pub connection_refused: u64,
    pub host_unreachable: u64,
    pub network_unreachable: u64,
    pub no_buffers: u64,
    pub permission_denied: u64,
    pub other: u64,
}

impl ErrorCounts {
    /// Adds `amount` under the name of `kind`; kinds that only opening can produce count as `other`.
    pub fn add(&mut self, kind: ErrorKind, amount: u64) {
        let counter = match kind {
            ErrorKind::WouldBlock => &mut self.would_block,
            ErrorKind::MessageTooLong => &mut self.message_too_long,
            ErrorKind::ConnectionRefused => &mut self.connection_refused,
            ErrorKind::HostUnreachable => &mut self.host_unreachable,
            ErrorKind::NetworkUnreachable => &mut self.network_unreachable,
            ErrorKind::NoBuffers => &mut self.no_buffers,
            ErrorKind::PermissionDenied => &mut self.permission_denied,
            ErrorKind::PortsExhausted
            | ErrorKind::DescriptorsExhausted
            | ErrorKind::AddressInUse
            | ErrorKind::AddressNotAvailable
            | ErrorKind::WildcardRefused
            | ErrorKind::Other(_) => &mut self.other,
        };
        *counter += amount;
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.would_block
            + self.message_too_long
            + self.connection_refused
            + self.host_unreachable
            + self.network_unreachable
            + self.no_buffers
            + self.permission_denied
            + self.other
    }

    fn add_all(&mut self, other: &Self) {
        self.would_block += other.would_block;
        self.message_too_long += other.message_too_long;
        self.connection_refused += other.connection_refused;
        self.host_unreachable += other.host_unreachable;
        self.network_unreachable += other.network_unreachable;
        self.no_buffers += other.no_buffers;
        self.permission_denied += other.permission_denied;
        self.other += other.other;
    }
}

/// What one socket did and lost since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Datagrams handed to the caller.
    pub datagrams_received: u64,
    /// Their payload bytes.
    pub bytes_received: u64,
    /// System calls that received, or tried to.
    pub receive_calls: u64,
    /// Datagrams the kernel took.
    pub datagrams_sent: u64,
    /// Their payload bytes.
    pub bytes_sent: u64,
    /// System calls that sent, or tried to.
    pub send_calls: u64,
    /// Packets the kernel dropped because the receive queue was full (`SO_RXQ_OVFL`, HG-9). A train that arrives
    /// already merged counts as one, as the kernel counts it.
    pub dropped_by_kernel: u64,
    /// Packets that were queued before `connect` filtered by source, thrown away unread.
    pub discarded_before_connect: u64,
    /// Received messages that did not fit the buffer; dropped.
    pub dropped_truncated: u64,
    /// Datagrams that could not be sent, by reason.
    pub send_dropped: ErrorCounts,
    /// Errors about datagrams sent earlier (ICMP), by reason.
    pub reported: ErrorCounts,
    /// Failed receive calls, by reason; `would_block` is not counted here.
    pub receive_failed: ErrorCounts,
    /// 1 once segmentation offload (`UDP_SEGMENT`) was refused on this socket.
    pub fallback_gso: u64,
    /// 1 if receive offload (`UDP_GRO`) was refused on this socket.
    pub fallback_gro: u64,
    /// 1 once `recvmmsg` was refused on this socket.
    pub fallback_recvmmsg: u64,
    /// 1 once `sendmmsg` was refused on this socket.
    pub fallback_sendmmsg: u64,
}

impl SocketCounters {
    /// Adds another socket's numbers, for totals over sockets open and closed.
    pub fn add(&mut self, other: &Self) {
        self.datagrams_received += other.datagrams_received;
        self.bytes_received += other.bytes_received;
        self.receive_calls += other.receive_calls;
        self.datagrams_sent += other.datagrams_sent;
        self.bytes_sent += other.bytes_sent;
        self.send_calls += other.send_calls;
        self.dropped_by_kernel += other.dropped_by_kernel;
        self.discarded_before_connect += other.discarded_before_connect;
        self.dropped_truncated += other.dropped_truncated;
        self.send_dropped.add_all(&other.send_dropped);
        self.reported.add_all(&other.reported);
        self.receive_failed.add_all(&other.receive_failed);
        self.fallback_gso += other.fallback_gso;
        self.fallback_gro += other.fallback_gro;
        self.fallback_recvmmsg += other.fallback_recvmmsg;
        self.fallback_sendmmsg += other.fallback_sendmmsg;
    }
}
