//! What goes into a core: packets, datagrams of flows, answers to its questions, and commands.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use moretta_proto::admission::{OpenError, ResolveError};
use moretta_proto::tunnel::udp::Options;
use moretta_wire::datagram::MAX_UDP_PAYLOAD_BYTES;
use moretta_wire::template::UriTemplate;

use crate::config::CoreSnapshot;
use crate::ids::{FlowId, GatewayId, LinkId, QueryId, TunnelToken};

/// One receive from a link: a run of UDP payloads of equal size from one sender, as generic receive offload hands it
/// over. A single packet is a train of one.
#[derive(Clone, Debug)]
pub struct Train {
    /// Where it arrived.
    pub link: LinkId,
    /// Who sent it.
    pub remote: SocketAddr,
    /// The local address it was sent to, where the socket reports one; replies leave from it.
    pub local: Option<IpAddr>,
    /// The two ECN bits of the IP header.
    pub ecn: u8,
    /// Bytes of each payload; the last may be shorter. Zero or more than `data` holds means one payload.
    pub segment_size: usize,
    /// The payloads, one after the other. Decrypted in place; what is forwarded stays a slice of this slab until the
    /// driver has sent it, so a slab should be offered as it was received and not be kept for other uses.
    pub data: BytesMut,
}

/// Everything a driver can tell a core. Taking one is cheap: packets are only sorted into inboxes, datagrams only into
/// queues; the work is done in [`Core::turn`](crate::Core::turn).
#[derive(Debug)]
pub enum Input<'a> {
    /// Packets from a link.
    Train(Train),
    /// Datagrams from a target socket or from the application of a client tunnel: a run of payloads of `segment_size`
    /// bytes (the last may be shorter; an empty `data` is one empty datagram). Copied once, into the form in which it
    /// leaves. What does not fit the tunnel's queue pushes out the oldest there, counted.
    Flow {
        /// Whose datagrams these are.
        flow: FlowId,
        /// The payloads, one after the other.
        data: &'a [u8],
        /// Bytes of each payload. Zero or more than `data` holds means one payload.
        segment_size: usize,
    },
    /// An error on an open flow's socket.
    FlowError {
        /// Which flow.
        flow: FlowId,
        /// What the kernel said.
        error: FlowError,
    },
    /// The answer to [`Action::OpenFlow`](crate::Action::OpenFlow).
    FlowOpened {
        /// Which flow.
        flow: FlowId,
        /// Whether it is open now, and what it takes.
        result: Result<FlowPath, OpenError>,
    },
    /// The way to the target of an open flow carries more or less than before: when a datagram was too large for it, and
    /// as the answer to [`Action::ReadFlowPath`](crate::Action::ReadFlowPath).
    FlowPath {
        /// Which flow.
        flow: FlowId,
        /// What it takes now.
        path: FlowPath,
    },
    /// The answer to [`Action::Resolve`](crate::Action::Resolve), addresses in the order in which to try them.
    Resolved {
        /// Which question.
        query: QueryId,
        /// What the resolver found.
        result: Result<Vec<IpAddr>, ResolveError>,
    },
    /// A link can no longer be used. A listener's link is only counted: its connections may come back by migration.
    /// A gateway's connection is given up.
    LinkError {
        /// Which link.
        link: LinkId,
        /// The kernel's words, for the event; never sent to a peer.
        detail: String,
    },
    /// All policy, limits and certificates from now on. Live tunnels are rechecked against it over the next turns.
    Snapshot(Arc<CoreSnapshot>),
    /// An order.
    Command(Command),
}

/// What the way from a flow to its target carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPath {
    /// The largest UDP payload that leaves in one piece, in bytes.
    pub max_payload_bytes: usize,
}

impl FlowPath {
    /// A flow that takes every UDP payload: an application in this process.
    pub const ANY: Self = Self { max_payload_bytes: MAX_UDP_PAYLOAD_BYTES };
    /// An Ethernet: for flows whose socket does not say.
    pub const ETHERNET: Self = Self { max_payload_bytes: Options::DEFAULT_TARGET_PAYLOAD_BYTES };
}

