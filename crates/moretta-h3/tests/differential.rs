//! Our HTTP/3 and h3wire: as each other's peers, and side by side under the same bytes, sane and mutated.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use moretta_h3::code::{
    H3_CLOSED_CRITICAL_STREAM, H3_FRAME_UNEXPECTED, H3_ID_ERROR, QPACK_DECODER_STREAM_ERROR, QPACK_ENCODER_STREAM_ERROR,
};
use moretta_h3::h3wire_adapter::Connection as Theirs;
use moretta_h3::{Config, Connection as Ours, Event, Role};
use support::script::{Outcome, Script, by_stream, heads, mutated, play};
use support::{
    CONNECT_UDP, GET, Http3, Pair, Random, fields, frame, headers, request, response, settings, varint, with,
};

/// Exchanges of every kind between `C` and `S`; gives what both applications were told.
fn conversation<C: Http3, S: Http3>(chunk: usize) -> (Vec<Event>, Vec<Event>) {
    let mut pair: Pair<C, S> = Pair::new(&Config::default(), chunk);
    assert!(pair.client.h3.datagrams_allowed() && pair.server.h3.datagrams_allowed());
    // An ordinary request with everything.
    let post = with(&GET, &[(":method", "POST"), ("content-length", "6"), ("cookie", "a"), ("x", "\u{e4}")]);
    pair.client.h3.send_request(0, &request(&post), false).unwrap();
    pair.client.h3.send_data(0, Bytes::from_static(b"abc"), false).unwrap();
    pair.client.h3.send_data(0, Bytes::from_static(b"def"), false).unwrap();
    pair.client.h3.send_trailers(0, &fields(&[("t", "1")])).unwrap();
    // A tunnel, HEAD, and one that will be reset.
    pair.client.h3.send_request(4, &request(&CONNECT_UDP), false).unwrap();
    pair.client.h3.send_data(4, Bytes::from_static(b"early"), false).unwrap();
    pair.client.h3.send_request(8, &request(&with(&GET, &[(":method", "HEAD")])), true).unwrap();
    pair.client.h3.send_request(12, &request(&CONNECT_UDP), false).unwrap();
    // One that is refused while the client goes on sending.
    pair.client.h3.send_request(16, &request(&CONNECT_UDP), false).unwrap();
    pair.run();
    pair.server.h3.send_response(16, &response(403, &[]), true).unwrap();
    pair.server.h3.stop_receiving(16, 0x100);
    pair.client.h3.send_data(16, Bytes::from_static(b"unwanted"), false).unwrap();
    pair.run();
    for status in [100, 103] {
        pair.server.h3.send_response(0, &response(status, &[("link", "x")]), false).unwrap();
    }
    pair.server.h3.send_response(0, &response(200, &[("content-length", "2"), ("server", "s")]), false).unwrap();
    pair.server.h3.send_data(0, Bytes::from_static(b"ok"), false).unwrap();
    pair.server.h3.send_trailers(0, &fields(&[("u", "2")])).unwrap();
    pair.server.h3.send_response(4, &response(200, &[("capsule-protocol", "?1")]), false).unwrap();
    pair.server.h3.send_data(4, Bytes::from(vec![1; 5000]), false).unwrap();
    pair.server.h3.send_response(8, &response(404, &[("content-length", "9")]), true).unwrap();
    pair.server.h3.reset(12, 0x10c);
    pair.run();
    pair.client.h3.send_data(4, Bytes::from_static(b"late"), true).unwrap();
    pair.run();
    pair.server.h3.finish(4).unwrap();
    pair.run();
    assert_eq!((pair.client.close, pair.server.close), (None, None), "{} and {}", C::NAME, S::NAME);
    (by_stream(pair.client.take_events()), by_stream(pair.server.take_events()))
}

