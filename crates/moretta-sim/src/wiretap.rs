//! What QUIC really sent: a listener on the wires who has been told the keys of every client.
//!
//! It reads 1-RTT packets (RFC 9000 §17.3, RFC 9001 §5, §6) by itself, without the library that wrote them, so that the
//! fate of every DATAGRAM frame is known: sent, lost on the way, come after the end, or arrived. The counters of the cores
//! are held against that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{network::HostId, peer};
use moretta_wire::varint;
use rustls::{
    KeyLog,
    crypto::{
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher::{AeadKey, Iv},
        tls13::OkmBlock,
    },
    quic::{HeaderProtectionKey, PacketKey},
};

/// Octets of the connection IDs in a world: ours, and those of hand-written clients.
const ID_OCTETS: [usize; 2] = [moretta_core::CONNECTION_ID_OCTETS, peer::ID_OCTETS];
/// Where the library begins to take packets for duplicates because so much younger ones were there, give or take a few.
const REORDER_WINDOW: u64 = 120;
/// A packet that one slot passes to another is taken after this time at the latest.
const PASSING_TIME: Duration = Duration::from_millis(1);

/// The secrets of every TLS session, as the clients' keylogs give them.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Mutex<Vec<Secret>>);

#[derive(Debug, Clone)]
struct Secret {
    client_random: Vec<u8>,
    from_client: bool,
    bytes: Vec<u8>,
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let from_client = match label {
            "CLIENT_TRAFFIC_SECRET_0" => true,
            "SERVER_TRAFFIC_SECRET_0" => false,
            _ => return,
        };
        let secret = Secret { client_random: client_random.to_vec(), from_client, bytes: secret.to_vec() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(secret);
    }
}

/// DATAGRAM frames on one direction between two hosts, and keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Arrived whole, for the first time, at a receiver that was alive: it has sent something since.
    pub arrived: u64,
    /// Arrived while the handshake was not complete, or long after younger ones, or after a younger one under newer keys
    /// or to a newer connection ID, or when the receiver was about to close or gone without a word: taken or not.
    pub uncertain: u64,
    /// Arrived after one end had closed.
    pub after_close: u64,
    /// Key updates (RFC 9001 §6).
    pub key_updates: u64,
}

impl Tally {
    /// Frames that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent - self.arrived - self.uncertain - self.after_close
    }

    /// Adds another direction's.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.arrived += other.arrived;
        self.uncertain += other.uncertain;
        self.after_close += other.after_close;
        self.key_updates += other.key_updates;
    }
}

/// A 1-RTT packet that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    direction: usize,
    number: u64,
    /// Which keys, and the first octets of which connection ID.
    generation: u64,
    id: [u8; 8],
    datagrams: u64,
    closes: bool,
}

/// What the frames of a packet say.
#[derive(Default)]
struct Frames {
    datagrams: u64,
    closes: bool,
    completes_handshake: bool,
}

/// What is under the protection of a packet.
struct Opened {
    number: u64,
    /// It is the first under new keys.
    is_new: bool,
    frames: Vec<u8>,
}

/// One direction of one connection; the other is its neighbour.
struct Direction {
    secret: Vec<u8>,
    header: Box<dyn HeaderProtectionKey>,
    /// The keys in use and those after them.
    packet: [Box<dyn PacketKey>; 2],
    generation: u64,
    next_number: u64,
    arrived: BTreeSet<u64>,
    /// Keys and connection ID of the youngest that arrived.
    youngest: (u64, [u8; 8]),
    /// Its receiver has the keys: a client that can send has, a gateway once it has told that the handshake is done.
    ready: bool,
    /// Frames that arrived and when, since the receiver has last sent something.
    unanswered: Vec<(Duration, u64)>,
    /// Its receiver has closed, or has heard that its sender has.
    closed: bool,
}

impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direction").field("next_number", &self.next_number).finish_non_exhaustive()
    }
}

