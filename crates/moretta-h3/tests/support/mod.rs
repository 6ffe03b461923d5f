//! A network of two HTTP/3 endpoints without QUIC, and bytes written by hand.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

pub mod script;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_h3::{Action, Config, DatagramRoute, Event, Role, SendError, Settings, UniKind};
use moretta_wire::head::{Fields, RequestHead, ResponseHead};

/// The seam: what both implementations can do.
pub trait Http3 {
    const NAME: &'static str;
    fn new(role: Role, config: Config) -> Self;
    fn start(&mut self);
    fn handle_stream(&mut self, now: Instant, stream_id: u64, data: Bytes, fin: bool);
    fn handle_reset(&mut self, stream_id: u64, code: u64);
    fn handle_stop_sending(&mut self, stream_id: u64, code: u64);
    fn handle_uni_opened(&mut self, kind: UniKind, stream_id: u64);
    fn route_datagram(&mut self, now: Instant, stream_id: u64, payload: &Bytes) -> DatagramRoute;
    fn take_early_datagrams(&mut self, stream_id: u64) -> Vec<Bytes>;
    fn enable_datagrams(&mut self, stream_id: u64);
    fn send_request(&mut self, stream_id: u64, head: &RequestHead, fin: bool) -> Result<(), SendError>;
    fn send_response(&mut self, stream_id: u64, head: &ResponseHead, fin: bool) -> Result<(), SendError>;
    fn send_data(&mut self, stream_id: u64, data: Bytes, fin: bool) -> Result<(), SendError>;
    fn send_trailers(&mut self, stream_id: u64, fields: &Fields) -> Result<(), SendError>;
    fn finish(&mut self, stream_id: u64) -> Result<(), SendError>;
    fn reset(&mut self, stream_id: u64, code: u64);
    fn stop_receiving(&mut self, stream_id: u64, code: u64);
    fn goaway(&mut self, id: u64) -> Result<(), SendError>;
    fn peer_settings(&self) -> Option<Settings>;
    fn datagrams_allowed(&self) -> bool;
    fn poll_event(&mut self) -> Option<Event>;
    fn poll_action(&mut self) -> Option<Action>;
    fn poll_writable(&mut self) -> Option<u64>;
    fn front(&mut self, stream_id: u64) -> &[Bytes];
    fn wrote(&mut self, stream_id: u64, bytes: usize);
    fn wants_fin(&self, stream_id: u64) -> bool;
    fn wrote_fin(&mut self, stream_id: u64);
    fn blocked(&mut self, stream_id: u64);
    fn unblocked(&mut self, stream_id: u64);
}

