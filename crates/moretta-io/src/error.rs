//! What can go wrong on a socket, as few names as callers act upon.

use std::{fmt, io, net::SocketAddr};

use thiserror::Error;

/// An errno, reduced to what a caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing to read, or no room to write, right now.
    #[error("not ready")]
    WouldBlock,
    /// The datagram exceeds what the interface, or the path as far as ICMP told, carries unfragmented.
    #[error("datagram too long for the path")]
    MessageTooLong,
    /// The target answered that no one listens (ICMP port unreachable).
    #[error("connection refused")]
    ConnectionRefused,
    /// No route to the host.
    #[error("host unreachable")]
    HostUnreachable,
    /// No route to the network, or the interface is down.
    #[error("network unreachable")]
    NetworkUnreachable,
    /// The kernel is out of buffer memory.
    #[error("out of buffer space")]
    NoBuffers,
    /// A firewall, a security module or missing privileges.
    #[error("permission denied")]
    PermissionDenied,
    /// No free local port is left. UDP says EAGAIN for this when connecting and EADDRINUSE when binding port 0; it
    /// must never be read as "not ready yet".
    #[error("no free local port")]
    PortsExhausted,
    /// The process or the system has no file descriptor left.
    #[error("no free file descriptor")]
    DescriptorsExhausted,
    /// Another socket has this address and port.
    #[error("address already in use")]
    AddressInUse,
    /// The address is not one of this host's.
    #[error("address not available on this host")]
    AddressNotAvailable,
    /// A wildcard address was given where packet info was not asked for (HG-10).
    #[error("wildcard address refused; ask for packet info or name one address")]
    WildcardRefused,
    /// Any other errno.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Other(i32),
}

impl ErrorKind {
    /// The meaning of `errno` in sending, receiving and everything else without a special case.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EAGAIN => Self::WouldBlock,
            libc::EMSGSIZE => Self::MessageTooLong,
            libc::ECONNREFUSED => Self::ConnectionRefused,
            libc::EHOSTUNREACH | libc::EHOSTDOWN => Self::HostUnreachable,
            libc::ENETUNREACH | libc::ENETDOWN | libc::ENONET => Self::NetworkUnreachable,
            libc::ENOBUFS | libc::ENOMEM => Self::NoBuffers,
            libc::EPERM | libc::EACCES => Self::PermissionDenied,
            libc::EMFILE | libc::ENFILE => Self::DescriptorsExhausted,
            libc::EADDRINUSE => Self::AddressInUse,
            libc::EADDRNOTAVAIL => Self::AddressNotAvailable,
            other => Self::Other(other),
        }
    }

    pub(crate) fn from_bind(errno: i32, port: u16) -> Self {
        match errno {
            libc::EADDRINUSE if port == 0 => Self::PortsExhausted,
            other => Self::from_errno(other),
        }
    }

    pub(crate) fn from_connect(errno: i32) -> Self {
        match errno {
            libc::EAGAIN => Self::PortsExhausted,
            other => Self::from_errno(other),
        }
    }
}

/// The step of opening something that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `socket`, `epoll_create1`, `eventfd`.
    Create,
    /// `bind`, including the probe before a group opens.
    Bind,
    /// `connect`.
    Connect,
    /// `getsockname`.
    ReadAddress,
    /// A socket option without which the socket would misbehave.
    SetOption(&'static str),
    /// Attaching the steering program.
    AttachSteering,
    /// A netlink request.
    Netlink,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create a socket"),
            Self::Bind => f.write_str("bind"),
            Self::Connect => f.write_str("connect"),
            Self::ReadAddress => f.write_str("read the socket's address"),
            Self::SetOption(name) => write!(f, "set {name}"),
            Self::AttachSteering => f.write_str("attach the steering program"),
            Self::Netlink => f.write_str("ask for this host's addresses"),
        }
    }
}

/// A socket, poller or watcher could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenError {
    /// What was tried.
    pub operation: Operation,
    /// Why it failed.
    pub kind: ErrorKind,
    /// The address it was tried with, if any.
    pub address: Option<SocketAddr>,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.operation)?;
        if let Some(address) = self.address {
            write!(f, " {address}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.kind)
    }
}

/// An error about datagrams sent earlier, which the kernel attributes to this socket (C-19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedError {
    /// What happened.
    pub kind: ErrorKind,
    /// Where the datagram concerned had been sent.
    pub remote: Option<SocketAddr>,
    /// For [`ErrorKind::MessageTooLong`]: the MTU that the router named, in bytes of the IP packet. Never trusted
    /// beyond lowering an estimate: anyone who can guess the ports can forge it.
    pub path_mtu: Option<u32>,
}
