//! The two Structured Fields (RFC 9651) of a tunnel: Capsule-Protocol (RFC 9297 §3.4) and Proxy-Status (RFC 9209).
//!
//! Reading is lenient where the RFCs ask for it: what has the wrong type counts as absent. Writing cannot produce an
//! invalid field, whatever text it is given.

use sfv::{
    BareItem, Item, ItemSerializer, List, ListEntry, Parameters, Parser, RefBareItem, StringRef, TokenRef, key_ref,
};

/// The value of a Capsule-Protocol field that says yes (RFC 9297 §3.4).
pub const CAPSULE_PROTOCOL_TRUE: &str = "?1";

/// Whether the Capsule-Protocol field lines of a message say that it uses the Capsule Protocol.
///
/// RFC 9297 §3.4: the field is an Item of type Boolean, parameters are ignored; another type, or a second line (which
/// makes it a List), counts as absence, and absence as `?0`. Never an error.
pub fn capsule_protocol(lines: impl IntoIterator<Item = impl AsRef<[u8]>>) -> bool {
    let mut lines = lines.into_iter();
    let (Some(only), None) = (lines.next(), lines.next()) else {
        return false;
    };
    matches!(Parser::new(only.as_ref()).parse::<Item>(), Ok(Item { bare_item: BareItem::Boolean(true), .. }))
}

/// One member of a Proxy-Status field: what one intermediary has to say (RFC 9209 §2).
///
/// Every part but the name is optional, and is left out of the field when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyStatus {
    /// The intermediary: a service or host name, not a product.
    pub name: String,
    /// `error`: one of the types of RFC 9209 §2.3, such as `dns_timeout`.
    pub error: Option<String>,
    /// `next-hop`: whom it chose, such as `192.0.2.6:443`.
    pub next_hop: Option<String>,
    /// `next-protocol`: the ALPN identifier used towards it.
    pub next_protocol: Option<Vec<u8>>,
    /// `received-status`: what the next hop answered.
    pub received_status: Option<u16>,
    /// `details`: free text.
    pub details: Option<String>,
    /// `rcode` of a `dns_error`, such as `NXDOMAIN`.
    pub rcode: Option<String>,
    /// `info-code` of a `dns_error`: the extended error of RFC 8914.
    pub info_code: Option<u16>,
    /// `alert-id` of a `tls_alert_received`.
    pub alert_id: Option<u8>,
    /// `status-code` of an `http_request_error`.
    pub status_code: Option<u16>,
    /// `next-hop-aliases` (RFC 9532): the names that led to the next hop, separated by commas.
    pub next_hop_aliases: Option<String>,
}

impl ProxyStatus {
    /// A member that says nothing yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Reads one field value. Equals [`parse_lines`](Self::parse_lines) with one line.
    pub fn parse(value: &[u8]) -> Vec<Self> {
        Self::parse_lines([value])
    }

