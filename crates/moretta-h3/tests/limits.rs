//! RFC 9114 §10.5 and the attacks K-1 to K-3: what a peer may cost.

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

use moretta_h3::code::{H3_EXCESSIVE_LOAD, H3_REQUEST_CANCELLED, H3_REQUEST_REJECTED};
use moretta_h3::{Config, Event};
use support::{CONNECT_UDP, Endpoint, GET, client, data, frame, headers, request, response, server, with};

/// Does `attack` for stream after stream until the connection is closed; says after how many.
fn streams_until_close(server: &mut Endpoint, attack: impl Fn(&mut Endpoint, u64)) -> u64 {
    for stream in 0..50_000 {
        attack(server, stream * 4);
        if server.close.is_some() {
            assert_eq!(server.close, Some(H3_EXCESSIVE_LOAD));
            return stream;
        }
    }
    panic!("never closed");
}

/// K-1 (rapid reset) and K-2 (resets that we are made to send): the work stays within the allowance.
#[test]
fn cancelled_requests_exhaust_an_allowance() {
    type Attack = (&'static str, fn(&mut Endpoint, u64));
    let attacks: [Attack; 6] = [
        ("RESET_STREAM after the head", |server, id| {
            server.feed(id, &headers(&GET), false).feed_reset(id, 0x10c);
        }),
        ("STOP_SENDING after the head", |server, id| {
            server.feed(id, &headers(&GET), true).feed_stop(id, 0x10c);
        }),
        ("RESET_STREAM alone", |server, id| {
            server.feed_reset(id, 0x10c);
        }),
        ("STOP_SENDING alone", |server, id| {
            server.feed_stop(id, 0x10c);
        }),
        ("half a head and RESET_STREAM", |server, id| {
            server.feed(id, &[1, 50, 0], false).feed_reset(id, 0);
        }),
        ("malformed head", |server, id| {
            server.feed(id, &headers(&[(":method", "GET")]), false);
        }),
    ];
    for (what, attack) in attacks {
        let mut server = server(Config { max_cancelled_requests: 50, ..Config::default() });
        let streams = streams_until_close(&mut server, attack);
        assert_eq!(streams, 50, "{what}");
        assert!(server.h3.counters().requests <= 51, "{what}");
        assert_eq!(server.h3.counters().cancelled, 51, "{what}");
        assert!(server.h3.open_requests() == 0 && server.h3.buffered_bytes() == 0, "{what}");
    }
}

/// K-2: a request that is answered at once and then broken, so that we reset what the application has worked on.
#[test]
fn provoked_resets_count_after_the_answer_too() {
    let mut server = server(Config { max_cancelled_requests: 50, ..Config::default() });
    let post = headers(&with(&GET, &[(":method", "POST"), ("content-length", "1")]));
    let streams = streams_until_close(&mut server, |server, id| {
        server.feed(id, &post, false);
        server.h3.send_response(id, &response(200, &[]), false).unwrap();
        server.feed(id, &data(b"too much"), false);
    });
    assert_eq!(streams, 50);
}

/// A browser that leaves a page sends both RESET_STREAM and STOP_SENDING: that is one cancelled request.
#[test]
fn one_cancelled_request_counts_once() {
    for order in [true, false] {
        let mut server = server(Config::default());
        server.feed(0, &headers(&GET), false);
        if order {
            server.feed_reset(0, 0x10c).feed_stop(0, 0x10c);
        } else {
            server.feed_stop(0, 0x10c).feed_reset(0, 0x10c);
        }
        assert_eq!(server.h3.counters().cancelled, 1);
        assert_eq!(server.h3.open_requests(), 0);
    }
}

#[test]
fn the_allowance_comes_back_with_time() {
    let mut server = server(Config { max_cancelled_requests: 60, ..Config::default() });
    for stream in 0..600 {
        server.feed(stream * 4, &headers(&GET), false).feed_reset(stream * 4, H3_REQUEST_CANCELLED);
        server.advance(Duration::from_secs(1));
    }
    assert_eq!(server.close, None, "one a second is its rate");
}

/// Tunnels that were accepted end by reset all day long.
#[test]
fn ended_tunnels_are_not_churn() {
    let mut server = server(Config { max_cancelled_requests: 5, ..Config::default() });
    for stream in 0..100 {
        server.feed(stream * 4, &headers(&CONNECT_UDP), false);
        server.h3.send_response(stream * 4, &response(200, &[]), false).unwrap();
        server.feed_reset(stream * 4, H3_REQUEST_CANCELLED);
        server.h3.reset(stream * 4, H3_REQUEST_CANCELLED);
    }
    assert_eq!((server.close, server.h3.counters().cancelled), (None, 0));
    assert_eq!(server.h3.open_requests(), 0);
}

/// K-3: frames that cost nothing to send and do nothing, on every kind of stream.
#[test]
fn useless_frames_exhaust_a_budget() {
    let config = Config { max_unknown_frame_bytes: 64_000, ..Config::default() };
    let control = |bytes: &[u8]| (2, bytes.to_vec());
    let tunnel = |bytes: &[u8]| (0, bytes.to_vec());
    for (what, (stream_id, bytes)) in [
        ("unknown frames on the control stream", control(&frame(0x21, &[]))),
        ("PRIORITY_UPDATE", control(&frame(0xf_0700, &[0]))),
        ("GOAWAY", control(&frame(0x07, &[0]))),
        ("MAX_PUSH_ID", control(&frame(0x0d, &[0]))),
        ("unknown frames in a tunnel", tunnel(&frame(0x40, &[]))),
        ("empty DATA in a tunnel", tunnel(&data(&[]))),
    ] {
        let mut server = server(config.clone());
        server.feed(0, &headers(&CONNECT_UDP), false);
        server.h3.send_response(0, &response(200, &[]), false).unwrap();
        let sent = (0..10_000).take_while(|_| server.feed(stream_id, &bytes, false).close.is_none()).count();
        // Payload bytes count too, and the control stream took its share.
        assert!((980..1000).contains(&sent), "{what}: {sent}");
        assert_eq!(server.close, Some(H3_EXCESSIVE_LOAD), "{what}");
        assert_eq!(server.h3.counters().faults.useless_bytes, 1, "{what}");
    }
}

/// CAP-3's cousin one layer down: a frame of 2^62-1 bytes is skipped as it comes, until the budget is used up.
#[test]
fn a_huge_unknown_frame_is_skipped_without_buffering() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false);
    server.feed(0, &[0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false);
    for _ in 0..100 {
        server.feed(0, &[0; 10_000], false);
    }
    assert_eq!((server.close, server.h3.buffered_bytes()), (None, 0));
    server.feed(0, &vec![0; 100_000], false);
    assert_eq!(server.close, Some(H3_EXCESSIVE_LOAD));
}

