//! A client and a server of ours talk to each other through an ideal network, in pieces of any size.

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
use moretta_h3::code::{H3_CONNECT_ERROR, H3_NO_ERROR, H3_REQUEST_CANCELLED};
use moretta_h3::{Config, DatagramRoute, Event, SendError};
use support::{CONNECT_UDP, GET, Pair, fields, normalized, request, response, with};

const CHUNKS: [usize; 4] = [1, 2, 7, usize::MAX];

fn pair(chunk: usize) -> Pair {
    Pair::new(&Config::default(), chunk)
}

#[test]
fn settings_go_both_ways() {
    for chunk in CHUNKS {
        let pair = pair(chunk);
        let theirs = pair.client.h3.peer_settings().unwrap();
        assert!(theirs.enable_connect_protocol && theirs.h3_datagram);
        assert_eq!(theirs.max_field_section_bytes, Some(16 * 1024));
        assert!(!pair.server.h3.peer_settings().unwrap().enable_connect_protocol, "a client does not announce it");
        assert!(pair.client.h3.datagrams_allowed() && pair.server.h3.datagrams_allowed());
    }
}

/// RFC 9114 §4.1: request with content and trailers, an interim and a final response, content and trailers back.
#[test]
fn a_whole_exchange_arrives_as_it_was_sent() {
    for chunk in CHUNKS {
        let mut pair = pair(chunk);
        let head = request(&with(&GET, &[(":method", "POST"), ("cookie", "a=b"), ("x-long", "~~~~\u{fc}~~~~")]));
        pair.client.h3.send_request(0, &head, false).unwrap();
        pair.client.h3.send_data(0, Bytes::from(vec![7; 1000]), false).unwrap();
        pair.client.h3.send_data(0, Bytes::from_static(b"more"), false).unwrap();
        pair.client.h3.send_trailers(0, &fields(&[("digest", "x")])).unwrap();
        pair.run();
        let content = [vec![7; 1000], b"more".to_vec()].concat();
        assert_eq!(
            normalized(pair.server.take_events()),
            [
                Event::Request { stream_id: 0, head, fin: false },
                Event::Data { stream_id: 0, bytes: content.into() },
                Event::Trailers { stream_id: 0, fields: fields(&[("digest", "x")]) },
                Event::Finished { stream_id: 0 },
            ]
        );
        let interim = response(103, &[("link", "</a>")]);
        let last = response(200, &[("content-length", "2")]);
        pair.server.h3.send_response(0, &interim, false).unwrap();
        pair.server.h3.send_response(0, &last, false).unwrap();
        pair.server.h3.send_data(0, Bytes::from_static(b"ok"), false).unwrap();
        pair.server.h3.send_trailers(0, &fields(&[("server-timing", "1")])).unwrap();
        pair.run();
        assert_eq!(
            normalized(pair.client.take_events()),
            [
                Event::Response { stream_id: 0, head: interim, interim: true, fin: false },
                Event::Response { stream_id: 0, head: last, interim: false, fin: false },
                Event::Data { stream_id: 0, bytes: Bytes::from_static(b"ok") },
                Event::Trailers { stream_id: 0, fields: fields(&[("server-timing", "1")]) },
                Event::Finished { stream_id: 0 },
            ]
        );
        assert_eq!((pair.client.h3.open_requests(), pair.server.h3.open_requests()), (0, 0), "state is gone");
        assert_eq!((pair.client.close, pair.server.close), (None, None));
    }
}

/// The end of a stream is told with the head when they come together, and never twice.
#[test]
fn a_request_without_content_ends_with_its_head() {
    let mut pair = pair(usize::MAX);
    pair.client.h3.send_request(0, &request(&GET), true).unwrap();
    pair.run();
    assert_eq!(pair.server.take_events(), [Event::Request { stream_id: 0, head: request(&GET), fin: true }]);
    pair.server.h3.send_response(0, &response(404, &[]), true).unwrap();
    pair.run();
    let head = response(404, &[]);
    assert_eq!(pair.client.take_events(), [Event::Response { stream_id: 0, head, interim: false, fin: true }]);
}

