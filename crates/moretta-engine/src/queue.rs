//! The datagrams of an application's tunnel, on their way in and out of the engine.
//!
//! Both directions are packed rings with a bound in bytes. Towards the peer a datagram that finds no room is dropped,
//! because `send` never waits; towards the application the oldest give way. Either is counted.

use crate::border::{Border, lock};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes that may wait in each direction of one tunnel.
pub const QUEUE_BYTES: usize = 1 << 20;
/// What one datagram costs beside its payload, so that empty ones are bounded too.
const DATAGRAM_OVERHEAD: usize = 16;
/// Largest UDP payload of RFC 9298 section 5.
const MAX_UDP_PAYLOAD_BYTES: usize = 65_527;

/// What became of a datagram given to [`TunnelQueue::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// It waits for its worker.
    Queued,
    /// The queue was full; counted.
    Dropped,
    /// It cannot be carried now.
    TooLarge {
        /// Largest payload that can, in bytes.
        max: usize,
    },
    /// The tunnel has ended.
    Closed,
}

/// Where a tunnel is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TunnelState {
    /// Asked for; datagrams already sent wait.
    Opening = 0,
    /// Accepted.
    Open = 1,
    /// Refused or ended; what was received can still be taken.
    Closed = 2,
}

/// Counters of one tunnel's queues, beside those of the tunnel itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Datagrams accepted by `send`.
    pub sent: u64,
    /// Datagrams that `send` dropped because the queue was full.
    pub send_dropped: u64,
    /// Datagrams queued for the application.
    pub received: u64,
    /// Datagrams dropped, oldest first, because the application did not take them.
    pub receive_dropped: u64,
}

/// Tells the worker that owns a tunnel that its application has sent.
pub(crate) trait Notify: Send + Sync + std::fmt::Debug {
    fn notify(&self, token: u64);
}

/// The two queues of one client tunnel. Shared by the application and one worker.
#[derive(Debug)]
pub struct TunnelQueue {
    token: u64,
    /// Guards datagrams from the application; held for one copy.
    to_peer: Mutex<Packed>,
    /// Guards datagrams for the application; held for one copy or one swap.
    to_application: Mutex<Packed>,
    /// Guards the batch that the application is reading, so that a slow reader never holds up the worker.
    reading: Mutex<Packed>,
    state: AtomicU8,
    max_datagram_bytes: AtomicUsize,
    /// The worker knows that datagrams wait.
    notified: AtomicBool,
    /// The token is in the border's list.
    listed: AtomicBool,
    send_dropped: AtomicU64,
    sent: AtomicU64,
    receive_dropped: AtomicU64,
    received: AtomicU64,
    worker: Arc<dyn Notify>,
    border: Arc<Border>,
}

impl TunnelQueue {
    pub(crate) fn new(token: u64, worker: Arc<dyn Notify>, border: Arc<Border>) -> Self {
        Self {
            token,
            to_peer: Mutex::default(),
            to_application: Mutex::default(),
            reading: Mutex::default(),
            state: AtomicU8::new(TunnelState::Opening as u8),
            max_datagram_bytes: AtomicUsize::new(MAX_UDP_PAYLOAD_BYTES),
            notified: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            send_dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            receive_dropped: AtomicU64::new(0),
            received: AtomicU64::new(0),
            worker,
            border,
        }
    }

