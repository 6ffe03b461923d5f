//! RFC 9114 §5 to §7: shutdown, streams, frames, settings. RFC 9204 §4: the QPACK streams.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use moretta_h3::code::{
    H3_CLOSED_CRITICAL_STREAM, H3_EXCESSIVE_LOAD, H3_FRAME_ERROR, H3_FRAME_UNEXPECTED, H3_ID_ERROR,
    H3_MISSING_SETTINGS, H3_REQUEST_CANCELLED, H3_REQUEST_REJECTED, H3_SETTINGS_ERROR, H3_STREAM_CREATION_ERROR,
    QPACK_DECODER_STREAM_ERROR, QPACK_DECOMPRESSION_FAILED, QPACK_ENCODER_STREAM_ERROR,
};
use moretta_h3::{Config, Connection, Event, Role, SendError};
use support::{CONNECT_UDP, Endpoint, GET, client, data, frame, headers, request, response, server, settings, varint};

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// The `n`th unidirectional stream of the peer.
fn peer_uni(role: Role, n: u64) -> u64 {
    n * 4 + if role == Role::Server { 2 } else { 3 }
}

/// Gives these streams' bytes to a fresh endpoint, at once and byte by byte, and says how the connection fared.
fn close_code(role: Role, streams: &[(u64, Vec<u8>, bool)]) -> Option<u64> {
    let outcomes = [false, true].map(|bytewise| {
        let mut endpoint: Endpoint = Endpoint::new(role, Config::default());
        for (stream_id, bytes, fin) in streams {
            if bytewise {
                endpoint.feed_bytewise(*stream_id, bytes, *fin);
            } else {
                endpoint.feed(*stream_id, bytes, *fin);
            }
        }
        let faults: u64 = endpoint.h3.counters().faults.iter().map(|(_, count)| count).sum();
        assert_eq!(faults, u64::from(endpoint.close.is_some()), "each fault is counted once");
        endpoint.close
    });
    assert_eq!(outcomes[0], outcomes[1], "chunking must not matter");
    outcomes[0]
}

/// What a control stream with these bytes leads to.
fn control(role: Role, bytes: &[u8]) -> Option<u64> {
    close_code(role, &[(peer_uni(role, 0), [vec![0], bytes.to_vec()].concat(), false)])
}

/// H3D-2, H3D-29, H3D-30, H3D-33, XC-4; RFC 9114 §7.2.4.
#[test]
fn settings_are_read_as_the_rfcs_say() {
    for role in ROLES {
        for (what, pairs, expected) in [
            ("empty", vec![], None),
            (
                "unknown and reserved identifiers",
                vec![(0x21, 7), (0xff_d277, 1), (0x2b60_3742, 1), (1, 4096), (7, 16)],
                None,
            ),
            ("datagram and extended CONNECT", vec![(0x33, 1), (0x08, 1), (0x06, 100)], None),
            ("off", vec![(0x33, 0), (0x08, 0)], None),
            ("datagram 2", vec![(0x33, 2)], Some(H3_SETTINGS_ERROR)),
            ("extended CONNECT 2", vec![(0x08, 2)], Some(H3_SETTINGS_ERROR)),
            ("huge", vec![(0x33, (1 << 62) - 1)], Some(H3_SETTINGS_ERROR)),
            ("twice", vec![(0x33, 1), (0x33, 1)], Some(H3_SETTINGS_ERROR)),
            ("unknown twice", vec![(0x21, 1), (0x21, 2)], Some(H3_SETTINGS_ERROR)),
            ("HTTP/2 0x00", vec![(0x00, 1)], Some(H3_SETTINGS_ERROR)),
            ("HTTP/2 0x02", vec![(0x02, 0)], Some(H3_SETTINGS_ERROR)),
            ("HTTP/2 0x03", vec![(0x03, 1)], Some(H3_SETTINGS_ERROR)),
            ("HTTP/2 0x04", vec![(0x04, 1)], Some(H3_SETTINGS_ERROR)),
            ("HTTP/2 0x05", vec![(0x05, 1)], Some(H3_SETTINGS_ERROR)),
        ] {
            assert_eq!(control(role, &settings(&pairs)), expected, "{what} to a {role:?}");
        }
        assert_eq!(control(role, &frame(4, &[0x33])), Some(H3_FRAME_ERROR), "identifier without a value");
        assert_eq!(control(role, &frame(4, &[0x33, 0x40])), Some(H3_FRAME_ERROR), "truncated value");
        let long = [varint(4), varint(5000)].concat();
        assert_eq!(control(role, &long), Some(H3_EXCESSIVE_LOAD), "not even read");
    }
}