#[test]
fn each_implementation_understands_the_other() {
    for chunk in [1, 5, usize::MAX] {
        let ours = conversation::<Ours, Ours>(chunk);
        assert_eq!(conversation::<Ours, Theirs>(chunk), ours, "h3wire as server, pieces of {chunk}");
        assert_eq!(conversation::<Theirs, Ours>(chunk), ours, "h3wire as client, pieces of {chunk}");
        assert_eq!(conversation::<Theirs, Theirs>(chunk), ours, "h3wire on both ends, pieces of {chunk}");
    }
}

/// Where the two may differ, and why. The name is that of our counter.
const JUSTIFIED: [(&str, &str); 9] = [
    ("path", "h3wire takes '#', DEL and bytes above ASCII in :path; RFC 3986 does not"),
    ("authority", "h3wire only looks for '@'; we take nothing that cannot stand in a host or port"),
    ("content_length_invalid", "h3wire takes repeated equal lengths, and a length on CONNECT, which misleads (K-14)"),
    ("content_length_mismatch", "we look at the announced length of a DATA frame, h3wire at the bytes that have come"),
    ("host_mismatch", "h3wire does not compare Host on CONNECT or with schemes other than http"),
    ("body_too_large", "h3wire does not bound content"),
    ("oversized_requests", "431 here, H3_EXCESSIVE_LOAD there"),
    ("section_too_large", "the stream here, the connection there"),
    ("useless_bytes", "h3wire has no such budget"),
];

/// Differences that are no fault of the message in our eyes: h3wire is stricter.
fn stricter_there(told: &[Event]) -> Option<&'static str> {
    let heads = told.iter().filter_map(|event| if let Event::Request { head, .. } = event { Some(head) } else { None });
    for head in heads {
        let is_connect = &head.method[..] == b"CONNECT";
        if is_connect && head.protocol.is_none() {
            return Some("CONNECT without a valid port is answered with 400 (RFC 9110 §9.3.6), not here");
        }
        if head.protocol.as_ref().is_some_and(|protocol| protocol.contains(&b'/')) {
            return Some("an upgrade token may carry a version (RFC 9110 §7.8)");
        }
    }
    None
}

/// Plays a script on both; panics on a difference that has no reason. Says which reason it had.
fn compare(role: Role, script: &Script, what: &str) -> Option<&'static str> {
    let (ours, endpoint, told) = play::<Ours>(role, script);
    let (theirs, _, _) = play::<Theirs>(role, script);
    if ours == theirs {
        return None;
    }
    let counters = endpoint.h3.counters();
    let mut counted: Vec<_> = counters.faults.iter().filter(|(_, count)| *count > 0).map(|(name, _)| name).collect();
    if counters.oversized_requests > 0 {
        counted.push("oversized_requests");
    }
    let reason = JUSTIFIED.iter().find(|(name, _)| counted.contains(name)).map(|(_, reason)| *reason);
    let reason = reason.or_else(|| stricter_there(&told)).or_else(|| {
        let codes = (Outcome::Connection(H3_FRAME_UNEXPECTED), Outcome::Connection(H3_ID_ERROR));
        ((&ours, &theirs) == (&codes.0, &codes.1))
            .then_some("PUSH_PROMISE in a tunnel is first of all a known frame other than DATA (RFC 9114 §4.4)")
    });
    assert!(reason.is_some(), "{what} as {role:?}\n{script:x?}\nours {counted:?}: {ours:?}\ntheirs: {theirs:?}");
    reason
}

