//! A gateway and a client on loopback, driven as the package drives them: documents in, events out, one descriptor.

pub mod dns;
pub mod misleading;

use base64::Engine as _;
use moretta_engine::document::{Event, RecordClosed, RecordOpened, SnapshotRefused};
use moretta_engine::{Engine, EngineError, SendOutcome, TunnelQueue};
use moretta_io::{Events, Interest, Poller, Trigger};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing on loopback takes this long; what does has hung.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate for `localhost` and 127.0.0.1, and its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    pub pin: String,
}

impl Identity {
    pub fn new() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "gateway.test".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&made.signing_key);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            pin: base64::prelude::BASE64_STANDARD.encode(digest.as_ref()),
        }
    }
}

/// An engine with what has been read from it.
pub struct Driven {
    pub engine: Engine,
    poller: Poller,
    events: Events,
    waiting: VecDeque<Event>,
}

impl Driven {
    pub fn start(workers: usize) -> Self {
        let engine = Engine::start(json!({"version": 1, "workers": workers}).to_string().as_bytes()).unwrap();
        let poller = Poller::new().unwrap();
        poller.register(engine.as_fd(), 0, Interest::Readable, Trigger::Level).unwrap();
        Self { engine, poller, events: Events::with_capacity(1), waiting: VecDeque::new() }
    }

    pub fn submit(&self, document: Value) {
        self.try_submit(document).unwrap();
    }

    pub fn try_submit(&self, mut document: Value) -> Result<(), EngineError> {
        document["version"] = json!(1);
        self.engine.submit(document.to_string().as_bytes())
    }

    /// The first event that `wanted` accepts; those before it are kept for later calls.
    pub fn wait_for<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut looked_at = 0;
        loop {
            while let Some(event) = self.waiting.get(looked_at) {
                if let Some(found) = wanted(event) {
                    self.waiting.remove(looked_at);
                    return found;
                }
                looked_at += 1;
            }
            assert!(self.wait(deadline), "no {what}; there were {:#?}", self.waiting);
        }
    }

    /// Waits for an event that `wanted` accepts.
    pub fn wait_until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) {
        self.wait_for(what, |event| wanted(event).then_some(()));
    }

    /// Reads what the engine tells, waiting until `deadline` for it; false when nothing came.
    fn wait(&mut self, deadline: Instant) -> bool {
        let timeout = deadline.saturating_duration_since(Instant::now());
        self.poller.wait(&mut self.events, Some(timeout)).unwrap();
        self.read();
        !self.events.is_empty()
    }

    /// Waits for `time` unless something is told.
    pub fn wait_quietly(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.wait(deadline);
        }
    }

    fn read(&mut self) {
        for document in self.engine.take_events(256) {
            self.waiting.push_back(Event::from_json(&document).unwrap());
        }
        self.engine.take_ready(256);
    }

    /// Whether an event that `unwanted` accepts has been told so far.
    pub fn has_told(&mut self, unwanted: impl Fn(&Event) -> bool) -> bool {
        self.read();
        self.waiting.iter().any(unwanted)
    }

    pub fn stats(&self) -> Value {
        serde_json::from_slice(&self.engine.stats()).unwrap()
    }

    /// Waits until the counters satisfy `reached`.
    pub fn wait_for_stats(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if reached(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "no {what}: {stats:#}");
            std::thread::yield_now();
        }
    }

    pub fn apply(&mut self, snapshot: Value) -> u64 {
        self.judged(snapshot).unwrap()
    }

    /// A snapshot that must be refused.
    pub fn refused(&mut self, snapshot: Value) -> SnapshotRefused {
        self.judged(snapshot).unwrap_err()
    }

    fn judged(&mut self, snapshot: Value) -> Result<u64, SnapshotRefused> {
        self.submit(snapshot);
        self.wait_for("an answer to a snapshot", |event| match event {
            Event::SnapshotApplied(applied) => Some(Ok(applied.generation)),
            Event::SnapshotRefused(refused) => Some(Err(refused.clone())),
            _ => None,
        })
    }
}

/// What a gateway for tests is given: loopback opened by its danger settings, allowed by one rule.
pub fn snapshot(identity: &Identity, generation: u64) -> Value {
    json!({
        "version": 1,
        "generation": generation,
        "listeners": [{
            "name": "main",
            "addresses": ["127.0.0.1:0"],
            "certificate_pem": identity.certificate,
            "key_secret": "main.key",
        }],
        "policy": {
            "rules": [{
                "id": "loopback", "action": "allow", "protocol": "udp",
                "destination": ["127.0.0.0/8", "::1/128", "*.test"], "ports": "*",
            }],
            "danger_allow_prefixes": ["127.0.0.0/8", "::1/128"],
        },
    })
}

/// A gateway that listens.
pub struct Gateway {
    pub driven: Driven,
    pub identity: Identity,
    pub address: SocketAddr,
}

impl Gateway {
    pub fn start(workers: usize) -> Self {
        Self::start_with(workers, |_| {})
    }

    pub fn start_with(workers: usize, change: impl FnOnce(&mut Value)) -> Self {
        let identity = Identity::new();
        let mut driven = Driven::start(workers);
        driven.engine.put_secret("main.key", identity.key.as_bytes()).unwrap();
        let mut document = snapshot(&identity, 1);
        change(&mut document);
        driven.apply(document);
        let address = driven.wait_for("listening", |event| match event {
            Event::Listening(listening) => Some(listening.addresses[0]),
            _ => None,
        });
        Self { driven, identity, address }
    }

