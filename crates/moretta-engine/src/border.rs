//! What waits for control code: events, tunnels with news, and the one wake-up for both.
//!
//! The wake-up is armed only when a take finds everything empty; then the queues are looked at again, so that what came
//! in between is never slept over. Only this module clears the descriptor. Records alone wake nobody at once: the worker
//! that queued them rings when the oldest has waited long enough.

use crate::document::Event;
use moretta_io::{OpenError, WakeFd};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bound on events that must not be lost: those that wait and those that open tunnels and gateways will still cause.
pub(crate) const PROMISE_LIMIT: usize = 131_072;
/// Bound on refusal records that wait; what exceeds it is sampled away and counted.
pub(crate) const REFUSAL_LIMIT: usize = 1_024;
/// How long a record of a tunnel may wait before control code is woken for it. Nobody waits for a record, and a wake-up of
/// Python costs as much as taking ten of them.
pub(crate) const RECORD_DELAY: Duration = Duration::from_millis(10);
/// Events that are worth a wake-up at once.
const RECORDS_AT_ONCE: usize = 256;

/// A lock whose data stays usable after a panic: every critical section here leaves whole values behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues towards control code.
#[derive(Debug)]
pub(crate) struct Border {
    /// Guards the events that wait and how many of them may be shed.
    events: Mutex<Waiting>,
    /// Guards the tokens of tunnels with news, each listed once.
    ready: Mutex<VecDeque<u64>>,
    /// Events of the kind that is never lost: those that wait and those that were promised.
    promised: AtomicUsize,
    promise_limit: usize,
    shed: AtomicU64,
    wakes: AtomicU64,
    armed: AtomicBool,
    wake: WakeFd,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    refusals: usize,
}

impl Border {
    pub(crate) fn new(promise_limit: usize) -> Result<Self, OpenError> {
        Ok(Self {
            events: Mutex::default(),
            ready: Mutex::default(),
            promised: AtomicUsize::new(0),
            promise_limit,
            shed: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            armed: AtomicBool::new(true),
            wake: WakeFd::new()?,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Reserves room for `count` events that must not be lost; false when there is none, and the caller refuses.
    pub(crate) fn promise(&self, count: usize) -> bool {
        self.promised
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |promised| {
                promised.checked_add(count).filter(|total| *total <= self.promise_limit)
            })
            .is_ok()
    }

    /// Gives back what was promised and will not come.
    pub(crate) fn release(&self, count: usize) {
        self.promised.fetch_sub(count, Ordering::AcqRel);
    }

    /// Queues an event that was promised.
    pub(crate) fn push(&self, event: Event) {
        lock(&self.events).events.push_back(event);
        self.signal();
    }

    /// Queues an event that was not promised.
    pub(crate) fn push_reserved(&self, event: Event) {
        self.promised.fetch_add(1, Ordering::AcqRel);
        self.push(event);
    }

    /// Queues a record of a tunnel, whose room the ledger reserved. Whoever queues records calls [`ring`](Self::ring)
    /// within [`RECORD_DELAY`].
    pub(crate) fn push_record(&self, event: Event) {
        self.promised.fetch_add(1, Ordering::AcqRel);
        let count = {
            let mut waiting = lock(&self.events);
            waiting.events.push_back(event);
            waiting.events.len()
        };
        if count >= RECORDS_AT_ONCE {
            self.signal();
        }
    }

    /// Queues a refusal record, or counts it as shed; otherwise as [`push_record`](Self::push_record).
    pub(crate) fn push_refusal(&self, event: Event) {
        let count = {
            let mut waiting = lock(&self.events);
            if waiting.refusals >= REFUSAL_LIMIT {
                self.shed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            waiting.refusals += 1;
            waiting.events.push_back(event);
            waiting.events.len()
        };
        if count >= RECORDS_AT_ONCE {
            self.signal();
        }
    }

    /// Wakes control code if records wait that it was not woken for.
    pub(crate) fn ring(&self) {
        if !self.is_empty() {
            self.signal();
        }
    }

    /// Lists a tunnel with news. The caller guarantees that it is not listed already.
    pub(crate) fn push_ready(&self, token: u64) {
        lock(&self.ready).push_back(token);
        self.signal();
    }

    /// Up to `limit` events, oldest first.
    pub(crate) fn take_events(&self, limit: usize) -> Vec<Event> {
        let taken: Vec<Event> = {
            let mut waiting = lock(&self.events);
            let count = limit.min(waiting.events.len());
            let taken: Vec<Event> = waiting.events.drain(..count).collect();
            waiting.refusals -= taken.iter().filter(|event| is_refusal(event)).count();
            taken
        };
        let kept = taken.iter().filter(|event| !is_refusal(event)).count();
        self.promised.fetch_sub(kept, Ordering::AcqRel);
        if taken.len() < limit {
            self.settle();
        }
        taken
    }

    /// Up to `limit` tokens of tunnels with news.
    pub(crate) fn take_ready(&self, limit: usize) -> Vec<u64> {
        let taken: Vec<u64> = {
            let mut ready = lock(&self.ready);
            let count = limit.min(ready.len());
            ready.drain(..count).collect()
        };
        if taken.len() < limit {
            self.settle();
        }
        taken
    }

    /// Events shed so far, and wake-ups so far.
    pub(crate) fn counts(&self) -> BorderCounts {
        BorderCounts {
            promised: self.promised.load(Ordering::Acquire),
            shed: self.shed.load(Ordering::Relaxed),
            wakes: self.wakes.load(Ordering::Relaxed),
        }
    }

    fn is_empty(&self) -> bool {
        lock(&self.events).events.is_empty() && lock(&self.ready).is_empty()
    }

    /// Arms the wake-up if nothing waits, then looks again: what came before the arming did not signal.
    fn settle(&self) {
        if !self.is_empty() {
            return;
        }
        self.wake.drain();
        self.armed.store(true, Ordering::SeqCst);
        if !self.is_empty() {
            self.signal();
        }
    }

    fn signal(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            self.wakes.fetch_add(1, Ordering::Relaxed);
            self.wake.wake();
        }
    }
}

/// What the border counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BorderCounts {
    pub(crate) promised: usize,
    pub(crate) shed: u64,
    pub(crate) wakes: u64,
}

fn is_refusal(event: &Event) -> bool {
    matches!(event, Event::RecordRefused(_))
}

#[cfg(test)]
mod tests;
