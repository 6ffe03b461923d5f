//! RFC 9114 §4: messages, fields, pseudo-headers, CONNECT. RFC 9220 §3: extended CONNECT.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use bytes::Bytes;
use moretta_h3::code::{H3_FRAME_UNEXPECTED, H3_MESSAGE_ERROR, H3_NO_ERROR, H3_REQUEST_INCOMPLETE};
use moretta_h3::{Config, Event, Role, SendError};
use support::{
    CONNECT_UDP, Endpoint, GET, client, data, fields, frame, headers, normalized, request, response, server, with,
    without,
};

type Lines = Vec<(&'static str, &'static str)>;

/// What a server makes of a request head.
fn outcome_of(lines: &[(&str, &str)], config: Config) -> Outcome {
    let mut server = server(config);
    server.feed(0, &headers(lines), false);
    outcome(&server, 0)
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Stream(u64, &'static str),
    Connection(u64, &'static str),
}

fn outcome(endpoint: &Endpoint, stream_id: u64) -> Outcome {
    let counted = endpoint.h3.counters().faults.iter().find(|(_, count)| *count > 0).map_or("none", |(name, _)| name);
    if let Some(code) = endpoint.close {
        return Outcome::Connection(code, counted);
    }
    match endpoint.resets.iter().find(|(id, _)| *id == stream_id) {
        Some((_, code)) => {
            assert!(endpoint.stops.contains(&(stream_id, *code)) || endpoint.stops.is_empty());
            Outcome::Stream(*code, counted)
        }
        None => Outcome::Accepted,
    }
}

fn malformed(counter: &'static str) -> Outcome {
    Outcome::Stream(H3_MESSAGE_ERROR, counter)
}

/// Every malformed request costs its stream, with H3_MESSAGE_ERROR, and is counted under its reason; the application
/// hears nothing of it (RFC 9114 §4.1.2).
#[test]
fn malformed_requests_are_stream_errors() {
    let extended = |changes: &[(&'static str, &'static str)]| with(&CONNECT_UDP, changes);
    let get = |changes: &[(&'static str, &'static str)]| with(&GET, changes);
    let connect: Lines = vec![(":method", "CONNECT"), (":authority", "example.org:443")];
    let table: Vec<(&str, Lines, &str)> = vec![
        ("no method", without(&GET, ":method"), "pseudo_missing"),
        ("no scheme", without(&GET, ":scheme"), "pseudo_missing"),
        ("no path", without(&GET, ":path"), "pseudo_missing"),
        ("no authority and no Host", without(&GET, ":authority"), "pseudo_missing"),
        ("empty head", vec![], "pseudo_missing"),
        ("status in a request", get(&[(":status", "200")]), "pseudo_unknown"),
        ("XC-15 unknown pseudo-header", get(&[(":foo", "x")]), "pseudo_unknown"),
        ("pseudo-header without a name", get(&[(":", "x")]), "pseudo_unknown"),
        ("method twice", [GET.to_vec(), vec![(":method", "GET")]].concat(), "pseudo_duplicate"),
        ("XC-13 protocol twice", [CONNECT_UDP[..5].to_vec(), vec![(":protocol", "x")]].concat(), "pseudo_duplicate"),
        ("XC-14 pseudo-header after a field", [vec![("a", "b")], GET.to_vec()].concat(), "pseudo_order"),
        ("XC-16 upper case", get(&[("Capsule-Protocol", "?1")]), "field_name"),
        ("empty name", get(&[("", "x")]), "field_name"),
        ("name with a space", get(&[("a b", "x")]), "field_name"),
        ("name with a colon", get(&[("a:b", "x")]), "field_name"),
        ("name with a non-ASCII letter", get(&[("f\u{fc}r", "x")]), "field_name"),
        ("line feed in a value", get(&[("a", "b\nc: d")]), "field_value"),
        ("carriage return in a value", get(&[("a", "b\rc")]), "field_value"),
        ("NUL in a value", get(&[("a", "b\0")]), "field_value"),
        ("DEL in a value", get(&[("a", "\x7f")]), "field_value"),
        ("space before a value", get(&[("a", " b")]), "field_value"),
        ("tab after a value", get(&[("a", "b\t")]), "field_value"),
        ("line feed in a path", get(&[(":path", "/\n")]), "field_value"),
        ("XC-17 connection", get(&[("connection", "close")]), "connection_field"),
        ("XC-17 keep-alive", get(&[("keep-alive", "1")]), "connection_field"),
        ("XC-17 proxy-connection", get(&[("proxy-connection", "close")]), "connection_field"),
        ("XC-17 transfer-encoding", get(&[("transfer-encoding", "chunked")]), "connection_field"),
        ("XC-17 upgrade", get(&[("upgrade", "websocket")]), "connection_field"),
        ("K-14 transfer-encoding on CONNECT", with(&connect, &[("transfer-encoding", "x")]), "connection_field"),
        ("XC-18 te", get(&[("te", "gzip")]), "te_field"),
        ("te with more than trailers", get(&[("te", "trailers, gzip")]), "te_field"),
        ("method not a token", get(&[(":method", "G ET")]), "method"),
        ("empty method", get(&[(":method", "")]), "method"),
        ("scheme not a scheme", get(&[(":scheme", "1https")]), "scheme"),
        ("empty scheme", get(&[(":scheme", "")]), "scheme"),
        ("XC-9 empty path", get(&[(":path", "")]), "path"),
        ("path without a slash", get(&[(":path", "index")]), "path"),
        ("asterisk without OPTIONS", get(&[(":path", "*")]), "path"),
        ("absolute URI as path", get(&[(":path", "https://a/")]), "path"),
        ("space in a path", get(&[(":path", "/a b")]), "path"),
        ("fragment in a path", get(&[(":path", "/a#b")]), "path"),
        ("non-ASCII path", get(&[(":path", "/\u{e4}")]), "path"),
        ("empty authority", get(&[(":authority", "")]), "authority"),
        ("XC-12 userinfo", get(&[(":authority", "a@example.org")]), "authority"),
        ("slash in an authority", get(&[(":authority", "a/b")]), "authority"),
        ("userinfo in Host alone", with(&without(&GET, ":authority"), &[("host", "a@b")]), "authority"),
        ("XC-11 Host differs", get(&[("host", "other.example")]), "host_mismatch"),
        ("two Hosts", [without(&GET, ":authority"), vec![("host", "a"), ("host", "a")]].concat(), "host_mismatch"),
        ("XC-7 protocol without CONNECT", extended(&[(":method", "GET")]), "protocol"),
        ("protocol not a token", extended(&[(":protocol", "connect udp")]), "protocol"),
        ("empty protocol", extended(&[(":protocol", "")]), "protocol"),
        ("XC-8 protocol without scheme", without(&CONNECT_UDP, ":scheme"), "pseudo_missing"),
        ("XC-8 protocol without path", without(&CONNECT_UDP, ":path"), "pseudo_missing"),
        ("XC-9 protocol with empty path", extended(&[(":path", "")]), "path"),
        ("XC-9 protocol with empty scheme", extended(&[(":scheme", "")]), "scheme"),
        ("XC-10 protocol without authority", without(&CONNECT_UDP, ":authority"), "pseudo_missing"),
        ("protocol with userinfo", extended(&[(":authority", "a@b")]), "authority"),
        ("XC-21 CONNECT with a path", with(&connect, &[(":path", "/")]), "connect_pseudo"),
        ("CONNECT with a scheme", with(&connect, &[(":scheme", "https")]), "connect_pseudo"),
        ("CONNECT without authority", without(&connect, ":authority"), "pseudo_missing"),
        ("CONNECT with userinfo", with(&connect, &[(":authority", "a@b:1")]), "authority"),
        ("K-14 content-length on CONNECT", with(&connect, &[("content-length", "0")]), "content_length_invalid"),
        ("CAP-14 content-length on connect-udp", extended(&[("content-length", "0")]), "content_length_invalid"),
        ("content-length not a number", get(&[("content-length", "-1")]), "content_length_invalid"),
        ("content-length with a plus", get(&[("content-length", "+1")]), "content_length_invalid"),
        ("empty content-length", get(&[("content-length", "")]), "content_length_invalid"),
        ("content-length list", get(&[("content-length", "1, 1")]), "content_length_invalid"),
        ("content-length above 64 bits", get(&[("content-length", "18446744073709551616")]), "content_length_invalid"),
    ];
    for (what, lines, counter) in table {
        // Pseudo-headers first, as changes append.
        let lines = if what.contains("after a field") { lines } else { pseudo_first(lines) };
        assert_eq!(outcome_of(&lines, Config::default()), malformed(counter), "{what}");
        let mut server = server(Config::default());
        server.feed_bytewise(0, &headers(&lines), true);
        assert_eq!(outcome(&server, 0), malformed(counter), "{what}, bytewise");
        assert!(server.events.is_empty(), "{what}: {:?}", server.events);
        assert_eq!(server.h3.open_requests(), 0, "{what}");
        server.feed(4, &headers(&GET), true);
        assert_eq!(server.events.len(), 1, "{what}: the connection lives");
    }
}

fn pseudo_first(mut lines: Lines) -> Lines {
    lines.sort_by_key(|line| !line.0.starts_with(':'));
    lines
}

#[test]
fn duplicate_content_lengths_are_refused_even_if_equal() {
    let lines = [GET.to_vec(), vec![("content-length", "1"), ("content-length", "1")]].concat();
    assert_eq!(outcome_of(&lines, Config::default()), malformed("content_length_invalid"));
}

/// XC-6: `:protocol` is an undefined pseudo-header unless we announced the setting.
#[test]
fn protocol_is_malformed_unless_enabled() {
    let config = Config { enable_connect_protocol: false, ..Config::default() };
    assert_eq!(outcome_of(&CONNECT_UDP, config), malformed("protocol"));
}

/// What looks odd and is allowed.
#[test]
fn unusual_requests_are_accepted() {
    let table: Vec<(&str, Lines)> = vec![
        ("any upgrade token", with(&CONNECT_UDP, &[(":protocol", "no-such-thing")])),
        ("upgrade token with a version", with(&CONNECT_UDP, &[(":protocol", "websocket/13")])),
        ("http scheme with protocol", with(&CONNECT_UDP, &[(":scheme", "http")])),
        ("classic CONNECT", vec![(":method", "CONNECT"), (":authority", "[2001:db8::1]:443")]),
        ("CONNECT without a port", vec![(":method", "CONNECT"), (":authority", "example.org")]),
        ("OPTIONS *", with(&GET, &[(":method", "OPTIONS"), (":path", "*")])),
        ("equal Host", with(&GET, &[("host", "example.org")])),
        ("Host instead of authority", [without(&GET, ":authority"), vec![("host", "example.org")]].concat()),
        ("other scheme without authority", with(&without(&GET, ":authority"), &[(":scheme", "urn"), (":path", "a:b")])),
        ("te: trailers", with(&GET, &[("te", "Trailers")])),
        ("pseudo-headers in any order", GET.iter().rev().copied().collect()),
        ("empty value", with(&GET, &[("a", "")])),
        ("obs-text", with(&GET, &[("a", "\u{e4}\t\u{f6}")])),
        ("unknown method", with(&GET, &[(":method", "FROBNICATE")])),
        ("cookie crumbs", [GET.to_vec(), vec![("cookie", "a=b"), ("cookie", "c=d")]].concat()),
    ];
    for (what, lines) in table {
        assert_eq!(outcome_of(&lines, Config::default()), Outcome::Accepted, "{what}");
    }
}

#[test]
fn authority_is_filled_from_host() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&[without(&GET, ":authority"), vec![("host", "h:1")]].concat()), true);
    let Some(Event::Request { head, fin: true, .. }) = server.events.pop_front() else { panic!("no request") };
    assert_eq!(head.authority.as_deref(), Some(&b"h:1"[..]));
    assert!(head.fields.contains("host"));
}

