//! A peer that is not ours: QUIC by the library, HTTP/3 as bytes that the test writes itself. A client, or a server's
//! half of one connection.
//!
//! It can do what ours never does: send datagrams before their request, capsules in any pieces, half-close, nonsense.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent,
    Dir, EcnCodepoint, Endpoint, EndpointConfig, Event, ReadError, ServerConfig, StreamEvent, StreamId,
    TransportConfig, VarInt,
    crypto::{self, CryptoError, rustls::QuicClientConfig},
};
use rustls::ClientConfig as TlsConfig;

use crate::{
    random::Random,
    tls::{SERVER_NAME, SetupError},
};

/// Octets of its connection IDs.
pub(crate) const ID_OCTETS: usize = 8;

/// Connection IDs that repeat; the library's own are drawn from the system.
struct Ids(Random);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.bytes::<ID_OCTETS>())
    }

    fn cid_len(&self) -> usize {
        ID_OCTETS
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Makes reset tokens that repeat, and that nobody could not guess.
struct ResetKey([u8; 32]);

impl crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        for (index, octet) in signature.iter_mut().enumerate() {
            let (key, data) = (self.0.get(index % 32), data.get(index % data.len().max(1)));
            *octet = key.copied().unwrap_or(0) ^ data.copied().unwrap_or(0);
        }
    }

    fn signature_len(&self) -> usize {
        self.0.len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut own = vec![0; signature.len()];
        self.sign(data, &mut own);
        if own == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// What arrived on one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Received {
    /// In order.
    pub bytes: Vec<u8>,
    /// The peer has finished.
    pub finished: bool,
    /// The peer has reset the stream with this code.
    pub reset: Option<u64>,
}

/// One end of a QUIC connection under the test's control.
pub struct Peer {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    address: SocketAddr,
    out: VecDeque<(SocketAddr, u8, Bytes)>,
    streams: BTreeMap<u64, Received>,
    stopped: BTreeMap<u64, u64>,
    datagrams: Vec<Bytes>,
    connected: bool,
    closed: Option<ConnectionError>,
    /// Bytes that flow control did not take yet.
    waiting: BTreeMap<u64, (Vec<u8>, bool)>,
    /// Streams are read as they come; otherwise those that have something are remembered.
    reading: bool,
    unread: BTreeSet<StreamId>,
}

impl Peer {
    /// Starts a connection from `address` to `remote`.
    ///
    /// # Errors
    /// If TLS refuses its configuration.
    pub fn connect(
        now: Instant,
        address: SocketAddr,
        remote: SocketAddr,
        tls: Arc<TlsConfig>,
        random: &mut Random,
    ) -> Result<Self, SetupError> {
        let crypto = QuicClientConfig::try_from(tls).map_err(|error| SetupError(error.to_string()))?;
        Self::connect_with(now, address, remote, Arc::new(crypto), random)
    }

    /// The same with cryptography of the caller's, who may have his own ideas of what is sealed.
    ///
    /// # Errors
    /// If the library refuses the configuration.
    pub fn connect_with(
        now: Instant,
        address: SocketAddr,
        remote: SocketAddr,
        crypto: Arc<dyn crypto::ClientConfig>,
        random: &mut Random,
    ) -> Result<Self, SetupError> {
        let setup = |error: &dyn std::fmt::Display| SetupError(error.to_string());
        let mut config = EndpointConfig::new(Arc::new(ResetKey(random.bytes())));
        let ids = random.bits();
        config.rng_seed(Some(random.bytes())).cid_generator(move || Box::new(Ids(Random::new(ids, "connection ids"))));
        let mut endpoint = Endpoint::new(Arc::new(config), None, true, None);
        let mut client = ClientConfig::new(crypto);
        let mut transport = TransportConfig::default();
        transport
            .initial_mtu(1280)
            .mtu_discovery_config(None)
            .keep_alive_interval(Some(Duration::from_secs(10)))
            .datagram_receive_buffer_size(Some(1 << 20));
        let first_id: [u8; 8] = random.bytes();
        client
            .transport_config(Arc::new(transport))
            .initial_dst_cid_provider(Arc::new(move || ConnectionId::new(&first_id)));
        let (handle, connection) = endpoint.connect(now, client, remote, SERVER_NAME).map_err(|error| setup(&error))?;
        Ok(Self::new(endpoint, handle, connection, address))
    }

