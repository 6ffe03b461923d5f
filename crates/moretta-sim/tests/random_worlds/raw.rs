//! Hand-written clients of a random world: requests as bytes, payloads as QUIC datagrams or in capsules cut anywhere.

use std::collections::BTreeMap;

use bytes::Bytes;
use moretta_sim::{PeerId, Random, Received, World, bytes3};
use moretta_wire::{capsule, datagram::ContextId, varint};

/// What arrived on a request stream, read as HTTP/3 and capsules.
#[derive(Debug, Default)]
struct Reply {
    /// Bytes of the stream that whole frames have used.
    used: usize,
    accepted: bool,
    refused: bool,
    /// The content so far, less what whole capsules have used.
    content: Vec<u8>,
}

impl Reply {
    /// Reads on and returns the payloads of capsules that are complete now.
    fn read(&mut self, stream: &[u8]) -> Vec<Bytes> {
        while let Some((kind, payload, rest)) = parts(&stream[self.used..]) {
            match kind {
                0x00 => self.content.extend_from_slice(payload),
                // Two bytes of prefix, then :status; 0xd9 is the static table's 200 (RFC 9204 appendix A).
                0x01 => {
                    self.accepted = payload.get(2) == Some(&0xd9);
                    self.refused = !self.accepted;
                }
                _ => {}
            }
            self.used = stream.len() - rest.len();
        }
        let mut payloads = Vec::new();
        let mut used = 0;
        while self.accepted
            && let Some((kind, value, rest)) = parts(&self.content[used..])
        {
            assert_eq!((kind, value.first()), (0, Some(&0)), "a gateway sends DATAGRAM capsules of context 0 alone");
            payloads.push(Bytes::copy_from_slice(&value[1..]));
            used = self.content.len() - rest.len();
        }
        self.content.drain(..used);
        payloads
    }
}

/// Type, value and rest: frames and capsules have the same form.
fn parts(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (kind, used) = varint::decode(bytes)?;
    let (length, used_too) = varint::decode(&bytes[used..])?;
    let (value, rest) = bytes[used + used_too..].split_at_checked(length as usize)?;
    Some((kind, value, rest))
}

/// A request of such a client.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) tunnel: u64,
    /// Payloads travel in capsules.
    pub(crate) capsules: bool,
    /// Capsule bytes that are not written yet.
    unwritten: Vec<u8>,
    /// We finished or reset our side.
    pub(crate) over: bool,
    pub(crate) reset: bool,
    reply: Reply,
}

pub(crate) struct RawClient {
    pub(crate) id: PeerId,
    control: bool,
    pub(crate) reading: bool,
    pub(crate) requests: BTreeMap<u64, Request>,
    /// DATAGRAM frames handed to its QUIC.
    pub(crate) datagrams_sent: u64,
}

impl RawClient {
    pub(crate) fn new(id: PeerId) -> Self {
        Self { id, control: false, reading: true, requests: BTreeMap::new(), datagrams_sent: 0 }
    }

    /// SETTINGS, as soon as there is a connection.
    pub(crate) fn settle(&mut self, world: &mut World) {
        let peer = world.peer(self.id);
        if !self.control
            && peer.is_connected()
            && peer.closed().is_none()
            && let Some(stream) = peer.open_uni()
        {
            peer.write(stream, &bytes3::control_stream(), false);
            self.control = true;
        }
    }

    pub(crate) fn is_alive(&self, world: &mut World) -> bool {
        self.control && world.peer(self.id).closed().is_none()
    }

    /// The gateway's SETTINGS have come: its side of the handshake is complete, too. Before that it may give a connection
    /// up without a word that arrives, and nothing but time tells the client.
    pub(crate) fn was_heard(&self, world: &mut World) -> bool {
        const CONTROL_OF_SERVER: u64 = 3;
        !world.peer(self.id).received(CONTROL_OF_SERVER).bytes.is_empty()
    }