/// RFC 9114 §4.1.2: too much is noticed at the frame header, too little at the end, one byte at a time or not.
#[test]
fn content_must_match_its_length() {
    let put = with(&GET, &[(":method", "PUT"), ("content-length", "5")]);
    for (sent, outcome_expected) in
        [(4, malformed("content_length_mismatch")), (5, Outcome::Accepted), (6, malformed("content_length_mismatch"))]
    {
        for bytewise in [false, true] {
            let mut server = server(Config::default());
            let bytes = [headers(&put), data(&vec![0; sent])].concat();
            if bytewise {
                server.feed_bytewise(0, &bytes, true)
            } else {
                server.feed(0, &bytes, true)
            };
            assert_eq!(outcome(&server, 0), outcome_expected, "{sent} bytes, bytewise: {bytewise}");
        }
    }
    let mut server = server(Config::default());
    server.feed(0, &headers(&put), true);
    assert_eq!(outcome(&server, 0), malformed("content_length_mismatch"), "K-14: bare FIN");
    assert!(server.events.is_empty(), "told neither the request nor its end");
}

/// RFC 9114 §4.1: the server's stream ends without a request.
#[test]
fn a_stream_without_a_request_is_incomplete() {
    for bytes in [vec![], frame(0x21, b"grease")] {
        let mut server = server(Config::default());
        server.feed(0, &bytes, true);
        assert_eq!(outcome(&server, 0), Outcome::Stream(H3_REQUEST_INCOMPLETE, "request_incomplete"));
        assert!(server.stops.is_empty(), "nothing is left to stop");
    }
}