impl Direction {
    fn new(secret: &[u8]) -> Option<Self> {
        let next = expand(secret, "quic ku", 48)?;
        let key = AeadKey::from(<[u8; 32]>::try_from(expand(secret, "quic hp", 32)?).ok()?);
        let header = TLS13_AES_256_GCM_SHA384.tls13()?.quic?.header_protection_key(key);
        let packet = [packet_key(secret)?, packet_key(&next)?];
        Some(Self {
            secret: next,
            header,
            packet,
            generation: 0,
            next_number: 0,
            arrived: BTreeSet::new(),
            youngest: (0, [0; 8]),
            ready: false,
            unanswered: Vec::new(),
            closed: false,
        })
    }

    /// Takes protection off a packet that goes this way.
    fn open(&mut self, packet: &[u8], id_octets: usize) -> Option<Opened> {
        let mut packet = packet.to_vec();
        let at = 1 + id_octets;
        let sample = packet.get(at + 4..at + 4 + self.header.sample_len())?.to_vec();
        let (head, rest) = packet.split_at_mut_checked(at)?;
        let first = head.first_mut()?;
        // The key takes off as many masks as the first octet tells it.
        self.header.decrypt_in_place(&sample, first, rest.get_mut(..4)?).ok()?;
        let octets = usize::from(*first & 3) + 1;
        let phase = u64::from(*first >> 2 & 1);
        let truncated = rest.get(..octets)?.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
        let number = decode_number(truncated, octets, self.next_number);
        let is_new = phase != self.generation & 1;
        let (header, payload) = packet.split_at_mut_checked(at + octets)?;
        let key = self.packet.get(usize::from(is_new))?;
        let frames = key.decrypt_in_place(number, header, payload).ok()?.to_vec();
        Some(Opened { number, is_new, frames })
    }

    fn advance(&mut self) -> Option<()> {
        let next = expand(&self.secret, "quic ku", 48)?;
        let key = packet_key(&next)?;
        self.secret = next;
        self.packet.swap(0, 1);
        self.packet[1] = key;
        self.generation += 1;
        Some(())
    }
}

fn expand(secret: &[u8], label: &str, length: usize) -> Option<Vec<u8>> {
    let expander = TLS13_AES_256_GCM_SHA384.tls13()?.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
    let mut out = vec![0; length];
    let label = format!("tls13 {label}");
    let head = [0, length as u8, label.len() as u8];
    expander.expand_slice(&[&head, label.as_bytes(), &[0]], &mut out).ok()?;
    Some(out)
}

fn packet_key(secret: &[u8]) -> Option<Box<dyn PacketKey>> {
    let key = AeadKey::from(<[u8; 32]>::try_from(expand(secret, "quic key", 32)?).ok()?);
    let iv = Iv::from(<[u8; 12]>::try_from(expand(secret, "quic iv", 12)?).ok()?);
    Some(TLS13_AES_256_GCM_SHA384.tls13()?.quic?.packet_key(key, iv))
}

