//! Where datagrams wait: an arena that they are written to once, and a queue per tunnel.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

/// Bytes of one chunk of the arena: a little more than one full send, so that a chunk is soon free again.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks that are kept to be used again; more are freed when their last slice is gone.
const RESTING_CHUNKS: usize = 16;

/// Writes datagrams one behind the other into large chunks, and uses a chunk again when nothing of it is left.
///
/// Under a steady load nothing is allocated: by the time the last chunk is full the first has been sent.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    current: BytesMut,
    /// `current` is a chunk, not the nothing that it begins as.
    began: bool,
    resting: VecDeque<BytesMut>,
}

impl Arena {
    /// One datagram: `head` and then `body`.
    pub(crate) fn write(&mut self, head: &[u8], body: &[u8]) -> Bytes {
        let length = head.len() + body.len();
        if self.current.capacity() < length {
            self.next_chunk(length);
        }
        self.current.extend_from_slice(head);
        self.current.extend_from_slice(body);
        self.current.split().freeze()
    }

    fn next_chunk(&mut self, length: usize) {
        let wanted = length.max(CHUNK_BYTES);
        if self.current.try_reclaim(wanted) {
            return;
        }
        // The one that rests longest is the likeliest to be free.
        let next = match self.resting.pop_front() {
            Some(mut chunk) => {
                if chunk.try_reclaim(wanted) {
                    chunk
                } else {
                    self.resting.push_front(chunk);
                    BytesMut::with_capacity(wanted)
                }
            }
            None => BytesMut::with_capacity(wanted),
        };
        let full = std::mem::replace(&mut self.current, next);
        if std::mem::replace(&mut self.began, true) {
            self.resting.push_back(full);
        }
        if self.resting.len() > RESTING_CHUNKS {
            self.resting.pop_front();
        }
    }
}

/// What a queued datagram costs beside its bytes, so that a flood of empty ones is bounded too.
pub const DATAGRAM_OVERHEAD: usize = 64;

/// One tunnel's datagrams towards its peer: byte-bounded, drop-oldest, and nothing stays longer than the sojourn limit.
#[derive(Debug, Default)]
pub(crate) struct TunnelQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Deficit round robin: bytes it may still send in this round.
    deficit: usize,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    datagram: Bytes,
    since: Instant,
}

/// What a push pushed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PushedOut {
    pub(crate) datagrams: u64,
    /// With overhead, as [`TunnelQueue::bytes`] counts.
    pub(crate) bytes: usize,
}

impl TunnelQueue {
    /// Bytes waiting, with overhead.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn cost(datagram: &Bytes) -> usize {
        datagram.len() + DATAGRAM_OVERHEAD
    }

    /// Adds a datagram; the oldest make room. One that is larger than the bound by itself pushes out everything,
    /// itself included.
    pub(crate) fn push(&mut self, datagram: Bytes, now: Instant, limit: usize) -> PushedOut {
        self.bytes += Self::cost(&datagram);
        self.waiting.push_back(Waiting { datagram, since: now });
        let mut out = PushedOut::default();
        while self.bytes > limit {
            let Some(oldest) = self.pop() else { break };
            out.datagrams += 1;
            out.bytes += Self::cost(&oldest);
        }
        out
    }

    /// Drops from the front what has waited longer than `sojourn`.
    pub(crate) fn drop_stale(&mut self, now: Instant, sojourn: Duration) -> PushedOut {
        let mut out = PushedOut::default();
        while self.waiting.front().is_some_and(|oldest| now.saturating_duration_since(oldest.since) > sojourn) {
            let Some(oldest) = self.pop() else { break };
            out.datagrams += 1;
            out.bytes += Self::cost(&oldest);
        }
        out
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.waiting.pop_front()?.datagram;
        self.bytes -= Self::cost(&datagram);
        if self.waiting.is_empty() {
            self.deficit = 0;
        }
        Some(datagram)
    }

    /// Begins this tunnel's part of a round.
    pub(crate) fn begin_round(&mut self, quantum: usize) {
        self.deficit = (self.deficit + quantum).min(MAX_DEFICIT);
    }

    /// Takes the next datagram if this round still allows it.
    pub(crate) fn pop_within_deficit(&mut self) -> Option<Bytes> {
        let cost = self.waiting.front().map(|oldest| Self::cost(&oldest.datagram))?;
        if cost > self.deficit {
            return None;
        }
        self.deficit -= cost;
        self.pop()
    }
}

