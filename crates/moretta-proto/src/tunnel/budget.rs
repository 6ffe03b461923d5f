//! How many bytes of unfinished capsules one connection may make us hold (C-12, HG-F4).
//!
//! For CONNECT-UDP only DATAGRAM capsules are ever held, and only those that arrive in pieces: no control capsule is
//! defined for it, and an unknown one is skipped without being held.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// One per connection, lent to each of its tunnels.
///
/// The count is shared so that a reservation gives itself back wherever it is dropped; a connection belongs to one
/// worker, so nobody ever contends for it.
#[derive(Debug)]
pub struct CapsuleBudget {
    held: Arc<AtomicUsize>,
    max_bytes: usize,
}

impl CapsuleBudget {
    /// `max_bytes`: [`Limits::capsule_assembly_bytes`](crate::limits::Limits::capsule_assembly_bytes).
    pub fn new(max_bytes: usize) -> Self {
        Self { held: Arc::new(AtomicUsize::new(0)), max_bytes }
    }

    /// What is held now, in bytes; never more than the maximum.
    pub fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Sets `bytes` aside, or nothing if they do not fit.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let taken = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|sum| *sum <= self.max_bytes)
        });
        taken.ok().map(|_| Reservation { held: Arc::clone(&self.held), bytes })
    }
}

/// Bytes set aside; given back on drop.
#[derive(Debug)]
pub(super) struct Reservation {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HG-F4.
    #[test]
    fn no_more_is_reserved_than_there_is_and_all_of_it_comes_back() {
        let budget = CapsuleBudget::new(100);
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        assert_eq!(budget.held_bytes(), 60);
        let second = budget.reserve(40).unwrap();
        assert_eq!(budget.held_bytes(), 100);
        drop(first);
        drop(second);
        assert_eq!(budget.held_bytes(), 0);
        assert!(budget.reserve(usize::MAX).is_none());
    }
}