    /// A server's half of the connection that a client at `remote` begins with the packet `first`.
    ///
    /// # Errors
    /// What is sent instead, if anything: Retry where `retry` and the client has not proved its address, version
    /// negotiation, or a refusal.
    pub fn accept(
        now: Instant,
        address: SocketAddr,
        remote: SocketAddr,
        first: &[u8],
        config: Arc<ServerConfig>,
        retry: bool,
        random: &mut Random,
    ) -> Result<Self, Option<Bytes>> {
        let mut library = EndpointConfig::default();
        library.rng_seed(Some(random.bytes()));
        let mut endpoint = Endpoint::new(Arc::new(library), Some(config), true, None);
        let mut answer = Vec::new();
        let event = endpoint.handle(now, remote, None, None, BytesMut::from(first), &mut answer);
        let transmit = match event {
            Some(DatagramEvent::NewConnection(incoming)) if retry && !incoming.remote_address_validated() => {
                endpoint.retry(incoming, &mut answer).ok()
            }
            Some(DatagramEvent::NewConnection(incoming)) => match endpoint.accept(incoming, now, &mut answer, None) {
                Ok((handle, connection)) => return Ok(Self::new(endpoint, handle, connection, address)),
                Err(error) => error.response,
            },
            Some(DatagramEvent::Response(transmit)) => Some(transmit),
            Some(DatagramEvent::ConnectionEvent(..)) | None => None,
        };
        Err(transmit.map(|transmit| {
            answer.truncate(transmit.size);
            answer.into()
        }))
    }

    fn new(endpoint: Endpoint, handle: ConnectionHandle, connection: Connection, address: SocketAddr) -> Self {
        Self {
            endpoint,
            handle,
            connection,
            address,
            out: VecDeque::new(),
            streams: BTreeMap::new(),
            stopped: BTreeMap::new(),
            datagrams: Vec::new(),
            connected: false,
            closed: None,
            waiting: BTreeMap::new(),
            reading: true,
            unread: BTreeSet::new(),
        }
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The handshake is complete.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Why the connection ended, once it did.
    pub fn closed(&self) -> Option<&ConnectionError> {
        self.closed.as_ref()
    }

    /// The largest payload of a DATAGRAM frame now.
    pub fn max_datagram(&mut self) -> usize {
        self.connection.datagrams().max_size().unwrap_or(0)
    }

    /// What has arrived on a stream so far.
    pub fn received(&self, stream: u64) -> Received {
        self.streams.get(&stream).cloned().unwrap_or_default()
    }

    /// Every stream on which something has arrived, or could.
    pub fn streams(&self) -> impl Iterator<Item = u64> {
        self.streams.keys().copied()
    }

    /// The code of STOP_SENDING for one of our streams.
    pub fn stopped(&self, stream: u64) -> Option<u64> {
        self.stopped.get(&stream).copied()
    }

    /// Takes the DATAGRAM payloads that have arrived.
    pub fn take_datagrams(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.datagrams)
    }

    /// Opens a request stream; `None` if the proxy allows no more.
    pub fn open_request(&mut self) -> Option<u64> {
        self.connection.streams().open(Dir::Bi).map(number)
    }

    /// Opens a unidirectional stream; `None` if the proxy allows no more.
    pub fn open_uni(&mut self) -> Option<u64> {
        self.connection.streams().open(Dir::Uni).map(number)
    }