    /// The number that the caller gave this tunnel.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Queues one UDP payload towards the target. Never waits.
    pub fn send(&self, datagram: &[u8]) -> SendOutcome {
        if self.state() == TunnelState::Closed {
            return SendOutcome::Closed;
        }
        let max = self.max_datagram_bytes();
        if datagram.len() > max {
            return SendOutcome::TooLarge { max };
        }
        if !lock(&self.to_peer).push(datagram) {
            self.send_dropped.fetch_add(1, Ordering::Relaxed);
            return SendOutcome::Dropped;
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        if !self.notified.swap(true, Ordering::SeqCst) {
            self.worker.notify(self.token);
        }
        SendOutcome::Queued
    }

    /// Hands up to `limit` received payloads to `visit`, oldest first, and returns how many. Never waits.
    ///
    /// A token from [`crate::Engine::take_ready`] comes again only for what arrives later, so read until this returns
    /// less than `limit`.
    pub fn receive_many(&self, limit: usize, mut visit: impl FnMut(&[u8])) -> usize {
        let mut reading = lock(&self.reading);
        let mut count = 0;
        while count < limit {
            if reading.is_empty() {
                std::mem::swap(&mut *reading, &mut *lock(&self.to_application));
                if reading.is_empty() {
                    break;
                }
            }
            if reading.pop(&mut visit) {
                count += 1;
            }
        }
        count
    }

    /// Largest UDP payload that one QUIC packet to the gateway can carry now.
    pub fn max_datagram_bytes(&self) -> usize {
        self.max_datagram_bytes.load(Ordering::Relaxed)
    }

    /// Where the tunnel is in its life.
    pub fn state(&self) -> TunnelState {
        match self.state.load(Ordering::Acquire) {
            0 => TunnelState::Opening,
            1 => TunnelState::Open,
            _ => TunnelState::Closed,
        }
    }

    /// What passed and what was dropped here.
    pub fn counters(&self) -> QueueCounters {
        QueueCounters {
            sent: self.sent.load(Ordering::Relaxed),
            send_dropped: self.send_dropped.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            receive_dropped: self.receive_dropped.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_max_datagram_bytes(&self, bytes: usize) {
        self.max_datagram_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: TunnelState) {
        self.state.store(state as u8, Ordering::Release);
        self.list();
    }

    /// Called by the border's reader before the token is handed out, so that later news list it again.
    pub(crate) fn unlist(&self) {
        self.listed.store(false, Ordering::SeqCst);
    }

    /// The worker queues what came from the peer; the oldest give way.
    pub(crate) fn deliver<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) {
        let (mut count, mut dropped) = (0, 0);
        {
            let mut queue = lock(&self.to_application);
            for datagram in datagrams {
                dropped += queue.push_dropping_oldest(datagram);
                count += 1;
            }
        }
        self.received.fetch_add(count, Ordering::Relaxed);
        self.receive_dropped.fetch_add(dropped, Ordering::Relaxed);
        self.list();
    }

    /// The worker takes one run of equal datagrams, the last of which may be shorter, up to `share` bytes but at least
    /// one datagram. Returns the segment size, or None when nothing waits, and then `send` notifies again.
    pub(crate) fn take_train(&self, share: usize, train: &mut Vec<u8>) -> Option<usize> {
        train.clear();
        if let Some(segment) = lock(&self.to_peer).take_train(share, train) {
            return Some(segment);
        }
        self.notified.store(false, Ordering::SeqCst);
        // What was queued between the look and the store did not notify.
        let segment = lock(&self.to_peer).take_train(share, train);
        if segment.is_some() {
            self.notified.store(true, Ordering::SeqCst);
        }
        segment
    }

    fn list(&self) {
        if !self.listed.swap(true, Ordering::SeqCst) {
            self.border.push_ready(self.token);
        }
    }
}

/// Datagrams one behind the other, in two rings that keep their memory.
#[derive(Debug, Default)]
struct Packed {
    lengths: VecDeque<usize>,
    bytes: VecDeque<u8>,
    /// Used only when a datagram wraps around the end of the ring.
    scratch: Vec<u8>,
}

impl Packed {
    fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    fn cost(&self) -> usize {
        self.bytes.len() + self.lengths.len() * DATAGRAM_OVERHEAD
    }

    fn push(&mut self, datagram: &[u8]) -> bool {
        if self.cost() + datagram.len() + DATAGRAM_OVERHEAD > QUEUE_BYTES {
            return false;
        }
        self.lengths.push_back(datagram.len());
        self.bytes.extend(datagram);
        true
    }

    /// Returns how many had to go.
    fn push_dropping_oldest(&mut self, datagram: &[u8]) -> u64 {
        let mut dropped = 0;
        while self.cost() + datagram.len() + DATAGRAM_OVERHEAD > QUEUE_BYTES {
            let Some(oldest) = self.lengths.pop_front() else { break };
            self.bytes.drain(..oldest);
            dropped += 1;
        }
        self.lengths.push_back(datagram.len());
        self.bytes.extend(datagram);
        dropped
    }

    fn pop(&mut self, visit: &mut impl FnMut(&[u8])) -> bool {
        let Some(length) = self.lengths.pop_front() else { return false };
        if let Some(whole) = self.bytes.as_slices().0.get(..length) {
            visit(whole);
        } else {
            self.scratch.clear();
            self.scratch.extend(self.bytes.iter().take(length));
            visit(&self.scratch);
        }
        self.bytes.drain(..length);
        true
    }

    fn take_train(&mut self, share: usize, train: &mut Vec<u8>) -> Option<usize> {
        let segment = *self.lengths.front()?;
        let (mut count, mut total) = (0, 0);
        for length in &self.lengths {
            // An empty datagram has no place in a train: its bytes would not show it.
            if *length > segment || (count > 0 && (*length == 0 || total + length > share)) {
                break;
            }
            count += 1;
            total += length;
            if *length < segment {
                break;
            }
        }
        self.lengths.drain(..count);
        let (front, back) = self.bytes.as_slices();
        let front = front.get(..total.min(front.len())).unwrap_or_default();
        train.extend_from_slice(front);
        train.extend_from_slice(back.get(..total - front.len()).unwrap_or_default());
        self.bytes.drain(..total);
        Some(segment)
    }
}

#[cfg(test)]
mod tests;