/// RFC 9114 §4.1, §4.3: trailers once, without pseudo-headers, and nothing after them.
#[test]
fn trailers_follow_the_rules_of_fields() {
    let head = headers(&with(&GET, &[(":method", "POST")]));
    for (lines, counter) in [
        (vec![(":path", "/")], "pseudo_unknown"),
        (vec![(":status", "200")], "pseudo_unknown"),
        (vec![("connection", "close")], "connection_field"),
        (vec![("te", "trailers")], "te_field"),
        (vec![("Bad", "x")], "field_name"),
    ] {
        let mut server = server(Config::default());
        server.feed(0, &[head.clone(), headers(&lines)].concat(), true);
        assert_eq!(outcome(&server, 0), malformed(counter), "{lines:?}");
        assert!(server.events.iter().any(|event| matches!(event, Event::Aborted { stream_id: 0, .. })), "{lines:?}");
    }
    for after in [headers(&[("a", "b")]), data(b"x")] {
        let mut server = server(Config::default());
        server.feed_bytewise(0, &[head.clone(), headers(&[("a", "b")]), after].concat(), false);
        assert_eq!(outcome(&server, 0), Outcome::Connection(H3_FRAME_UNEXPECTED, "frame_unexpected"));
    }
}

#[test]
fn data_before_the_head_closes_the_connection() {
    let mut server = server(Config::default());
    server.feed(0, &data(b"x"), false);
    assert_eq!(outcome(&server, 0), Outcome::Connection(H3_FRAME_UNEXPECTED, "frame_unexpected"));
}

