//! UDP sockets: how each kind is opened, what it is told, and how it receives.

use std::{
    ffi::c_int,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::Arc,
};

use crate::{
    ErrorKind, FlowBuffers, OpenError, Operation, ReceiveBatch, ReportedError, SocketCounters, control,
    messages::{Messages, Method},
    receive::datagrams,
    sys,
};

/// linux/in.h; not in every version of the libc crate.
const IP_LOCAL_PORT_RANGE: c_int = 51;

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;
/// What the length field of an IP header can say.
const MAX_IP_LENGTH: usize = 65_535;

/// Kernel features to treat as refused, so that tests can walk the paths that old kernels, odd interfaces and seccomp
/// filters force. All false in production.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refuse {
    /// `UDP_SEGMENT` sends fail as on an interface without checksum offload.
    pub gso: bool,
    /// `UDP_GRO` cannot be switched on.
    pub gro: bool,
    /// `recvmmsg` fails as under a seccomp filter.
    pub recvmmsg: bool,
    /// `sendmmsg` fails as under a seccomp filter.
    pub sendmmsg: bool,
}

/// What the opener decides about a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Receive buffer asked for, in payload bytes; the kernel may grant less
    /// ([`UdpSocket::receive_buffer_bytes`]).
    pub receive_buffer_bytes: usize,
    /// Send buffer asked for, in payload bytes.
    pub send_buffer_bytes: usize,
    /// Listeners only: allow a wildcard address, learn for each packet which address it was sent to, and answer from
    /// that address (HG-10).
    pub packet_info: bool,
    /// Choose local ports from this slice only. The kernel ignores a slice outside its global range.
    pub local_ports: Option<RangeInclusive<u16>>,
    /// For tests.
    pub refuse: Refuse,
}

impl SocketOptions {
    /// For sockets that carry QUIC: many connections share one, so buffers are deep.
    pub fn quic() -> Self {
        Self {
            receive_buffer_bytes: 4 << 20,
            send_buffer_bytes: 4 << 20,
            packet_info: false,
            local_ports: None,
            refuse: Refuse::default(),
        }
    }

    /// For one tunnel's socket towards its target.
    pub fn target() -> Self {
        Self { receive_buffer_bytes: 1 << 20, send_buffer_bytes: 1 << 20, ..Self::quic() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Listener,
    Client,
    Connected,
}

/// What the kernel has not refused yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capabilities {
    pub(crate) gso: bool,
    pub(crate) recvmmsg: bool,
    pub(crate) sendmmsg: bool,
}

/// A non-blocking UDP socket of one address family with its counters.
///
/// Datagrams leave unfragmented (DF on IPv4, no Fragment header on IPv6; UDP-48, UDP-49), and what exceeds the
/// interface's MTU fails as [`ErrorKind::MessageTooLong`] without being cut. Sockets that carry QUIC see and set ECN;
/// sockets connected to a target always send Not-ECT and hide what arrives (UDP-50, UDP-51).
#[derive(Debug)]
pub struct UdpSocket {
    fd: Arc<OwnedFd>,
    pub(crate) role: Role,
    local: SocketAddr,
    remote: Option<SocketAddr>,
    pub(crate) packet_info: bool,
    pub(crate) capabilities: Capabilities,
    pub(crate) refuse: Refuse,
    receive_buffer_bytes: usize,
    /// The kernel's drop count when it was last seen, modulo 2^32.
    drops_seen: u32,
    pub(crate) counters: SocketCounters,
}

impl UdpSocket {
    /// A listener of its own on `address`, exclusively. For several sockets on one address see
    /// [`ReuseportGroup`](crate::ReuseportGroup).
    ///
    /// # Errors
    /// [`ErrorKind::WildcardRefused`] for a wildcard address without `packet_info`, [`ErrorKind::AddressInUse`] if
    /// anyone has the port, and whatever the kernel says.
    pub fn open_listener(address: SocketAddr, options: &SocketOptions) -> Result<Self, OpenError> {
        Self::open(Role::Listener, address, None, options, false)
    }

