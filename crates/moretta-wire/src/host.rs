//! `target_host` and `target_port` as RFC 9298 §3 allows them, and nothing else that some resolver would understand.
//!
//! `127.1`, `0x7f000001`, `127。0。0。1` and `::1%1` all reach loopback through one address parser or another. Here a
//! host is an IPv4 address in its one dotted form, an IPv6 address without brackets and zone, or a DNS name that cannot
//! be mistaken for either; all else is an error before any resolver sees it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// The longest DNS name without its trailing dot, in bytes (RFC 1035 §2.3.4 less the two of the wire form).
pub const MAX_NAME_BYTES: usize = 253;

/// The longest label of a DNS name, in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;

/// What a tunnel may be asked to reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Four decimal numbers without leading zeros.
    Ipv4(Ipv4Addr),
    /// Any text form of RFC 4291 §2.2; an IPv4-mapped address stays one.
    Ipv6(Ipv6Addr),
    /// To be resolved by the proxy.
    Name(Name),
}

/// A DNS name: lower-case ASCII without trailing dot, at most 253 bytes; labels of 1 to 63 letters, digits, `-` and
/// `_`, with no `-` at either end; `xn--` labels are valid Punycode; the last label looks like no number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why a text is no [`Host`]. The request is answered with 400 before any look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Nothing, or nothing but a dot.
    #[error("the host is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("the host name is longer than 253 bytes")]
    TooLong,
    /// Two dots in a row, or a leading one.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// More than 63 bytes between two dots.
    #[error("the host name has a label longer than 63 bytes")]
    LabelTooLong,
    /// A label begins or ends with `-`.
    #[error("a label of the host name begins or ends with a hyphen")]
    HyphenAtEdge,
    /// A byte that no host name has: space, control, NUL, `@`, `/`, `%`, `,` …
    #[error("the host contains a character that no host name has")]
    InvalidCharacter,
    /// Digits, dots or letters outside ASCII; internationalised names are given in their `xn--` form.
    #[error("the host contains a character outside ASCII")]
    NotAscii,
    /// An `xn--` label that is not the encoding of anything.
    #[error("an xn-- label of the host name is not valid")]
    InvalidPunycode,
    /// The last label is all digits or `0x` and hex digits, yet the host is no IPv4 address: `127.1`, `0x7f000001`.
    #[error("the host looks like a number but is not an IPv4 address")]
    LooksLikeAddress,
    /// Colons, but not an IPv6 address.
    #[error("the host is not a valid IPv6 address")]
    InvalidIpv6,
    /// RFC 9298 §3: an IPv6 address stands without square brackets.
    #[error("the host has square brackets")]
    Brackets,
    /// RFC 9298 §3: zone identifiers are not supported.
    #[error("the host has a zone identifier")]
    ZoneId,
}

impl HostError {
    /// A stable name for logs, vectors and counters.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::EmptyLabel => "empty_label",
            Self::LabelTooLong => "label_too_long",
            Self::HyphenAtEdge => "hyphen_at_edge",
            Self::InvalidCharacter => "invalid_character",
            Self::NotAscii => "not_ascii",
            Self::InvalidPunycode => "invalid_punycode",
            Self::LooksLikeAddress => "looks_like_address",
            Self::InvalidIpv6 => "invalid_ipv6",
            Self::Brackets => "brackets",
            Self::ZoneId => "zone_id",
        }
    }
}

impl Host {
    /// Reads a host that has been percent-decoded exactly once.
    ///
    /// # Errors
    /// See [`HostError`]; no error is ever repaired by asking a resolver.
    pub fn parse(decoded: &str) -> Result<Self, HostError> {
        // `Ipv4Addr` takes the dotted form alone: no leading zeros, no other bases, no missing parts.
        if let Ok(address) = decoded.parse() {
            return Ok(Self::Ipv4(address));
        }
        if decoded.contains(['[', ']']) {
            return Err(HostError::Brackets);
        }
        if decoded.contains(':') {
            // `Ipv6Addr` knows no zones either; told apart only for the message.
            return match decoded.parse() {
                Ok(address) => Ok(Self::Ipv6(address)),
                Err(_) if decoded.contains('%') => Err(HostError::ZoneId),
                Err(_) => Err(HostError::InvalidIpv6),
            };
        }
        Name::parse(decoded).map(Self::Name)
    }

    /// The address, if the host is one.
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Ipv4(address) => Some(IpAddr::V4(*address)),
            Self::Ipv6(address) => Some(IpAddr::V6(*address)),
            Self::Name(_) => None,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address),
            IpAddr::V6(address) => Self::Ipv6(address),
        }
    }
}