/// A client in the middle of a request with this method.
fn asking(method: &'static str) -> Endpoint {
    let mut client = client(Config::default());
    let head = match method {
        "CONNECT" => request(&CONNECT_UDP),
        _ => request(&with(&GET, &[(":method", method)])),
    };
    client.h3.send_request(0, &head, method != "CONNECT").unwrap();
    client.settle();
    client
}

/// XC-27; RFC 9114 §4.1.2, §4.3.2: a malformed response is a stream error and is not told as a response.
#[test]
fn malformed_responses_are_refused() {
    let ok = [(":status", "200")];
    let table: Vec<(&str, Lines, &str)> = vec![
        ("no status", vec![("a", "b")], "pseudo_missing"),
        ("status twice", vec![(":status", "200"), (":status", "200")], "pseudo_duplicate"),
        ("two digits", vec![(":status", "20")], "status"),
        ("four digits", vec![(":status", "2000")], "status"),
        ("not a number", vec![(":status", "2x0")], "status"),
        ("below 100", vec![(":status", "099")], "status"),
        ("101", vec![(":status", "101")], "status"),
        ("pseudo-header of a request", vec![(":status", "200"), (":path", "/")], "pseudo_unknown"),
        ("status after a field", vec![("a", "b"), (":status", "200")], "pseudo_order"),
        ("connection-specific field", with(&ok, &[("connection", "close")]), "connection_field"),
        ("te", with(&ok, &[("te", "trailers")]), "te_field"),
        ("upper case", with(&ok, &[("Server", "x")]), "field_name"),
        ("bad length", with(&ok, &[("content-length", "x")]), "content_length_invalid"),
    ];
    for (what, lines, counter) in table {
        let mut client = asking("GET");
        client.feed_bytewise(0, &headers(&lines), false);
        assert_eq!(outcome(&client, 0), Outcome::Accepted, "our side was over: nothing to reset");
        assert_eq!(client.stops, [(0, H3_MESSAGE_ERROR)], "{what}");
        assert!(matches!(client.events.pop_front(), Some(Event::Aborted { code: H3_MESSAGE_ERROR, .. })), "{what}");
        assert_eq!(
            client.h3.counters().faults.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
            [(counter, 1)]
        );
    }
}

