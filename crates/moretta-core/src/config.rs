//! What a core is given: its slot and seed, what it shares with other cores, transport options, and snapshots.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moretta_proto::ledger::Ledger;
use moretta_proto::policy::OwnAddresses;
use moretta_proto::snapshot::Snapshot;

use crate::ids::SlotId;
use crate::tokens::{SharedTokenLog, TokenKeys};

/// What makes one core differ from the next.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Its number in connection IDs; unique among the cores that share a listener's port.
    pub slot: SlotId,
    /// All its unpredictable values derive from this: 32 octets from the system's generator, never used twice. With
    /// the same seed and inputs a core repeats itself exactly, except for what TLS draws by itself.
    pub seed: [u8; 32],
    /// What all cores of one gateway have in common.
    pub shared: Arc<Shared>,
    /// QUIC's knobs.
    pub transport: TransportOptions,
}

/// What all cores of one gateway have in common. Everything in it is either constant or internally synchronised, and
/// is touched at open and close of connections and tunnels only.
pub struct Shared {
    /// Stateless resets (RFC 9000 §10.3): any core can end a connection that another one lost.
    pub reset_key: [u8; 64],
    /// Retry and NEW_TOKEN tokens (RFC 9000 §8.1): any core accepts what another one issued.
    pub token_keys: TokenKeys,
    /// NEW_TOKEN tokens that were used; bounded, refuses when full.
    pub token_log: Arc<SharedTokenLog>,
    /// Exact counts of tunnels.
    pub ledger: Arc<dyn Ledger>,
    /// How many connections all cores have together, against the limit of connections.
    pub connections: ConnectionCount,
}

/// A count of connections, exact across cores; touched when one begins or ends.
#[derive(Debug, Default)]
pub struct ConnectionCount(AtomicUsize);

impl ConnectionCount {
    /// How many there are.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self) {
        // Relaxed: the count orders nothing but itself.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Shared {
    // Keys never reach a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("token_log", &self.token_log).finish_non_exhaustive()
    }
}

/// QUIC's knobs. The defaults are the product's; a test or a nested link changes some.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Bytes of UDP payload assumed to pass before the search has found more. 1280: an inner QUIC handshake needs
    /// 1,200 bytes of payload from its first packet on (CF-4), and IPv6 promises a link of 1280; a
    /// path that carries less is noticed as a black hole and falls to `min_mtu`.
    pub initial_mtu: u16,
    /// Where the search for a larger MTU ends. 1452: Ethernet less the headers of IPv6 and UDP.
    pub upper_mtu: u16,
    /// What a black hole falls back to: QUIC's own minimum, 1200.
    pub min_mtu: u16,
    /// Silence after which a connection is given up. Longer than the idle timeout of a tunnel (120 s), since a client
    /// need not keep the connection alive for a quiet tunnel.
    pub idle_timeout: Duration,
    /// How often a gateway's connection shows that it is alive, when nothing else does. Below the 30 s after which
    /// many NAT devices forget a UDP binding, and many proxies a connection.
    pub keep_alive: Option<Duration>,
    /// Streams that a new client may open at once; raised while it uses them, up to the limit of tunnels per
    /// connection. 100 is the least that RFC 9114 §6.1 recommends. Each costs memory and time for every connection, used
    /// or not (10,000 cost 700 KiB), and 112 with the peer's unidirectional ones are what the library's tables take
    /// before they double.
    pub initial_bidi_streams: u32,
    /// Bytes that a peer may send on one stream before we have read them. Small: streams carry heads and capsules.
    pub stream_receive_window: u32,
    /// Bytes that a peer may send on all its streams before we have read them.
    pub receive_window: u32,
    /// Bytes that we keep for retransmission, all streams of a connection together.
    pub send_window: u64,
    /// Our `max_datagram_frame_size` is 65,535 while this is set (RFC 9221 §3; 9297 recommends the maximum). Without,
    /// QUIC datagrams are off and payloads travel in capsules.
    pub datagrams: bool,
    /// Search for a larger MTU (RFC 8899); only where the driver's sockets never fragment.
    pub mtu_discovery: bool,
    /// Packets of one send, at most: what generic segmentation offload takes.
    pub max_segments: usize,
    /// NEW_TOKEN frames to send on each new connection. One: the next connection spends it and brings another.
    pub new_tokens: u32,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            initial_mtu: 1280,
            upper_mtu: 1452,
            min_mtu: 1200,
            idle_timeout: Duration::from_secs(150),
            keep_alive: Some(Duration::from_secs(20)),
            initial_bidi_streams: 100,
            stream_receive_window: 64 * 1024,
            receive_window: 512 * 1024,
            send_window: 512 * 1024,
            datagrams: true,
            mtu_discovery: true,
            max_segments: 64,
            new_tokens: 1,
        }
    }
}

/// Everything that may change while a core runs, swapped whole.
#[derive(Clone, Debug)]
pub struct CoreSnapshot {
    /// Policy, limits, templates, profile.
    pub proto: Arc<Snapshot>,
    /// The TLS configuration of each listener by name, small and searched in order. ALPN must offer `h3`; early data
    /// is switched off here whatever the configuration says.
    pub tls: Vec<(String, Arc<rustls::ServerConfig>)>,
    /// The gateway's own addresses, refused as targets. A change of addresses is a new snapshot like any other.
    pub own_addresses: Arc<OwnAddresses>,
}

impl CoreSnapshot {
    /// The TLS configuration of a listener.
    #[must_use]
    pub fn tls(&self, listener: &str) -> Option<&Arc<rustls::ServerConfig>> {
        self.tls.iter().find(|(name, _)| name == listener).map(|(_, tls)| tls)
    }
}