/// The form that [`Host::parse`] reads: IPv6 without brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(address) => address.fmt(f),
            Self::Ipv6(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Name {
    /// Reads a name: lower-cases it and takes one trailing dot off, so that equal names compare equal.
    ///
    /// # Errors
    /// See [`HostError`]. An IPv4 address is refused as [`HostError::LooksLikeAddress`].
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if !text.is_ascii() {
            return Err(HostError::NotAscii);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(HostError::TooLong);
        }
        // Before the labels are looked at: `127.0.0.1.` and `127.0.0.01` should be told what they look like.
        if looks_like_number(text.rsplit('.').next().unwrap_or(text)) {
            return Err(HostError::LooksLikeAddress);
        }
        let text = text.to_ascii_lowercase();
        for label in text.split('.') {
            check_label(label)?;
        }
        Ok(Self(text.into_boxed_str()))
    }

    /// The name, lower case and without trailing dot.
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Whether some address parser might read a host with this last label as an IPv4 address: all digits, or `0x` followed
/// by nothing but hex digits. No top-level domain looks like that.
fn looks_like_number(label: &str) -> bool {
    match label.strip_prefix("0x").or_else(|| label.strip_prefix("0X")) {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// One lower-case label.
fn check_label(label: &str) -> Result<(), HostError> {
    if label.is_empty() {
        return Err(HostError::EmptyLabel);
    }
    if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return Err(HostError::InvalidCharacter);
    }
    if label.len() > MAX_LABEL_BYTES {
        return Err(HostError::LabelTooLong);
    }
    // `xn--` decides first: Punycode of pure ASCII ends in a hyphen and should be told what is wrong with it.
    if label.starts_with("xn--") && !is_valid_a_label(label) {
        return Err(HostError::InvalidPunycode);
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(HostError::HyphenAtEdge);
    }
    Ok(())
}

/// Whether an `xn--` label decodes to a valid label outside ASCII and encodes back to itself. One that hides an ASCII
/// name (`xn--allowed-`) would let one name pass for another.
fn is_valid_a_label(label: &str) -> bool {
    Uts46::new()
        .to_ascii(label.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, DnsLength::Verify)
        .is_ok_and(|encoded| encoded == label)
}

/// Why a text is no port that a tunnel may be asked to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the port is not a decimal number from 1 to 65535")]
pub struct PortError;

/// Reads a `target_port` that has been percent-decoded exactly once: 1 to 65535 in decimal (RFC 9298 §3).
///
/// # Errors
/// [`PortError`] for zero, signs, spaces, leading zeros, other digits and anything longer than five digits.
pub fn parse_port(decoded: &str) -> Result<u16, PortError> {
    // A leading zero would be legal grammar, but two spellings of one port invite two verdicts on it.
    let plain = decoded.bytes().all(|byte| byte.is_ascii_digit()) && !decoded.starts_with('0');
    if plain { decoded.parse().map_err(|_| PortError) } else { Err(PortError) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_lower_case_and_lose_one_trailing_dot() {
        for (text, name) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("_dns.resolver.arpa", "_dns.resolver.arpa"),
            ("a_b.example", "a_b.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("1e100.net", "1e100.net"),
            ("0xg", "0xg"),
            ("3com", "3com"),
        ] {
            let host = Host::parse(text).unwrap();
            assert_eq!(host, Host::Name(Name::parse(name).unwrap()), "{text}");
            assert_eq!(host.to_string(), name, "{text}");
        }
    }

    #[test]
    fn length_limits_are_those_of_dns() {
        let label = "a".repeat(63);
        assert!(Host::parse(&label).is_ok());
        assert_eq!(Host::parse(&"a".repeat(64)), Err(HostError::LabelTooLong));
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), MAX_NAME_BYTES);
        assert!(Host::parse(&longest).is_ok());
        assert!(Host::parse(&format!("{longest}.")).is_ok(), "the trailing dot does not count");
        assert_eq!(Host::parse(&format!("{longest}a")), Err(HostError::TooLong));
    }

    #[test]
    fn an_address_is_no_name() {
        assert_eq!(Name::parse("192.0.2.1"), Err(HostError::LooksLikeAddress));
        assert_eq!(Host::parse("192.0.2.1"), Ok(Host::Ipv4(Ipv4Addr::new(192, 0, 2, 1))));
    }

    proptest! {
        #[test]
        fn a_parsed_host_prints_as_itself(text in "[ -~]{0,20}|[0-9a-fx.:]{0,20}|\\PC{0,20}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
        }

        #[test]
        fn every_address_prints_as_a_host(four in any::<[u8; 4]>(), six in any::<[u8; 16]>()) {
            for address in [IpAddr::from(four), IpAddr::from(six)] {
                let host = Host::parse(&address.to_string()).unwrap();
                prop_assert_eq!(host.address(), Some(address));
                prop_assert_eq!(host, Host::from(address));
            }
        }

        #[test]
        fn a_number_in_the_last_label_is_an_address_or_an_error(text in "([0-9a-fx]{1,4}\\.){0,4}(0[xX][0-9a-fA-F]{0,8}|[0-9]{1,10})\\.?") {
            match Host::parse(&text) {
                Ok(Host::Ipv4(address)) => prop_assert_eq!(address.to_string(), text),
                other => prop_assert_eq!(other, Err(HostError::LooksLikeAddress)),
            }
        }

        #[test]
        fn every_port_but_zero_reads_back(port in 1..=u16::MAX) {
            prop_assert_eq!(parse_port(&port.to_string()), Ok(port));
        }
    }
}
