//! The client: one core, one socket for each connection.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moretta_core::{
    Action, Command, ConnectionCount, Core, CoreConfig, CoreSnapshot, Counters, Event, FlowId, FlowKind, FlowPath,
    GatewayId, Input, LinkId, Now, OpenGateway, OpenUdp, Outputs, Shared, SharedTokenLog, SlotId, TokenKeys, Train,
    TransportOptions, TunnelToken, Wake,
};
use moretta_io::{Interest, OutgoingTrain, Poller, ReceiveBatch, SocketOptions, Trigger, UdpSocket};
use moretta_proto::ledger::LocalLedger;
use moretta_proto::limits::Limits;
use moretta_proto::policy::OwnAddresses;
use moretta_proto::snapshot::Snapshot;
use moretta_wire::template::UriTemplate;
use rustls::crypto::aws_lc_rs;
use rustls::{CipherSuite, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::Failure;
use crate::settings::Settings;
use crate::target::{DOWN, kind_of};

const TRAINS: usize = 32;
/// Receive calls on one socket in one round.
const CALLS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 32 << 20;

pub(crate) struct Client {
    core: Core,
    outputs: Outputs,
    pub(crate) links: Vec<UdpSocket>,
    receive: ReceiveBatch,
    /// Flows of open tunnels.
    pub(crate) flows: Vec<FlowId>,
    run: u32,
    /// Payloads of the measurement that came through.
    pub(crate) received: u64,
    /// All that came through.
    pub(crate) payloads: u64,
    /// All that were handed to the core.
    pub(crate) offered: u64,
    /// Ends are expected from now on.
    is_closing: bool,
}

/// Both clocks at once.
pub(crate) fn now() -> Now {
    Now { instant: Instant::now(), unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
}

impl Client {
    /// A core with its sockets, registered under keys from 0, that asks for all connections and tunnels.
    pub(crate) fn new(settings: &Settings, run: u32, target: SocketAddr, poller: &Poller) -> Result<Self, Failure> {
        let mut client = Self {
            core: Core::new(config(), Arc::new(snapshot(settings)), now()),
            outputs: Outputs::new(),
            links: Vec::new(),
            receive: ReceiveBatch::new(TRAINS),
            flows: Vec::new(),
            run,
            received: 0,
            payloads: 0,
            offered: 0,
            is_closing: false,
        };
        let tls = tls(settings)?;
        let bind = SocketAddr::new(target.ip(), 0);
        let options = SocketOptions {
            receive_buffer_bytes: BUFFER_BYTES,
            send_buffer_bytes: BUFFER_BYTES,
            ..SocketOptions::quic()
        };
        for connection in 0..settings.connections {
            let socket = UdpSocket::open_client(bind, &options)?;
            poller
                .register(socket.as_fd(), connection as u64, Interest::Readable, Trigger::Level)
                .map_err(|kind| Failure(format!("epoll: {kind:?}")))?;
            client.links.push(socket);
            client.command(Command::OpenGateway(OpenGateway {
                gateway: GatewayId(connection as u64),
                link: LinkId(connection as u32),
                remotes: vec![settings.proxy],
                server_name: settings.server_name.clone(),
                tls: Arc::clone(&tls),
                template: UriTemplate::for_origin(&format!("https://{}", settings.proxy))?,
                deadline: Instant::now() + PATIENCE,
            }));
        }
        for number in 0..settings.tunnels {
            let tunnel = TunnelToken(number as u64);
            client.command(Command::OpenUdp(OpenUdp {
                gateway: GatewayId((number % settings.connections) as u64),
                tunnel,
                flow_kind: FlowKind::Local { tunnel },
                host: target.ip().to_string(),
                port: target.port(),
                deadline: Instant::now() + PATIENCE,
            }));
        }
        Ok(client)
    }

    fn command(&mut self, command: Command) {
        self.core.handle(now(), Input::Command(command));
    }

    /// Says goodbye, as far as one turn goes.
    pub(crate) fn close(&mut self) -> Result<(), Failure> {
        self.is_closing = true;
        self.command(Command::Close);
        self.turn().map(drop)
    }

    pub(crate) fn counters(&self) -> &Counters {
        self.core.counters()
    }

    /// Reads the sockets; true if there may be more.
    pub(crate) fn drain(&mut self) -> bool {
        let now = now();
        let mut more = false;
        for (index, socket) in self.links.iter_mut().enumerate() {
            let mut messages = TRAINS;
            for _ in 0..CALLS {
                messages = socket.receive(&mut self.receive).unwrap_or(0);
                for train in self.receive.drain() {
                    let train = Train {
                        link: LinkId(index as u32),
                        remote: train.remote,
                        local: train.local,
                        ecn: train.ecn,
                        segment_size: train.segment_size,
                        data: train.data,
                    };
                    self.core.handle(now, Input::Train(train));
                }
                if messages < TRAINS {
                    break;
                }
            }
            more |= messages == TRAINS;
        }
        more
    }

    /// One turn of the core, and what it asks for.
    pub(crate) fn turn(&mut self) -> Result<Wake, Failure> {
        let mut wake = self.core.turn(now(), &mut self.outputs);
        for train in self.outputs.trains() {
            let Some(socket) = self.links.get_mut(train.link.0 as usize) else { continue };
            socket.send_train(&OutgoingTrain {
                remote: Some(train.remote),
                local: train.local,
                ecn: train.ecn,
                segment_size: train.segment_size,
                data: train.data,
            });
        }
        for (_, payloads) in self.outputs.flow_sends() {
            let ours = payloads.iter().filter(|payload| kind_of(payload, self.run) == Some(DOWN));
            self.received += ours.count() as u64;
            self.payloads += payloads.len() as u64;
        }
        let actions = std::mem::take(&mut self.outputs.actions);
        self.outputs.clear();
        for action in actions {
            wake.again_now |= self.act(action)?;
        }
        Ok(wake)
    }

    /// Whether the core was told something.
    fn act(&mut self, action: Action) -> Result<bool, Failure> {
        match action {
            Action::Event(_) if self.is_closing => {}
            Action::OpenFlow { flow, .. } => {
                self.core.handle(now(), Input::FlowOpened { flow, result: Ok(FlowPath::ANY) });
                return Ok(true);
            }
            Action::Event(Event::TunnelOpened { flow, datagrams, .. }) => {
                if !datagrams {
                    return Err(Failure("the gateway does not allow HTTP Datagrams".to_owned()));
                }
                self.flows.push(flow);
            }
            Action::Event(Event::GatewayFailed { failure, .. } | Event::GatewayClosed { failure, .. }) => {
                return Err(Failure(format!("the gateway's connection ended: {failure:?}")));
            }
            Action::Event(Event::TunnelRefused { status, reason, proxy_status, .. }) => {
                let status = status.map_or_else(String::new, |status| format!(" with {status}"));
                return Err(Failure(format!(
                    "a tunnel was refused{status}: {reason:?} {}",
                    proxy_status.unwrap_or_default()
                )));
            }
            Action::Event(Event::TunnelClosed { reason, .. }) => {
                return Err(Failure(format!("a tunnel ended: {reason:?}")));
            }
            Action::Event(Event::GatewayConnected { .. } | Event::Drained)
            | Action::CloseFlow { .. }
            | Action::ResumeFlow { .. }
            | Action::ReadFlowPath { .. }
            | Action::FlowLimit { .. }
            | Action::Resolve { .. }
            | Action::CancelResolve(_)
            | Action::Forward { .. }
            | Action::Record(_) => {}
        }
        Ok(false)
    }

    /// How many bytes the tunnel takes now.
    pub(crate) fn room(&mut self, flow: FlowId) -> usize {
        self.core.flow_share(flow)
    }

    /// Payloads of `size` bytes for a tunnel.
    pub(crate) fn send(&mut self, flow: FlowId, payloads: &[u8], size: usize) {
        self.offered += payloads.len().div_ceil(size) as u64;
        self.core.handle(now(), Input::Flow { flow, data: payloads, segment_size: size });
    }
}

fn snapshot(settings: &Settings) -> CoreSnapshot {
    let limits = Limits { max_tunnels_per_connection: settings.tunnels, ..Limits::default() };
    let proto = Snapshot { limits, proxy_name: "moretta-load".to_owned(), ..Snapshot::default() };
    CoreSnapshot { proto: Arc::new(proto), tls: Vec::new(), own_addresses: Arc::new(OwnAddresses::default()) }
}

fn config() -> CoreConfig {
    use std::hash::{BuildHasher, RandomState};
    // Nobody is to be protected here; the numbers only have to differ from run to run.
    let mut seed = [0; 32];
    for (part, chunk) in seed.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&RandomState::new().hash_one(part).to_ne_bytes());
    }
    CoreConfig {
        slot: SlotId::of_octet(0),
        seed,
        shared: Arc::new(Shared {
            reset_key: [0; 64],
            token_keys: TokenKeys::new(&[0; 64], None),
            token_log: Arc::new(SharedTokenLog::default()),
            ledger: Arc::new(LocalLedger::new(u64::MAX)),
            connections: ConnectionCount::default(),
        }),
        // Loopback paths do not shrink: bursts of losses must not look as if they did.
        transport: TransportOptions { min_mtu: 1280, ..TransportOptions::default() },
    }
}

fn tls(settings: &Settings) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    let shown = settings.ca.display();
    let certificates =
        CertificateDer::pem_file_iter(&settings.ca).map_err(|error| Failure(format!("{shown}: {error}")))?;
    for certificate in certificates {
        roots.add(certificate.map_err(|error| Failure(format!("{shown}: {error}")))?)?;
    }
    // The product's order, and that of masque-go's client.
    let mut crypto = aws_lc_rs::default_provider();
    crypto.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(crypto))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    Ok(Arc::new(config))
}