macro_rules! implement {
    ($type:ty, $name:literal) => {
        impl Http3 for $type {
            const NAME: &'static str = $name;
            fn new(role: Role, config: Config) -> Self {
                Self::new(role, config)
            }
            fn start(&mut self) {
                self.start();
            }
            fn handle_stream(&mut self, now: Instant, stream_id: u64, data: Bytes, fin: bool) {
                self.handle_stream(now, stream_id, data, fin);
            }
            fn handle_reset(&mut self, stream_id: u64, code: u64) {
                self.handle_reset(stream_id, code);
            }
            fn handle_stop_sending(&mut self, stream_id: u64, code: u64) {
                self.handle_stop_sending(stream_id, code);
            }
            fn handle_uni_opened(&mut self, kind: UniKind, stream_id: u64) {
                self.handle_uni_opened(kind, stream_id);
            }
            fn route_datagram(&mut self, now: Instant, stream_id: u64, payload: &Bytes) -> DatagramRoute {
                self.route_datagram(now, stream_id, payload)
            }
            fn take_early_datagrams(&mut self, stream_id: u64) -> Vec<Bytes> {
                self.take_early_datagrams(stream_id).collect()
            }
            fn enable_datagrams(&mut self, stream_id: u64) {
                self.enable_datagrams(stream_id);
            }
            fn send_request(&mut self, stream_id: u64, head: &RequestHead, fin: bool) -> Result<(), SendError> {
                self.send_request(stream_id, head, fin)
            }
            fn send_response(&mut self, stream_id: u64, head: &ResponseHead, fin: bool) -> Result<(), SendError> {
                self.send_response(stream_id, head, fin)
            }
            fn send_data(&mut self, stream_id: u64, data: Bytes, fin: bool) -> Result<(), SendError> {
                self.send_data(stream_id, data, fin)
            }
            fn send_trailers(&mut self, stream_id: u64, fields: &Fields) -> Result<(), SendError> {
                self.send_trailers(stream_id, fields)
            }
            fn finish(&mut self, stream_id: u64) -> Result<(), SendError> {
                self.finish(stream_id)
            }
            fn reset(&mut self, stream_id: u64, code: u64) {
                self.reset(stream_id, code);
            }
            fn stop_receiving(&mut self, stream_id: u64, code: u64) {
                self.stop_receiving(stream_id, code);
            }
            fn goaway(&mut self, id: u64) -> Result<(), SendError> {
                self.goaway(id)
            }
            fn peer_settings(&self) -> Option<Settings> {
                self.peer_settings().copied()
            }
            fn datagrams_allowed(&self) -> bool {
                self.datagrams_allowed()
            }
            fn poll_event(&mut self) -> Option<Event> {
                self.poll_event()
            }
            fn poll_action(&mut self) -> Option<Action> {
                self.poll_action()
            }
            fn poll_writable(&mut self) -> Option<u64> {
                self.poll_writable()
            }
            fn front(&mut self, stream_id: u64) -> &[Bytes] {
                self.front(stream_id)
            }
            fn wrote(&mut self, stream_id: u64, bytes: usize) {
                self.wrote(stream_id, bytes);
            }
            fn wants_fin(&self, stream_id: u64) -> bool {
                self.wants_fin(stream_id)
            }
            fn wrote_fin(&mut self, stream_id: u64) {
                self.wrote_fin(stream_id);
            }
            fn blocked(&mut self, stream_id: u64) {
                self.blocked(stream_id);
            }
            fn unblocked(&mut self, stream_id: u64) {
                self.unblocked(stream_id);
            }
        }
    };
}

implement!(moretta_h3::Connection, "moretta-h3");
#[cfg(feature = "h3wire")]
implement!(moretta_h3::h3wire_adapter::Connection, "h3wire");

/// A moment to reckon from.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made up")]
pub fn clock() -> Instant {
    Instant::now()
}

/// What one endpoint puts on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    Stream { stream_id: u64, data: Bytes, fin: bool },
    Reset { stream_id: u64, code: u64 },
    Stop { stream_id: u64, code: u64 },
}

/// An endpoint with a QUIC connection that takes everything at once and keeps what came out.
pub struct Endpoint<H = moretta_h3::Connection> {
    pub h3: H,
    pub now: Instant,
    pub events: VecDeque<Event>,
    pub resets: Vec<(u64, u64)>,
    pub stops: Vec<(u64, u64)>,
    pub close: Option<u64>,
    /// Bytes and end of every stream written.
    pub written: BTreeMap<u64, (Vec<u8>, bool)>,
    wire: VecDeque<Wire>,
    next_uni: u64,
}

impl<H: Http3> Endpoint<H> {
    /// An endpoint that has opened its streams and written its SETTINGS.
    pub fn new(role: Role, config: Config) -> Self {
        let mut endpoint = Self::unstarted(role, config);
        endpoint.h3.start();
        endpoint.settle();
        endpoint
    }

    pub fn unstarted(role: Role, config: Config) -> Self {
        Self {
            h3: H::new(role, config),
            now: clock(),
            events: VecDeque::new(),
            resets: Vec::new(),
            stops: Vec::new(),
            close: None,
            written: BTreeMap::new(),
            wire: VecDeque::new(),
            next_uni: if role == Role::Server { 3 } else { 2 },
        }
    }