    pub fn snapshot(&self, generation: u64) -> Value {
        snapshot(&self.identity, generation)
    }

    /// The next record of a tunnel that was opened.
    pub fn opened_record(&mut self) -> RecordOpened {
        self.driven.wait_for("record_opened", |event| match event {
            Event::RecordOpened(record) => Some(record.clone()),
            _ => None,
        })
    }

    /// The next record of a tunnel that has ended.
    pub fn closed_record(&mut self) -> RecordClosed {
        self.driven.wait_for("record_closed", |event| match event {
            Event::RecordClosed(record) => Some(record.clone()),
            _ => None,
        })
    }

    /// A client engine that is connected to this gateway as number 1.
    pub fn client(&self, workers: usize) -> Client {
        let mut client = Client { driven: Driven::start(workers), next: 1 };
        client.connect(self, 1);
        client
    }
}

/// A client engine.
pub struct Client {
    pub driven: Driven,
    next: u64,
}

impl Client {
    /// Connected to nothing.
    pub fn start() -> Self {
        Self { driven: Driven::start(1), next: 1 }
    }

    pub fn connect(&mut self, gateway: &Gateway, number: u64) {
        self.connect_at(gateway, gateway.address, number);
    }

    /// Connects to a gateway that is reached at another address.
    pub fn connect_at(&mut self, gateway: &Gateway, address: SocketAddr, number: u64) {
        self.driven.submit(json!({
            "command": "open_gateway", "gateway": number,
            "origin_or_template": format!("https://{address}"),
            "ca_pem": gateway.identity.certificate,
        }));
        self.driven.wait_for("gateway_connected", |event| match event {
            Event::GatewayConnected(connected) if connected.gateway == number => Some(()),
            Event::GatewayFailed(failed) => panic!("{failed:?}"),
            _ => None,
        });
    }

    /// Asks for a tunnel through gateway 1; the answer is still to come.
    pub fn ask(&mut self, host: &str, port: u16) -> u64 {
        self.ask_through(1, host, port)
    }

    pub fn ask_through(&mut self, gateway: u64, host: &str, port: u16) -> u64 {
        let tunnel = self.next;
        self.next += 1;
        self.driven.submit(json!({
            "command": "open_udp", "gateway": gateway, "tunnel": tunnel, "host": host, "port": port,
        }));
        tunnel
    }

    /// Opens a tunnel to a socket address.
    pub fn open(&mut self, target: SocketAddr) -> Arc<TunnelQueue> {
        self.open_through(1, target)
    }

    pub fn open_through(&mut self, gateway: u64, target: SocketAddr) -> Arc<TunnelQueue> {
        let tunnel = self.ask_through(gateway, &target.ip().to_string(), target.port());
        self.opened(tunnel)
    }

    pub fn opened(&mut self, tunnel: u64) -> Arc<TunnelQueue> {
        let queue = self.driven.engine.tunnel(tunnel).unwrap();
        self.driven.wait_for("tunnel_opened", |event| match event {
            Event::TunnelOpened(opened) if opened.tunnel == tunnel => Some(()),
            Event::TunnelRefused(refused) if refused.tunnel == tunnel => panic!("{refused:?}"),
            _ => None,
        });
        queue
    }

    pub fn refused(&mut self, tunnel: u64) -> moretta_engine::document::TunnelRefused {
        self.driven.wait_for("tunnel_refused", |event| match event {
            Event::TunnelRefused(refused) if refused.tunnel == tunnel => Some(refused.clone()),
            _ => None,
        })
    }

    pub fn closed(&mut self, tunnel: u64) -> moretta_engine::document::TunnelClosed {
        self.driven.wait_for("tunnel_closed", |event| match event {
            Event::TunnelClosed(closed) if closed.tunnel == tunnel => Some(closed.clone()),
            _ => None,
        })
    }

    /// The next `count` datagrams of a tunnel.
    pub fn receive(&mut self, tunnel: &TunnelQueue, count: usize) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut received = Vec::new();
        loop {
            tunnel.receive_many(count - received.len(), |datagram| received.push(datagram.to_vec()));
            if received.len() == count {
                return received;
            }
            assert!(self.driven.wait(deadline), "{} of {count} datagrams came", received.len());
        }
    }

    /// Sends a datagram and waits for its echo.
    pub fn echo(&mut self, tunnel: &TunnelQueue, datagram: &[u8]) {
        assert_eq!(tunnel.send(datagram), SendOutcome::Queued);
        assert_eq!(self.receive(tunnel, 1), [datagram.to_vec()]);
    }
}

/// Sends back whatever comes, until it is dropped.
pub struct Echo {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    pub fn start_at(bind: &str) -> Self {
        let socket = UdpSocket::bind(bind).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A peer that is gone is its own business.
                drop(socket.send_to(&buffer[..length], from));
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let waker = UdpSocket::bind((self.address.ip(), 0)).unwrap();
        waker.send_to(b"", self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A target that the test itself reads.
pub fn target() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Binds a port that was given up. Tests beside this one open ports too and may hold it for a moment, and the kernel
/// frees a socket after it was told so: waits instead of asking once.
pub fn bind_again(address: SocketAddr) -> UdpSocket {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(address) {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < deadline, "{address} is still taken: {error}"),
        }
        std::thread::yield_now();
    }
}
