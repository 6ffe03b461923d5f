//! RFC 9297 §2: who may send HTTP Datagrams, and what becomes of those that come.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use moretta_h3::code::H3_DATAGRAM_ERROR;
use moretta_h3::{Config, DatagramDrop, DatagramRoute, Event, Role};
use support::{CONNECT_UDP, Endpoint, GET, client, headers, request, response, server, with};

const PAYLOAD: Bytes = Bytes::from_static(b"\0payload");

fn route(endpoint: &mut Endpoint, stream_id: u64) -> DatagramRoute {
    let route = endpoint.h3.route_datagram(endpoint.now, stream_id, &PAYLOAD);
    endpoint.settle();
    route
}

/// H3D-4, H3D-5, H3D-6: both settings, ours sent and theirs received.
#[test]
fn datagrams_need_both_settings() {
    for (ours, theirs, allowed) in
        [(true, Some(1), true), (true, Some(0), false), (false, Some(1), false), (true, None, false)]
    {
        let mut server: Endpoint = Endpoint::unstarted(Role::Server, Config { h3_datagram: ours, ..Config::default() });
        let pairs: Vec<_> = theirs.map(|value| (0x33, value)).into_iter().collect();
        assert!(!server.h3.datagrams_allowed(), "before any SETTINGS");
        server.feed_settings(Role::Client, &pairs);
        assert!(!server.h3.datagrams_allowed(), "before ours are sent");
        server.h3.start();
        server.settle();
        assert_eq!(server.h3.datagrams_allowed(), allowed, "{ours} {theirs:?}");
    }
}

#[test]
fn datagrams_that_settings_forbid_are_dropped() {
    for (ours, theirs) in [(true, 0), (false, 1)] {
        let mut server: Endpoint = Endpoint::new(Role::Server, Config { h3_datagram: ours, ..Config::default() });
        server.feed_settings(Role::Client, &[(0x33, theirs)]);
        server.feed(0, &headers(&CONNECT_UDP), false);
        server.h3.enable_datagrams(0);
        assert_eq!(route(&mut server, 0), DatagramRoute::Dropped(DatagramDrop::NotNegotiated));
        assert_eq!((server.close, server.h3.counters().dropped_not_negotiated), (None, 1));
    }
}

/// A datagram may overtake the SETTINGS that allow it.
#[test]
fn a_datagram_before_the_peers_settings_is_not_lost() {
    let mut server: Endpoint = Endpoint::new(Role::Server, Config::default());
    assert_eq!(route(&mut server, 0), DatagramRoute::Held);
}

/// H3D-15, H3D-16; RFC 9297 §2: the request ends, the connection lives.
#[test]
fn a_datagram_for_an_ordinary_request_aborts_it() {
    let classic = vec![(":method", "CONNECT"), (":authority", "example.org:443")];
    for lines in [GET.to_vec(), classic] {
        let mut server = server(Config::default());
        server.feed(0, &headers(&lines), false);
        server.take_events();
        assert_eq!(route(&mut server, 0), DatagramRoute::AbortedStream);
        assert_eq!(
            (&server.resets[..], &server.stops[..]),
            (&[(0, H3_DATAGRAM_ERROR)][..], &[(0, H3_DATAGRAM_ERROR)][..])
        );
        assert!(matches!(server.take_events()[..], [Event::Aborted { stream_id: 0, code: H3_DATAGRAM_ERROR, .. }]));
        assert_eq!(route(&mut server, 0), DatagramRoute::Dropped(DatagramDrop::Closed));
        assert_eq!((server.close, server.h3.open_requests()), (None, 0));
    }
    let mut client = client(Config::default());
    client.h3.send_request(0, &request(&GET), true).unwrap();
    assert_eq!(route(&mut client, 0), DatagramRoute::AbortedStream);
}

/// An extended CONNECT without datagram semantics (connect-tcp) is known as such once it is decided.
#[test]
fn an_extended_connect_may_refuse_datagrams() {
    for early in [false, true] {
        let mut server = server(Config::default());
        server.feed(0, &headers(&with(&CONNECT_UDP, &[(":protocol", "connect-tcp")])), false);
        if early {
            assert_eq!(route(&mut server, 0), DatagramRoute::Held);
        }
        server.h3.refuse_datagrams(0);
        server.settle();
        assert_eq!(server.resets.len(), usize::from(early));
        if !early {
            assert_eq!(route(&mut server, 0), DatagramRoute::AbortedStream);
        }
        assert_eq!(server.resets, [(0, H3_DATAGRAM_ERROR)]);
    }
}

