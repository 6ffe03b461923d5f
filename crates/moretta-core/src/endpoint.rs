//! QUIC endpoints: one per listening link, and one per gateway; and the configuration that they share.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use moretta_proto::Now;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, ConnectionHandle, ConnectionId, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TimeSource, TokenMemoryCache, TokenStore, TransportConfig, ValidationTokenConfig, VarInt,
};

use crate::cid::{CONNECTION_ID_OCTETS, SlotCids, UNROUTABLE_CONFIGURATION};
use crate::config::{CoreConfig, Shared, TransportOptions};
use crate::congestion::CongestionControl;
use crate::ids::LinkId;
use crate::random::Generator;
use crate::store::Key;

/// QUIC version 1 only (RFC 9000).
const VERSIONS: [u32; 1] = [1];
/// Bytes that the library may hold of datagrams that we have not taken. We take them after every packet, and no packet
/// holds as many, so that it never drops any; and it makes our `max_datagram_frame_size` 65,535.
const DATAGRAM_RECEIVE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that we may hand to the library; our own feed is far below it ([`crate::transmit`]).
const DATAGRAM_SEND_BYTES: usize = 4 * 1024 * 1024;
/// Unidirectional streams of the peer: three of HTTP/3 (RFC 9114 §6.2) and some of reserved types.
const PEER_UNI_STREAMS: u32 = 8;
/// First packets that wait in one endpoint to be accepted, and the bytes that may follow each and all of them.
const MAX_INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_TOTAL: u64 = 4 * 1024 * 1024;
/// NEW_TOKEN tokens are good for this long.
const NEW_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The Unix time of the core's last input, for the library's address tokens.
#[derive(Debug, Default)]
pub(crate) struct CoreTime(AtomicU64);

impl CoreTime {
    pub(crate) fn set(&self, now: Now) {
        self.0.store(now.unix.as_micros() as u64, Ordering::Relaxed);
    }
}

impl TimeSource for CoreTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What all endpoints of a core are made from.
pub(crate) struct Quic {
    config: CoreConfig,
    server_transport: Arc<TransportConfig>,
    client_transport: Arc<TransportConfig>,
    time: Arc<CoreTime>,
    /// NEW_TOKEN tokens that proxies gave us, for the next connection to them.
    token_store: Arc<dyn TokenStore>,
    /// The destination connection IDs that our clients begin with.
    initial_ids: Arc<Mutex<Generator>>,
    made: u64,
}

impl Quic {
    pub(crate) fn new(config: CoreConfig) -> Self {
        let initial_ids = Generator::new(&config.seed, "initial destination ids", 0);
        Self {
            server_transport: Arc::new(transport(&config.transport, Side::Server)),
            client_transport: Arc::new(transport(&config.transport, Side::Client)),
            time: Arc::default(),
            token_store: Arc::new(TokenMemoryCache::default()),
            initial_ids: Arc::new(Mutex::new(initial_ids)),
            made: 0,
            config,
        }
    }

    pub(crate) fn set_time(&self, now: Now) {
        self.time.set(now);
    }

    pub(crate) fn config(&self) -> &CoreConfig {
        &self.config
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.config.shared
    }

    /// A new endpoint with its own share of the core's randomness.
    pub(crate) fn endpoint(&mut self, role: Role, link: LinkId, server: Option<Arc<ServerConfig>>) -> Endpoint {
        let quic = self.library_endpoint(server.clone());
        Endpoint {
            quic,
            role,
            link,
            other_links: Vec::new(),
            server,
            closing: false,
            handles: Vec::new(),
            connections: 0,
        }
    }

    /// Replaces an endpoint that panicked. Its connections are gone; their peers learn it by stateless resets.
    pub(crate) fn rebuild(&mut self, endpoint: &mut Endpoint) {
        endpoint.quic = self.library_endpoint(endpoint.server.clone());
        endpoint.handles.clear();
        endpoint.connections = 0;
    }

    fn library_endpoint(&mut self, server: Option<Arc<ServerConfig>>) -> quinn_proto::Endpoint {
        self.made += 1;
        let CoreConfig { slot, seed, shared, transport } = &self.config;
        let (slot, seed, instance) = (*slot, *seed, self.made);
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &shared.reset_key)));
        config
            .cid_generator(move || {
                let generator = Generator::new(&seed, "connection ids", instance);
                Box::new(SlotCids::new(slot, UNROUTABLE_CONFIGURATION, generator))
            })
            .supported_versions(VERSIONS.to_vec())
            .rng_seed(Some(Generator::new(&seed, "endpoint", instance).take()));
        quinn_proto::Endpoint::new(Arc::new(config), server, transport.mtu_discovery, None)
    }

    /// The library's configuration of a listener. `None` if TLS cannot serve QUIC with it.
    pub(crate) fn server_config(&self, tls: &Arc<rustls::ServerConfig>) -> Option<Arc<ServerConfig>> {
        // Tunnels are never opened by early data, which can be replayed (C-17).
        let tls = if tls.max_early_data_size == 0 {
            Arc::clone(tls)
        } else {
            let mut copy = rustls::ServerConfig::clone(tls);
            copy.max_early_data_size = 0;
            Arc::new(copy)
        };
        let crypto = QuicServerConfig::try_from(tls).ok()?;
        let shared = self.shared();
        let mut tokens = ValidationTokenConfig::default();
        tokens.log(shared.token_log.clone()).lifetime(NEW_TOKEN_LIFETIME).sent(self.config.transport.new_tokens);
        let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(shared.token_keys.clone()));
        server
            .transport_config(Arc::clone(&self.server_transport))
            .validation_token_config(tokens)
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_TOTAL)
            .time_source(self.time.clone());
        Some(Arc::new(server))
    }

    /// The library's configuration of one connection of a gateway. `None` if TLS cannot serve QUIC with it.
    pub(crate) fn client_config(&self, tls: &Arc<rustls::ClientConfig>) -> Option<ClientConfig> {
        // Early data is off: no request of ours may be replayed, and nothing but requests would be sent.
        let tls = if tls.enable_early_data {
            let mut copy = rustls::ClientConfig::clone(tls);
            copy.enable_early_data = false;
            Arc::new(copy)
        } else {
            Arc::clone(tls)
        };
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).ok()?));
        let ids = Arc::clone(&self.initial_ids);
        config
            .transport_config(Arc::clone(&self.client_transport))
            .token_store(Arc::clone(&self.token_store))
            .initial_dst_cid_provider(Arc::new(move || {
                let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
                ConnectionId::new(&ids.take::<CONNECTION_ID_OCTETS>())
            }));
        Some(config)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// How soon after a black hole the path is searched again. Soon, because most are none: the library takes several bursts
