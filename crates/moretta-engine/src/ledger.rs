//! Exact counts that all workers share: tunnels, and the room that their records will need.

use crate::border::Border;
use moretta_proto::ledger::{Ledger, LedgerFull, LocalLedger};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Events that an accepted tunnel causes: one record when it opens and one when it ends.
const RECORDS_PER_TUNNEL: usize = 2;
/// Descriptors that tunnels leave to everything else: listeners, pollers, the resolver, and the rest of the process.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Counts tunnels and reserves their records, so that an open or a close is never lost: no room, no tunnel.
#[derive(Debug)]
pub(crate) struct EngineLedger {
    tunnels: LocalLedger,
    max_tunnels: AtomicU64,
    descriptors: u64,
    border: Arc<Border>,
}

impl EngineLedger {
    /// `descriptors`: how many this process may have; each tunnel takes one.
    pub(crate) fn new(border: Arc<Border>, descriptors: u64) -> Self {
        let max = Self::bound(u64::MAX, descriptors);
        Self { tunnels: LocalLedger::new(max), max_tunnels: AtomicU64::new(max), descriptors, border }
    }

    fn bound(max_tunnels: u64, descriptors: u64) -> u64 {
        max_tunnels.min(descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(1))
    }

    /// A new bound from configuration; descriptors bound it further.
    pub(crate) fn set_max_tunnels(&self, max_tunnels: u64) {
        let max = Self::bound(max_tunnels, self.descriptors);
        self.max_tunnels.store(max, Ordering::Relaxed);
        self.tunnels.set_max_tunnels(max);
    }

    pub(crate) fn max_tunnels(&self) -> u64 {
        self.max_tunnels.load(Ordering::Relaxed)
    }
}

impl Ledger for EngineLedger {
    fn take_tunnel(&self) -> Result<(), LedgerFull> {
        if !self.border.promise(RECORDS_PER_TUNNEL) {
            return Err(LedgerFull);
        }
        self.tunnels.take_tunnel().inspect_err(|_| self.border.release(RECORDS_PER_TUNNEL))
    }

    fn return_tunnel(&self) {
        self.tunnels.return_tunnel();
        // Records that were queued meanwhile count for themselves.
        self.border.release(RECORDS_PER_TUNNEL);
    }

    fn tunnels(&self) -> u64 {
        self.tunnels.tunnels()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tunnel whose close could not be recorded is not opened: 503 instead.
    #[test]
    fn no_room_for_records_means_no_tunnel() {
        let border = Arc::new(Border::new(5).unwrap());
        let ledger = EngineLedger::new(Arc::clone(&border), 1_000_000);
        ledger.take_tunnel().unwrap();
        ledger.take_tunnel().unwrap();
        assert_eq!(ledger.take_tunnel(), Err(LedgerFull));
        assert_eq!(ledger.tunnels(), 2);
        ledger.return_tunnel();
        ledger.take_tunnel().unwrap();
    }

    #[test]
    fn descriptors_bound_tunnels() {
        let border = Arc::new(Border::new(1_000).unwrap());
        let ledger = EngineLedger::new(border, RESERVED_DESCRIPTORS + 3);
        ledger.set_max_tunnels(1_000_000);
        assert_eq!(ledger.max_tunnels(), 3);
        ledger.set_max_tunnels(2);
        assert_eq!(ledger.max_tunnels(), 2);
    }
}
