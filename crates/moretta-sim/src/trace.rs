//! What happened on the wires: enough to tell whether two runs were the same.

use std::time::Duration;

/// One packet entering a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceEntry {
    /// Virtual time since the world began.
    pub time: Duration,
    /// Where it came from and went, as host numbers.
    pub direction: (u32, u32),
    /// Bytes of UDP payload.
    pub bytes: usize,
    /// FNV-1a over them.
    pub content: u64,
    /// Copies that arrive: 0, 1 or 2.
    pub copies: u8,
}

/// All packets in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    entries: Vec<TraceEntry>,
}

impl Trace {
    pub(crate) fn push(&mut self, entry: TraceEntry) {
        self.entries.push(entry);
    }

    /// Every packet since the world began.
    pub fn entries(&self) -> &[TraceEntry] {
        &self.entries
    }

    /// FNV-1a over all entries.
    pub fn hash(&self) -> u64 {
        self.entries.iter().fold(NOTHING, |hash, entry| {
            let numbers = [
                entry.time.as_nanos() as u64,
                u64::from(entry.direction.0) << 32 | u64::from(entry.direction.1),
                entry.bytes as u64,
                entry.content,
                entry.copies.into(),
            ];
            numbers.iter().fold(hash, |hash, number| fnv(hash, &number.to_le_bytes()))
        })
    }

    /// The first place where two traces differ, for a failing test to print.
    pub fn first_difference(&self, other: &Self) -> Option<(usize, Option<TraceEntry>, Option<TraceEntry>)> {
        let length = self.entries.len().max(other.entries.len());
        (0..length)
            .map(|index| (index, self.entries.get(index).copied(), other.entries.get(index).copied()))
            .find(|(_, ours, theirs)| ours != theirs)
    }
}

/// FNV-1a of no bytes.
const NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The hash of a packet's contents.
pub(crate) fn content(bytes: &[u8]) -> u64 {
    fnv(NOTHING, bytes)
}