#[test]
fn responses_have_the_content_their_kind_allows() {
    let status = |status: &'static str| headers(&[(":status", status), ("content-length", "3")]);
    for (method, bytes, counter) in [
        ("GET", [status("200"), data(b"abc")].concat(), "none"),
        ("GET", [status("200"), data(b"ab")].concat(), "content_length_mismatch"),
        ("GET", [status("200"), data(b"abcd")].concat(), "content_length_mismatch"),
        ("GET", status("304"), "none"),
        ("GET", [status("304"), data(b"abc")].concat(), "content_forbidden"),
        ("GET", [headers(&[(":status", "204")]), data(b"a")].concat(), "content_forbidden"),
        ("HEAD", status("200"), "none"),
        ("HEAD", [status("200"), data(b"abc")].concat(), "content_forbidden"),
        ("GET", vec![], "response_incomplete"),
        ("GET", headers(&[(":status", "103")]), "response_incomplete"),
    ] {
        for bytewise in [false, true] {
            let mut client = asking(method);
            if bytewise {
                client.feed_bytewise(0, &bytes, true)
            } else {
                client.feed(0, &bytes, true)
            };
            let counted =
                client.h3.counters().faults.iter().find(|(_, count)| *count > 0).map_or("none", |(name, _)| name);
            assert_eq!(counted, counter, "{method} {bytes:x?}");
            let last = client.events.back().unwrap();
            let is_aborted = matches!(last, Event::Aborted { code: H3_MESSAGE_ERROR, .. });
            assert_eq!(is_aborted, counter != "none", "{last:?}");
        }
    }
}

/// RFC 9114 §4.4; CAP-32, CAP-33.
#[test]
fn a_tunnel_allows_data_and_unknown_frames_only() {
    for bytewise in [false, true] {
        for (frame_type, is_allowed) in [
            (0x00, true),
            (0x21, true),
            (0xf_0700, true),
            (0x01, false),
            (0x02, false),
            (0x03, false),
            (0x04, false),
            (0x05, false),
            (0x07, false),
            (0x0d, false),
        ] {
            let mut server = server(Config::default());
            server.feed(0, &headers(&CONNECT_UDP), false);
            server.h3.send_response(0, &response(200, &[]), false).unwrap();
            let mut client = asking("CONNECT");
            client.feed(0, &headers(&[(":status", "200")]), false);
            for endpoint in [&mut server, &mut client] {
                let bytes = [data(b"ab"), frame(frame_type, &[0]), data(b"cd")].concat();
                if bytewise {
                    endpoint.feed_bytewise(0, &bytes, true)
                } else {
                    endpoint.feed(0, &bytes, true)
                };
                let expected = (!is_allowed).then_some(H3_FRAME_UNEXPECTED);
                assert_eq!(endpoint.close, expected, "{frame_type:#x} to a {:?}", endpoint.h3.role());
                let told = normalized(endpoint.take_events());
                if is_allowed {
                    assert!(matches!(told.last(), Some(Event::Finished { .. })), "{told:?}");
                }
            }
        }
    }
}

/// A CONNECT that is refused becomes an ordinary exchange: content and trailers are allowed again.
#[test]
fn a_refused_connect_is_an_ordinary_exchange() {
    let mut client = asking("CONNECT");
    let bytes = [headers(&[(":status", "403"), ("content-length", "2")]), data(b"no"), headers(&[("a", "b")])].concat();
    client.feed_bytewise(0, &bytes, true);
    let told = normalized(client.take_events());
    assert!(matches!(
        told[..],
        [Event::Response { .. }, Event::Data { .. }, Event::Trailers { .. }, Event::Finished { .. }]
    ));
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false);
    server.h3.send_response(0, &response(403, &[]), false).unwrap();
    server.h3.send_data(0, Bytes::from_static(b"no"), false).unwrap();
    server.h3.send_trailers(0, &fields(&[("a", "b")])).unwrap();
    server.feed(0, &headers(&[("c", "d")]), true);
    assert_eq!(server.close, None);
    assert_eq!(server.h3.open_requests(), 0);
}

