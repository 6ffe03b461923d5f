//! Datagrams that come before their request, or before it is decided (RFC 9297 §2.1, RFC 9298 §5).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Least weight of a held datagram: what its bookkeeping takes.
const OVERHEAD: usize = 64;

/// Holds datagrams for a short time, in order, within a number of bytes.
#[derive(Debug, Default)]
pub(crate) struct EarlyDatagrams {
    held: VecDeque<Early>,
    bytes: usize,
}

#[derive(Debug)]
struct Early {
    stream_id: u64,
    until: Instant,
    payload: Bytes,
}

impl Early {
    fn weight(&self) -> usize {
        self.payload.len().max(OVERHEAD)
    }
}

impl EarlyDatagrams {
    /// Keeps a copy, since a slice would pin the whole receive buffer; `false` if `limit` bytes would be exceeded.
    pub(crate) fn hold(&mut self, stream_id: u64, payload: &Bytes, limit: usize, until: Instant) -> bool {
        let weight = payload.len().max(OVERHEAD);
        if self.bytes + weight > limit {
            return false;
        }
        self.bytes += weight;
        self.held.push_back(Early { stream_id, until, payload: Bytes::copy_from_slice(payload) });
        true
    }

    /// Takes those of one stream, oldest first.
    pub(crate) fn take(&mut self, stream_id: u64) -> Vec<Bytes> {
        if self.held.is_empty() {
            return Vec::new();
        }
        let (taken, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|early| early.stream_id == stream_id);
        self.held = kept;
        self.bytes -= taken.iter().map(Early::weight).sum::<usize>();
        taken.into_iter().map(|early| early.payload).collect()
    }

    /// Drops those whose time is over; says how many.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while self.held.front().is_some_and(|early| early.until <= now) {
            self.bytes -= self.held.pop_front().map_or(0, |early| early.weight());
            expired += 1;
        }
        expired
    }

    /// When the oldest expires. All wait equally long, so the order of arrival is the order of expiry.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.front().map(|early| early.until)
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Weight of what is held.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// When a datagram that came `now` is given up.
pub(crate) fn expiry(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now)
}