/// RFC 9114 §4.1.2: a response to HEAD may have a Content-Length and has no content.
#[test]
fn a_head_response_has_a_length_and_no_content() {
    let mut pair = pair(3);
    pair.client.h3.send_request(0, &request(&with(&GET, &[(":method", "HEAD")])), true).unwrap();
    pair.run();
    pair.server.h3.send_response(0, &response(200, &[("content-length", "1000")]), false).unwrap();
    assert_eq!(pair.server.h3.send_data(0, Bytes::from_static(b"x"), false), Err(SendError::WrongState));
    pair.server.h3.finish(0).unwrap();
    pair.run();
    let events = normalized(pair.client.take_events());
    assert!(matches!(events[..], [Event::Response { .. }, Event::Finished { stream_id: 0 }]), "{events:?}");
}

/// XC-22: bytes both ways before and after the answer; each side ends on its own.
#[test]
fn a_tunnel_carries_bytes_and_half_closes() {
    for chunk in CHUNKS {
        let mut pair = pair(chunk);
        let head = request(&CONNECT_UDP);
        pair.client.h3.send_request(4, &head, false).unwrap();
        pair.client.h3.send_data(4, Bytes::from_static(b"early"), false).unwrap();
        pair.run();
        pair.server.h3.send_response(4, &response(200, &[("capsule-protocol", "?1")]), false).unwrap();
        pair.server.h3.send_data(4, Bytes::from_static(b"welcome"), false).unwrap();
        pair.run();
        pair.client.h3.send_data(4, Bytes::from_static(b"+late"), true).unwrap();
        pair.run();
        assert_eq!(
            normalized(pair.server.take_events()),
            [
                Event::Request { stream_id: 4, head, fin: false },
                Event::Data { stream_id: 4, bytes: Bytes::from_static(b"early+late") },
                Event::Finished { stream_id: 4 },
            ]
        );
        assert_eq!(pair.server.h3.open_requests(), 1, "our side is open");
        pair.server.h3.send_data(4, Bytes::from_static(b"!"), true).unwrap();
        pair.run();
        assert!(pair.client.take_events().ends_with(&[Event::Finished { stream_id: 4 }]));
        assert_eq!((pair.client.h3.open_requests(), pair.server.h3.open_requests()), (0, 0));
    }
}

/// XC-23: a reset travels with its code, and both sides forget the stream.
#[test]
fn a_reset_ends_a_tunnel_on_both_sides() {
    let mut pair = pair(usize::MAX);
    pair.client.h3.send_request(0, &request(&CONNECT_UDP), false).unwrap();
    pair.run();
    pair.server.h3.send_response(0, &response(200, &[]), false).unwrap();
    pair.run();
    pair.client.take_events();
    pair.server.take_events();
    pair.client.h3.reset(0, H3_REQUEST_CANCELLED);
    pair.run();
    let code = H3_REQUEST_CANCELLED;
    let told = pair.server.take_events();
    assert_eq!(told, [Event::Reset { stream_id: 0, code }, Event::StopSending { stream_id: 0, code }]);
    assert_eq!((pair.client.h3.open_requests(), pair.server.h3.open_requests()), (0, 0));
    assert!(pair.client.take_events().is_empty(), "the one who reset knows");
    assert_eq!(pair.server.h3.counters().cancelled, 0, "an answered request is not churn");

    pair.client.h3.send_request(4, &request(&CONNECT_UDP), false).unwrap();
    pair.run();
    pair.server.h3.reset(4, H3_CONNECT_ERROR);
    pair.run();
    let told = pair.client.take_events();
    assert!(told.contains(&Event::Reset { stream_id: 4, code: H3_CONNECT_ERROR }), "{told:?}");
    assert_eq!((pair.client.h3.open_requests(), pair.server.h3.open_requests()), (0, 0));
}

/// RFC 9114 §4.1: a server may answer before the request is whole and ask the client to stop.
#[test]
fn an_early_answer_stops_the_upload_without_an_error() {
    let mut pair = pair(usize::MAX);
    pair.client.h3.send_request(0, &request(&with(&GET, &[(":method", "PUT")])), false).unwrap();
    pair.run();
    pair.server.h3.send_response(0, &response(403, &[]), true).unwrap();
    pair.run();
    pair.server.h3.stop_receiving(0, H3_NO_ERROR);
    pair.run();
    assert!(pair.server.resets.is_empty(), "the answer stands");
    let told = pair.client.take_events();
    assert!(matches!(told[0], Event::Response { fin: true, .. }), "{told:?}");
    assert_eq!(told[1..], [Event::StopSending { stream_id: 0, code: H3_NO_ERROR }]);
    assert_eq!(pair.client.h3.send_data(0, Bytes::from_static(b"x"), false), Err(SendError::UnknownStream));
    assert_eq!((pair.client.h3.open_requests(), pair.server.h3.open_requests()), (0, 0));
}