/// H3D-1, XC-2.
#[test]
fn our_settings_announce_what_we_can() {
    let written = |role, config| Endpoint::<Connection>::new(role, config).written;
    let limit = [vec![0x06], varint(16_384)].concat();
    let full = [vec![0x00, 0x04, 9], limit.clone(), vec![0x08, 1, 0x33, 1]].concat();
    let streams = written(Role::Server, Config::default());
    assert_eq!(streams[&3], (full, false));
    assert_eq!((&streams[&7].0[..], &streams[&11].0[..]), (&[0x02][..], &[0x03][..]));
    let as_client = [vec![0x00, 0x04, 7], limit.clone(), vec![0x33, 1]].concat();
    assert_eq!(written(Role::Client, Config::default())[&2].0, as_client);
    let bare = Config { enable_connect_protocol: false, h3_datagram: false, ..Config::default() };
    assert_eq!(written(Role::Server, bare)[&3].0, [vec![0x00, 0x04, 5], limit].concat());
}

/// H3D-31, H3D-32; RFC 9114 §6.2.1, §7.2.
#[test]
fn frames_on_the_control_stream_follow_the_table() {
    for role in ROLES {
        for frame_type in [0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0d, 0x21, 0x40] {
            assert_eq!(control(role, &frame(frame_type, &[0])), Some(H3_MISSING_SETTINGS), "{frame_type:#x} first");
        }
        for (frame_type, to_client, to_server) in [
            (0x00, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x01, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x02, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x03, Some(H3_ID_ERROR), Some(H3_ID_ERROR)),
            (0x04, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x05, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x06, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x07, None, None),
            (0x08, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x09, Some(H3_FRAME_UNEXPECTED), Some(H3_FRAME_UNEXPECTED)),
            (0x0d, Some(H3_FRAME_UNEXPECTED), None),
            (0x21, None, None),
            (0xf_0700, None, None),
        ] {
            let bytes = [settings(&[]), frame(frame_type, &[0])].concat();
            let expected = if role == Role::Client { to_client } else { to_server };
            assert_eq!(control(role, &bytes), expected, "{frame_type:#x} to a {role:?}");
        }
    }
}

/// RFC 9114 §4.6, §7.2.5: there is no push here, so every trace of it is an error.
#[test]
fn push_is_refused_in_every_form() {
    let mut client = client(Config::default());
    client.h3.send_request(0, &request(&GET), true).unwrap();
    client.feed(0, &frame(0x05, &[0, 0, 0]), false);
    assert_eq!(client.close, Some(H3_ID_ERROR), "PUSH_PROMISE to a client that allowed none");
    let mut server = server(Config::default());
    server.feed(0, &[headers(&GET), frame(0x05, &[0, 0, 0])].concat(), false);
    assert_eq!(server.close, Some(H3_FRAME_UNEXPECTED), "PUSH_PROMISE to a server");
    assert_eq!(close_code(Role::Client, &[(3, vec![0x01, 0x00], false)]), Some(H3_ID_ERROR), "push stream");
    assert_eq!(
        close_code(Role::Server, &[(2, vec![0x01, 0x00], false)]),
        Some(H3_STREAM_CREATION_ERROR),
        "push stream"
    );
    let decreased = [settings(&[]), frame(0x0d, &[5]), frame(0x0d, &[5]), frame(0x0d, &[4])].concat();
    assert_eq!(control(Role::Server, &decreased), Some(H3_ID_ERROR), "MAX_PUSH_ID goes down");
}

