//! Counts that all workers share and that must be exact: asked when a tunnel opens, given back when it ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// No slot is left; the request is answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many tunnels are open as may be")]
pub struct LedgerFull;

/// The shared counts. The calls never block for long and are made when a tunnel opens or ends, never per packet.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// Counts one tunnel more.
    ///
    /// # Errors
    /// [`LedgerFull`] if there are already as many as may be; nothing is counted then.
    fn take_tunnel(&self) -> Result<(), LedgerFull>;

    /// Counts one tunnel less. Called once for each success of [`take_tunnel`](Self::take_tunnel).
    fn return_tunnel(&self);

    /// How many tunnels are counted now.
    fn tunnels(&self) -> u64;
}

/// One counted tunnel. Dropping it gives the slot back, so no way out of an admission or a tunnel can keep it.
#[derive(Debug)]
pub struct TunnelSlot {
    ledger: Arc<dyn Ledger>,
}

impl TunnelSlot {
    /// Takes one slot.
    ///
    /// # Errors
    /// [`LedgerFull`] if none is left.
    pub fn take(ledger: &Arc<dyn Ledger>) -> Result<Self, LedgerFull> {
        ledger.take_tunnel()?;
        Ok(Self { ledger: Arc::clone(ledger) })
    }
}

impl Drop for TunnelSlot {
    fn drop(&mut self) {
        self.ledger.return_tunnel();
    }
}

/// A ledger of one instance: the counts are atomics of this process.
#[derive(Debug)]
pub struct LocalLedger {
    tunnels: AtomicU64,
    max_tunnels: AtomicU64,
}

impl LocalLedger {
    /// With no tunnel counted yet.
    pub const fn new(max_tunnels: u64) -> Self {
        Self { tunnels: AtomicU64::new(0), max_tunnels: AtomicU64::new(max_tunnels) }
    }

    /// A new bound. Lowering it below what is open ends nothing; it only refuses more.
    pub fn set_max_tunnels(&self, max_tunnels: u64) {
        self.max_tunnels.store(max_tunnels, Ordering::Relaxed);
    }
}

impl Ledger for LocalLedger {
    fn take_tunnel(&self) -> Result<(), LedgerFull> {
        let max = self.max_tunnels.load(Ordering::Relaxed);
        // Relaxed: the count orders nothing but itself, and a read-modify-write is exact under any ordering.
        let taken = self.tunnels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
            if open < max { open.checked_add(1) } else { None }
        });
        taken.map(|_| ()).map_err(|_| LedgerFull)
    }

    fn return_tunnel(&self) {
        let before = self.tunnels.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a slot was returned that nobody took");
    }

    fn tunnels(&self) -> u64 {
        self.tunnels.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(max: u64) -> (Arc<LocalLedger>, Arc<dyn Ledger>) {
        let local = Arc::new(LocalLedger::new(max));
        (Arc::clone(&local), local)
    }

    #[test]
    fn the_slot_after_the_last_is_refused_until_one_is_dropped() {
        let (local, shared) = ledger(2);
        let first = TunnelSlot::take(&shared).unwrap();
        let _second = TunnelSlot::take(&shared).unwrap();
        assert_eq!(TunnelSlot::take(&shared).unwrap_err(), LedgerFull);
        assert_eq!(local.tunnels(), 2, "a refused take counts nothing");
        drop(first);
        assert!(TunnelSlot::take(&shared).is_ok());
    }

    #[test]
    fn a_lowered_bound_ends_nothing_and_refuses_more() {
        let (local, shared) = ledger(2);
        let slots = [TunnelSlot::take(&shared).unwrap(), TunnelSlot::take(&shared).unwrap()];
        local.set_max_tunnels(1);
        assert_eq!(local.tunnels(), 2);
        assert!(TunnelSlot::take(&shared).is_err());
        drop(slots);
        assert_eq!(local.tunnels(), 0);
        assert!(TunnelSlot::take(&shared).is_ok());
    }

    /// HG-E5: exactly as many succeed as there are slots, whoever asks.
    #[test]
    fn workers_together_never_take_more_than_there_are() {
        let (local, shared) = ledger(200);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || (0..50).filter_map(|_| TunnelSlot::take(&shared).ok()).collect::<Vec<_>>())
            })
            .collect();
        let slots: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(slots.len(), 200);
        assert_eq!(local.tunnels(), 200);
        drop(slots);
        assert_eq!(local.tunnels(), 0);
    }
}
