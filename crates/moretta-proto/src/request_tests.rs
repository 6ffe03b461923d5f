use moretta_wire::head::Field;
use proptest::prelude::*;

use super::*;
use crate::error::h3_code;

fn templates() -> Vec<UriTemplate> {
    [UriTemplate::DEFAULT_PATH, "/v1/proxy?h={target_host}&p={target_port}"]
        .map(|text| UriTemplate::parse_path(text).unwrap())
        .to_vec()
}

fn head(path: &str) -> RequestHead {
    RequestHead {
        method: "CONNECT".into(),
        scheme: Some("https".into()),
        authority: Some("proxy.example".into()),
        path: Some(path.to_owned().into()),
        protocol: Some("connect-udp".into()),
        fields: Fields::new(),
    }
}

fn with_field(name: &str, value: &str) -> RequestHead {
    let mut head = head("/.well-known/masque/udp/192.0.2.1/443/");
    head.fields.push(name.to_owned(), value.to_owned());
    head
}

fn refused(head: &RequestHead) -> Refusal {
    parse(head, &templates()).unwrap_err()
}

fn status(head: &RequestHead) -> Option<u16> {
    refused(head).reason.row().status
}

fn target(path: &str) -> Result<(String, u16), Reason> {
    match parse(&head(path), &templates()) {
        Ok(TunnelRequest::ConnectUdp { host, port }) => Ok((host.to_string(), port)),
        Err(refusal) => Err(refusal.reason),
    }
}

/// UDP-1, UDP-2, UDP-3, UDP-4, UDP-12, UDP-14, C-18.
#[test]
fn every_template_of_the_listener_is_served() {
    for (path, host, port) in [
        ("/.well-known/masque/udp/192.0.2.1/443/", "192.0.2.1", 443),
        ("/.well-known/masque/udp/2001%3Adb8%3A%3A1/65535/", "2001:db8::1", 65_535),
        ("/.well-known/masque/udp/2001%3adb8%3a%3a1/1/", "2001:db8::1", 1),
        ("/.well-known/masque/udp/Localhost-Alias.Test/53/", "localhost-alias.test", 53),
        ("/v1/proxy?h=8.8.8.8&p=53", "8.8.8.8", 53),
        ("/v1/proxy?p=53&h=example.com", "example.com", 53),
    ] {
        assert_eq!(target(path), Ok((host.to_owned(), port)), "{path}");
    }
}

/// UDP-5, UDP-6, UDP-13, S-b: 400 before anything is resolved.
#[test]
fn a_host_that_is_neither_address_nor_name_is_400() {
    for host in [
        "%5B%3A%3A1%5D",
        "[::1]",
        "fe80%3A%3A1%25eth0",
        "2001%253Adb8",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0",
        "127.0.0.01",
        "127.000.000.001",
        "256.0.0.1",
        "1.2.3.4.5",
        "017700000001",
        "127%E3%80%820%E3%80%820%E3%80%821",
        "%E2%91%A0",
        "127.0.0.1%00.example.com",
        "127.0.0.1%20",
        "%09127.0.0.1",
        "a..b",
        "-a.example",
        ".",
        "..",
        "user%40127.0.0.1",
        "8.8.8.8%23127.0.0.1",
        "8.8.8.8%2C127.0.0.1",
        "8.8.8.8%2f..%2f127.0.0.1",
    ] {
        for path in [format!("/.well-known/masque/udp/{host}/53/"), format!("/v1/proxy?h={host}&p=53")] {
            assert_eq!(status(&head(&path)), Some(400), "{path}");
        }
    }
}

/// UDP-7, UDP-8, UDP-9, UDP-10, UDP-11, S-e.
#[test]
fn a_port_that_is_not_a_plain_decimal_from_1_to_65535_is_400() {
    for port in [
        "0",
        "65536",
        "99999999999",
        "-1",
        "%2B53",
        "+53",
        "053",
        "0x35",
        "53%20",
        "%2053",
        "53%2C22",
        "53%00",
        "5e1",
        "%EF%BC%95%EF%BC%93",
        "53%2Fudp",
        "domain",
        "5x",
        "12345678901234567890",
    ] {
        for path in [format!("/.well-known/masque/udp/192.0.2.1/{port}/"), format!("/v1/proxy?h=192.0.2.1&p={port}")] {
            assert_eq!(status(&head(&path)), Some(400), "{path}");
        }
    }
    for path in [
        "/.well-known/masque/udp//443/",
        "/.well-known/masque/udp/host//",
        "/v1/proxy?h=&p=53",
        "/v1/proxy?h=a.test&p=",
    ] {
        assert!(matches!(status(&head(path)), Some(400 | 404)), "{path}");
    }
}

