//! What a tunnel carried and dropped.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::error::DropReason;

/// One direction. Payload bytes only: no prefix, no header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// UDP payloads, empty ones included.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Exact from the first datagram to the last; for the close record.
///
/// A direction counts what the machine let pass. What is dropped after that, in a queue or by a socket, is counted as a
/// drop as well, so `delivered = passed − drops after it`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TunnelCounters {
    /// From the client towards the target.
    pub client_to_target: Traffic,
    /// From the target towards the client.
    pub target_to_client: Traffic,
    /// Datagrams by why they were dropped.
    pub drops: Drops,
    /// Capsules of types that CONNECT-UDP does not know.
    pub unknown_capsules: u64,
    /// Bytes of their values.
    pub unknown_capsule_bytes: u64,
    /// Errors that the system reported for the target's socket, those included that ended nothing.
    pub target_errors: u64,
}

/// One counter for each [`DropReason`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::COUNT]);

impl Drops {
    /// Counts `datagrams` more.
    #[inline]
    pub fn add(&mut self, reason: DropReason, datagrams: u64) {
        if let Some(count) = self.0.get_mut(reason.index()) {
            *count += datagrams;
        }
    }

    /// How many were dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason.index()).copied().unwrap_or(0)
    }

    /// Every reason that dropped something, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|reason| (*reason, self.get(*reason))).filter(|(_, count)| *count > 0)
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another tunnel's drops, for totals.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// As `{"queue_full": 3}`; reasons that dropped nothing are left out.
impl Serialize for Drops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (reason, count) in self.iter() {
            map.serialize_entry(reason.code(), &count)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut drops = Drops::default();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            drops.add(*reason, index as u64 + 1);
        }
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(drops.get(*reason), index as u64 + 1, "{}", reason.code());
        }
        let mut twice = drops.clone();
        twice.merge(&drops);
        assert_eq!(twice.total(), 2 * drops.total());
    }

    #[test]
    fn only_what_dropped_something_is_written() {
        let mut counters = TunnelCounters::default();
        counters.drops.add(DropReason::QueueFull, 3);
        let document = serde_json::to_value(&counters).unwrap();
        assert_eq!(document["drops"], serde_json::json!({"queue_full": 3}));
        assert_eq!(document["client_to_target"], serde_json::json!({"datagrams": 0, "bytes": 0}));
    }
}
