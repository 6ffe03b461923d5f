//! Rules by address and by name, as sorted tables: a look-up costs a binary search, however many rules there are.

use std::net::IpAddr;

use ipnet::IpNet;
use moretta_wire::host::Name;

use super::ports::{PortMap, PortRange};

/// Prefixes of one address family in order, each knowing the shortest one around it.
///
/// Two prefixes are disjoint or nested, so the prefixes that contain an address are the last one that begins at or
/// before it, and those around that one, less whatever ends too early.
#[derive(Debug, Default)]
pub(super) struct PrefixIndex {
    nodes: Box<[Node]>,
}

#[derive(Debug)]
struct Node {
    first: u128,
    last: u128,
    /// The prefix around this one: its place among the nodes.
    parent: Option<u32>,
    /// Whether it lies inside a special prefix, and so names it.
    names_special: bool,
    ports: PortMap,
}

/// One prefix of one rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefixEntry {
    pub(super) prefix: IpNet,
    pub(super) names_special: bool,
    pub(super) rule: u32,
    pub(super) ports: PortRange,
}

impl PrefixIndex {
    /// All `entries` are of one family.
    pub(super) fn new(mut entries: Vec<PrefixEntry>) -> Self {
        // Wider prefixes before those inside them.
        entries.sort_by_key(|entry| (bits(entry.prefix.network()), entry.prefix.prefix_len(), entry.rule));
        let mut nodes: Vec<Node> = Vec::new();
        // The chain of prefixes around the current one.
        let mut around: Vec<u32> = Vec::new();
        for group in entries.chunk_by(|a, b| a.prefix == b.prefix) {
            let Some(entry) = group.first() else { continue };
            let (first, last) = (bits(entry.prefix.network()), bits(entry.prefix.broadcast()));
            while around.last().is_some_and(|index| nodes.get(*index as usize).is_some_and(|node| node.last < first)) {
                around.pop();
            }
            let index = nodes.len() as u32;
            nodes.push(Node {
                first,
                last,
                parent: around.last().copied(),
                names_special: entry.names_special,
                ports: PortMap::new(group.iter().map(|entry| (entry.rule, entry.ports))),
            });
            around.push(index);
        }
        Self { nodes: nodes.into_boxed_slice() }
    }

    /// The first rule with a prefix around `address` and with `port`.
    ///
    /// `special_only`: only prefixes that lie inside a special prefix count.
    pub(super) fn get(&self, address: IpAddr, port: u16, special_only: bool) -> Option<u32> {
        let address = bits(address);
        let mut next = self.nodes.partition_point(|node| node.first <= address).checked_sub(1);
        let mut best: Option<u32> = None;
        while let Some(node) = next.and_then(|index| self.nodes.get(index)) {
            if address <= node.last && (node.names_special || !special_only) {
                best = [best, node.ports.get(port)].into_iter().flatten().min();
            }
            next = node.parent.map(|index| index as usize);
        }
        best
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Names, or suffixes of names, in order.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    names: Box<[(Box<str>, PortMap)]>,
}

impl NameIndex {
    pub(super) fn new(mut entries: Vec<(Box<str>, u32, PortRange)>) -> Self {
        entries.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let groups = entries.chunk_by(|a, b| a.0 == b.0).filter_map(|group| {
            let (name, ..) = group.first()?;
            Some((name.clone(), PortMap::new(group.iter().map(|(_, rule, ports)| (*rule, *ports)))))
        });
        Self { names: groups.collect() }
    }

    /// The first rule with exactly this name and with `port`.
    pub(super) fn get(&self, name: &str, port: u16) -> Option<u32> {
        let index = self.names.binary_search_by(|(candidate, _)| (**candidate).cmp(name)).ok()?;
        self.names.get(index)?.1.get(port)
    }

