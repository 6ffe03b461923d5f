//! What leaves: streams and datagrams in turns, so that neither starves.
//!
//! The library writes DATAGRAM frames before STREAM frames, and drops datagrams without a word when the path shrinks.
//! So its datagram queue is kept nearly empty: it is filled only when it is empty, after streams had a packet train of
//! their own, and with no more than the path has just taken. Everything else waits in our queues, where it is bounded,
//! dropped oldest first, and counted.

use std::time::Instant;

use moretta_proto::error::DropReason;

use crate::address::Watch;
use crate::connection::Connection;
use crate::core::Core;
use crate::output::{Outputs, TrainHeader};
use crate::queue::TunnelQueue;

/// Bytes of one train: the kernel takes 65,507 bytes of UDP payload in one segmented send.
const TRAIN_BYTES: usize = 64_000;
/// What a DATAGRAM frame adds to its payload (type and length), and with the AEAD tag and header some slack: only an
/// estimate of how much fills a train.
const FRAME_OVERHEAD: usize = 3;
/// Bytes that a tunnel may send before the next one has its turn: two full packets, so that equal sizes stay together.
const QUANTUM: usize = 3072;

/// What was handed to the library's datagram queue.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Bytes to hand over at once: grows while the path takes all of it, and follows what it took otherwise.
    window: usize,
    /// `send_buffer_space` of an empty queue.
    empty_space: Option<usize>,
    /// Datagrams handed over so far.
    fed: u64,
    /// Handed over and found lost inside the library.
    lost: u64,
    /// The path shrank since the queue was last empty.
    shrank: bool,
}

impl Default for Feed {
    fn default() -> Self {
        Self { window: TRAIN_BYTES, empty_space: None, fed: 0, lost: 0, shrank: false }
    }
}

impl Feed {
    /// Datagrams that the library holds now or has lost since the last reconciliation.
    fn outstanding(&self, sent: u64) -> u64 {
        self.fed.saturating_sub(self.lost).saturating_sub(sent)
    }
}

/// What one pass over a connection did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Something was sent; there may be more.
    Sent,
    /// Nothing is left to send, or the path takes no more for now.
    Done,
}

impl Core {
    /// One train of streams and one of datagrams.
    pub(crate) fn transmit(&mut self, connection: &mut Connection, now: Instant, out: &mut Outputs) -> Progress {
        let streams = self.transmit_train(connection, now, out);
        let mut datagrams = Progress::Done;
        if library_queue_is_empty(connection) {
            self.reconcile(connection);
            if self.feed(connection, now) {
                datagrams = self.transmit_train(connection, now, out);
                connection.feed.window = if library_queue_is_empty(connection) {
                    (connection.feed.window * 2).min(TRAIN_BYTES)
                } else {
                    // What was just taken and a little more; the rest of it goes before the next streams.
                    let mtu = usize::from(connection.quic.stats().path.current_mtu);
                    let held = bytes_in_library_queue(connection);
                    connection.feed.window.saturating_sub(held).max(mtu) + mtu
                };
            }
        }
        match (streams, datagrams) {
            (Progress::Done, Progress::Done) => Progress::Done,
            _ => Progress::Sent,
        }
    }

    fn transmit_train(&mut self, connection: &mut Connection, now: Instant, out: &mut Outputs) -> Progress {
        let Some(endpoint) = self.endpoints.get(connection.endpoint) else { return Progress::Done };
        let link = endpoint.link;
        let packet = connection.max_packet.max(1200);
        let segments = (TRAIN_BYTES / packet).clamp(1, self.quic.config().transport.max_segments.max(1));
        // The library keeps the limit of an unproved address too, but for a last packet that may begin below and end
        // above it, and begins anew with each change of address.
        let segments = segments.min(connection.address.packets_to(connection.quic.remote_address(), packet));
        if segments == 0 {
            return Progress::Done;
        }
        let watch = Watch::begin(connection);
        let mut buffer = out.take_buffer();
        let Some(transmit) = connection.quic.poll_transmit(now, segments, &mut buffer) else {
            out.return_buffer(buffer);
            return Progress::Done;
        };
        buffer.truncate(transmit.size);
        if let Some(watch) = watch {
            watch.end(connection, transmit.destination);
        }
        // Answers to a challenge go where it came from.
        if !connection.address.may_send(transmit.destination, buffer.len()) {
            self.counters.dropped_unproved_address += 1;
            out.return_buffer(buffer);
            return Progress::Sent;
        }
        self.counters.packets_sent += transmit.segment_size.map_or(1, |size| buffer.len().div_ceil(size.max(1))) as u64;
        self.counters.bytes_sent += buffer.len() as u64;
        let header = TrainHeader {
            link,
            remote: transmit.destination,
            local: transmit.src_ip,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            segment_size: transmit.segment_size,
        };
        out.push_train(header, buffer);
        Progress::Sent
    }