    /// Writes to a stream, and finishes it if `fin`; what flow control holds back follows by itself.
    pub fn write(&mut self, stream: u64, bytes: &[u8], fin: bool) {
        let waiting = self.waiting.entry(stream).or_default();
        waiting.0.extend_from_slice(bytes);
        waiting.1 |= fin;
        self.flush(stream);
    }

    fn flush(&mut self, stream: u64) {
        let Some((bytes, fin)) = self.waiting.get_mut(&stream) else { return };
        let mut send = self.connection.send_stream(stream_id(stream));
        while !bytes.is_empty() {
            match send.write(bytes) {
                Ok(written) => {
                    bytes.drain(..written);
                }
                // Blocked: Writable follows. Stopped or closed: nothing more to do.
                Err(_) => return,
            }
        }
        if *fin {
            // Fails only if the peer has stopped the stream, which is then visible in `stopped`.
            send.finish().unwrap_or(());
            self.waiting.remove(&stream);
        }
    }

    /// Whether streams are read. What is not read keeps its flow-control credit; all of it is read once this is true
    /// again.
    pub fn set_reading(&mut self, reading: bool) {
        self.reading = reading;
        if reading {
            for stream in std::mem::take(&mut self.unread) {
                self.read(stream);
            }
        }
    }

    /// Bytes written to a stream that flow control holds back.
    pub fn held_back(&self, stream: u64) -> usize {
        self.waiting.get(&stream).map_or(0, |(bytes, _)| bytes.len())
    }

    /// Resets our side of a stream.
    pub fn reset(&mut self, stream: u64, code: u32) {
        self.waiting.remove(&stream);
        self.connection.send_stream(stream_id(stream)).reset(VarInt::from_u32(code)).unwrap_or(());
    }

    /// Asks the other side to send no more on a stream that it sends on.
    pub fn stop(&mut self, stream: u64, code: u32) {
        // Fails only if the stream is over.
        self.connection.recv_stream(stream_id(stream)).stop(VarInt::from_u32(code)).unwrap_or(());
    }

    /// Goes on with the next keys (RFC 9001 §6).
    pub fn update_keys(&mut self) {
        self.connection.force_key_update();
    }

    /// Sends a DATAGRAM frame; false if it does not fit.
    pub fn send_datagram(&mut self, payload: Bytes) -> bool {
        self.connection.datagrams().send(payload, true).is_ok()
    }

    /// Closes the connection.
    pub fn close(&mut self, now: Instant, code: u32) {
        self.connection.close(now, VarInt::from_u32(code), Bytes::new());
    }

    /// Takes a packet.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, ecn: u8, data: &[u8]) {
        let mut answer = Vec::new();
        let ecn = EcnCodepoint::from_bits(ecn);
        match self.endpoint.handle(now, from, None, ecn, BytesMut::from(data), &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection.handle_event(event),
            Some(DatagramEvent::Response(transmit)) => {
                answer.truncate(transmit.size);
                self.out.push_back((transmit.destination, 0, answer.into()));
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            None => {}
        }
    }