    /// The first rule with a suffix that `name` is below, at any depth, and with `port`.
    pub(super) fn get_parent(&self, name: &Name, port: u16) -> Option<u32> {
        let mut rest = name.as_str();
        let mut best = None;
        while let Some((_, parent)) = rest.split_once('.') {
            best = [best, self.get(parent, port)].into_iter().flatten().min();
            rest = parent;
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: PortRange = PortRange::ALL;

    fn prefixes(texts: &[&str]) -> PrefixIndex {
        let entries = (0..).zip(texts).map(|(rule, text)| PrefixEntry {
            prefix: text.parse().unwrap(),
            names_special: text.starts_with("10."),
            rule,
            ports: ALL,
        });
        PrefixIndex::new(entries.collect())
    }

    #[test]
    fn of_nested_prefixes_the_first_rule_counts_not_the_longest() {
        let index = prefixes(&["10.1.0.0/16", "10.0.0.0/8", "10.1.2.0/24", "0.0.0.0/0"]);
        for (address, rule) in [("10.1.2.3", 0), ("10.1.9.9", 0), ("10.2.0.0", 1), ("11.0.0.0", 3)] {
            assert_eq!(index.get(address.parse().unwrap(), 53, false), Some(rule), "{address}");
        }
        assert_eq!(index.get("11.0.0.0".parse().unwrap(), 53, true), None);
        assert_eq!(index.get("10.2.0.0".parse().unwrap(), 53, true), Some(1));
    }

    #[test]
    fn the_edges_of_a_prefix_are_inside_and_their_neighbours_are_not() {
        let index = prefixes(&["8.8.8.0/24", "9.9.9.9/32"]);
        for (address, hit) in [
            ("8.8.7.255", false),
            ("8.8.8.0", true),
            ("8.8.8.255", true),
            ("8.8.9.0", false),
            ("9.9.9.8", false),
            ("9.9.9.9", true),
            ("9.9.9.10", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(index.get(address.parse().unwrap(), 1, false).is_some(), hit, "{address}");
        }
    }

    #[test]
    fn a_suffix_matches_below_itself_at_any_depth_and_not_itself() {
        let name = |text| Name::parse(text).unwrap();
        let index = NameIndex::new(vec![("b.example".into(), 1, ALL), ("example".into(), 2, ALL)]);
        for (text, rule) in [
            ("a.b.example", Some(1)),
            ("x.y.b.example", Some(1)),
            ("b.example", Some(2)),
            ("ab.example", Some(2)),
            ("example", None),
            ("b.example.com", None),
        ] {
            assert_eq!(index.get_parent(&name(text), 443), rule, "{text}");
        }
        assert_eq!(index.get("b.example", 443), Some(1));
    }

    proptest! {
        #[test]
        fn the_index_answers_as_a_walk_over_the_prefixes_would(
            entries in prop::collection::vec((any::<u32>(), 0_u8..=32, 0_u16..4, any::<bool>()), 0..40),
            probes in prop::collection::vec((any::<u32>(), 0_u16..4, any::<bool>()), 20),
        ) {
            // Few distinct high bits, so that prefixes nest and repeat.
            let squeeze = |bits: u32| bits & 0x8300_01c1;
            let entries: Vec<PrefixEntry> = (0..)
                .zip(entries)
                .map(|(rule, (bits, length, port, _))| {
                    let prefix = IpNet::new(std::net::Ipv4Addr::from(squeeze(bits)).into(), length).unwrap().trunc();
                    PrefixEntry {
                        prefix,
                        names_special: length >= 8,
                        rule,
                        ports: PortRange { first: port, last: port.max(2) },
                    }
                })
                .collect();
            let index = PrefixIndex::new(entries.clone());
            for (bits, port, special_only) in probes {
                let address = IpAddr::from(std::net::Ipv4Addr::from(squeeze(bits)));
                let first = entries.iter().find(|entry| {
                    entry.prefix.contains(&address)
                        && entry.ports.first <= port
                        && port <= entry.ports.last
                        && (entry.names_special || !special_only)
                });
                prop_assert_eq!(index.get(address, port, special_only), first.map(|entry| entry.rule));
            }
        }
    }
}