    /// A listener that joins sockets which already share `address`.
    pub(crate) fn join_listener(address: SocketAddr, options: &SocketOptions) -> Result<Self, OpenError> {
        Self::open(Role::Listener, address, None, options, true)
    }

    /// An unconnected socket for outgoing QUIC connections, bound to `bind`; port 0 picks a free port, and a
    /// wildcard address leaves the choice of source address to the routing table.
    ///
    /// # Errors
    /// [`ErrorKind::PortsExhausted`] if no port is free, and whatever the kernel says.
    pub fn open_client(bind: SocketAddr, options: &SocketOptions) -> Result<Self, OpenError> {
        Self::open(Role::Client, bind, None, options, false)
    }

    /// A socket that exchanges datagrams with `target` only, from `source` or from what the routing table chooses.
    ///
    /// Between choosing a port and connecting, the kernel accepts datagrams from anyone; whatever waits afterwards is
    /// thrown away and counted ([`SocketCounters::discarded_before_connect`]).
    ///
    /// # Errors
    /// [`ErrorKind::PortsExhausted`], [`ErrorKind::NetworkUnreachable`], [`ErrorKind::DescriptorsExhausted`] and
    /// whatever else the kernel says.
    pub fn open_connected(
        target: SocketAddr,
        source: Option<SocketAddr>,
        options: &SocketOptions,
    ) -> Result<Self, OpenError> {
        let mut socket = match source {
            Some(source) => Self::open(Role::Connected, source, Some(target), options, false)?,
            None => Self::create(Role::Connected, target.is_ipv6(), options, false)?,
        };
        socket.connect(target)?;
        Ok(socket)
    }

    fn connect(&mut self, target: SocketAddr) -> Result<(), OpenError> {
        sys::connect(self.as_fd(), target).map_err(|errno| OpenError {
            operation: Operation::Connect,
            kind: ErrorKind::from_connect(errno),
            address: Some(target),
        })?;
        self.remote = Some(target);
        self.local = self.read_local_address()?;
        self.discard_pending();
        Ok(())
    }

    fn open(
        role: Role,
        bind: SocketAddr,
        target: Option<SocketAddr>,
        options: &SocketOptions,
        shared: bool,
    ) -> Result<Self, OpenError> {
        if role == Role::Listener && bind.ip().is_unspecified() && !options.packet_info {
            return Err(OpenError {
                operation: Operation::Bind,
                kind: ErrorKind::WildcardRefused,
                address: Some(bind),
            });
        }
        let v6 = target.unwrap_or(bind).is_ipv6();
        let mut socket = Self::create(role, v6, options, shared)?;
        sys::bind(socket.as_fd(), bind).map_err(|errno| OpenError {
            operation: Operation::Bind,
            kind: ErrorKind::from_bind(errno, bind.port()),
            address: Some(bind),
        })?;
        socket.local = socket.read_local_address()?;
        Ok(socket)
    }

    /// An unbound socket with every option set.
    fn create(role: Role, v6: bool, options: &SocketOptions, shared: bool) -> Result<Self, OpenError> {
        let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let fd = sys::socket(domain, libc::SOCK_DGRAM, 0).map_err(|errno| OpenError {
            operation: Operation::Create,
            kind: ErrorKind::from_errno(errno),
            address: None,
        })?;
        let mut socket = Self {
            fd: Arc::new(fd),
            role,
            local: if v6 { ([0; 8], 0).into() } else { ([0; 4], 0).into() },
            remote: None,
            packet_info: role == Role::Listener && options.packet_info,
            capabilities: Capabilities { gso: true, recvmmsg: true, sendmmsg: true },
            refuse: options.refuse,
            receive_buffer_bytes: 0,
            drops_seen: 0,
            counters: SocketCounters::default(),
        };
        socket.set_options(v6, options, shared)?;
        Ok(socket)
    }

