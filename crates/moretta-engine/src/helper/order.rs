//! The order in which to try addresses: RFC 6724 section 6, for the rules that one host can decide.
//!
//! Pure: the caller says from which source address the system would reach each destination.

use std::cmp::{Ordering, Reverse};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A destination with the source address that the system's routes choose for it; None means there is no route.
pub(crate) type Candidate = (IpAddr, Option<IpAddr>);

/// Sorts destinations, best first; those that compare equal keep their order (rule 10).
pub(crate) fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by(compare);
}

fn compare(a: &Candidate, b: &Candidate) -> Ordering {
    // Rule 1: avoid unusable destinations.
    let usable = a.1.is_none().cmp(&b.1.is_none());
    let (Some(source_a), Some(source_b)) = (a.1, b.1) else { return usable };
    let (a, b) = (a.0, b.0);
    // Rules 3, 4 and 7 (deprecated, home and native) need facts that only the kernel has.
    usable
        // Rule 2: prefer matching scope.
        .then((scope(a) != scope(source_a)).cmp(&(scope(b) != scope(source_b))))
        // Rule 5: prefer matching label.
        .then((policy(a).1 != policy(source_a).1).cmp(&(policy(b).1 != policy(source_b).1)))
        // Rule 6: prefer higher precedence.
        .then(Reverse(policy(a).0).cmp(&Reverse(policy(b).0)))
        // Rule 8: prefer smaller scope.
        .then(scope(a).cmp(&scope(b)))
        // Rule 9: use longest matching prefix, within one family.
        .then_with(|| {
            if a.is_ipv4() == b.is_ipv4() {
                Reverse(common_prefix(a, source_a)).cmp(&Reverse(common_prefix(b, source_b)))
            } else {
                Ordering::Equal
            }
        })
}

/// RFC 6724 section 3.1 and 3.2, as the numbers of IPv6 multicast scopes.
fn scope(address: IpAddr) -> u8 {
    const LINK_LOCAL: u8 = 2;
    const SITE_LOCAL: u8 = 5;
    const GLOBAL: u8 = 14;
    match address {
        IpAddr::V4(v4) if v4.is_loopback() || v4.is_link_local() => LINK_LOCAL,
        IpAddr::V6(v6) if v6.is_multicast() => v6.octets()[1] & 0x0f,
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unicast_link_local() => LINK_LOCAL,
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfec0 => SITE_LOCAL,
        IpAddr::V4(_) | IpAddr::V6(_) => GLOBAL,
    }
}

/// Precedence and label of the default policy table (RFC 6724 section 2.1).
fn policy(address: IpAddr) -> (u8, u8) {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let table: [(Ipv6Addr, u8, u8, u8); 8] = [
        (Ipv6Addr::LOCALHOST, 128, 50, 0),
        (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96, 35, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 1, 3),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5, 5),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 1, 12),
        (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 1, 11),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 3, 13),
    ];
    table
        .into_iter()
        .find(|(prefix, length, ..)| common_bits(u128::from(*prefix), u128::from(v6)) >= u32::from(*length))
        .map_or((40, 1), |(_, _, precedence, label)| (precedence, label))
}

fn common_bits(a: u128, b: u128) -> u32 {
    (a ^ b).leading_zeros()
}

/// Common bits, up to the 64 that name a subnet in IPv6 (RFC 6724 section 2.2).
fn common_prefix(destination: IpAddr, source: IpAddr) -> u32 {
    match (destination, source) {
        (IpAddr::V6(a), IpAddr::V6(b)) => common_bits(u128::from(a), u128::from(b)).min(64),
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 6724 section 10.2 that need no fact of the kernel's.
    #[test]
    fn the_examples_of_the_rfc_come_out_as_printed() {
        type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
        let rows: [Row; 8] = [
            (
                "prefer matching scope",
                &[("198.51.100.121", "169.254.13.78"), ("2001:db8:1::1", "2001:db8:1::2")],
                &["2001:db8:1::1", "198.51.100.121"],
            ),
            (
                "prefer matching scope, IPv4",
                &[("2001:db8:1::1", "fe80::1"), ("198.51.100.121", "198.51.100.117")],
                &["198.51.100.121", "2001:db8:1::1"],
            ),
            (
                "prefer higher precedence",
                &[("10.1.2.3", "10.1.2.4"), ("2001:db8:1::1", "2001:db8:1::2")],
                &["2001:db8:1::1", "10.1.2.3"],
            ),
            (
                "prefer smaller scope",
                &[("2001:db8:1::1", "2001:db8:1::2"), ("fe80::1", "fe80::2")],
                &["fe80::1", "2001:db8:1::1"],
            ),
            (
                "prefer matching label",
                &[("2002:c633:6401::1", "2002:c633:6401::2"), ("2001:db8:1::1", "2002:c633:6401::2")],
                &["2002:c633:6401::1", "2001:db8:1::1"],
            ),
            (
                "prefer longest prefix",
                &[("2001:db8:3ffe::1", "2001:db8:1::2"), ("2001:db8:1::1", "2001:db8:1::2")],
                &["2001:db8:1::1", "2001:db8:3ffe::1"],
            ),
            (
                "IPv4 over unique local",
                &[("fd00::1", "fd00::2"), ("192.0.2.1", "192.0.2.2")],
                &["192.0.2.1", "fd00::1"],
            ),
            (
                "equal ones keep their order",
                &[("192.0.2.9", "192.0.2.2"), ("192.0.2.8", "192.0.2.2")],
                &["192.0.2.9", "192.0.2.8"],
            ),
        ];
        for (id, candidates, expected) in rows {
            let mut candidates: Vec<Candidate> = candidates
                .iter()
                .map(|(destination, source)| (destination.parse().unwrap(), Some(source.parse().unwrap())))
                .collect();
            sort(&mut candidates);
            let sorted: Vec<String> = candidates.iter().map(|(destination, _)| destination.to_string()).collect();
            assert_eq!(sorted, expected, "{id}");
        }
    }

    #[test]
    fn what_has_no_route_comes_last() {
        let mut candidates: Vec<Candidate> = vec![
            ("2001:db8::1".parse().unwrap(), None),
            ("192.0.2.1".parse().unwrap(), Some("192.0.2.2".parse().unwrap())),
        ];
        sort(&mut candidates);
        assert!(candidates[0].0.is_ipv4());
    }
}