/// What a socket of a flow reported after it was open. None of these ends a tunnel by itself: what follows is the
/// profile's `target_error` knob (C-19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowError {
    /// ICMP port or host unreachable, attributed by the kernel to our connected socket.
    Unreachable,
    /// The datagram exceeds the path's MTU (`EMSGSIZE`). Never ends a tunnel.
    TooLarge,
    /// Buffers were full (`EAGAIN`, `ENOBUFS`). Never ends a tunnel.
    Overloaded,
    /// The kernel refused to send (firewall, no route any more).
    Refused,
    /// The socket is gone: nothing more can be sent or received.
    Closed,
    /// Anything else, by its number.
    Other(i32),
}

/// Orders from above. Each is idempotent or names something that exists at most once; what it names and is not there
/// is counted ([`Counters::unknown_commands`](crate::Counters::unknown_commands)) and ignored.
#[derive(Debug)]
pub enum Command {
    /// QUIC connections are accepted on this link from now on.
    AddListener {
        /// The socket.
        link: LinkId,
        /// Names the certificate in [`CoreSnapshot::tls`], the listener's part of the snapshot, and it in records.
        name: String,
        /// The socket is bound to a loopback address.
        loopback: bool,
    },
    /// No new connections on this link; those that live stay until they end.
    RemoveListener {
        /// The socket.
        link: LinkId,
    },
    /// Connects to a proxy, trying `remotes` in order.
    OpenGateway(OpenGateway),
    /// Opens a UDP tunnel (RFC 9298) through a gateway; waits for the gateway if it is still connecting.
    OpenUdp(OpenUdp),
    /// Ends a client tunnel in good order (FIN).
    FinishTunnel(TunnelToken),
    /// Abandons a client tunnel (RESET_STREAM with `H3_REQUEST_CANCELLED`).
    ResetTunnel(TunnelToken),
    /// Ends a gateway and every tunnel through it.
    CloseGateway(GatewayId),
    /// Asks the proxy for a sign of life (RFC 9000 §19.2), so that the estimate of
    /// [`Core::gateway_path`](crate::Core::gateway_path) becomes fresh.
    Ping(GatewayId),
    /// The gateway's connection continues from another socket (RFC 9000 §9): packets leave on `link` from now on and
    /// are accepted on both until the old one is reported by [`Input::LinkError`].
    Rebind {
        /// Which gateway.
        gateway: GatewayId,
        /// The new socket.
        link: LinkId,
    },
    /// Keeps what runs, refuses what is new, closes at the deadline. Ends with
    /// [`Event::Drained`](crate::Event::Drained).
    Drain {
        /// When the connections that are still there are closed.
        deadline: Instant,
    },
    /// Closes every connection now. Ends with [`Event::Drained`](crate::Event::Drained).
    Close,
}

/// How to reach a proxy: the payload of [`Command::OpenGateway`].
#[derive(Debug)]
pub struct OpenGateway {
    /// What the driver calls it.
    pub gateway: GatewayId,
    /// The socket to use; it serves this gateway alone.
    pub link: LinkId,
    /// Addresses of the proxy, best first; each gets a share of the time until `deadline`.
    pub remotes: Vec<SocketAddr>,
    /// The name that the certificate must carry, and the SNI.
    pub server_name: String,
    /// Roots or pins, and the session cache that makes resumption work. ALPN must offer `h3`.
    pub tls: Arc<rustls::ClientConfig>,
    /// Where tunnels are asked for.
    pub template: UriTemplate,
    /// When to give up.
    pub deadline: Instant,
}

/// A UDP tunnel to be asked for: the payload of [`Command::OpenUdp`].
#[derive(Clone, Debug)]
pub struct OpenUdp {
    /// Through which proxy.
    pub gateway: GatewayId,
    /// What the application calls it.
    pub tunnel: TunnelToken,
    /// Where its datagrams go: [`FlowKind::Local`] of the same token.
    pub flow_kind: FlowKind,
    /// Name or address literal of the target; IPv6 without brackets. The proxy resolves it.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// When to give up waiting for the final response.
    pub deadline: Instant,
}

/// What a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKind {
    /// One connected UDP socket (RFC 9298 §3.1).
    Connected {
        /// The address that was checked, and so the only one that may be connected.
        target: SocketAddr,
    },
    /// The application of a client tunnel, in this process.
    Local {
        /// Whose.
        tunnel: TunnelToken,
    },
}