#[test]
fn frames_with_an_identifier_hold_exactly_one_varint() {
    for payload in [vec![], vec![0x40], vec![0, 0], vec![0; 9], vec![0xc0, 0, 0, 0, 0, 0, 0]] {
        let bytes = [settings(&[]), frame(0x07, &payload)].concat();
        assert_eq!(control(Role::Server, &bytes), Some(H3_FRAME_ERROR), "{payload:x?}");
    }
    let padded = [settings(&[]), frame(0x07, &[0xc0, 0, 0, 0, 0, 0, 0, 0])].concat();
    assert_eq!(control(Role::Server, &padded), None, "RFC 9000 §16: longer than needed is fine");
}

/// K-13, RFC 9114 §7.1: the stream ends inside a frame, at every byte.
#[test]
fn a_truncated_frame_closes_the_connection() {
    let whole = [headers(&GET), frame(0x21, &[1, 2, 3]), [varint(1 << 40), varint(2)].concat(), vec![0, 0]].concat();
    let ends = [0, headers(&GET).len(), headers(&GET).len() + 5, whole.len()];
    for length in 1..whole.len() {
        let mut server = server(Config::default());
        server.feed(0, &whole[..length], true);
        let expected = (!ends.contains(&length)).then_some(H3_FRAME_ERROR);
        assert_eq!(server.close, expected, "cut at {length}");
    }
}

/// H3D-34, K-5; RFC 9114 §6.2.1, RFC 9204 §4.2.
#[test]
fn critical_streams_are_single_and_never_end() {
    for role in ROLES {
        let uni = |n| peer_uni(role, n);
        for (stream_type, first) in [(0, settings(&[])), (2, vec![]), (3, vec![])] {
            let bytes = [vec![stream_type], first].concat();
            let twice = [(uni(0), bytes.clone(), false), (uni(1), vec![stream_type], false)];
            assert_eq!(close_code(role, &twice), Some(H3_STREAM_CREATION_ERROR), "second stream of type {stream_type}");
            assert_eq!(
                close_code(role, &[(uni(0), bytes.clone(), true)]),
                Some(H3_CLOSED_CRITICAL_STREAM),
                "H3D-35 FIN"
            );
            let mut endpoint: Endpoint = Endpoint::new(role, Config::default());
            endpoint.feed(uni(0), &bytes, false).feed_reset(uni(0), 0);
            assert_eq!(endpoint.close, Some(H3_CLOSED_CRITICAL_STREAM), "reset");
        }
        for own in 0..3 {
            let mut endpoint: Endpoint = Endpoint::new(role, Config::default());
            endpoint.feed_stop(own * 4 + if role == Role::Server { 3 } else { 2 }, 0);
            assert_eq!(endpoint.close, Some(H3_CLOSED_CRITICAL_STREAM), "STOP_SENDING");
        }
    }
}

/// H3D-36, RFC 9114 §6.2, §9: stopped, forgotten, and what still comes is dropped within the budget.
#[test]
fn unknown_unidirectional_streams_are_stopped() {
    for role in ROLES {
        let id = peer_uni(role, 0);
        let mut endpoint: Endpoint =
            Endpoint::new(role, Config { max_unknown_frame_bytes: 10_000, ..Config::default() });
        endpoint.feed(id, &[0x40], false).feed(id, &[0x54, 1, 2, 3], false);
        assert_eq!(endpoint.stops, [(id, H3_STREAM_CREATION_ERROR)]);
        endpoint.feed(id, &[0; 5000], false);
        assert_eq!((endpoint.close, endpoint.stops.len(), endpoint.h3.buffered_bytes()), (None, 1, 0));
        endpoint.feed(id, &[0; 5000], false);
        assert_eq!(endpoint.close, Some(H3_EXCESSIVE_LOAD), "it was asked to stop");
    }
}

