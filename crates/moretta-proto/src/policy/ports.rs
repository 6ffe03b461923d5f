//! Which rule has a port: the ports of many rules folded into disjoint ranges, each with the first rule that has it.

use std::collections::BTreeMap;

/// Ports `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl PortRange {
    pub(super) const ALL: Self = Self { first: 1, last: u16::MAX };
}

/// Disjoint ranges in order. However many rules went in, a look-up is one binary search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortMap(Box<[(PortRange, u32)]>);

impl PortMap {
    /// `entries`: rule numbers in ascending order; for each port the first entry that has it stays.
    pub(super) fn new(entries: impl IntoIterator<Item = (u32, PortRange)>) -> Self {
        // What no entry has yet; start to end.
        let mut gaps = BTreeMap::from([(0_u16, u16::MAX)]);
        let mut ranges = Vec::new();
        for (rule, PortRange { first, last }) in entries {
            if gaps.is_empty() {
                break;
            }
            // Gaps are disjoint: at most one begins before `first` and reaches into the range.
            let straddling = gaps.range(..first).next_back().filter(|(_, end)| **end >= first);
            let inside = gaps.range(first..=last);
            let touched: Vec<(u16, u16)> =
                straddling.into_iter().chain(inside).map(|(start, end)| (*start, *end)).collect();
            for (start, end) in touched {
                gaps.remove(&start);
                let (from, to) = (start.max(first), end.min(last));
                ranges.push((PortRange { first: from, last: to }, rule));
                if start < from {
                    gaps.insert(start, from - 1);
                }
                if end > to {
                    gaps.insert(to + 1, end);
                }
            }
        }
        ranges.sort_unstable_by_key(|(range, _)| range.first);
        Self(ranges.into_boxed_slice())
    }

    /// The first rule that has `port`.
    pub(super) fn get(&self, port: u16) -> Option<u32> {
        let index = self.0.partition_point(|(range, _)| range.first <= port).checked_sub(1)?;
        let (range, rule) = self.0.get(index)?;
        (port <= range.last).then_some(*rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_rule_that_has_a_port_keeps_it() {
        let range = |first, last| PortRange { first, last };
        let map = PortMap::new([(0, range(50, 60)), (1, range(55, 70)), (2, range(1, 65_535)), (3, range(1, 1))]);
        for (port, rule) in [(1, 2), (49, 2), (50, 0), (55, 0), (60, 0), (61, 1), (70, 1), (71, 2), (65_535, 2)] {
            assert_eq!(map.get(port), Some(rule), "{port}");
        }
        assert_eq!(map.get(0), None);
        assert_eq!(PortMap::default().get(1), None);
    }

    proptest! {
        #[test]
        fn the_map_answers_as_a_walk_over_the_entries_would(
            entries in prop::collection::vec((0_u16..300, 0_u16..300), 0..30),
            ports in prop::collection::vec(0_u16..320, 20),
        ) {
            let entries: Vec<(u32, PortRange)> = (0..)
                .zip(entries)
                .map(|(rule, (a, b))| (rule, PortRange { first: a.min(b), last: a.max(b) }))
                .collect();
            let map = PortMap::new(entries.iter().copied());
            for port in ports {
                let first = entries.iter().find(|(_, range)| range.first <= port && port <= range.last);
                prop_assert_eq!(map.get(port), first.map(|(rule, _)| *rule));
            }
        }
    }
}