    /// Hands one train's worth of datagrams to the library, fair between tunnels. False if there was nothing.
    fn feed(&mut self, connection: &mut Connection, now: Instant) -> bool {
        let Some(max) = connection.max_datagram.filter(|_| connection.datagrams) else { return false };
        let sojourn = self.snapshot.proto.limits.tunnel_queue_time;
        let mut fed = 0;
        while fed < connection.feed.window {
            let Some(&key) = connection.ready.front() else { break };
            let Some(tunnel) = self.tunnels.get_mut(key) else {
                connection.ready.pop_front();
                continue;
            };
            let stale = tunnel.queue.drop_stale(now, sojourn);
            if stale.datagrams > 0 {
                connection.queued_bytes -= stale.bytes;
                self.queued_bytes -= stale.bytes;
                tunnel.count_drops(DropReason::Stale, stale.datagrams);
                self.counters.down_dropped_stale += stale.datagrams;
            }
            let Some(datagram) = tunnel.queue.pop_within_deficit() else {
                connection.ready.pop_front();
                if tunnel.queue.is_empty() {
                    tunnel.in_ready = false;
                    self.spare_queues.take_back(&mut tunnel.queue);
                } else {
                    tunnel.queue.begin_round(QUANTUM);
                    connection.ready.push_back(key);
                }
                continue;
            };
            let cost = TunnelQueue::cost(&datagram);
            connection.queued_bytes -= cost;
            self.queued_bytes -= cost;
            let length = datagram.len();
            // The path or the peer's limit may have shrunk while it waited. RFC 9298 §6.1: dropped, never a capsule.
            if length > max || connection.quic.datagrams().send(datagram, false).is_err() {
                tunnel.count_drops(DropReason::TooLargeForPath, 1);
                self.counters.down_dropped_too_large += 1;
                continue;
            }
            connection.feed.fed += 1;
            self.counters.datagrams_to_peer += 1;
            fed += length + FRAME_OVERHEAD;
        }
        fed > 0
    }

    /// Follows the path: the largest datagram now, and whether the library may have dropped some.
    pub(crate) fn follow_path(connection: &mut Connection) -> bool {
        let max = connection.quic.datagrams().max_size();
        if max == connection.max_datagram {
            return false;
        }
        if max < connection.max_datagram && !library_queue_is_empty(connection) {
            connection.feed.shrank = true;
        }
        connection.max_datagram = max;
        connection.max_packet = usize::from(connection.quic.stats().path.current_mtu);
        true
    }

    /// Counts what the library dropped by itself: with its queue empty, whatever was handed over and not sent.
    pub(crate) fn reconcile(&mut self, connection: &mut Connection) {
        if !connection.feed.shrank {
            return;
        }
        connection.feed.shrank = false;
        let lost = connection.feed.outstanding(connection.quic.stats().frame_tx.datagram);
        connection.feed.lost += lost;
        self.counters.datagrams_to_peer_lost_mtu_shrank += lost;
    }

    /// Counts what the library still held when the connection ended.
    pub(crate) fn reconcile_at_close(&mut self, connection: &mut Connection) {
        let lost = connection.feed.outstanding(connection.quic.stats().frame_tx.datagram);
        connection.feed.lost += lost;
        self.counters.datagrams_to_peer_lost_at_close += lost;
    }
}

fn library_queue_is_empty(connection: &mut Connection) -> bool {
    let space = connection.quic.datagrams().send_buffer_space();
    // The first look comes before anything was handed over.
    space >= *connection.feed.empty_space.get_or_insert(space)
}

fn bytes_in_library_queue(connection: &mut Connection) -> usize {
    let space = connection.quic.datagrams().send_buffer_space();
    connection.feed.empty_space.map_or(0, |empty| empty.saturating_sub(space))
}