/// RFC 9114 §6.2: a stream may end before its type is known; an empty one too.
#[test]
fn streams_may_end_before_their_type() {
    for role in ROLES {
        assert_eq!(
            close_code(role, &[(peer_uni(role, 0), vec![], true), (peer_uni(role, 1), vec![0xc0, 0], true)]),
            None
        );
        let mut endpoint: Endpoint = Endpoint::new(role, Config::default());
        endpoint.feed(peer_uni(role, 0), &[0x40], false).feed_reset(peer_uni(role, 0), 7);
        assert_eq!(endpoint.close, None);
    }
}

/// RFC 9114 §6.1.
#[test]
fn a_server_opens_no_bidirectional_streams() {
    assert_eq!(close_code(Role::Client, &[(1, vec![0], false)]), Some(H3_STREAM_CREATION_ERROR));
}

/// RFC 9204 §4.3, §4.4; K-5.
#[test]
fn qpack_streams_take_only_what_needs_no_table() {
    for role in ROLES {
        let stream = |stream_type: u8, bytes: &[u8]| {
            close_code(role, &[(peer_uni(role, 0), [&[stream_type], bytes].concat(), false)])
        };
        for (what, bytes, expected) in [
            ("nothing", vec![], None),
            ("capacity 0", vec![0x20], None),
            ("capacity 1", vec![0x21], Some(QPACK_ENCODER_STREAM_ERROR)),
            ("capacity 31", vec![0x3f, 0], Some(QPACK_ENCODER_STREAM_ERROR)),
            ("insert with static name", vec![0xc0, 0], Some(QPACK_ENCODER_STREAM_ERROR)),
            ("insert with dynamic name 2^62-1", vec![0xbf, 0xff, 0xff], Some(QPACK_ENCODER_STREAM_ERROR)),
            ("insert with empty literal name", vec![0x40, 0], Some(QPACK_ENCODER_STREAM_ERROR)),
            ("duplicate", vec![0x00], Some(QPACK_ENCODER_STREAM_ERROR)),
        ] {
            assert_eq!(stream(2, &bytes), expected, "encoder stream: {what}");
        }
        for (what, bytes, expected) in [
            ("cancellation", vec![0x44], None),
            ("long cancellation", vec![0x7f, 0xff, 0xff, 0x7f, 0x40], None),
            ("endless cancellation", [vec![0x7f], vec![0xff; 10]].concat(), Some(QPACK_DECODER_STREAM_ERROR)),
            ("acknowledgement", vec![0x80], Some(QPACK_DECODER_STREAM_ERROR)),
            ("increment", vec![0x01], Some(QPACK_DECODER_STREAM_ERROR)),
            ("increment of 0", vec![0x00], Some(QPACK_DECODER_STREAM_ERROR)),
        ] {
            assert_eq!(stream(3, &bytes), expected, "decoder stream: {what}");
        }
    }
}

/// RFC 9204 §4.5: sections that are none, or that need a dynamic table.
#[test]
fn field_sections_that_cannot_be_decoded_close_the_connection() {
    for (what, section) in [
        ("empty", vec![]),
        ("prefix cut", vec![0]),
        ("required insert count", vec![1, 0]),
        ("negative base", vec![0, 0x80]),
        ("dynamic index", vec![0, 0, 0x80]),
        ("post-base index", vec![0, 0, 0x10]),
        ("dynamic name", vec![0, 0, 0x40, 0]),
        ("post-base name", vec![0, 0, 0x00, 0]),
        ("static index 99", vec![0, 0, 0xff, 36]),
        ("static index 2^62-1", [vec![0, 0, 0xff], vec![0xff; 8], vec![0x3f]].concat()),
        ("static name 99", vec![0, 0, 0x5f, 84, 0]),
        ("string cut", vec![0, 0, 0x51, 5, b'a']),
        ("length cut", vec![0, 0, 0x51]),
        ("literal name cut", vec![0, 0, 0x23, b'a']),
        ("length 2^62-1", [vec![0, 0, 0x51, 0x7f], vec![0xff; 8], vec![0x3f]].concat()),
        ("overlong integer", [vec![0, 0, 0xff], vec![0x80; 12]].concat()),
        ("Huffman padding with zeros", vec![0, 0, 0x51, 0x81, 0x00]),
        ("Huffman padding of a byte", vec![0, 0, 0x51, 0x82, 0x07, 0xff]),
        ("Huffman EOS", vec![0, 0, 0x51, 0x84, 0xff, 0xff, 0xff, 0xff]),
    ] {
        let code = close_code(Role::Server, &[(0, frame(0x01, &section), false)]);
        assert_eq!(code, Some(QPACK_DECOMPRESSION_FAILED), "{what}");
    }
}