/// of losses in one acknowledgement for one if the packets are smaller than the last probe was, which under congestion
/// they usually are, and with 1200 bytes of MTU a tunnel does not carry an inner QUIC handshake any more (CF-4). Where
/// there is one, a search costs it a few probes.
const BLACK_HOLE_COOLDOWN: Duration = Duration::from_secs(1);

fn transport(options: &TransportOptions, side: Side) -> TransportConfig {
    let mut search = MtuDiscoveryConfig::default();
    search.upper_bound(options.upper_mtu).black_hole_cooldown(BLACK_HOLE_COOLDOWN);
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(CongestionControl::default()))
        .initial_mtu(options.initial_mtu.max(options.min_mtu))
        .min_mtu(options.min_mtu)
        .mtu_discovery_config(options.mtu_discovery.then_some(search))
        .max_concurrent_uni_streams(PEER_UNI_STREAMS.into())
        .stream_receive_window(options.stream_receive_window.into())
        .receive_window(options.receive_window.into())
        .send_window(options.send_window)
        .max_idle_timeout(IdleTimeout::try_from(options.idle_timeout).ok())
        .datagram_receive_buffer_size(options.datagrams.then_some(DATAGRAM_RECEIVE_BYTES))
        .datagram_send_buffer_size(DATAGRAM_SEND_BYTES);
    match side {
        Side::Server => transport.max_concurrent_bidi_streams(options.initial_bidi_streams.into()),
        // A server of HTTP/3 opens no bidirectional streams (RFC 9114 §6.1).
        Side::Client => {
            transport.keep_alive_interval(options.keep_alive).max_concurrent_bidi_streams(VarInt::from_u32(0))
        }
    };
    transport
}

/// A listening link, as requests through it are judged.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: Arc<str>,
    pub(crate) loopback: bool,
}

/// Whose endpoint this is.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Listener(Arc<Listener>),
    Gateway(Key),
}

/// One endpoint of the library and what belongs to it.
pub(crate) struct Endpoint {
    pub(crate) quic: quinn_proto::Endpoint,
    pub(crate) role: Role,
    /// Where its packets leave.
    pub(crate) link: LinkId,
    /// Links that it still receives from, after a rebind.
    pub(crate) other_links: Vec<LinkId>,
    pub(crate) server: Option<Arc<ServerConfig>>,
    /// Takes nothing new, and goes with its last connection.
    pub(crate) closing: bool,
    /// The library's handle → our connection.
    handles: Vec<Option<Key>>,
    pub(crate) connections: usize,
}

impl Endpoint {
    /// Whether first packets are answered.
    pub(crate) fn accepts(&self) -> bool {
        self.server.is_some() && !self.closing
    }

    pub(crate) fn connection(&self, handle: ConnectionHandle) -> Option<Key> {
        self.handles.get(handle.0).copied().flatten()
    }

    pub(crate) fn attach(&mut self, handle: ConnectionHandle, connection: Key) {
        if self.handles.len() <= handle.0 {
            self.handles.resize(handle.0 + 1, None);
        }
        if let Some(place) = self.handles.get_mut(handle.0) {
            *place = Some(connection);
            self.connections += 1;
        }
    }

    /// Of no effect if the handle names another connection by now.
    pub(crate) fn detach(&mut self, handle: ConnectionHandle, connection: Key) {
        if let Some(place) = self.handles.get_mut(handle.0)
            && *place == Some(connection)
        {
            *place = None;
            self.connections -= 1;
        }
    }

    /// Every connection, in the order of the library's handles. For rare occasions only.
    pub(crate) fn all_connections(&self) -> Vec<Key> {
        self.handles.iter().copied().flatten().collect()
    }

    /// Opens a connection.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        config: ClientConfig,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<(ConnectionHandle, quinn_proto::Connection), quinn_proto::ConnectError> {
        self.quic.connect(now, config, remote, server_name)
    }
}

/// First packets that wait to be accepted: TLS is the dearest thing a stranger can ask for, so that each turn does only
/// a few.
#[derive(Default)]
pub(crate) struct Waiting(VecDeque<(Key, quinn_proto::Incoming)>);

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn push(&mut self, endpoint: Key, incoming: quinn_proto::Incoming) {
        self.0.push_back((endpoint, incoming));
    }

    pub(crate) fn pop(&mut self) -> Option<(Key, quinn_proto::Incoming)> {
        self.0.pop_front()
    }

    /// Takes out what waits for one endpoint.
    pub(crate) fn take_of(&mut self, endpoint: Key) -> Vec<quinn_proto::Incoming> {
        let (of, others) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| *key == endpoint);
        self.0 = others;
        let of: VecDeque<(Key, quinn_proto::Incoming)> = of;
        of.into_iter().map(|(_, incoming)| incoming).collect()
    }
}