/// Memory of queues that are empty: a quiet tunnel owns none, and a busy one finds what it needs without allocating.
#[derive(Debug, Default)]
pub(crate) struct SpareQueues(Vec<VecDeque<Waiting>>);

/// Queues kept, and the places of the largest one kept (48 bytes each): together at most 12 MiB.
const SPARE_QUEUES: usize = 64;
const SPARE_PLACES: usize = 4096;

impl SpareQueues {
    /// Gives memory to a queue that has none.
    pub(crate) fn lend(&mut self, queue: &mut TunnelQueue) {
        if queue.waiting.capacity() == 0 {
            queue.waiting = self.0.pop().unwrap_or_default();
        }
    }

    /// Takes the memory of a queue that is empty.
    pub(crate) fn take_back(&mut self, queue: &mut TunnelQueue) {
        if !queue.waiting.is_empty() {
            return;
        }
        let memory = std::mem::take(&mut queue.waiting);
        if self.0.len() < SPARE_QUEUES && (1..=SPARE_PLACES).contains(&memory.capacity()) {
            self.0.push(memory);
        }
    }
}

/// No datagram is larger than this, so that no tunnel ever needs to save up more.
const MAX_DEFICIT: usize = 2 * 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(octet: u8, bytes: usize) -> Bytes {
        vec![octet; bytes].into()
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_them() {
        let now = crate::test_clock();
        let mut queue = TunnelQueue::default();
        let limit = 3 * (100 + DATAGRAM_OVERHEAD);
        for octet in 0..3 {
            assert_eq!(queue.push(datagram(octet, 100), now, limit), PushedOut::default());
        }
        let out = queue.push(datagram(3, 100), now, limit);
        assert_eq!(out, PushedOut { datagrams: 1, bytes: 100 + DATAGRAM_OVERHEAD });
        assert_eq!(queue.pop().unwrap()[0], 1, "the oldest went");
        assert_eq!(queue.bytes(), 2 * (100 + DATAGRAM_OVERHEAD));
    }

    #[test]
    fn a_flood_of_empty_datagrams_is_bounded() {
        let now = crate::test_clock();
        let mut queue = TunnelQueue::default();
        for _ in 0..10_000 {
            queue.push(Bytes::new(), now, 64 * 1024);
        }
        assert_eq!(queue.len(), 1024);
    }

    #[test]
    fn what_waited_too_long_is_dropped_and_what_did_not_stays() {
        let start = crate::test_clock();
        let mut queue = TunnelQueue::default();
        queue.push(datagram(1, 10), start, 1 << 20);
        queue.push(datagram(2, 10), start + Duration::from_millis(80), 1 << 20);
        let out = queue.drop_stale(start + Duration::from_millis(101), Duration::from_millis(100));
        assert_eq!(out.datagrams, 1);
        assert_eq!(queue.pop().unwrap()[0], 2);
        assert_eq!((queue.bytes(), queue.is_empty()), (0, true));
    }

    #[test]
    fn a_round_gives_every_queue_its_quantum_and_saves_what_is_left_of_it() {
        let now = crate::test_clock();
        let mut queue = TunnelQueue::default();
        for _ in 0..4 {
            queue.push(datagram(0, 1000), now, 1 << 20);
        }
        queue.begin_round(1500);
        assert!(queue.pop_within_deficit().is_some());
        assert!(queue.pop_within_deficit().is_none(), "436 bytes are left");
        queue.begin_round(1500);
        assert!(queue.pop_within_deficit().is_some());
        assert!(queue.pop_within_deficit().is_none(), "872 bytes are left");
        queue.begin_round(1500);
        assert!(queue.pop_within_deficit().is_some());
        assert!(queue.pop_within_deficit().is_some());
    }

    #[test]
    fn the_arena_uses_its_chunks_again_when_their_slices_are_gone() {
        let mut arena = Arena::default();
        let body = [5; 1200];
        let first = arena.write(&[1, 2], &body);
        assert_eq!((first.len(), &first[..3]), (1202, [1, 2, 5].as_slice()));
        drop(first);
        for _ in 0..10_000 {
            drop(arena.write(&[1, 2], &body));
        }
        assert!(arena.resting.is_empty(), "one chunk is enough when nothing waits");
        let held: Vec<Bytes> = (0..1000).map(|_| arena.write(&[], &body)).collect();
        let chunks = arena.resting.len();
        assert!((3..=6).contains(&chunks), "{chunks}");
        drop(held);
        for _ in 0..10_000 {
            drop(arena.write(&[], &body));
        }
        assert_eq!(arena.resting.len(), chunks, "no new chunk");
    }
}
