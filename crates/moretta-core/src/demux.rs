//! Packets on their way in: to the slot that owns them, to an endpoint, to a connection's inbox.
//!
//! An endpoint answers a packet for a connection that it does not know with a stateless reset under the key that all
//! slots share. A packet of another slot would so kill a healthy connection: it never reaches an endpoint of ours.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use moretta_proto::Now;
use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint, Incoming, Transmit};

use crate::cid::Destination;
use crate::core::Core;
use crate::endpoint::{Endpoint, Role};
use crate::ids::{LinkId, SlotId};
use crate::input::Train;
use crate::output::{Action, Outputs, TrainHeader};
use crate::store::Key;

/// Packets that may wait in one connection's inbox. A turn takes more than one receive round brings, so that only a
/// worker that cannot keep up ever sheds here.
pub(crate) const INBOX_PACKETS: usize = 4096;
/// Packets that may wait in all inboxes of a core: about 24 MiB of packets.
pub(crate) const ALL_INBOX_PACKETS: usize = 16_384;
/// Answers of endpoints in one turn; a flood of strange packets gets no more.
const ANSWERS_PER_TURN: usize = 256;
/// Inboxes kept for connections that have packets again.
const SPARE_INBOXES: usize = 64;
const LONG_HEADER: u8 = 0x80;

/// Answers of endpoints that belong to no connection: Retry, version negotiation, stateless reset, refusal.
#[derive(Default)]
pub(crate) struct Answers {
    entries: Vec<(TrainHeader, usize, usize)>,
    bytes: Vec<u8>,
    /// The library writes each into its own empty buffer.
    scratch: Vec<u8>,
}

impl Answers {
    fn push(&mut self, link: LinkId, transmit: &Transmit) -> bool {
        if self.entries.len() >= ANSWERS_PER_TURN {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(self.scratch.get(..transmit.size).unwrap_or(&self.scratch));
        let header = TrainHeader {
            link,
            remote: transmit.destination,
            local: transmit.src_ip,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            segment_size: None,
        };
        self.entries.push((header, start, self.bytes.len()));
        true
    }

    fn flush(&mut self, out: &mut Outputs) {
        for (header, start, end) in self.entries.drain(..) {
            let mut buffer = out.take_buffer();
            buffer.extend_from_slice(self.bytes.get(start..end).unwrap_or_default());
            out.push_train(header, buffer);
        }
        self.bytes.clear();
    }
}

/// Where a packet came from.
#[derive(Clone, Copy)]
struct Arrival {
    endpoint: Key,
    link: LinkId,
    remote: SocketAddr,
    local: Option<IpAddr>,
    ecn: u8,
    /// Packets of other slots are passed on: only a listening port is shared.
    shared_port: bool,
}

impl Core {
    /// Sorts the packets of a train.
    pub(crate) fn handle_train(&mut self, now: Now, train: Train) {
        let Train { link, remote, local, ecn, segment_size, mut data } = train;
        let segment = if segment_size == 0 { data.len().max(1) } else { segment_size };
        self.counters.packets_received += data.len().div_ceil(segment).max(1) as u64;
        self.counters.bytes_received += data.len() as u64;
        let Some(&endpoint) = self.links.get(&link) else {
            self.counters.dropped_unknown_link += data.len().div_ceil(segment).max(1) as u64;
            return;
        };
        let shared_port =
            self.endpoints.get(endpoint).is_some_and(|endpoint| matches!(endpoint.role, Role::Listener(_)));
        let arrival = Arrival { endpoint, link, remote, local, ecn, shared_port };
        while !data.is_empty() {
            let packet = if data.len() > segment { data.split_to(segment) } else { std::mem::take(&mut data) };
            self.handle_packet(now, arrival, packet);
        }
    }

    fn handle_packet(&mut self, now: Now, arrival: Arrival, packet: BytesMut) {
        if arrival.shared_port {
            // Without a certificate the library would answer a first packet with a stateless reset.
            let accepts = self.endpoints.get(arrival.endpoint).is_some_and(Endpoint::accepts);
            match Destination::of(&packet) {
                Destination::Accepting if !accepts => {
                    self.counters.refused_no_configuration += 1;
                    return;
                }
                Destination::Accepting => {}
                Destination::Slot(slot) if slot == self.slot => {}
                Destination::Slot(slot) => {
                    self.forward(slot, arrival, packet);
                    return;
                }
                Destination::Malformed => {
                    self.counters.dropped_malformed_packets += 1;
                    return;
                }
            }
        }
        // A handshake may keep slices of its packets for long, and so may streams; they must not pin the slab of a train.
        let is_long = packet.first().is_some_and(|first| first & LONG_HEADER != 0);
        let packet = if is_long || now.instant < self.copy_until {
            self.counters.packets_copied += 1;
            BytesMut::from(packet.as_ref())
        } else {
            packet
        };
        let ecn = EcnCodepoint::from_bits(arrival.ecn & 3);
        let Some(endpoint) = self.endpoints.get_mut(arrival.endpoint) else { return };
        self.answers.scratch.clear();
        let scratch = &mut self.answers.scratch;
        let bytes = packet.len();
        let event = endpoint.quic.handle(now.instant, arrival.remote, arrival.local, ecn, packet, scratch);
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => self.sort(arrival, bytes, handle, event),
            Some(DatagramEvent::NewConnection(incoming)) => self.first_packet(arrival, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                self.counters.endpoint_answers += 1;
                self.answer(arrival.link, &transmit);
            }
        }
    }