    /// Reads all field lines of a message, first the member closest to the origin.
    ///
    /// A field that is no List is ignored as a whole (RFC 9651 §4.2), so the result is empty. Members that are neither
    /// String nor Token, unknown parameters, and parameters of the wrong type or out of range are ignored one by one.
    pub fn parse_lines(lines: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Self> {
        // RFC 9110 §5.3: several lines are one, joined by commas.
        let mut joined = Vec::new();
        for (index, line) in lines.into_iter().enumerate() {
            if index > 0 {
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(line.as_ref());
        }
        let members: List = Parser::new(&joined).parse().unwrap_or_default();
        members.iter().filter_map(Self::from_member).collect()
    }

    /// The member as text, ready to be a field value or to be joined to others by `, `.
    ///
    /// RFC 9209 §2: the name is a Token where it can be, otherwise a String (a name that starts with a digit cannot be
    /// a Token); `error` is left out if it is no Token, since no registered type is anything else. In Strings, what is
    /// not printable ASCII becomes `?`.
    pub fn to_field_value(&self) -> String {
        let mut member = ItemSerializer::new().bare_item(token_or_string(&printable(&self.name)));
        if let Some(error) = self.error.as_deref().and_then(|error| TokenRef::from_str(error).ok()) {
            member = member.parameter(key_ref("error"), error);
        }
        for (key, value) in [
            (key_ref("next-hop"), &self.next_hop),
            (key_ref("rcode"), &self.rcode),
            (key_ref("details"), &self.details),
            (key_ref("next-hop-aliases"), &self.next_hop_aliases),
        ] {
            if let Some(value) = value {
                member = member.parameter(key, string(&printable(value)));
            }
        }
        if let Some(protocol) = &self.next_protocol {
            // RFC 9209 §2.1.3: a Token if possible, otherwise a Byte Sequence.
            member = match TokenRef::from_bytes(protocol) {
                Ok(token) => member.parameter(key_ref("next-protocol"), token),
                Err(_) => member.parameter(key_ref("next-protocol"), &protocol[..]),
            };
        }
        for (key, value) in [
            (key_ref("info-code"), self.info_code),
            (key_ref("alert-id"), self.alert_id.map(u16::from)),
            (key_ref("status-code"), self.status_code),
            (key_ref("received-status"), self.received_status),
        ] {
            if let Some(value) = value {
                member = member.parameter(key, value);
            }
        }
        member.finish()
    }

    fn from_member(member: &ListEntry) -> Option<Self> {
        let ListEntry::Item(Item { bare_item, params }) = member else {
            return None;
        };
        Some(Self {
            name: text(bare_item)?,
            error: params.get("error").and_then(BareItem::as_token).map(|error| error.as_str().to_owned()),
            next_hop: params.get("next-hop").and_then(text),
            next_protocol: params.get("next-protocol").and_then(|value| match value.as_token() {
                Some(token) => Some(token.as_str().as_bytes().to_vec()),
                None => value.as_byte_sequence().map(<[u8]>::to_vec),
            }),
            received_status: integer(params, "received-status"),
            details: strict_string(params, "details"),
            rcode: strict_string(params, "rcode"),
            info_code: integer(params, "info-code"),
            alert_id: integer(params, "alert-id"),
            status_code: integer(params, "status-code"),
            next_hop_aliases: strict_string(params, "next-hop-aliases"),
        })
    }
}

/// A String or a Token.
fn text(item: &BareItem) -> Option<String> {
    match (item.as_string(), item.as_token()) {
        (Some(string), _) => Some(string.as_str().to_owned()),
        (None, Some(token)) => Some(token.as_str().to_owned()),
        (None, None) => None,
    }
}

fn strict_string(params: &Parameters, key: &str) -> Option<String> {
    params.get(key).and_then(BareItem::as_string).map(|string| string.as_str().to_owned())
}

fn integer<T: TryFrom<i64>>(params: &Parameters, key: &str) -> Option<T> {
    params.get(key).and_then(BareItem::as_integer).and_then(|value| T::try_from(value.into()).ok())
}

/// RFC 9651 §3.3.3: Strings are printable ASCII.
fn printable(text: &str) -> String {
    text.chars().map(|character| if matches!(character, ' '..='~') { character } else { '?' }).collect()
}

fn token_or_string(printable: &str) -> RefBareItem<'_> {
    match TokenRef::from_str(printable) {
        Ok(token) => token.into(),
        Err(_) => string(printable).into(),
    }
}

fn string(printable: &str) -> &StringRef {
    StringRef::from_str(printable).unwrap_or(StringRef::EMPTY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// CAP-21, CAP-22.
    #[test]
    fn only_a_single_true_boolean_turns_the_capsule_protocol_on() {
        for yes in ["?1", "?1;foo=bar", " ?1 "] {
            assert!(capsule_protocol([yes]), "{yes:?}");
        }
        for no in ["?0", "1", "\"x\"", "true", "?1, ?1", "", "?2", "(?1)", "?1;"] {
            assert!(!capsule_protocol([no]), "{no:?}");
        }
        assert!(!capsule_protocol(["?1", "?1"]));
        assert!(!capsule_protocol(["?1", ""]));
        assert!(!capsule_protocol([""; 0]));
    }

    #[test]
    fn a_member_is_written_with_the_types_of_rfc_9209() {
        let full = ProxyStatus {
            error: Some("dns_error".into()),
            next_hop: Some("192.0.2.6:443".into()),
            next_protocol: Some(b"h3".to_vec()),
            received_status: Some(503),
            details: Some("said \"no\"".into()),
            rcode: Some("NXDOMAIN".into()),
            info_code: Some(9),
            alert_id: Some(40),
            status_code: Some(400),
            next_hop_aliases: Some("a.example,b.example".into()),
            ..ProxyStatus::new("moretta")
        };
        let text = full.to_field_value();
        assert_eq!(
            text,
            r#"moretta;error=dns_error;next-hop="192.0.2.6:443";rcode="NXDOMAIN";details="said \"no\"";next-hop-aliases="a.example,b.example";next-protocol=h3;info-code=9;alert-id=40;status-code=400;received-status=503"#
        );
        assert_eq!(ProxyStatus::parse(text.as_bytes()), [full]);
    }

    /// RFC 9651 §3.3.4: a Token starts with a letter or `*`.
    #[test]
    fn a_name_that_is_no_token_becomes_a_string() {
        for (name, text) in [
            ("moretta", "moretta"),
            ("proxy.example:443", "proxy.example:443"),
            ("192.0.2.1", "\"192.0.2.1\""),
            ("1proxy", "\"1proxy\""),
            ("my proxy", "\"my proxy\""),
            ("", "\"\""),
            ("prüfstand\r\n", "\"pr?fstand??\""),
        ] {
            assert_eq!(ProxyStatus::new(name).to_field_value(), text);
        }
    }

    #[test]
    fn an_error_that_is_no_token_is_left_out() {
        let member = ProxyStatus { error: Some("not a token".into()), ..ProxyStatus::new("p") };
        assert_eq!(member.to_field_value(), "p");
    }

    #[test]
    fn members_and_parameters_of_the_wrong_type_are_ignored_one_by_one() {
        let value = br#"far;error="text";rcode=token;received-status="200";x=1, 3, (a b), "near";error=dns_timeout;alert-id=256;received-status=-1"#;
        let expected =
            [ProxyStatus::new("far"), ProxyStatus { error: Some("dns_timeout".into()), ..ProxyStatus::new("near") }];
        assert_eq!(ProxyStatus::parse(value), expected);
        assert_eq!(ProxyStatus::parse(b"a, b,"), [], "a trailing comma spoils the whole field");
        assert_eq!(ProxyStatus::parse(b"\xff"), []);
        assert_eq!(ProxyStatus::parse_lines(["a", "b;error=x"]).len(), 2);
    }

    proptest! {
        #[test]
        fn any_member_can_be_written_and_read(
            name in "\\PC{0,20}|[a-z*][ -~]{0,20}",
            error in prop::option::of("[a-z*][a-z_]{0,20}|\\PC{0,8}"),
            next_hop in prop::option::of("\\PC{0,20}"),
            details in prop::option::of("[ -~]{0,20}"),
            protocol in prop::option::of(prop::collection::vec(any::<u8>(), 0..8)),
            status in prop::option::of(any::<u16>()),
        ) {
            let member = ProxyStatus {
                error,
                next_hop,
                details,
                next_protocol: protocol,
                received_status: status,
                ..ProxyStatus::new(name)
            };
            let text = member.to_field_value();
            let read = ProxyStatus::parse(text.as_bytes());
            prop_assert_eq!(read.len(), 1, "{}", text);
            // What was not printable is lost; the rest comes back, and a second round changes nothing.
            let read = &read[0];
            prop_assert_eq!(&read.details, &member.details);
            prop_assert_eq!(&read.next_protocol, &member.next_protocol);
            prop_assert_eq!(read.received_status, member.received_status);
            prop_assert_eq!(read.next_hop.is_some(), member.next_hop.is_some());
            prop_assert_eq!(read.to_field_value(), text);
        }

        #[test]
        fn any_field_value_is_read(value in prop::collection::vec(any::<u8>(), 0..40), text in "[a-z?01;=,\" ()*-]{0,30}") {
            ProxyStatus::parse(&value);
            capsule_protocol([&value]);
            for member in ProxyStatus::parse(text.as_bytes()) {
                prop_assert_eq!(ProxyStatus::parse(member.to_field_value().as_bytes()), vec![member]);
            }
        }
    }
}
