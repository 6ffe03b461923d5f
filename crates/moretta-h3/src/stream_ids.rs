//! Which streams of one kind were seen, in little memory.

/// Remembers the ids of one kind of stream (they step by 4) that have begun.
///
/// QUIC opens streams in order but their first bytes may overtake each other, so besides the highest id the gaps below
/// it are kept as ranges. The peer pays for each gap with a stream that it may open but has not used.
#[derive(Debug)]
pub(crate) struct StreamIds {
    /// One above the highest id seen, or the first id of the kind.
    next: u64,
    /// Ids below `next` that were not seen: sorted, disjoint, half-open.
    gaps: Vec<(u64, u64)>,
}

/// Gaps kept; QUIC's stream limit keeps an honest peer far below. The lowest are forgotten first: their streams then
/// count as seen.
const MAX_GAPS: usize = 1024;

impl StreamIds {
    /// `first` is the lowest id of the kind.
    pub(crate) const fn new(first: u64) -> Self {
        Self { next: first, gaps: Vec::new() }
    }

    /// One above the highest id seen.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether `id` was seen.
    pub(crate) fn is_seen(&self, id: u64) -> bool {
        id < self.next && self.gap_of(id).is_none()
    }

    /// Marks `id` as seen; `false` if it was already.
    pub(crate) fn see(&mut self, id: u64) -> bool {
        if id >= self.next {
            if id > self.next {
                self.gaps.push((self.next, id));
            }
            self.next = id.saturating_add(4);
        } else if let Some(index) = self.gap_of(id) {
            let (start, end) = self.gaps.remove(index);
            if id + 4 < end {
                self.gaps.insert(index, (id + 4, end));
            }
            if start < id {
                self.gaps.insert(index, (start, id));
            }
        } else {
            return false;
        }
        if self.gaps.len() > MAX_GAPS {
            self.gaps.remove(0);
        }
        true
    }

    fn gap_of(&self, id: u64) -> Option<usize> {
        let index = self.gaps.partition_point(|(_, end)| *end <= id);
        self.gaps.get(index).filter(|(start, _)| *start <= id).map(|_| index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ids_in_any_order_are_seen_once(ids in prop::collection::vec(0_u64..64, 0..80)) {
            let (mut tracker, mut model) = (StreamIds::new(0), BTreeSet::new());
            for id in ids {
                prop_assert_eq!(tracker.see(id * 4), model.insert(id * 4));
                for other in 0..64 {
                    prop_assert_eq!(tracker.is_seen(other * 4), model.contains(&(other * 4)));
                }
            }
        }
    }

    #[test]
    fn far_jumps_and_many_gaps_take_bounded_memory() {
        let mut tracker = StreamIds::new(0);
        for index in 1..10_000 {
            assert!(tracker.see(index * 8));
        }
        assert!(tracker.gaps.len() <= MAX_GAPS);
        assert!(tracker.is_seen(4), "a forgotten gap counts as seen");
        assert!(tracker.see(9_998 * 8 + 4));
        assert!(tracker.see((1 << 62) - 4));
    }
}