/// H3D-17: after the client's end there is nothing to deliver to.
#[test]
fn datagrams_after_the_end_are_dropped() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false);
    server.h3.enable_datagrams(0);
    assert_eq!(route(&mut server, 0), DatagramRoute::Deliver);
    server.feed(0, &[], true);
    assert_eq!(route(&mut server, 0), DatagramRoute::Dropped(DatagramDrop::Closed));
    server.h3.reset(0, 0x10c);
    assert_eq!(route(&mut server, 0), DatagramRoute::Dropped(DatagramDrop::Closed));
}

/// A refusal drops what was held and what is under way, without an error.
#[test]
fn datagrams_of_a_refused_tunnel_are_dropped() {
    let mut server = server(Config::default());
    assert_eq!(route(&mut server, 0), DatagramRoute::Held);
    server.feed(0, &headers(&CONNECT_UDP), false);
    server.h3.send_response(0, &response(403, &[]), false).unwrap();
    assert_eq!(route(&mut server, 0), DatagramRoute::Dropped(DatagramDrop::Closed));
    assert_eq!((server.h3.counters().dropped_closed, server.h3.buffered_bytes()), (2, 0));
    assert!(server.resets.is_empty());
}

/// H3D-19: held for a while, then given up.
#[test]
fn early_datagrams_expire() {
    let mut server = server(Config { early_datagram_time: Duration::from_millis(100), ..Config::default() });
    assert_eq!(server.h3.poll_timeout(), None);
    route(&mut server, 0);
    assert_eq!(server.h3.poll_timeout(), Some(server.now + Duration::from_millis(100)));
    server.advance(Duration::from_millis(60));
    route(&mut server, 0);
    server.advance(Duration::from_millis(40));
    server.h3.handle_timeout(server.now);
    assert_eq!(server.h3.counters().early_expired, 1);
    server.feed(0, &headers(&CONNECT_UDP), false);
    assert_eq!(server.h3.take_early_datagrams(0).count(), 1);
    assert_eq!(server.h3.poll_timeout(), None);
}

/// H3D-21: a flood for streams that do not exist takes bounded memory and counts its drops.
#[test]
fn early_datagrams_are_bounded() {
    let mut server = server(Config { early_datagram_bytes: 4096, ..Config::default() });
    for index in 0..100_000_u64 {
        server.h3.route_datagram(server.now, index % 1000 * 4, &PAYLOAD);
    }
    assert!(server.h3.buffered_bytes() <= 4096);
    assert_eq!((server.h3.counters().early_held, server.h3.counters().dropped_early_full), (64, 99_936));
    let large = Bytes::from(vec![0; 5000]);
    assert_eq!(server.h3.route_datagram(server.now, 0, &large), DatagramRoute::Dropped(DatagramDrop::EarlyFull));
}

/// H3D-14, H3D-20: ids that no request can have soon.
#[test]
fn datagrams_out_of_reach_are_dropped() {
    let mut server = server(Config { max_open_requests: 10, ..Config::default() });
    assert_eq!(route(&mut server, 36), DatagramRoute::Held);
    assert_eq!(route(&mut server, 40), DatagramRoute::Dropped(DatagramDrop::OutOfReach));
    assert_eq!(route(&mut server, (1 << 62) - 4), DatagramRoute::Dropped(DatagramDrop::OutOfReach));
    let mut client = client(Config::default());
    assert_eq!(route(&mut client, 0), DatagramRoute::Dropped(DatagramDrop::OutOfReach), "never opened");
    server.h3.goaway(8).unwrap();
    assert_eq!(route(&mut server, 8), DatagramRoute::Dropped(DatagramDrop::Closed), "will be rejected");
}

/// H3D-11, H3D-12, H3D-13: found by whoever parses the Quarter Stream ID, raised here.
#[test]
fn a_bad_quarter_stream_id_closes_the_connection() {
    let mut server = server(Config::default());
    server.h3.handle_bad_datagram();
    server.settle();
    assert_eq!((server.close, server.h3.counters().faults.quarter_stream_id), (Some(H3_DATAGRAM_ERROR), 1));
    assert_eq!(route(&mut server, 0), DatagramRoute::Dropped(DatagramDrop::ConnectionClosed));
}

/// A client declares the semantics when it sends the request; datagrams may then precede the response.
#[test]
fn a_client_takes_datagrams_from_the_request_on() {
    let mut client = client(Config::default());
    client.h3.send_request(0, &request(&CONNECT_UDP), false).unwrap();
    assert_eq!(route(&mut client, 0), DatagramRoute::Held, "not declared");
    client.h3.enable_datagrams(0);
    assert_eq!(client.h3.take_early_datagrams(0).collect::<Vec<_>>(), [PAYLOAD]);
    assert_eq!(route(&mut client, 0), DatagramRoute::Deliver);
}
