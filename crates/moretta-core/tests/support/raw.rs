//! A client that speaks QUIC through the library and HTTP/3 by hand, to do what ours never would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use moretta_h3::{Config, Role};
use moretta_proto::request;
use moretta_wire::template::UriTemplate;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ReadError, StreamEvent, StreamId, TransportConfig, VarInt,
};

use super::{SERVER_NAME, tls};

pub struct RawClient {
    pub address: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    pub quic: Connection,
    pub datagrams: Vec<Bytes>,
    pub streams: BTreeMap<u64, Vec<u8>>,
    pub finished: Vec<u64>,
    pub resets: BTreeMap<u64, u64>,
    pub connected: bool,
    pub lost: Option<ConnectionError>,
}

impl RawClient {
    /// `datagram_bytes`: how much the client says it takes of a DATAGRAM frame; `None`: no datagrams at all.
    pub fn new(now: Instant, address: &str, remote: &str, datagram_bytes: Option<usize>) -> Self {
        let mut transport = TransportConfig::default();
        transport.datagram_receive_buffer_size(datagram_bytes);
        let crypto = QuicClientConfig::try_from(tls().client.clone()).unwrap();
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (handle, quic) = endpoint.connect(now, config, remote.parse().unwrap(), SERVER_NAME).unwrap();
        Self {
            address: address.parse().unwrap(),
            endpoint,
            handle,
            quic,
            datagrams: Vec::new(),
            streams: BTreeMap::new(),
            finished: Vec::new(),
            resets: BTreeMap::new(),
            connected: false,
            lost: None,
        }
    }

    pub fn handle(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        let mut buffer = Vec::new();
        let event = self.endpoint.handle(now, from, None, None, BytesMut::from(data), &mut buffer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.quic.handle_event(event);
            self.poll();
        }
    }

    fn poll(&mut self) {
        loop {
            while let Some(event) = self.quic.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                    self.quic.handle_event(event);
                }
            }
            let Some(event) = self.quic.poll() else { break };
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                Event::DatagramReceived => {
                    while let Some(datagram) = self.quic.datagrams().recv() {
                        self.datagrams.push(datagram);
                    }
                }
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(id) = self.quic.streams().accept(dir) {
                        self.read(id);
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                _ => {}
            }
        }
    }

    fn read(&mut self, id: StreamId) {
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.streams.entry(id.into()).or_default().extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    self.finished.push(id.into());
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    self.resets.insert(id.into(), code.into_inner());
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
    }

    pub fn turn(&mut self, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        if self.quic.poll_timeout().is_some_and(|at| at <= now) {
            self.quic.handle_timeout(now);
            self.poll();
        }
        let mut packets = Vec::new();
        let mut buffer = Vec::new();
        while let Some(transmit) = self.quic.poll_transmit(now, 1, &mut buffer) {
            packets.push((transmit.destination, buffer[..transmit.size].to_vec()));
            buffer.clear();
        }
        packets
    }

    pub fn open(&mut self, dir: Dir) -> u64 {
        self.quic.streams().open(dir).unwrap().into()
    }

    pub fn write(&mut self, stream: u64, bytes: &[u8], fin: bool) {
        let id = StreamId::from(VarInt::from_u64(stream).unwrap());
        assert_eq!(self.quic.send_stream(id).write(bytes).unwrap(), bytes.len());
        if fin {
            self.quic.send_stream(id).finish().unwrap();
        }
    }

    pub fn reset(&mut self, stream: u64, code: u32) {
        let id = StreamId::from(VarInt::from_u64(stream).unwrap());
        self.quic.send_stream(id).reset(code.into()).unwrap();
    }

    pub fn datagram(&mut self, bytes: &[u8]) {
        self.quic.datagrams().send(Bytes::copy_from_slice(bytes), false).unwrap();
    }

    /// The control stream with SETTINGS; `h3_datagram`: the value of 0x33.
    pub fn settings(&mut self, h3_datagram: u8) {
        let control = self.open(Dir::Uni);
        self.write(control, &[0x00, 0x04, 0x02, 0x33, h3_datagram], false);
    }

    /// Opens a stream and asks for a UDP tunnel on it.
    pub fn ask_udp(&mut self, host: &str, port: u16) -> u64 {
        let stream = self.open(Dir::Bi);
        let head = connect_udp_frame(host, port);
        self.write(stream, &head, false);
        stream
    }
}

/// One HEADERS frame that asks for a UDP tunnel.
pub fn connect_udp_frame(host: &str, port: u16) -> Vec<u8> {
    let mut scribe = moretta_h3::Connection::new(Role::Client, Config::default());
    // A server's control stream whose SETTINGS allow extended CONNECT.
    scribe.handle_stream(super::some_instant(), 3, Bytes::from_static(&[0x00, 0x04, 0x02, 0x08, 0x01]), false);
    let head = request::connect_udp(&UriTemplate::for_origin("https://proxy.example").unwrap(), host, port);
    scribe.send_request(0, &head, false).unwrap();
    scribe.front(0).iter().flat_map(|bytes| bytes.to_vec()).collect()
}

/// A DATA frame.
pub fn data_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x00];
    moretta_wire::varint::encode(payload.len() as u64, &mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// A DATAGRAM capsule with context 0.
pub fn capsule(payload: &[u8]) -> Vec<u8> {
    let mut capsule = Vec::new();
    moretta_wire::capsule::write_datagram(moretta_wire::datagram::ContextId::UDP_PAYLOAD, payload, &mut capsule);
    capsule
}