fn compare_request_streams(role: Role) {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..60_000 {
        let mut random = Random(seed);
        // One stream each, so that a difference has one reason.
        let stream_id = *random.pick(&[0, 4, 8]);
        let (bytes, fin) = mutated(&mut random, role);
        let cut = random.below(bytes.len() as u64 + 1) as usize;
        let script = vec![(stream_id, bytes[..cut].to_vec(), false), (stream_id, bytes[cut..].to_vec(), fin)];
        if let Some(reason) = compare(role, &script, &format!("seed {seed}")) {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    println!("{reasons:#?}");
}

#[test]
fn mutated_requests_have_the_same_outcome() {
    compare_request_streams(Role::Server);
}

#[test]
fn mutated_responses_have_the_same_outcome() {
    compare_request_streams(Role::Client);
}

/// Unidirectional streams: every type, every frame, settings with random identifiers and values, damaged.
#[test]
fn mutated_unidirectional_streams_have_the_same_outcome() {
    for role in [Role::Server, Role::Client] {
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let first = if role == Role::Server { 2 } else { 7 };
            let mut script = Vec::new();
            for index in 0..=random.below(4) {
                let mut bytes = varint(random.below(6));
                if random.below(3) > 0 {
                    bytes.extend(settings(&[
                        (random.below(64), random.below(3)),
                        (random.below(64), random.next() >> 40),
                    ]));
                }
                for _ in 0..random.below(4) {
                    let payload =
                        [varint(random.below(70)), vec![0; random.below(12).saturating_sub(9) as usize]].concat();
                    bytes.extend(frame(random.below(16), &payload));
                }
                if random.below(3) == 0 {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
                script.push((first + 4 * index, bytes, random.below(12) == 0));
            }
            compare(role, &script, &format!("seed {seed}"));
        }
    }
}

/// What may stand on the streams of RFC 9204 §4.3 and §4.4: every instruction with small, large and largest integers.
fn qpack_instructions(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(4) {
        // Set capacity, insert (static and dynamic name, literal name), duplicate; on the other stream acknowledgement,
        // cancellation, increment.
        let (flags, bits) =
            *random.pick(&[(0x20, 5), (0xc0, 6), (0x80, 6), (0x40, 5), (0x00, 5), (0x80, 7), (0x00, 6)]);
        let most = (1_u64 << bits) - 1;
        match random.below(5) {
            0 => bytes.push(flags),
            1 => bytes.push(flags | random.below(most) as u8),
            2 => bytes.extend([flags | most as u8, random.below(0x80) as u8]),
            3 => bytes.extend([flags | most as u8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]),
            _ => bytes.extend([flags | most as u8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        }
        bytes.extend((0..random.below(4)).map(|_| random.next() as u8));
    }
    bytes
}

#[test]
fn mutated_qpack_streams_have_the_same_outcome() {
    let mut codes = BTreeSet::new();
    for role in [Role::Server, Role::Client] {
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let first = if role == Role::Server { 2 } else { 7 };
            let bytes = [varint(2 + random.below(2)), qpack_instructions(&mut random)].concat();
            let cut = random.below(bytes.len() as u64 + 1) as usize;
            let (one, two) = bytes.split_at(cut);
            let script = vec![(first, one.to_vec(), false), (first, two.to_vec(), random.below(8) == 0)];
            compare(role, &script, &format!("seed {seed}"));
            codes.insert(match play::<Ours>(role, &script).0 {
                Outcome::Connection(code) => Some(code),
                Outcome::Streams(_) => None,
            });
        }
    }
    let faults = [QPACK_ENCODER_STREAM_ERROR, QPACK_DECODER_STREAM_ERROR, H3_CLOSED_CRITICAL_STREAM].map(Some);
    assert!(codes.contains(&None) && faults.iter().all(|code| codes.contains(code)), "{codes:x?}");
}

/// A connection as a whole: control and QPACK streams with what belongs there and what does not, and requests, in any
/// order and interleaved. At most one message is damaged, so that a difference has one reason.
#[test]
fn conversations_with_a_fault_have_the_same_outcome() {
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for role in [Role::Server, Role::Client] {
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let first = if role == Role::Server { 2 } else { 7 };
            let mut control = vec![0];
            control.extend(settings(&[(0x08, 1), (0x33, random.below(2)), (0x21, random.next() >> 30)]));
            for _ in 0..random.below(3) {
                let kind = *random.pick(&[0x07, 0x0d, 0x03, 0x21, 0x0f_0700, 0x04, 0x00, 0x02]);
                control.extend(frame(kind, &varint(4 * random.below(4))));
            }
            let whole = random.pick(&heads(role)).clone();
            let (damaged, fin) = mutated(&mut random, role);
            let mut script: Vec<_> = vec![
                (first, control, random.below(16) == 0),
                (first + 4, [vec![2], qpack_instructions(&mut random)].concat(), false),
                (first + 8, [vec![3], qpack_instructions(&mut random)].concat(), false),
                (0, whole, false),
                (4, damaged, fin),
            ];
            if role == Role::Client {
                // The peer's control stream is open already.
                script.remove(0);
            }
            if random.below(4) > 0 {
                script.retain(|(stream_id, ..)| ![first + 4, first + 8].contains(stream_id));
            }
            let at = random.below(script.len() as u64) as usize;
            script.rotate_left(at);
            if let Some(reason) = compare(role, &script, &format!("seed {seed}")) {
                *reasons.entry(reason).or_default() += 1;
            }
        }
    }
    println!("{reasons:#?}");
}

/// The two QPACK implementations read each other, and agree on what cannot be read.
#[test]
fn field_sections_decode_alike() {
    for seed in 0..50_000 {
        let mut random = Random(seed);
        let mut section = vec![0, 0];
        for _ in 0..random.below(6) {
            let mut piece: Vec<u8> = match random.below(4) {
                0 => vec![0xc0 | random.next() as u8],
                1 => [vec![0x50 | random.below(16) as u8, random.below(4) as u8], b"abcd".to_vec()].concat(),
                2 => [vec![0x23], b"key".to_vec(), vec![0x03], b"val".to_vec()].concat(),
                _ => (0..random.below(5)).map(|_| random.next() as u8).collect(),
            };
            section.append(&mut piece);
        }
        let script = vec![(0, frame(0x01, &section), false)];
        compare(Role::Server, &script, &format!("seed {seed}"));
    }
}

/// Every entry of the list above has an example: a difference that goes away is struck off.
#[test]
fn each_justified_difference_is_real() {
    let one = |bytes: Vec<u8>, fin| vec![(0, bytes, fin)];
    let classic = [(":method", "CONNECT"), (":authority", "example.org:443")];
    let put = with(&GET, &[(":method", "PUT"), ("content-length", "3")]);
    let announced = [headers(&put), varint(0), varint(9)].concat();
    let long = "x".repeat(20_000);
    let examples = [
        ("path", Role::Server, one(headers(&with(&GET, &[(":path", "/a#b")])), true)),
        ("authority", Role::Server, one(headers(&with(&GET, &[(":authority", "a/b")])), true)),
        ("content_length_invalid", Role::Server, one(headers(&with(&classic, &[("content-length", "0")])), false)),
        ("content_length_mismatch", Role::Server, one(announced, false)),
        ("host_mismatch", Role::Server, one(headers(&with(&classic, &[("host", "other")])), false)),
        ("body_too_large", Role::Server, one([headers(&GET), varint(0), varint(1 << 30)].concat(), false)),
        ("oversized_requests", Role::Server, one(headers(&with(&GET, &[("a", &long)])), true)),
        ("section_too_large", Role::Client, one(headers(&with(&[(":status", "200")], &[("a", &long)])), true)),
        ("useless_bytes", Role::Server, one([headers(&CONNECT_UDP), frame(0x21, &vec![0; 1 << 21])].concat(), false)),
    ];
    assert_eq!(examples.each_ref().map(|example| example.0), JUSTIFIED.map(|entry| entry.0));
    for ((name, role, script), (_, reason)) in examples.iter().zip(JUSTIFIED) {
        assert_eq!(compare(*role, script, name), Some(reason), "{name}");
    }
    for (role, bytes) in [
        (Role::Server, headers(&with(&classic, &[(":authority", "example.org")]))),
        (Role::Server, headers(&with(&CONNECT_UDP, &[(":protocol", "websocket/13")]))),
    ] {
        assert!(compare(role, &one(bytes, false), "stricter there").is_some());
    }
    let push = [headers(&[(":status", "200")]), frame(0x05, &[0, 0, 0])].concat();
    assert!(compare(Role::Client, &vec![(4, push, false)], "PUSH_PROMISE in a tunnel").is_some());
}