    /// When it wants to be turned next.
    pub fn timeout(&mut self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    /// Does what is due; packets to send come out of [`Peer::take_packet`].
    pub fn turn(&mut self, now: Instant) {
        if self.connection.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.connection.handle_timeout(now);
        }
        loop {
            while let Some(event) = self.connection.poll() {
                self.handle_event(event);
            }
            let mut progress = false;
            while let Some(event) = self.connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                    self.connection.handle_event(event);
                    progress = true;
                }
            }
            let mut packet = Vec::new();
            while let Some(transmit) = self.connection.poll_transmit(now, 1, &mut packet) {
                packet.truncate(transmit.size);
                let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
                self.out.push_back((transmit.destination, ecn, std::mem::take(&mut packet).into()));
                progress = true;
            }
            if !progress {
                return;
            }
        }
    }

    /// The next packet to send: destination, ECN bits, payload.
    pub fn take_packet(&mut self) -> Option<(SocketAddr, u8, Bytes)> {
        self.out.pop_front()
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::ConnectionLost { reason } => self.closed = Some(reason),
            Event::DatagramReceived => {
                while let Some(datagram) = self.connection.datagrams().recv() {
                    self.datagrams.push(datagram);
                }
            }
            Event::Stream(StreamEvent::Opened { dir }) => {
                while let Some(stream) = self.connection.streams().accept(dir) {
                    self.read(stream);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) => self.read(id),
            Event::Stream(StreamEvent::Writable { id }) => self.flush(number(id)),
            Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                self.stopped.insert(number(id), error_code.into_inner());
            }
            Event::Stream(StreamEvent::Finished { .. } | StreamEvent::Available { .. })
            | Event::HandshakeDataReady
            | Event::DatagramsUnblocked => {}
        }
    }

    fn read(&mut self, stream: StreamId) {
        if !self.reading {
            self.unread.insert(stream);
            return;
        }
        let received = self.streams.entry(number(stream)).or_default();
        let mut receive = self.connection.recv_stream(stream);
        let Ok(mut chunks) = receive.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => received.bytes.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    received.finished = true;
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    received.reset = Some(code.into_inner());
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        // What must be transmitted now is asked for by turn() in any case.
        let _: bool = chunks.finalize().should_transmit();
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("address", &self.address).field("closed", &self.closed).finish_non_exhaustive()
    }
}

fn number(stream: StreamId) -> u64 {
    VarInt::from(stream).into_inner()
}

fn stream_id(number: u64) -> StreamId {
    StreamId::from(VarInt::from_u64(number).unwrap_or(VarInt::MAX))
}

/// HTTP/3 by hand: just enough to ask for a tunnel.
pub mod bytes3 {
    use moretta_wire::varint;

    /// A control stream: its type and SETTINGS with ENABLE_CONNECT_PROTOCOL and H3_DATAGRAM.
    pub fn control_stream() -> Vec<u8> {
        let mut stream = vec![0x00];
        frame(0x04, &[0x08, 0x01, 0x33, 0x01], &mut stream);
        stream
    }

    /// A frame.
    pub fn frame(kind: u64, payload: &[u8], out: &mut Vec<u8>) {
        varint::encode(kind, out);
        varint::encode(payload.len() as u64, out);
        out.extend_from_slice(payload);
    }

    /// DATA frames around `payload`.
    pub fn data(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame(0x00, payload, &mut out);
        out
    }

    /// HEADERS of a CONNECT-UDP request (RFC 9298 §3.4) for the default template.
    pub fn connect_udp(authority: &str, host: &str, port: u16) -> Vec<u8> {
        let path = format!("/.well-known/masque/udp/{}/{port}/", host.replace(':', "%3A"));
        headers(&[
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", authority),
            (":path", &path),
            ("capsule-protocol", "?1"),
        ])
    }

    /// HEADERS with every field as a literal (RFC 9204 §4.5.6), no Huffman.
    pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut section = vec![0, 0];
        for (name, value) in fields {
            prefixed_integer(0b0010_0000, 3, name.len(), &mut section);
            section.extend_from_slice(name.as_bytes());
            prefixed_integer(0, 7, value.len(), &mut section);
            section.extend_from_slice(value.as_bytes());
        }
        let mut out = Vec::new();
        frame(0x01, &section, &mut out);
        out
    }

    /// An HTTP Datagram for a request stream, context 0.
    pub fn datagram(stream: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        varint::encode(stream / 4, &mut out);
        varint::encode(0, &mut out);
        out.extend_from_slice(payload);
        out
    }

    /// RFC 7541 §5.1.
    fn prefixed_integer(flags: u8, bits: u8, value: usize, out: &mut Vec<u8>) {
        let most = (1_usize << bits) - 1;
        if value < most {
            out.push(flags | value as u8);
            return;
        }
        out.push(flags | most as u8);
        let mut rest = value - most;
        while rest >= 128 {
            out.push(rest as u8 & 0x7f | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
}