/// XC-24, XC-28, XC-29; RFC 9114 §5.2.
#[test]
fn a_draining_server_rejects_what_is_new() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false);
    server.h3.goaway(Connection::GOAWAY_ALL).unwrap();
    server.feed(4, &headers(&GET), true);
    assert_eq!(server.take_events().len(), 2, "the first GOAWAY rejects nothing");
    assert_eq!(server.h3.next_request_id(), 8);
    server.h3.goaway(8).unwrap();
    server.feed(8, &headers(&GET), true).feed(12, &headers(&GET)[..3], false).feed(12, &headers(&GET)[3..], true);
    assert!(server.events.is_empty());
    assert_eq!(server.resets, [(8, H3_REQUEST_REJECTED), (12, H3_REQUEST_REJECTED)]);
    assert_eq!(server.stops, server.resets);
    assert_eq!(server.h3.counters().rejected_after_goaway, 2);
    assert_eq!(server.h3.goaway(12), Err(SendError::GoAwayId), "never up");
    assert_eq!(server.h3.goaway(5), Err(SendError::GoAwayId), "not a request stream");
    assert_eq!(server.h3.goaway(8), Ok(()));
    server.h3.send_response(0, &response(200, &[]), false).unwrap();
    server.feed(0, &data(b"lives"), false);
    assert_eq!(server.take_events().len(), 1, "open tunnels go on");
    let sent = server.written[&3].0.clone();
    let frames = [frame(7, &varint((1 << 62) - 4)), frame(7, &[8]), frame(7, &[8])].concat();
    assert!(sent.ends_with(&frames), "{sent:x?}");
}

/// RFC 9114 §5.2: what was not given to the application is rejected when the limit falls below it.
#[test]
fn a_lower_goaway_rejects_half_read_requests() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&CONNECT_UDP), false).feed(4, &headers(&GET)[..9], false).feed(8, &headers(&GET), false);
    server.h3.goaway(4).unwrap();
    server.settle();
    assert_eq!(server.resets, [(4, H3_REQUEST_REJECTED)]);
    assert_eq!(server.h3.open_requests(), 2, "those that were given away are the application's");
}

#[test]
fn goaway_identifiers_of_the_peer_are_checked() {
    for (to, ids, expected) in [
        (Role::Client, vec![(1 << 62) - 4, 8, 8, 0], None),
        (Role::Client, vec![8, 12], Some(H3_ID_ERROR)),
        (Role::Client, vec![1], Some(H3_ID_ERROR)),
        (Role::Client, vec![3], Some(H3_ID_ERROR)),
        (Role::Server, vec![7, 7, 1], None),
        (Role::Server, vec![1, 2], Some(H3_ID_ERROR)),
    ] {
        let frames: Vec<u8> = ids.iter().flat_map(|id| frame(7, &varint(*id))).collect();
        assert_eq!(control(to, &[settings(&[]), frames].concat()), expected, "{ids:?} to a {to:?}");
    }
}

#[test]
fn a_client_sends_nothing_new_after_goaway() {
    let mut client = client(Config::default());
    client.h3.send_request(0, &request(&GET), true).unwrap();
    client.feed(3, &frame(7, &[4]), false);
    assert_eq!(client.take_events(), [Event::GoAway { id: 4 }]);
    assert_eq!(client.h3.send_request(4, &request(&GET), true), Err(SendError::GoingAway));
    client.feed(0, &headers(&[(":status", "200")]), true);
    assert_eq!(client.take_events().len(), 1, "older requests go on");
}