/// Many streams at once: the list of writable ones serves each in turn and none is forgotten.
#[test]
fn streams_are_written_in_turns_and_blocked_ones_wait() {
    let mut pair = pair(usize::MAX);
    for stream in 0..100 {
        pair.client.h3.send_request(stream * 4, &request(&GET), false).unwrap();
    }
    pair.run();
    assert_eq!(pair.server.take_events().len(), 100);
    for stream in 0..3 {
        pair.client.h3.send_data(stream * 4, Bytes::from(vec![0; 100]), false).unwrap();
    }
    let h3 = &mut pair.client.h3;
    assert_eq!(h3.poll_writable(), Some(0));
    assert_eq!(h3.queued_bytes(0), 103);
    h3.wrote(0, 50);
    assert_eq!(h3.poll_writable(), Some(4));
    h3.blocked(4);
    assert_eq!(h3.poll_writable(), Some(8));
    let (header, payload) = (h3.front(8)[0].clone(), h3.front(8)[1].clone());
    assert_eq!((header.len(), payload.len()), (3, 100));
    h3.wrote(8, 103);
    assert_eq!(h3.poll_writable(), Some(0), "the first one again");
    h3.wrote(0, 53);
    assert_eq!(h3.poll_writable(), None);
    h3.send_data(4, Bytes::from_static(b"x"), true).unwrap();
    assert_eq!(h3.poll_writable(), None, "still blocked");
    h3.unblocked(4);
    assert_eq!(h3.poll_writable(), Some(4));
    h3.wrote(4, h3.queued_bytes(4));
    assert!(h3.wants_fin(4));
    h3.wrote_fin(4);
    assert_eq!(h3.poll_writable(), None);
}

/// Payloads are not copied: what comes out points into what went in, and what is queued is the caller's.
#[test]
fn data_is_sliced_not_copied() {
    let mut pair = pair(usize::MAX);
    pair.client.h3.send_request(0, &request(&CONNECT_UDP), false).unwrap();
    pair.run();
    pair.server.take_events();
    let mine = Bytes::from(vec![1; 64]);
    pair.client.h3.send_data(0, mine.clone(), false).unwrap();
    assert_eq!(pair.client.h3.poll_writable(), Some(0));
    assert_eq!(pair.client.h3.front(0)[1].as_ptr(), mine.as_ptr());
    let input = Bytes::from([support::data(&[9; 64]), support::data(&[8; 2])].concat());
    let now = pair.server.now;
    pair.server.h3.handle_stream(now, 0, input.clone(), false);
    let Some(Event::Data { bytes, .. }) = pair.server.h3.poll_event() else { panic!("no data") };
    assert_eq!(bytes.as_ptr(), input[3..].as_ptr());
}

/// H3D-19: a datagram that overtakes its request reaches the tunnel, once.
#[test]
fn early_datagrams_wait_for_their_request() {
    let mut pair = pair(usize::MAX);
    let now = pair.server.now;
    let payload = Bytes::from_static(b"\0initial");
    assert_eq!(pair.server.h3.route_datagram(now, 0, &payload), DatagramRoute::Held);
    pair.client.h3.send_request(0, &request(&CONNECT_UDP), false).unwrap();
    pair.run();
    assert_eq!(pair.server.h3.route_datagram(now, 0, &payload), DatagramRoute::Held, "not accepted yet");
    pair.server.h3.send_response(0, &response(200, &[]), false).unwrap();
    pair.server.h3.enable_datagrams(0);
    let held: Vec<_> = pair.server.h3.take_early_datagrams(0).collect();
    assert_eq!(held, [payload.clone(), payload.clone()]);
    assert_eq!(pair.server.h3.take_early_datagrams(0).count(), 0);
    assert_eq!(pair.server.h3.route_datagram(now, 0, &payload), DatagramRoute::Deliver);
    assert_eq!(pair.server.h3.buffered_bytes(), 0);
}