/// UDP-15, S-e.
#[test]
fn repeated_and_unknown_variables_are_400() {
    for path in [
        "/v1/proxy?h=a.test&p=53&p=54",
        "/v1/proxy?h=a.test&h=b.test&p=53",
        "/v1/proxy?h=a.test&p=53&x=1",
        "/v1/proxy?h=a.test",
    ] {
        assert_eq!(refused(&head(path)).reason, Reason::BadTargetVariables, "{path}");
    }
}

/// UDP-75, K-16.
#[test]
fn a_path_of_no_template_is_404() {
    for path in [
        "/",
        "/.well-known/masque/xyz/",
        "/.well-known/masque/udp/192.0.2.1/443",
        "*",
        "/v1/proxies?h=a.test&p=53",
        "//",
        "x",
    ] {
        assert_eq!(target(path), Err(Reason::UnknownPath), "{path}");
    }
    assert_eq!(parse(&head("/.well-known/masque/udp/192.0.2.1/443/"), &[]).unwrap_err().reason, Reason::UnknownPath);
}

/// XC-19.
#[test]
fn an_unknown_protocol_is_501_whatever_the_path() {
    for protocol in ["foo-bar", "connect-ip", "connect-tcp", "websocket", "Connect-UDP", ""] {
        let mut head = head("/nothing/here");
        head.protocol = Some(protocol.to_owned().into());
        assert_eq!(refused(&head).reason, Reason::UnsupportedProtocol, "{protocol}");
        assert_eq!(status(&head), Some(501));
    }
    let classic =
        RequestHead { method: "CONNECT".into(), authority: Some("192.0.2.1:22".into()), ..RequestHead::default() };
    assert_eq!(refused(&classic).reason, Reason::UnsupportedProtocol);
}

/// PS-8: towards ordinary requests the gateway is an origin and says nothing about proxying.
#[test]
fn an_ordinary_request_is_not_a_tunnel() {
    let get = RequestHead { method: "GET".into(), protocol: None, ..head("/") };
    let refusal = refused(&get);
    assert_eq!(refusal.reason, Reason::NotATunnel);
    assert!(!refusal.response_head("gw").fields.contains("proxy-status"));
    let with_protocol = RequestHead { method: "GET".into(), ..head("/.well-known/masque/udp/192.0.2.1/443/") };
    assert_eq!(refused(&with_protocol).reason, Reason::MalformedRequest, "XC-7");
}

/// XC-8, XC-9, XC-10.
#[test]
fn scheme_authority_and_path_have_to_be_there() {
    let good = head("/.well-known/masque/udp/192.0.2.1/443/");
    for scheme in [None, Some("http"), Some("")] {
        let head = RequestHead { scheme: scheme.map(Into::into), ..good.clone() };
        assert_eq!(refused(&head).reason, Reason::UnsupportedScheme, "{scheme:?}");
    }
    for missing in [None, Some(bytes::Bytes::new())] {
        assert_eq!(
            refused(&RequestHead { authority: missing.clone(), ..good.clone() }).reason,
            Reason::MalformedRequest
        );
        assert_eq!(refused(&RequestHead { path: missing, ..good.clone() }).reason, Reason::MalformedRequest);
    }
    assert!(parse(&RequestHead { scheme: Some("HTTPS".into()), ..good }, &templates()).is_ok());
}

/// CAP-14, CAP-15, CAP-16, K-14.
#[test]
fn a_field_that_describes_content_makes_the_request_malformed() {
    for (name, value) in [
        ("content-length", "0"),
        ("content-length", "5"),
        ("content-type", "text/plain"),
        ("transfer-encoding", "chunked"),
    ] {
        let refusal = refused(&with_field(name, value));
        assert_eq!(refusal.reason, Reason::ContentOnTunnel, "{name}: {value}");
        let row = refusal.reason.row();
        assert_eq!((row.status, row.h3_code), (Some(400), h3_code::MESSAGE_ERROR));
    }
}

/// CAP-21, CAP-22, CAP-23: the field is a hint to intermediaries, whatever is in it.
#[test]
fn the_capsule_protocol_field_changes_nothing() {
    for value in ["?1", "?0", "1", "\"x\"", "?1;foo=bar", "", "\u{1}"] {
        assert!(parse(&with_field("capsule-protocol", value), &templates()).is_ok(), "{value}");
    }
    let mut twice = with_field("capsule-protocol", "?1");
    twice.fields.push("capsule-protocol", "?1");
    assert!(parse(&twice, &templates()).is_ok());
}

/// AUTH-7, A-33, C-9.
#[test]
fn credentials_are_ignored_once_and_refused_twice() {
    for name in ["authorization", "proxy-authorization"] {
        assert!(parse(&with_field(name, "Bearer x"), &templates()).is_ok());
        for other in ["authorization", "proxy-authorization"] {
            let mut head = with_field(name, "Bearer x");
            head.fields.push(other, "Bearer x");
            assert_eq!(refused(&head).reason, Reason::AmbiguousCredentials, "{name} and {other}");
            assert_eq!(status(&head), Some(400));
        }
    }
}