#[test]
fn qpack_streams_and_interim_responses_are_budgeted_too() {
    let config = Config { max_unknown_frame_bytes: 10_000, ..Config::default() };
    for (stream_id, first, bytes) in [(6, 0x02, [0x20; 100]), (10, 0x03, [0x41; 100])] {
        let mut server = server(config.clone());
        server.feed(stream_id, &[first], false);
        let sent = (0..1000).take_while(|_| server.feed(stream_id, &bytes, false).close.is_none()).count();
        assert_eq!((sent, server.close), (98, Some(H3_EXCESSIVE_LOAD)));
    }
    let mut client = client(config);
    client.h3.send_request(0, &request(&GET), true).unwrap();
    let interim = headers(&[(":status", "103")]);
    let sent = (0..1000).take_while(|_| client.feed(0, &interim, false).close.is_none()).count();
    assert_eq!((sent, client.close), (155, Some(H3_EXCESSIVE_LOAD)));
}

#[test]
fn requests_above_the_limit_are_rejected_unread() {
    let mut server = server(Config { max_open_requests: 3, ..Config::default() });
    for stream in 0..5 {
        server.feed(stream * 4, &headers(&CONNECT_UDP), false);
    }
    assert_eq!(server.take_events().len(), 3);
    assert_eq!(server.resets, [(12, H3_REQUEST_REJECTED), (16, H3_REQUEST_REJECTED)]);
    assert_eq!(server.stops, server.resets);
    assert_eq!(server.h3.counters().rejected_over_limit, 2);
    server.feed(12, &data(b"late"), true);
    assert!(server.events.is_empty() && server.resets.len() == 2, "rejected once");
    server.h3.reset(0, H3_REQUEST_CANCELLED);
    server.feed(20, &headers(&GET), true);
    assert!(matches!(server.take_events()[..], [Event::Request { stream_id: 20, .. }]));
}