    /// The stream of a new request.
    pub(crate) fn open(
        &mut self,
        world: &mut World,
        tunnel: u64,
        host: &str,
        port: u16,
        capsules: bool,
    ) -> Option<u64> {
        let peer = world.peer(self.id);
        let stream = peer.open_request()?;
        peer.write(stream, &bytes3::connect_udp("gateway.test", host, port), false);
        let (unwritten, reply) = (Vec::new(), Reply::default());
        self.requests.insert(stream, Request { tunnel, capsules, unwritten, over: false, reset: false, reply });
        Some(stream)
    }

    /// One payload in a datagram. What the library has no room for is as good as lost.
    pub(crate) fn send_datagram(&mut self, world: &mut World, stream: u64, payload: &[u8]) {
        let sent = world.peer(self.id).send_datagram(Bytes::from(bytes3::datagram(stream, payload)));
        self.datagrams_sent += u64::from(sent);
    }

    /// One payload in a capsule, of which some may stay unwritten for now.
    pub(crate) fn send_capsule(&mut self, world: &mut World, stream: u64, payload: &[u8], random: &mut Random) {
        let Some(request) = self.requests.get_mut(&stream) else { return };
        capsule::write_datagram(ContextId::UDP_PAYLOAD, payload, &mut request.unwritten);
        let later = if random.chance(300) { random.below(40) } else { 0 };
        let now = (request.unwritten.len() as u64).saturating_sub(later);
        let pieces = 1 + random.below(3);
        for _ in 0..pieces {
            let bytes: Vec<u8> = request.unwritten.drain(..(now / pieces) as usize).collect();
            world.peer(self.id).write(stream, &bytes3::data(&bytes), false);
        }
        if random.chance(700) {
            Self::flush(self.id, world, stream, request);
        }
    }

    fn flush(id: PeerId, world: &mut World, stream: u64, request: &mut Request) {
        if !request.unwritten.is_empty() {
            let bytes = std::mem::take(&mut request.unwritten);
            world.peer(id).write(stream, &bytes3::data(&bytes), false);
        }
    }

    /// Writes what is left of capsules, on every stream.
    pub(crate) fn flush_all(&mut self, world: &mut World) {
        for (stream, request) in &mut self.requests {
            if !request.over {
                Self::flush(self.id, world, *stream, request);
            }
        }
    }

    /// Half-close after a whole capsule, or a reset.
    pub(crate) fn end(&mut self, world: &mut World, stream: u64, reset: bool) {
        let Some(request) = self.requests.get_mut(&stream).filter(|request| !request.over) else { return };
        request.over = true;
        request.reset = reset;
        if reset {
            world.peer(self.id).reset(stream, 0x10c);
        } else {
            Self::flush(self.id, world, stream, request);
            world.peer(self.id).write(stream, &[], true);
        }
    }

    /// Tunnel and payload of everything that has arrived since the last call.
    pub(crate) fn receive(&mut self, world: &mut World) -> Vec<(u64, Bytes)> {
        let mut received = Vec::new();
        for datagram in world.peer(self.id).take_datagrams() {
            let (quarter, used) = varint::decode(&datagram).expect("a Quarter Stream ID");
            let request = self.requests.get(&(quarter * 4)).expect("a datagram for a stream of ours");
            assert_eq!(datagram[used], 0, "context 0");
            received.push((request.tunnel, datagram.slice(used + 1..)));
        }
        for (stream, request) in &mut self.requests {
            let Received { bytes, .. } = world.peer(self.id).received(*stream);
            received.extend(request.reply.read(&bytes).into_iter().map(|payload| (request.tunnel, payload)));
        }
        received
    }

    pub(crate) fn accepted(&self, stream: u64) -> bool {
        self.requests.get(&stream).is_some_and(|request| request.reply.accepted)
    }

    pub(crate) fn answered(&self, stream: u64) -> bool {
        self.requests.get(&stream).is_some_and(|request| request.reply.accepted || request.reply.refused)
    }

    /// The gateway has ended this stream in some way.
    pub(crate) fn ended_by_gateway(&self, world: &mut World, stream: u64) -> bool {
        let peer = world.peer(self.id);
        let received = peer.received(stream);
        received.finished || received.reset.is_some() || peer.stopped(stream).is_some()
    }
}
