//! The text of a target host, after percent-decoding.

use moretta_wire::host::{Host, parse_port};
use moretta_wire::prefix::classify;

/// A host has one reading, and no reading that C's resolver would take for an address in disguise; no embedding makes an
/// address better.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(port) = parse_port(text) {
        assert_eq!(port.to_string(), text);
    }
    let host = match Host::parse(text) {
        Ok(host) => host,
        Err(error) => return assert!(!error.code().is_empty()),
    };
    assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host));
    match host {
        Host::Ipv4(address) => {
            assert_eq!(address.to_string(), text, "one spelling only");
            let (plain, mapped) = (classify(address.into()), classify(address.to_ipv6_mapped().into()));
            assert!(mapped.tier >= plain.tier, "{address} is more open as {mapped:?} than as {plain:?}");
        }
        Host::Ipv6(address) => {
            if let Some(inner) = address.to_ipv4_mapped() {
                assert!(classify(address.into()).tier >= classify(inner.into()).tier);
            }
        }
        Host::Name(name) => assert!(!inet_aton_accepts(name.as_str()), "{name} is an address for some resolvers"),
    }
}

/// What C's `inet_aton` would take for an IPv4 address: up to four numbers in decimal, octal or hex.
fn inet_aton_accepts(text: &str) -> bool {
    let parts: Vec<&str> = text.strip_suffix('.').unwrap_or(text).split('.').collect();
    let number = |part: &str| match part.as_bytes() {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        [_, ..] => part.bytes().all(|byte| byte.is_ascii_digit()),
        [] => false,
    };
    parts.len() <= 4 && parts.iter().all(|part| number(part))
}