#[test]
fn what_a_client_asks_is_what_a_gateway_reads() {
    let client = UriTemplate::for_origin("https://proxy.example:4433").unwrap();
    let request = connect_udp(&client, "2001:db8::42", 443);
    assert_eq!(request.path.as_deref(), Some(&b"/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/"[..]));
    assert_eq!(request.authority.as_deref(), Some(&b"proxy.example:4433"[..]));
    assert_eq!(
        request.fields.iter().cloned().collect::<Vec<_>>(),
        [Field { name: "capsule-protocol".into(), value: "?1".into() }]
    );
    let parsed = parse(&request, &templates()).unwrap();
    assert_eq!(parsed, TunnelRequest::ConnectUdp { host: Host::parse("2001:db8::42").unwrap(), port: 443 });
    assert_eq!((parsed.protocol(), parsed.upgrade_token(), parsed.port()), (Protocol::Udp, "connect-udp", 443));
}

fn response(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHead {
    let mut head = ResponseHead::new(status);
    for (name, value) in fields {
        head.fields.push(*name, *value);
    }
    head
}

/// UDP-29, UDP-30, CAP-18, CAP-13.
#[test]
fn only_a_2xx_that_can_carry_capsules_opens_a_tunnel() {
    for status in [200, 201, 203, 299] {
        assert!(judge_response(&response(status, &[])).is_ok(), "{status}");
    }
    for status in [204, 205, 206] {
        let rejected = judge_response(&response(status, &[("capsule-protocol", "?1")])).unwrap_err();
        assert_eq!(rejected.reason, Reason::MalformedResponse, "{status}");
    }
    for name in ["content-length", "content-type", "transfer-encoding"] {
        assert_eq!(judge_response(&response(200, &[(name, "0")])).unwrap_err().reason, Reason::MalformedResponse);
        assert_eq!(judge_response(&response(403, &[(name, "0")])).unwrap_err().reason, Reason::PolicyRefused);
    }
    for status in [300, 301, 302, 307, 308, 418, 599] {
        let rejected = judge_response(&response(status, &[("location", "https://elsewhere.example/")])).unwrap_err();
        assert_eq!((rejected.reason, rejected.status), (Reason::UnexpectedStatus, status));
    }
}

/// PS-9: unknown parameters change nothing; the member of the gateway that was asked is the last.
#[test]
fn the_last_proxy_status_member_tells_why() {
    let value = "far; error=dns_timeout, near; error=dns_error; rcode=\"NXDOMAIN\"; colour=\"blue\"";
    let rejected = judge_response(&response(502, &[("proxy-status", value)])).unwrap_err();
    assert_eq!(rejected.reason, Reason::NameNotFound);
    assert_eq!(rejected.proxy_status.as_deref(), Some(value));
    let garbage = judge_response(&response(502, &[("proxy-status", "((")])).unwrap_err();
    assert_eq!(garbage.reason, Reason::NoRoute);
}

proptest! {
    /// What one of our gateways refuses, one of our clients understands.
    #[test]
    #[expect(clippy::wildcard_enum_match_arm, reason = "three rows share a status and an error type")]
    fn a_client_reads_our_own_refusals_as_what_they_are(reason in prop::sample::select(Reason::ALL)) {
        prop_assume!(reason.row().status.is_some());
        let refusal = match reason {
            Reason::NameNotFound => Refusal::new(reason).rcode("NXDOMAIN"),
            Reason::NameHasNoAddress => Refusal::new(reason).rcode("NOERROR"),
            Reason::DnsFailed => Refusal::new(reason).rcode("SERVFAIL"),
            _ => Refusal::new(reason),
        };
        let head = refusal.response_head("gateway.example");
        let rejected = judge_response(&head).unwrap_err();
        prop_assert_eq!(rejected.status, head.status);
        let (ours, theirs) = (reason.row(), rejected.reason.row());
        prop_assert_eq!((theirs.status, theirs.python), (ours.status, ours.python), "{}", rejected.reason.code());
    }

    /// No head of any bytes is a panic, and what is accepted was asked for by a template.
    #[test]
    fn any_path_is_a_target_or_a_refusal(path in "(/\\.well-known/masque/udp/|/v1/proxy\\?h=)?[ -~]{0,40}(/53/|&p=53)?") {
        match parse(&head(&path), &templates()) {
            Ok(request) => prop_assert!(request.port() > 0),
            Err(refusal) => prop_assert!(matches!(refusal.reason.row().status, Some(400 | 404))),
        }
    }
}