/// RFC 9114 §4.1.1: a client does not say "rejected".
#[test]
fn a_client_never_resets_with_request_rejected() {
    let mut client = client(Config::default());
    for stream_id in [0, 4] {
        client.h3.send_request(stream_id, &request(&CONNECT_UDP), false).unwrap();
    }
    client.h3.reset(0, H3_REQUEST_REJECTED);
    client.feed_stop(4, H3_REQUEST_REJECTED);
    assert_eq!(client.resets, [(0, H3_REQUEST_CANCELLED), (4, H3_REQUEST_CANCELLED)]);
}

/// Bytes may overtake each other between streams: each stream begins once, in any order.
#[test]
fn requests_may_arrive_in_any_order() {
    let mut server = server(Config::default());
    for stream_id in [8, 0, 16, 4, 12] {
        server.feed(stream_id, &headers(&GET), true);
        server.h3.send_response(stream_id, &response(204, &[]), true).unwrap();
        server.settle();
    }
    assert_eq!(server.take_events().len(), 5);
    server.feed(4, &headers(&GET), true).feed(16, &headers(&GET), false);
    assert!(server.events.is_empty(), "over");
    assert!(server.h3.counters().late_bytes > 0);
    assert_eq!(server.h3.open_requests(), 0);
}

/// K-32: whatever the order of reset, STOP_SENDING, FIN and our own reset, in every state of a request, the state goes
/// and both directions are closed exactly once.
#[test]
fn resets_race_in_every_order() {
    const STEPS: [&str; 4] = ["peer resets", "peer stops", "peer finishes", "we reset"];
    let mut orders = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| ![a, b].contains(c)) {
                orders.push([a, b, c, 6 - a - b - c]);
            }
        }
    }
    assert_eq!(orders.len(), 24);
    for state in ["unseen", "half a head", "request", "accepted", "answered"] {
        for order in &orders {
            let mut server = server(Config::default());
            match state {
                "unseen" => {}
                "half a head" => {
                    server.feed(0, &headers(&CONNECT_UDP)[..9], false);
                }
                _ => {
                    server.feed(0, &headers(&CONNECT_UDP), false);
                }
            }
            match state {
                "accepted" => server.h3.send_response(0, &response(200, &[]), false).unwrap(),
                "answered" => server.h3.send_response(0, &response(403, &[]), true).unwrap(),
                _ => {}
            }
            server.settle();
            for step in order {
                match STEPS[*step] {
                    "peer resets" => {
                        server.feed_reset(0, 1);
                    }
                    "peer stops" => {
                        server.feed_stop(0, 2);
                    }
                    "peer finishes" if state != "half a head" => {
                        server.feed(0, &[], true);
                    }
                    "we reset" => server.h3.reset(0, 3),
                    _ => {}
                }
                server.settle();
            }
            let trace = format!("{state}: {:?}", order.map(|step| STEPS[step]));
            assert_eq!(server.close, None, "{trace}");
            assert_eq!(server.h3.open_requests(), 0, "{trace}");
            let ends = server.resets.len() + usize::from(server.written.get(&0).is_some_and(|stream| stream.1));
            assert_eq!(ends, 1, "our side ends once, {trace}: {:?}", server.resets);
            assert!(server.stops.len() <= 1, "{trace}: {:?}", server.stops);
        }
    }
}

/// After the end nothing happens any more.
#[test]
fn a_closed_connection_is_silent() {
    let mut server = server(Config::default());
    server.feed(0, &headers(&GET), false);
    server.feed(4, &data(b"x"), false);
    assert_eq!(server.close, Some(H3_FRAME_UNEXPECTED));
    server.take_events();
    server.feed(0, &data(b"x"), true).feed(8, &headers(&GET), true).feed_reset(0, 1).feed_stop(0, 1);
    assert!(server.events.is_empty());
    assert_eq!(server.h3.send_response(0, &response(200, &[]), true), Err(SendError::Closed));
    server.h3.close(0x100, "again");
    server.settle();
    assert_eq!(server.close, Some(H3_FRAME_UNEXPECTED), "the first reason stands");
}