    fn forward(&mut self, slot: SlotId, arrival: Arrival, data: BytesMut) {
        self.counters.packets_forwarded += 1;
        let Arrival { link, remote, local, ecn, .. } = arrival;
        let train = Train { link, remote, local, ecn, segment_size: data.len(), data };
        self.pending.push(Action::Forward { slot, train });
    }

    /// Puts a packet into its connection's inbox.
    fn sort(&mut self, arrival: Arrival, bytes: usize, handle: ConnectionHandle, event: ConnectionEvent) {
        let key = self.endpoints.get(arrival.endpoint).and_then(|endpoint| endpoint.connection(handle));
        let Some((key, connection)) = key.and_then(|key| Some((key, self.connections.get_mut(key)?))) else {
            self.counters.dropped_no_connection += 1;
            return;
        };
        connection.address.received(arrival.remote, bytes);
        if connection.inbox.len() >= INBOX_PACKETS {
            self.counters.dropped_inbox_full += 1;
            return;
        }
        if self.inbox_packets >= ALL_INBOX_PACKETS {
            self.counters.dropped_inboxes_full += 1;
            return;
        }
        // An idle connection owns no inbox.
        if connection.inbox.capacity() == 0 {
            connection.inbox = self.spare_inboxes.pop().unwrap_or_default();
        }
        connection.inbox.push_back(event);
        self.inbox_packets += 1;
        self.mark(key);
    }

    /// Takes an emptied inbox back.
    pub(crate) fn return_inbox(&mut self, inbox: std::collections::VecDeque<ConnectionEvent>) {
        if inbox.capacity() > 0 && self.spare_inboxes.len() < SPARE_INBOXES {
            self.spare_inboxes.push(inbox);
        }
    }

    /// A stranger's first packet. What costs little is decided at once, TLS waits for its turn.
    fn first_packet(&mut self, arrival: Arrival, incoming: Incoming) {
        let limits = &self.snapshot.proto.limits;
        let most = limits.max_connections;
        let retry_above = limits.half_open_before_retry;
        let validated = incoming.remote_address_validated();
        let Some(endpoint) = self.endpoints.get_mut(arrival.endpoint) else { return };
        if self.drain.is_some() {
            let transmit = endpoint.quic.refuse(incoming, &mut self.answers.scratch);
            self.counters.refused_draining += 1;
            self.answer(arrival.link, &transmit);
        } else if self.quic.shared().connections.get() + self.waiting.len() >= most {
            let transmit = endpoint.quic.refuse(incoming, &mut self.answers.scratch);
            self.counters.refused_connection_limit += 1;
            self.answer(arrival.link, &transmit);
        } else if self.half_open + self.waiting.len() >= retry_above && !validated && incoming.may_retry() {
            match endpoint.quic.retry(incoming, &mut self.answers.scratch) {
                Ok(transmit) => {
                    self.counters.retries_sent += 1;
                    self.answer(arrival.link, &transmit);
                }
                // `may_retry` was asked.
                Err(error) => endpoint.quic.ignore(error.into_incoming()),
            }
        } else {
            self.waiting.push(arrival.endpoint, incoming);
        }
    }

    /// Queues what an endpoint has just written into the scratch buffer.
    pub(crate) fn answer(&mut self, link: LinkId, transmit: &Transmit) {
        if !self.answers.push(link, transmit) {
            self.counters.dropped_endpoint_answers += 1;
        }
        self.answers.scratch.clear();
    }

    /// The buffer that the next [`answer`](Self::answer) is written to.
    pub(crate) fn answer_buffer(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.answers.scratch);
        scratch.clear();
        scratch
    }

    /// Gives that buffer back, with or without an answer in it.
    pub(crate) fn return_answer_buffer(&mut self, scratch: Vec<u8>) {
        self.answers.scratch = scratch;
    }

    pub(crate) fn flush_answers(&mut self, out: &mut Outputs) {
        self.answers.flush(out);
    }
}