/// RFC 9110 §9.3.6: a client ignores a length on a 2xx to CONNECT; whether the capsule rules allow it is for the tunnel.
#[test]
fn a_length_on_an_accepted_connect_means_nothing() {
    let mut client = asking("CONNECT");
    client.feed(0, &[headers(&[(":status", "200"), ("content-length", "1")]), data(b"many bytes")].concat(), true);
    assert_eq!(client.close, None);
    assert!(matches!(client.events.back(), Some(Event::Finished { .. })));
}

/// XC-31, RFC 9114 §4.2.2: 431, the rest is not read, nothing is buffered, and the connection lives.
#[test]
fn an_oversized_request_is_answered_with_431() {
    let config = Config { max_field_section_bytes: 256, ..Config::default() };
    let long = "x".repeat(300);
    let many: Lines = with(&GET, &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
    for (what, bytes) in [
        ("announced too long", headers(&with(&GET, &[("a", &long)]))),
        ("short code, many lines", headers(&many)),
        ("a 64 KiB path", headers(&with(&GET, &[(":path", &"/".repeat(65_536))]))),
    ] {
        for bytewise in [false, true] {
            let mut server = server(config.clone());
            if bytewise {
                server.feed_bytewise(0, &bytes, true)
            } else {
                server.feed(0, &bytes, true)
            };
            assert_eq!(server.close, None, "{what}");
            assert!(server.events.is_empty() && server.resets.is_empty(), "{what}");
            assert!(server.stops.iter().all(|stop| *stop == (0, H3_NO_ERROR)), "{what}");
            assert_eq!(server.h3.counters().oversized_requests, 1);
            assert_eq!((server.h3.buffered_bytes(), server.h3.open_requests()), (0, 0), "{what}");
            let answer = server.written[&0].clone();
            let mut client = asking("GET");
            client.feed(0, &answer.0, answer.1);
            let Some(Event::Response { head, fin: true, .. }) = client.events.pop_front() else { panic!("{what}") };
            assert_eq!(head.status, 431);
        }
    }
}

#[test]
fn an_oversized_response_or_trailer_section_costs_the_stream() {
    let config = Config { max_field_section_bytes: 256, ..Config::default() };
    let long = "x".repeat(300);
    let mut client = client(config.clone());
    client.h3.send_request(0, &request(&GET), true).unwrap();
    client.feed(0, &headers(&[(":status", "200"), ("a", &long)]), true);
    assert_eq!(client.close, None);
    assert!(matches!(client.events.back(), Some(Event::Aborted { stream_id: 0, .. })));
    let mut server = server(config);
    server.feed(0, &[headers(&with(&GET, &[(":method", "POST")])), headers(&[("a", &long)])].concat(), true);
    assert_eq!(server.close, None);
    assert!(matches!(server.events.back(), Some(Event::Aborted { stream_id: 0, .. })));
}

/// K-4: field sections that never become whole are bounded for all streams together.
#[test]
fn partial_field_sections_are_bounded_per_connection() {
    let mut server = server(Config::default());
    let start = [vec![0x01, 0x7f, 0xff], vec![0; 16_000]].concat();
    for stream in 0..200 {
        server.feed(stream * 4, &start, false);
        assert!(server.h3.buffered_bytes() <= 2 * 16 * 16_384, "{}", server.h3.buffered_bytes());
    }
    assert_eq!(server.close, None);
    for stream in 0..200 {
        server.feed_reset(stream * 4, 0x10c);
    }
    assert_eq!((server.h3.buffered_bytes(), server.h3.open_requests()), (0, 0));
}

#[test]
fn request_content_is_bounded() {
    let config = Config { max_request_body_bytes: 10, ..Config::default() };
    let mut server = server(config);
    server.feed(0, &headers(&with(&GET, &[(":method", "PUT"), ("content-length", "11")])), false);
    assert!(server.events.is_empty());
    assert_eq!(server.h3.counters().oversized_bodies, 1, "announced too long: 413");
    server.feed(4, &[headers(&with(&GET, &[(":method", "PUT")])), data(&[0; 11])].concat(), false);
    assert_eq!(outcome(&server, 4), Outcome::Stream(0x107, "body_too_large"));
    server.feed(8, &[headers(&CONNECT_UDP), data(&[0; 1000])].concat(), false);
    assert_eq!(outcome(&server, 8), Outcome::Accepted, "a tunnel has no content");
}

/// XC-5; RFC 9114 §4.2.2: what the peer did not allow is not sent.
#[test]
fn a_client_waits_for_what_the_server_allows() {
    let mut client: Endpoint = Endpoint::new(Role::Client, Config::default());
    assert_eq!(client.h3.send_request(0, &request(&CONNECT_UDP), false), Err(SendError::ExtendedConnectUnavailable));
    client.feed_settings(Role::Server, &[(0x08, 0), (0x06, 200)]);
    assert_eq!(client.h3.send_request(0, &request(&CONNECT_UDP), false), Err(SendError::ExtendedConnectUnavailable));
    let large = request(&with(&GET, &[("a", "0123456789")]));
    let limit = SendError::FieldSectionTooLarge { actual: large.encoded_size(), limit: 200 };
    assert_eq!(client.h3.send_request(0, &large, false), Err(limit));
    assert_eq!(client.h3.send_request(0, &request(&GET), false), Ok(()), "nothing was used up");
}

/// What we send is held to the rules that we hold others to.
#[test]
fn malformed_messages_are_not_sent() {
    let mut client = client(Config::default());
    for lines in [
        with(&GET, &[("Upper", "x")]),
        with(&GET, &[("a", "b\r\nc: d")]),
        with(&GET, &[("connection", "close")]),
        with(&GET, &[(":path", "")]),
        with(&GET, &[(":authority", "a@b")]),
        with(&GET, &[("host", "other")]),
        without(&CONNECT_UDP, ":scheme"),
    ] {
        let refused = client.h3.send_request(0, &request(&lines), true);
        assert!(matches!(refused, Err(SendError::Malformed { .. })), "{lines:?}: {refused:?}");
    }
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false);
    for head in [
        response(101, &[]),
        response(99, &[]),
        response(600, &[]),
        response(200, &[("content-length", "0")]),
        response(200, &[("te", "x")]),
    ] {
        let refused = server.h3.send_response(0, &head, false);
        assert!(matches!(refused, Err(SendError::Malformed { .. })), "{head:?}: {refused:?}");
    }
    server.settle();
    assert!(!server.written.contains_key(&0));
}