    fn set_options(&mut self, v6: bool, options: &SocketOptions, shared: bool) -> Result<(), OpenError> {
        use libc::{IPPROTO_IP, IPPROTO_IPV6, SOL_SOCKET, SOL_UDP};
        self.require("SO_RXQ_OVFL", SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        if shared {
            self.require("SO_REUSEPORT", SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        if v6 {
            self.require("IPV6_V6ONLY", IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            self.require("IPV6_MTU_DISCOVER", IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            self.require("IPV6_DONTFRAG", IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        } else {
            self.require("IP_MTU_DISCOVER", IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
        match self.role {
            Role::Listener | Role::Client if v6 => {
                self.require("IPV6_RECVTCLASS", IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            }
            Role::Listener | Role::Client => self.require("IP_RECVTOS", IPPROTO_IP, libc::IP_RECVTOS, 1)?,
            Role::Connected => {}
        }
        // A listener learns nothing from ICMP that it should believe; a client and a tunnel want to know that no one
        // is there. With the error queue no report is lost to a batch in flight.
        match self.role {
            Role::Listener => {}
            Role::Client | Role::Connected if v6 => {
                self.require("IPV6_RECVERR", IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            }
            Role::Client | Role::Connected => self.require("IP_RECVERR", IPPROTO_IP, libc::IP_RECVERR, 1)?,
        }
        if self.packet_info {
            if v6 {
                self.require("IPV6_RECVPKTINFO", IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            } else {
                self.require("IP_PKTINFO", IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            }
        }
        if let Some(ports) = &options.local_ports {
            let value = u32::from(*ports.end()) << 16 | u32::from(*ports.start());
            self.require("IP_LOCAL_PORT_RANGE", IPPROTO_IP, IP_LOCAL_PORT_RANGE, value.cast_signed())?;
        }
        if self.refuse.gro || sys::set_option(self.as_fd(), SOL_UDP, libc::UDP_GRO, 1).is_err() {
            self.counters.fallback_gro = 1;
        }
        self.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer_bytes);
        self.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer_bytes);
        // The kernel doubles what it is asked for, to pay for its own bookkeeping; report what was asked for.
        let granted = sys::option(self.as_fd(), SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
        self.receive_buffer_bytes = usize::try_from(granted).unwrap_or(0) / 2;
        Ok(())
    }

    fn require(&self, text: &'static str, level: c_int, name: c_int, value: c_int) -> Result<(), OpenError> {
        sys::set_option(self.as_fd(), level, name, value).map_err(|errno| OpenError {
            operation: Operation::SetOption(text),
            kind: ErrorKind::from_errno(errno),
            address: None,
        })
    }

    /// A buffer smaller than asked for is not an error: it is readable, and losses are counted.
    fn set_buffer(&self, force: c_int, polite: c_int, bytes: usize) {
        let value = c_int::try_from(bytes).unwrap_or(c_int::MAX / 2).min(c_int::MAX / 2);
        if sys::set_option(self.as_fd(), libc::SOL_SOCKET, force, value).is_err() {
            // Without CAP_NET_ADMIN; bounded by net.core.rmem_max and wmem_max.
            sys::set_option(self.as_fd(), libc::SOL_SOCKET, polite, value).unwrap_or(());
        }
    }

    fn read_local_address(&self) -> Result<SocketAddr, OpenError> {
        sys::local_address(self.as_fd()).map_err(|errno| OpenError {
            operation: Operation::ReadAddress,
            kind: ErrorKind::from_errno(errno),
            address: None,
        })
    }

    /// Lets sockets that come later share this one's address: it was bound exclusively, so no one had it before.
    pub(crate) fn open_to_group(&self) -> Result<(), OpenError> {
        self.require("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    /// A second owner of the descriptor, which keeps the socket open.
    pub(crate) fn share_descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// The address it is bound to, with the port the kernel chose.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The target it is connected to.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The largest payload that leaves towards the target in one piece: what the interface takes, or less where ICMP
    /// said so lately (the kernel believes it for ten minutes). `None` if the socket is not connected, or the kernel
    /// does not say. One system call.
    pub fn path_payload_bytes(&self) -> Option<usize> {
        self.remote?;
        let (level, name, headers) = if self.is_ipv6() {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU, IPV6_HEADER_BYTES)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU, IPV4_HEADER_BYTES)
        };
        let mtu = usize::try_from(sys::option(self.as_fd(), level, name).ok()?).ok()?;
        // The length field of IPv4 counts its own header, that of IPv6 does not.
        let most = if self.is_ipv6() { MAX_IP_LENGTH + headers } else { MAX_IP_LENGTH };
        Some(mtu.min(most).saturating_sub(headers + UDP_HEADER_BYTES))
    }

    /// The receive buffer the kernel granted, in the unit of [`SocketOptions::receive_buffer_bytes`].
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// What happened on this socket so far. [`SocketCounters::dropped_by_kernel`] is as of the last datagram
    /// received; [`UdpSocket::refresh_drops`] brings it up to now.
    pub fn counters(&self) -> &SocketCounters {
        &self.counters
    }

    /// Asks the kernel for its drop count (HG-9): drops after the last datagram received are otherwise not seen until
    /// the next one. One system call.
    pub fn refresh_drops(&mut self) {
        if let Ok(drops) = sys::dropped_packets(self.as_fd()) {
            self.note_drops(drops);
        }
    }

    fn note_drops(&mut self, drops: u32) {
        // A datagram queued before the last refresh carries an older count: differences below zero are no news.
        let news = drops.wrapping_sub(self.drops_seen).cast_signed();
        if news > 0 {
            self.counters.dropped_by_kernel += u64::from(news.unsigned_abs());
            self.drops_seen = drops;
        }
    }

    /// Throws away what waits in the receive queue.
    fn discard_pending(&mut self) {
        // The queue holds what arrived before connect() began to filter; its bound is the receive buffer. A target
        // that already knows the port cannot keep this loop going for longer than the bound below.
        for _ in 0..65_536 {
            // SAFETY: a null buffer of length zero is allowed; the datagram is cut to nothing and taken off the queue.
            let result = unsafe { libc::recv(self.as_raw_fd(), std::ptr::null_mut(), 0, libc::MSG_DONTWAIT) };
            if sys::check_size(result).is_err() {
                break;
            }
            self.counters.discarded_before_connect += 1;
        }
    }

    /// Receives what waits, up to the capacity of `batch`, in one system call (or one per message where `recvmmsg`
    /// is refused). Returns the number of trains, 0 if nothing waits; take them with [`ReceiveBatch::drain`].
    ///
    /// # Errors
    /// What the kernel says other than "nothing waits"; the socket stays usable.
    pub fn receive(&mut self, batch: &mut ReceiveBatch) -> Result<usize, ErrorKind> {
        batch.receive(self)
    }

    /// As [`UdpSocket::receive`] for a connected socket, at most `limit` messages (at least one), read with
    /// [`FlowBuffers::iter`].
    ///
    /// # Errors
    /// As [`UdpSocket::receive`]; errors about datagrams sent earlier come from [`UdpSocket::take_error`] instead.
    pub fn receive_flow(&mut self, buffers: &mut FlowBuffers, limit: usize) -> Result<usize, ErrorKind> {
        buffers.receive(self, limit)
    }

    /// # Safety
    /// As [`Messages::receive`].
    pub(crate) unsafe fn receive_messages(
        &mut self,
        messages: &mut Messages,
        count: usize,
    ) -> Result<usize, ErrorKind> {
        // Enough for one pending error of each kind in between; a socket that only ever fails ends the loop.
        for _ in 0..4 {
            self.counters.receive_calls += 1;
            let method = if self.capabilities.recvmmsg { Method::Many } else { Method::OneByOne };
            let result = if self.refuse.recvmmsg && method == Method::Many {
                Err(libc::ENOSYS)
            } else {
                // SAFETY: the caller's promise.
                unsafe { messages.receive(self.as_raw_fd(), method, count) }
            };
            match result {
                Ok(filled) => {
                    self.count_received(messages);
                    return Ok(filled);
                }
                Err(libc::EAGAIN) => return Ok(0),
                Err(libc::EINTR) => {}
                Err(libc::ENOSYS | libc::EPERM) if method == Method::Many => {
                    self.capabilities.recvmmsg = false;
                    self.counters.fallback_recvmmsg = 1;
                }
                Err(errno) => {
                    let kind = ErrorKind::from_errno(errno);
                    // What an earlier datagram met is told by the error queue, once and with its address; here it
                    // only stood in the way of what waits behind it.
                    if self.role == Role::Listener || !is_report(kind) {
                        self.counters.receive_failed.add(kind, 1);
                        return Err(kind);
                    }
                }
            }
        }
        Ok(0)
    }

    fn count_received(&mut self, messages: &Messages) {
        for message in &messages.received {
            if let Some(drops) = message.meta.dropped {
                self.note_drops(drops);
            }
            if message.truncated {
                self.counters.dropped_truncated += 1;
            } else {
                self.counters.datagrams_received += datagrams(message);
                self.counters.bytes_received += message.bytes as u64;
            }
        }
    }

    /// The next error that the kernel attributes to a datagram sent from this socket: call it until `None` when the
    /// poller reports an error condition. Never an error of a send call itself, which that call returned.
    pub fn take_error(&mut self) -> Option<ReportedError> {
        // What this host said itself was counted when it was sent and is skipped here. The queue shares the receive
        // buffer, which holds fewer entries than this bound.
        for _ in 0..65_536 {
            let Some((error, remote)) = control::take_queued_error(self.as_raw_fd()) else { break };
            if error.local {
                continue;
            }
            let kind = ErrorKind::from_errno(error.errno);
            self.counters.reported.add(kind, 1);
            let path_mtu = (kind == ErrorKind::MessageTooLong).then_some(error.info);
            return Some(ReportedError { kind, remote: remote.or(self.remote), path_mtu });
        }
        // Clears what the queue has told already, so that the poller falls silent.
        let pending = sys::option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(0);
        if pending == 0 || self.role != Role::Listener {
            return None;
        }
        let kind = ErrorKind::from_errno(pending);
        self.counters.reported.add(kind, 1);
        Some(ReportedError { kind, remote: None, path_mtu: None })
    }

    pub(crate) fn is_ipv6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// Target sockets send Not-ECT whatever a caller says (UDP-50).
    pub(crate) fn carries_quic(&self) -> bool {
        self.role != Role::Connected
    }

    /// The source address to name in a control message, where that is needed.
    pub(crate) fn source_for(&self, local: Option<IpAddr>) -> Option<IpAddr> {
        local.filter(|address| self.packet_info && address.is_ipv6() == self.is_ipv6())
    }
}

/// Whether an errno can stem from a datagram sent earlier rather than from the call that returned it.
pub(crate) fn is_report(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::MessageTooLong
            | ErrorKind::PermissionDenied
            | ErrorKind::Other(libc::EPROTO | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_before_connect_is_discarded_and_counted() {
        let target = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (options, bind) = (SocketOptions::target(), "127.0.0.1:0".parse().unwrap());
        let remote = target.local_addr().unwrap();
        let mut socket = UdpSocket::open(Role::Connected, bind, Some(remote), &options, false).unwrap();
        for early in [&b"forged"[..], b"", b"forged too"] {
            stranger.send_to(early, socket.local_address()).unwrap();
        }
        socket.connect(remote).unwrap();
        assert_eq!(socket.counters().discarded_before_connect, 3);
        target.send_to(b"true", socket.local_address()).unwrap();
        let mut buffers = FlowBuffers::new(4);
        assert_eq!(socket.receive_flow(&mut buffers, 4), Ok(1), "loopback delivers within the call that sends");
        assert_eq!(buffers.iter().collect::<Vec<_>>(), [(&b"true"[..], 4)]);
    }
}