    /// Does what actions say, keeps events, writes all that can be written.
    pub fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            while let Some(action) = self.h3.poll_action() {
                is_quiet = false;
                assert!(self.close.is_none(), "{action:?} after the end");
                match action {
                    Action::OpenUni { kind } => {
                        self.h3.handle_uni_opened(kind, self.next_uni);
                        self.next_uni += 4;
                    }
                    Action::Reset { stream_id, code } => {
                        self.resets.push((stream_id, code));
                        self.wire.push_back(Wire::Reset { stream_id, code });
                    }
                    Action::StopSending { stream_id, code } => {
                        self.stops.push((stream_id, code));
                        self.wire.push_back(Wire::Stop { stream_id, code });
                    }
                    Action::Close { code, .. } => self.close = Some(code),
                }
            }
            while let Some(event) = self.h3.poll_event() {
                is_quiet = false;
                self.events.push_back(event);
            }
            while let Some(stream_id) = self.h3.poll_writable() {
                is_quiet = false;
                self.write(stream_id);
            }
            if is_quiet {
                return;
            }
        }
    }

    fn write(&mut self, stream_id: u64) {
        let data: Vec<u8> = self.h3.front(stream_id).iter().flatten().copied().collect();
        self.h3.wrote(stream_id, data.len());
        let fin = self.h3.wants_fin(stream_id);
        if fin {
            self.h3.wrote_fin(stream_id);
        }
        let written = self.written.entry(stream_id).or_default();
        written.0.extend_from_slice(&data);
        written.1 |= fin;
        self.wire.push_back(Wire::Stream { stream_id, data: data.into(), fin });
    }

    /// Gives bytes in and lets everything out.
    pub fn feed(&mut self, stream_id: u64, data: &[u8], fin: bool) -> &mut Self {
        self.h3.handle_stream(self.now, stream_id, Bytes::copy_from_slice(data), fin);
        self.settle();
        self
    }

    /// The same byte by byte; the end comes on its own.
    pub fn feed_bytewise(&mut self, stream_id: u64, data: &[u8], fin: bool) -> &mut Self {
        for byte in data {
            self.feed(stream_id, &[*byte], false);
        }
        if fin {
            self.feed(stream_id, &[], true);
        }
        self
    }

    pub fn feed_reset(&mut self, stream_id: u64, code: u64) -> &mut Self {
        self.h3.handle_reset(stream_id, code);
        self.settle();
        self
    }

    pub fn feed_stop(&mut self, stream_id: u64, code: u64) -> &mut Self {
        self.h3.handle_stop_sending(stream_id, code);
        self.settle();
        self
    }

    /// The peer's control stream with these settings.
    pub fn feed_settings(&mut self, role_of_peer: Role, pairs: &[(u64, u64)]) -> &mut Self {
        let stream_id = if role_of_peer == Role::Client { 2 } else { 3 };
        let mut bytes = vec![0];
        bytes.extend(settings(pairs));
        self.feed(stream_id, &bytes, false);
        assert_eq!(self.events.pop_back(), Some(Event::Settings));
        self
    }

    fn handle(&mut self, wire: Wire, chunk: usize) {
        match wire {
            Wire::Stream { stream_id, mut data, fin } => {
                while data.len() > chunk {
                    self.h3.handle_stream(self.now, stream_id, data.split_to(chunk), false);
                }
                self.h3.handle_stream(self.now, stream_id, data, fin);
            }
            Wire::Reset { stream_id, code } => self.h3.handle_reset(stream_id, code),
            Wire::Stop { stream_id, code } => self.h3.handle_stop_sending(stream_id, code),
        }
        self.settle();
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    pub fn advance(&mut self, time: Duration) {
        self.now += time;
    }
}

/// Two endpoints and an ideal network between them that delivers pieces of at most `chunk` bytes.
pub struct Pair<C = moretta_h3::Connection, S = moretta_h3::Connection> {
    pub client: Endpoint<C>,
    pub server: Endpoint<S>,
    pub chunk: usize,
}

impl<C: Http3, S: Http3> Pair<C, S> {
    /// Both have each other's SETTINGS.
    pub fn new(config: &Config, chunk: usize) -> Self {
        let client = Endpoint::new(Role::Client, config.clone());
        let server = Endpoint::new(Role::Server, config.clone());
        let mut pair = Self { client, server, chunk };
        pair.run();
        assert_eq!(pair.client.take_events(), [Event::Settings]);
        assert_eq!(pair.server.take_events(), [Event::Settings]);
        pair
    }

    /// Delivers until nothing moves.
    pub fn run(&mut self) {
        self.client.settle();
        self.server.settle();
        loop {
            if let Some(wire) = self.client.wire.pop_front() {
                self.server.handle(wire, self.chunk);
            } else if let Some(wire) = self.server.wire.pop_front() {
                self.client.handle(wire, self.chunk);
            } else {
                return;
            }
        }
    }
}