#[test]
fn sending_follows_the_order_of_a_message() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false);
    let payload = Bytes::from_static(b"x");
    assert_eq!(server.h3.send_data(0, payload.clone(), false), Err(SendError::WrongState), "before the head");
    assert_eq!(server.h3.send_response(0, &response(103, &[]), true), Err(SendError::WrongState), "interim and end");
    assert_eq!(server.h3.send_response(4, &response(200, &[]), true), Err(SendError::UnknownStream));
    assert_eq!(server.h3.send_request(4, &request(&GET), true), Err(SendError::WrongState), "not a client");
    server.h3.send_response(0, &response(200, &[]), false).unwrap();
    assert_eq!(server.h3.send_response(0, &response(200, &[]), false), Err(SendError::WrongState), "twice");
    assert_eq!(server.h3.send_trailers(0, &fields(&[("a", "b")])), Err(SendError::WrongState), "in a tunnel");
    server.h3.send_data(0, payload.clone(), true).unwrap();
    assert_eq!(server.h3.send_data(0, payload, false), Err(SendError::WrongState), "after the end");
    let mut client = client(Config::default());
    assert_eq!(client.h3.send_request(3, &request(&GET), true), Err(SendError::WrongState), "not a request stream");
    client.h3.send_request(0, &request(&GET), true).unwrap();
    assert_eq!(client.h3.send_request(0, &request(&GET), true), Err(SendError::WrongState), "used");
}