/// RFC 9000 appendix A.3.
fn decode_number(truncated: u64, octets: usize, expected: u64) -> u64 {
    let window = 1_u64 << (octets * 8);
    let candidate = expected & !(window - 1) | truncated;
    if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

/// The listener.
#[derive(Debug, Default)]
pub(crate) struct Wiretap {
    secrets: Arc<Secrets>,
    /// How many secrets were looked at.
    read: usize,
    /// By client random, while only one direction is known.
    halves: BTreeMap<Vec<u8>, Direction>,
    /// Those of one connection are neighbours, the client's first.
    directions: Vec<Direction>,
    /// The first octets of a connection ID → whose it is, and how long.
    ids: BTreeMap<[u8; 8], (usize, usize)>,
    /// Half the index of a direction → the host of that connection's client.
    clients: BTreeMap<usize, HostId>,
    /// By the client's host, and whether the direction begins there.
    tallies: BTreeMap<(HostId, bool), Tally>,
}

impl Wiretap {
    pub(crate) fn secrets(&self) -> Arc<Secrets> {
        Arc::clone(&self.secrets)
    }

    fn learn(&mut self) {
        let new = {
            let secrets = self.secrets.0.lock().unwrap_or_else(PoisonError::into_inner);
            let new = secrets.get(self.read..).unwrap_or_default().to_vec();
            self.read = secrets.len();
            new
        };
        for Secret { client_random, from_client, bytes } in new {
            let Some(direction) = Direction::new(&bytes) else { continue };
            match self.halves.remove(&client_random) {
                Some(other) if from_client => self.directions.extend([direction, other]),
                Some(other) => self.directions.extend([other, direction]),
                None => {
                    self.halves.insert(client_random, direction);
                }
            }
        }
    }

    /// Frames from the client at `host`, or towards it.
    pub(crate) fn tally(&self, host: HostId, from_client: bool) -> Tally {
        let mut tally = self.tallies.get(&(host, from_client)).copied().unwrap_or_default();
        for (index, direction) in self.directions.iter().enumerate() {
            if index.is_multiple_of(2) == from_client && self.clients.get(&(index / 2)) == Some(&host) {
                tally.uncertain += direction.unanswered.iter().map(|(_, frames)| frames).sum::<u64>();
            }
        }
        tally
    }

    fn tally_of(&mut self, direction: usize) -> Option<&mut Tally> {
        let host = *self.clients.get(&(direction / 2))?;
        Some(self.tallies.entry((host, direction.is_multiple_of(2))).or_default())
    }

    /// Reads the 1-RTT packet in a UDP payload that leaves `host`, if there is one.
    pub(crate) fn see(&mut self, now: Duration, host: HostId, data: &[u8]) -> Option<Seen> {
        let packet = skip_long_headers(data)?;
        let id: [u8; 8] = packet.get(1..9)?.try_into().ok()?;
        let known = self.ids.get(&id).copied();
        let opened = known.and_then(|(index, octets)| Some((index, octets, self.open(index, packet, octets)?)));
        let (direction, octets, Opened { number, is_new, frames }) = match opened {
            Some(opened) => opened,
            None => self.search(packet)?,
        };
        self.ids.insert(id, (direction, octets));
        let way = self.directions.get_mut(direction)?;
        way.next_number = way.next_number.max(number + 1);
        if is_new {
            way.advance()?;
        }
        let generation = way.generation;
        let Frames { datagrams, closes, completes_handshake } = read_frames(&frames);
        if !direction.is_multiple_of(2) {
            way.ready = true;
        }
        // Who closes takes nothing any more.
        let mut answered = 0;
        if let Some(other) = self.directions.get_mut(direction ^ 1) {
            other.ready |= completes_handshake;
            other.closed |= closes;
            other.unanswered.retain(|(time, frames)| {
                let is_answered = closes || *time + PASSING_TIME < now;
                answered += if is_answered { *frames } else { 0 };
                !is_answered
            });
        }
        if direction.is_multiple_of(2) {
            self.clients.entry(direction / 2).or_insert(host);
        }
        if let Some(tally) = self.tally_of(direction ^ 1) {
            *if closes { &mut tally.uncertain } else { &mut tally.arrived } += answered;
        }
        let tally = self.tally_of(direction)?;
        tally.sent += datagrams;
        tally.key_updates += u64::from(is_new);
        Some(Seen { direction, number, generation, id, datagrams, closes })
    }

    fn open(&mut self, index: usize, packet: &[u8], octets: usize) -> Option<Opened> {
        self.directions.get_mut(index)?.open(packet, octets)
    }

    fn search(&mut self, packet: &[u8]) -> Option<(usize, usize, Opened)> {
        self.learn();
        // The latest connections first.
        for index in (0..self.directions.len()).rev() {
            for octets in ID_OCTETS {
                if let Some(opened) = self.open(index, packet, octets) {
                    return Some((index, octets, opened));
                }
            }
        }
        None
    }

    /// A packet arrived whole, perhaps not for the first time.
    pub(crate) fn arrived(&mut self, now: Duration, seen: &Seen) {
        let Some(way) = self.directions.get_mut(seen.direction) else { return };
        let youngest = way.arrived.last().copied().unwrap_or(0);
        if !way.arrived.insert(seen.number) {
            return;
        }
        let is_closed = way.closed;
        way.closed |= seen.closes;
        let is_of_the_past = seen.number < youngest && (seen.generation, seen.id) != way.youngest;
        if seen.number >= youngest {
            way.youngest = (seen.generation, seen.id);
        }
        let place: fn(&mut Tally) -> &mut u64 = if is_closed {
            |tally| &mut tally.after_close
        } else if is_of_the_past || !way.ready || youngest >= seen.number + REORDER_WINDOW {
            |tally| &mut tally.uncertain
        } else {
            way.unanswered.push((now, seen.datagrams));
            return;
        };
        if let Some(tally) = self.tally_of(seen.direction) {
            *place(tally) += seen.datagrams;
        }
    }
}

/// What follows the packets with long headers (RFC 9000 §17.2); `None` if nothing does.
fn skip_long_headers(mut data: &[u8]) -> Option<&[u8]> {
    const LONG_HEADER: u8 = 0x80;
    const INITIAL: u8 = 0;
    const RETRY: u8 = 3;
    loop {
        let first = *data.first()?;
        if first & LONG_HEADER == 0 {
            return Some(data);
        }
        let kind = first >> 4 & 3;
        // Version negotiation and Retry are alone.
        if kind == RETRY || data.get(1..5)? == [0; 4] {
            return None;
        }
        let mut at = 5;
        for _ in 0..2 {
            at += 1 + usize::from(*data.get(at)?);
        }
        if kind == INITIAL {
            let (token, used) = varint::decode(data.get(at..)?)?;
            at += used + token as usize;
        }
        let (length, used) = varint::decode(data.get(at..)?)?;
        data = data.get(at + used + length as usize..)?;
    }
}

/// The frames of a packet (RFC 9000 §19, RFC 9221 §4).
fn read_frames(frames: &[u8]) -> Frames {
    let mut reader = Reader(frames);
    let mut read = Frames::default();
    while let Some(kind) = reader.number() {
        let known = match kind {
            // PADDING, PING, HANDSHAKE_DONE, and IMMEDIATE_ACK of the ACK frequency extension.
            0x00 | 0x01 | 0x1e | 0x1f => Some(()),
            0x02 | 0x03 => reader.acknowledgement(kind == 0x03),
            0x04 => reader.numbers(3),
            0x05 | 0x11 | 0x15 => reader.numbers(2),
            0x06 => reader.numbers(1).and_then(|()| reader.block()),
            0x07 | 0x31 => reader.block(),
            0x08..=0x0f => reader.stream(kind),
            0x10 | 0x12..=0x14 | 0x16 | 0x17 | 0x19 => reader.numbers(1),
            0x18 => reader.new_connection_id(),
            0x1a | 0x1b => reader.skip(8),
            0x1c => reader.numbers(2).and_then(|()| reader.block()),
            0x1d => reader.numbers(1).and_then(|()| reader.block()),
            0x30 => reader.skip(reader.0.len()),
            _ => None,
        };
        read.datagrams += u64::from(kind & !1 == 0x30);
        read.closes |= kind & !1 == 0x1c;
        read.completes_handshake |= kind == 0x1e;
        assert!(known.is_some(), "a frame of type {kind:#x} cannot be read in {frames:02x?}");
    }
    read
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let (number, used) = varint::decode(self.0)?;
        self.0 = self.0.get(used..)?;
        Some(number)
    }

    fn numbers(&mut self, count: u64) -> Option<()> {
        (0..count).try_for_each(|_| self.number().map(|_| ()))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn block(&mut self) -> Option<()> {
        let length = self.number()?;
        self.skip(length as usize)
    }

    fn acknowledgement(&mut self, ecn: bool) -> Option<()> {
        self.numbers(2)?;
        let ranges = self.number()?;
        self.numbers(1 + ranges * 2 + if ecn { 3 } else { 0 })
    }

    fn stream(&mut self, kind: u64) -> Option<()> {
        self.numbers(1 + (kind >> 2 & 1))?;
        if kind & 2 == 0 { self.skip(self.0.len()) } else { self.block() }
    }

    fn new_connection_id(&mut self) -> Option<()> {
        self.numbers(2)?;
        let (octets, _) = self.0.split_first()?;
        self.skip(1 + usize::from(*octets) + 16)
    }
}
