//! Which addresses a gateway reaches for anybody, for those who were granted them, or for nobody (RFC 9298 §7).
//!
//! One table, `data/special-prefixes.json`, compiled in; an address it does not mention is public. An IPv6 address that
//! carries an IPv4 address is judged by both, the worse verdict winning, because a translator or the kernel may deliver
//! it to the inner one. What depends on the machine (its own addresses, directed broadcasts, an operator's NAT64
//! prefix) is not known here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How far an address is from being a target, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Any rule may allow it.
    Public,
    /// Only a rule that names the prefix allows it: private and special-purpose addresses.
    DefaultDeny,
    /// No rule allows it; only a setting whose name begins with `danger_` does: loopback, link-local, metadata,
    /// multicast, broadcast, unspecified.
    Never,
}

impl Tier {
    /// The name in the data file and in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::DefaultDeny => "default-deny",
            Self::Never => "never",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialPrefix {
    /// Which addresses.
    pub prefix: IpNet,
    /// How they are treated, unless a longer prefix says otherwise.
    pub tier: Tier,
    /// What they are for, in a few words.
    pub name: &'static str,
    /// Who says so.
    pub source: &'static str,
}

/// A verdict on one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// The verdict.
    pub tier: Tier,
    /// What decided: a row of the table (an IPv4 one if `embedded` is set), or the address itself for a subnet-router
    /// anycast address. `None` for an address the table does not mention.
    pub prefix: Option<IpNet>,
    /// What that prefix is for; `"public"` without one.
    pub name: &'static str,
    /// The IPv4 address inside the IPv6 address, if that is what decided.
    pub embedded: Option<Ipv4Addr>,
}

/// Every row, longest prefix first.
pub const fn table() -> &'static [SpecialPrefix] {
    TABLE
}

/// Judges an address by the most specific row that contains it and by the IPv4 addresses inside it; the worst wins.
///
/// Reads constants only: no allocation, no state.
pub fn classify(address: IpAddr) -> Classified {
    let IpAddr::V6(outer) = address else {
        return look_up(address);
    };
    let mut verdict = look_up(address);
    // RFC 4291 §2.6.1: an all-zero interface identifier reaches whichever router serves that subnet.
    if verdict.tier == Tier::Public && verdict.prefix.is_none() && outer.to_bits().trailing_zeros() >= 64 {
        verdict = Classified {
            tier: Tier::DefaultDeny,
            prefix: Some(IpNet::from(address)),
            name: "subnet-router anycast",
            embedded: None,
        };
    }
    for inner in embedded_ipv4(outer) {
        let judged = look_up(inner.into());
        if judged.tier > verdict.tier {
            verdict = Classified { embedded: Some(inner), ..judged };
        }
    }
    verdict
}

/// The IPv4 addresses that an IPv6 address may be delivered to, by whoever translates or decapsulates it; mostly none,
/// at most three. A rule that denies one of them should deny the outer address too.
pub fn embedded_ipv4(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = address.to_bits();
    // Bytes `at` to `at + 4` of the address.
    let inner = move |at: u32| Ipv4Addr::from_bits((bits >> (96 - 8 * at)) as u32);
    let inside = |prefix: &[Ipv6Net]| prefix.iter().any(|net| net.contains(&address));

    let last = inside(EMBEDDED_IN_THE_LAST_BYTES) || is_isatap(bits);
    // RFC 6052 §2.2: a /64 NAT64 prefix has the address at bytes 9 to 13, with zeros before and behind. (With /48 and
    // /56 the last four bytes are zero, which is 0.0.0.0 and as bad as can be.)
    let nat64_64 = NAT64_LOCAL_USE.contains(&address) && bits & 0xff00_0000_00ff_ffff == 0;
    let six_to_four = SIX_TO_FOUR.contains(&address);
    let teredo = TEREDO.contains(&address);
    [
        last.then(|| inner(12)),
        nat64_64.then(|| inner(9)),
        six_to_four.then(|| inner(2)),
        teredo.then(|| inner(4)),
        // RFC 4380 §4: the client's address is written inverted.
        teredo.then(|| Ipv4Addr::from_bits(!inner(12).to_bits())),
    ]
    .into_iter()
    .flatten()
}

/// RFC 5214 §6.1: an interface identifier of `[02]00:5efe` and an IPv4 address, behind any prefix.
const fn is_isatap(bits: u128) -> bool {
    ((bits >> 32) as u32) & !0x0200_0000 == 0x0000_5efe
}

fn look_up(address: IpAddr) -> Classified {
    match TABLE.iter().find(|row| row.prefix.contains(&address)) {
        Some(row) => Classified { tier: row.tier, prefix: Some(row.prefix), name: row.name, embedded: None },
        None => Classified { tier: Tier::Public, prefix: None, name: "public", embedded: None },
    }
}

/// IPv4-compatible, IPv4-mapped, IPv4-translated, both NAT64 prefixes.
const EMBEDDED_IN_THE_LAST_BYTES: &[Ipv6Net] = &[
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    NAT64_LOCAL_USE,
];
const NAT64_LOCAL_USE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
const SIX_TO_FOUR: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
const TEREDO: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32);