/// Joins neighbouring `Data` events, so that sequences do not depend on chunking; an end told with a head becomes an
/// event of its own.
pub fn normalized(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut out: Vec<Event> = Vec::new();
    let mut end = None;
    for event in events {
        match event {
            Event::Data { stream_id, bytes } => {
                if let Some(Event::Data { stream_id: last, bytes: joined }) = out.last_mut()
                    && *last == stream_id
                {
                    *joined = [&joined[..], &bytes[..]].concat().into();
                } else {
                    out.push(Event::Data { stream_id, bytes });
                }
                continue;
            }
            Event::Request { stream_id, head, fin } => {
                out.push(Event::Request { stream_id, head, fin: false });
                end = fin.then_some(stream_id);
            }
            Event::Response { stream_id, head, interim, fin } => {
                out.push(Event::Response { stream_id, head, interim, fin: false });
                end = fin.then_some(stream_id);
            }
            other => out.push(other),
        }
        if let Some(stream_id) = end.take() {
            out.push(Event::Finished { stream_id });
        }
    }
    out
}

pub fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    moretta_wire::varint::encode(value, &mut out);
    out
}

pub fn frame(frame_type: u64, payload: &[u8]) -> Vec<u8> {
    [varint(frame_type), varint(payload.len() as u64), payload.to_vec()].concat()
}

pub fn settings(pairs: &[(u64, u64)]) -> Vec<u8> {
    let payload: Vec<u8> = pairs.iter().flat_map(|(id, value)| [varint(*id), varint(*value)].concat()).collect();
    frame(0x04, &payload)
}

/// A field section of literals without Huffman, so that nothing is corrected on the way.
pub fn section(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        prefixed(name.len(), 3, 0x20, &mut out);
        out.extend_from_slice(name.as_bytes());
        prefixed(value.len(), 7, 0, &mut out);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

fn prefixed(value: usize, bits: u32, flags: u8, out: &mut Vec<u8>) {
    let full = (1 << bits) - 1;
    if value < full {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest /= 128;
    }
    out.push(rest as u8);
}

pub fn headers(lines: &[(&str, &str)]) -> Vec<u8> {
    frame(0x01, &section(lines))
}

pub fn data(payload: &[u8]) -> Vec<u8> {
    frame(0x00, payload)
}

pub const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "example.org"), (":path", "/")];

pub const CONNECT_UDP: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "connect-udp"),
    (":scheme", "https"),
    (":authority", "proxy.example"),
    (":path", "/.well-known/masque/udp/192.0.2.6/443/"),
    ("capsule-protocol", "?1"),
];

/// `lines` with those of the same name replaced, and others added.
pub fn with<'a>(lines: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut out = lines.to_vec();
    for (name, value) in changes {
        match out.iter_mut().find(|line| line.0 == *name) {
            Some(line) => line.1 = value,
            None => out.push((name, value)),
        }
    }
    out
}

/// `lines` without those of this name.
pub fn without<'a>(lines: &[(&'a str, &'a str)], name: &str) -> Vec<(&'a str, &'a str)> {
    lines.iter().copied().filter(|line| line.0 != name).collect()
}

pub fn request(lines: &[(&'static str, &'static str)]) -> RequestHead {
    let mut head = RequestHead::default();
    for (name, value) in lines {
        let value = Bytes::from_static(value.as_bytes());
        match *name {
            ":method" => head.method = value,
            ":scheme" => head.scheme = Some(value),
            ":authority" => head.authority = Some(value),
            ":path" => head.path = Some(value),
            ":protocol" => head.protocol = Some(value),
            name => head.fields.push(name, value),
        }
    }
    head
}

pub fn response(status: u16, lines: &[(&'static str, &'static str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    for (name, value) in lines {
        head.fields.push(*name, *value);
    }
    head
}

pub fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
    response(200, lines).fields
}

/// A server that has the client's SETTINGS, with datagrams.
pub fn server(config: Config) -> Endpoint {
    let mut server = Endpoint::new(Role::Server, config);
    server.feed_settings(Role::Client, &[(0x33, 1)]);
    server
}

/// A client that has the server's SETTINGS, with extended CONNECT and datagrams.
pub fn client(config: Config) -> Endpoint {
    let mut client = Endpoint::new(Role::Client, config);
    client.feed_settings(Role::Server, &[(0x08, 1), (0x33, 1)]);
    client
}

/// Random numbers that repeat (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}
