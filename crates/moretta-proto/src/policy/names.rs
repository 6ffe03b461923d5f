//! Names that mean something else than a host of the public DNS.

use moretta_wire::host::Name;
use moretta_wire::prefix::Tier;

/// Names of the machine itself (RFC 6761 §6.3 and the hosts files in use).
const LOOPBACK_NAMES: &[&str] = &[
    "broadcasthost",
    "ip6-allhosts",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-localhost",
    "ip6-localnet",
    "ip6-loopback",
    "ip6-mcastprefix",
    "localhost",
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
];

/// Suffixes of names that mean the machine itself.
const LOOPBACK_SUFFIXES: &[&str] = &["localhost"];

/// Suffixes that resolve, if at all, inside somebody's network: reserved for that (RFC 6762, RFC 8375, ICANN), reverse
/// trees, or used by orchestrators.
const LOCAL_SUFFIXES: &[&str] = &["home.arpa", "in-addr.arpa", "internal", "ip6.arpa", "local", "localdomain", "svc"];

/// How far a name is from being a public target; the same tiers as for addresses.
///
/// `Never`: a name of the machine itself. `DefaultDeny`: a name that has meaning inside a network only (a single label,
/// or below a reserved suffix): `*` does not reach it. `Public`: any other.
pub(super) fn classify(name: &Name) -> Tier {
    let text = name.as_str();
    if LOOPBACK_NAMES.contains(&text) || is_below_any(text, LOOPBACK_SUFFIXES) {
        Tier::Never
    } else if !text.contains('.') || is_below_any(text, LOCAL_SUFFIXES) {
        Tier::DefaultDeny
    } else {
        Tier::Public
    }
}

fn is_below_any(name: &str, suffixes: &[&str]) -> bool {
    suffixes.iter().any(|suffix| is_below(name, suffix))
}

fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AU-4, S-d.
    #[test]
    fn names_of_the_machine_and_of_networks_are_told_from_public_ones() {
        for (text, tier) in [
            ("localhost", Tier::Never),
            ("LOCALHOST", Tier::Never),
            ("localhost.", Tier::Never),
            ("a.localhost", Tier::Never),
            ("a.b.localhost", Tier::Never),
            ("localhost.localdomain", Tier::Never),
            ("ip6-localhost", Tier::Never),
            ("ip6-loopback", Tier::Never),
            ("broadcasthost", Tier::Never),
            ("metadata", Tier::DefaultDeny),
            ("wpad", Tier::DefaultDeny),
            ("metadata.google.internal", Tier::DefaultDeny),
            ("kubernetes.default.svc", Tier::DefaultDeny),
            ("printer.local", Tier::DefaultDeny),
            ("router.home.arpa", Tier::DefaultDeny),
            ("1.0.0.127.in-addr.arpa", Tier::DefaultDeny),
            ("host.docker.internal", Tier::DefaultDeny),
            ("notlocalhost.example", Tier::Public),
            ("localhost.example", Tier::Public),
            ("xlocal.example", Tier::Public),
            ("mylocalhost.com", Tier::Public),
            ("dns.google", Tier::Public),
            ("name.test", Tier::Public),
        ] {
            assert_eq!(classify(&Name::parse(text).unwrap()), tier, "{text}");
        }
    }
}