#[expect(clippy::ip_constant, reason = "generated")]
const TABLE: &[SpecialPrefix] = &include!(concat!(env!("OUT_DIR"), "/special_prefixes.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tier(text: &str) -> Tier {
        classify(text.parse().unwrap()).tier
    }

    #[test]
    fn the_table_is_sorted_by_length_so_that_the_first_hit_is_the_most_specific() {
        assert!(table().is_sorted_by_key(|row| std::cmp::Reverse(row.prefix.prefix_len())));
        assert!(table().len() > 40);
    }

    #[test]
    fn the_verdict_names_the_prefix_and_the_address_inside() {
        let verdict = classify("64:ff9b::7f00:1".parse().unwrap());
        assert_eq!(verdict.tier, Tier::Never);
        assert_eq!(verdict.prefix, Some("127.0.0.0/8".parse().unwrap()));
        assert_eq!(verdict.embedded, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(verdict.name, "loopback");

        let verdict = classify("10.1.2.3".parse().unwrap());
        assert_eq!((verdict.tier, verdict.prefix), (Tier::DefaultDeny, Some("10.0.0.0/8".parse().unwrap())));
        assert_eq!(classify("8.8.8.8".parse().unwrap()).prefix, None);
    }

    #[test]
    fn a_translated_public_address_is_public_only_through_the_well_known_prefix() {
        assert_eq!(tier("64:ff9b::808:808"), Tier::Public, "IPv6-only networks reach IPv4 this way");
        for other in
            ["::ffff:8.8.8.8", "::8.8.8.8", "2002:808:808::1", "64:ff9b:1::808:808", "2001:0:808:808::f7f7:f7f7"]
        {
            assert_eq!(tier(other), Tier::DefaultDeny, "{other}");
        }
    }

    #[test]
    fn isatap_is_seen_behind_any_prefix_and_with_either_bit() {
        for (text, expected) in [
            ("2a00::5efe:7f00:1", Tier::Never),
            ("2a00::200:5efe:a00:1", Tier::DefaultDeny),
            ("2a00::5efe:808:808", Tier::Public),
            ("2a00::5eff:7f00:1", Tier::Public),
        ] {
            assert_eq!(tier(text), expected, "{text}");
        }
    }

    #[test]
    fn a_subnet_router_is_not_public() {
        let verdict = classify("2a00:1450::".parse().unwrap());
        assert_eq!(verdict.tier, Tier::DefaultDeny);
        assert_eq!(verdict.prefix, Some("2a00:1450::/128".parse().unwrap()));
        assert_eq!(tier("2a00:1450::1"), Tier::Public);
    }

    /// A reader of the table who has never heard of longest-prefix matching.
    fn naive(address: IpAddr) -> Tier {
        let mut best: Option<&SpecialPrefix> = None;
        for row in table() {
            if row.prefix.contains(&address)
                && best.is_none_or(|best| best.prefix.prefix_len() < row.prefix.prefix_len())
            {
                best = Some(row);
            }
        }
        best.map_or(Tier::Public, |row| row.tier)
    }

    proptest! {
        #[test]
        fn ipv4_is_judged_by_its_longest_prefix(bits in any::<u32>()) {
            let address = IpAddr::from(Ipv4Addr::from_bits(bits));
            prop_assert_eq!(classify(address).tier, naive(address));
        }

        #[test]
        fn no_embedding_makes_an_address_better(bits in any::<u32>(), high in any::<u64>(), row in any::<prop::sample::Index>()) {
            // Mostly addresses from the table: random ones are nearly all public.
            let row = &table()[row.index(table().len())];
            let inner = match row.prefix {
                IpNet::V4(net) => Ipv4Addr::from_bits(net.addr().to_bits() | (bits & net.hostmask().to_bits())),
                IpNet::V6(_) => Ipv4Addr::from_bits(bits),
            };
            let alone = classify(inner.into()).tier;
            let (v4, high) = (u128::from(inner.to_bits()), u128::from(high));
            for outer in [
                v4,
                0xffff << 32 | v4,
                0xffff << 48 | v4,
                0x64_ff9b << 96 | v4,
                0x64_ff9b_0001 << 80 | (high & 0xffff) << 64 | v4,
                0x2002 << 112 | v4 << 80 | high,
                0x2001_0000 << 96 | v4 << 64 | high,
                0x2001_0000 << 96 | high << 32 | u128::from(!inner.to_bits()),
                high << 64 | 0x5efe << 32 | v4,
                high << 64 | 0x0200_5efe << 32 | v4,
            ] {
                let outer = Ipv6Addr::from_bits(outer);
                prop_assert!(classify(outer.into()).tier >= alone, "{} in {}", inner, outer);
                prop_assert!(embedded_ipv4(outer).any(|found| found == inner), "{} in {}", inner, outer);
            }
        }
    }
}
