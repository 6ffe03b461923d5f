//! A peer that does anything at any time, by a seed. Nothing may panic, grow without bound, or contradict itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use moretta_h3::{Config, Event, FaultCounters, Role};
use support::{
    CONNECT_UDP, Endpoint, GET, Random, data, fields, frame, headers, request, response, settings, varint, with,
};

const CONNECTIONS: u64 = 3000;
const STEPS: u64 = 120;

fn config() -> Config {
    Config {
        max_field_section_bytes: 1024,
        max_open_requests: 8,
        early_datagram_bytes: 2048,
        max_unknown_frame_bytes: 20_000,
        max_cancelled_requests: 20,
        max_request_body_bytes: 5000,
        ..Config::default()
    }
}

/// What `config` allows to be held: sixteen partial sections, grown by doubling, one control frame, early datagrams.
const MOST_BUFFERED: usize = 2 * (16 * 1024 + 4096) + 2048;

/// A piece of a stream: mostly sense, sometimes not.
fn bytes(random: &mut Random, role: Role, is_wild: bool, has_head: bool) -> Vec<u8> {
    let head = match role {
        Role::Server => [&GET[..], &CONNECT_UDP[..]][random.below(2) as usize].to_vec(),
        Role::Client => vec![(":status", *random.pick(&["100", "103", "200", "204", "304", "403", "101", "x"]))],
    };
    let long = "y".repeat(random.below(1500) as usize);
    let choice = match (is_wild, has_head) {
        (true, _) => random.below(14),
        (false, false) => random.below(4),
        (false, true) => *random.pick(&[5, 5, 5, 6, 8, 4]),
    };
    let mut out = match choice {
        0 | 1 => headers(&head),
        2 => headers(&with(&head, &[("content-length", *random.pick(&["0", "3", "100", "-"]))])),
        3 => headers(&with(&head, &[("long", &long)])),
        4 => headers(&[("a", "b")]),
        5 | 6 => data(&vec![0; random.below(300) as usize]),
        7 => frame(random.below(16), &vec![0; random.below(12) as usize]),
        8 => frame(0x21 + 0x1f * random.below(9), &vec![0; random.below(50) as usize]),
        9 => settings(&[(random.below(64), random.below(3))]),
        10 => frame(7, &varint(random.below(20) * random.below(3))),
        11 => vec![random.next() as u8; random.below(20) as usize],
        12 => [varint(random.below(3)), varint(random.next() >> 2)].concat(),
        _ => [headers(&head), data(b"abc")].concat(),
    };
    match random.below(if is_wild { 12 } else { 200 }) {
        0 => out.truncate(random.below(out.len() as u64 + 1) as usize),
        1 if !out.is_empty() => {
            let at = random.below(out.len() as u64) as usize;
            out[at] ^= 1 << random.below(8);
        }
        _ => {}
    }
    out
}

/// What was told about a stream must be a message: head, content, trailers, one end.
#[derive(Debug, Default)]
struct Told {
    head: bool,
    trailers: bool,
    end: bool,
}

fn check(told: &mut BTreeMap<u64, Told>, event: &Event, role: Role) {
    let (id, head, content, trailers, end) = match event {
        Event::Request { stream_id, fin, .. } => {
            assert_eq!(role, Role::Server);
            assert!(!told.contains_key(stream_id), "told twice: {event:?}");
            (*stream_id, true, false, false, *fin)
        }
        Event::Response { stream_id, fin, interim, .. } => {
            assert_eq!(role, Role::Client);
            (*stream_id, !interim, false, false, *fin)
        }
        Event::Data { stream_id, bytes } => {
            assert!(!bytes.is_empty());
            (*stream_id, false, true, false, false)
        }
        Event::Trailers { stream_id, .. } => (*stream_id, false, true, true, false),
        Event::Finished { stream_id } => (*stream_id, false, true, false, true),
        Event::Reset { stream_id, .. } | Event::Aborted { stream_id, .. } => (*stream_id, false, false, false, true),
        Event::Settings | Event::GoAway { .. } | Event::StopSending { .. } => return,
    };
    let stream = told.entry(id).or_default();
    assert!(!stream.end || matches!(event, Event::Aborted { .. }), "after the end: {event:?}");
    assert!(!head || !stream.head, "second head: {event:?}");
    assert!(!content || stream.head, "content before the head: {event:?}");
    assert!(!(content && stream.trailers) || end, "content after trailers: {event:?}");
    stream.head |= head;
    stream.trailers |= trailers;
    stream.end |= end;
}

fn run(seed: u64, role: Role) -> FaultCounters {
    let mut random = Random(seed);
    // Wild ones are thrown out soon; the others get further.
    let is_wild = seed.is_multiple_of(3);
    let mut endpoint: Endpoint = Endpoint::new(role, config());
    let (peer_uni, own_uni) = if role == Role::Server { (2, 3) } else { (3, 2) };
    endpoint.feed(peer_uni, &[vec![0], settings(&[(0x33, 1), (0x08, 1)])].concat(), false);
    let mut told = BTreeMap::new();
    let mut requests = 0;
    for _ in 0..STEPS {
        let request_id = 4 * random.below(12);
        match random.below(16) {
            0..=7 => {
                let has_head = told.get(&request_id).is_some_and(|told: &Told| told.head);
                let (piece, fin) = (bytes(&mut random, role, is_wild, has_head), random.below(8) == 0);
                if random.below(4) == 0 {
                    endpoint.feed_bytewise(request_id, &piece, fin);
                } else {
                    endpoint.feed(request_id, &piece, fin);
                }
            }
            8 => {
                let piece = bytes(&mut random, role, is_wild, true);
                let id = peer_uni + 4 * (1 + random.below(5));
                let stream_type = if is_wild { random.below(8) } else { 0x21 + random.below(2) };
                endpoint.feed(id, &[varint(stream_type), piece].concat(), random.below(30) == 0);
                if random.below(20) == 0 {
                    endpoint.feed(
                        peer_uni,
                        &frame(*random.pick(&[7, 0x0d, 0x21, 3]), &[random.below(16) as u8 * 4]),
                        false,
                    );
                }
            }
            9 => drop(
                endpoint
                    .feed_reset(request_id, random.next() >> 2)
                    .take_events()
                    .iter()
                    .map(|event| check(&mut told, event, role))
                    .count(),
            ),
            10 => drop(
                endpoint
                    .feed_stop(request_id, random.next() >> 2)
                    .take_events()
                    .iter()
                    .map(|event| check(&mut told, event, role))
                    .count(),
            ),
            11 => {
                let payload = Bytes::from(vec![0; random.below(500) as usize]);
                for _ in 0..random.below(5) {
                    endpoint.h3.route_datagram(endpoint.now, 4 * random.below(40), &payload);
                }
            }
            12 => endpoint.h3.reset(request_id, 0x10c),
            13 => {
                let _answered = match role {
                    Role::Server => {
                        let status = *random.pick(&[103, 200, 204, 403]);
                        endpoint.h3.send_response(request_id, &response(status, &[]), random.below(4) == 0)
                    }
                    Role::Client => {
                        requests += 4;
                        let head = if random.below(2) == 0 { request(&GET) } else { request(&CONNECT_UDP) };
                        endpoint.h3.send_request(requests - 4, &head, random.below(2) == 0)
                    }
                };
                if random.below(2) == 0 {
                    endpoint.h3.enable_datagrams(request_id);
                    drop(endpoint.h3.take_early_datagrams(request_id));
                }
            }
            14 => {
                let _sent = match random.below(4) {
                    0 => endpoint.h3.send_trailers(request_id, &fields(&[("a", "b")])),
                    1 => endpoint.h3.finish(request_id),
                    2 if random.below(10) == 0 => endpoint.h3.goaway(4 * random.below(12)),
                    _ => endpoint.h3.send_data(request_id, Bytes::from_static(b"data"), false),
                };
            }
            _ => {
                endpoint.advance(Duration::from_millis(random.below(2000)));
                endpoint.h3.handle_timeout(endpoint.now);
                if random.below(60) == 0 {
                    endpoint.feed_stop(own_uni, 0);
                }
            }
        }
        endpoint.settle();
        for event in endpoint.take_events() {
            check(&mut told, &event, role);
        }
        assert!(endpoint.h3.buffered_bytes() <= MOST_BUFFERED, "{} bytes held", endpoint.h3.buffered_bytes());
        assert!(role == Role::Client || endpoint.h3.open_requests() <= 8);
        if endpoint.close.is_some() {
            break;
        }
    }
    let faults = endpoint.h3.counters().faults.clone();
    let count: u64 = faults.iter().map(|(_, count)| count).sum();
    assert!(endpoint.close.is_none() || count > 0, "no close without a reason");
    faults
}

/// Runs all seeds; gives how often each fault was provoked.
fn run_all(role: Role) -> BTreeMap<&'static str, u64> {
    let mut sum = BTreeMap::new();
    for seed in 0..CONNECTIONS {
        let result = std::panic::catch_unwind(|| run(seed, role));
        let faults = result.unwrap_or_else(|panic| {
            println!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        for (name, count) in faults.iter().filter(|(_, count)| *count > 0) {
            *sum.entry(name).or_default() += count;
        }
    }
    sum
}

/// K-1 to K-5 together.
#[test]
fn a_server_survives_any_client() {
    let faults = run_all(Role::Server);
    assert!(faults.len() >= 25, "the client was not hostile enough: {faults:?}");
}

#[test]
fn a_client_survives_any_server() {
    let faults = run_all(Role::Client);
    assert!(faults.len() >= 20, "the server was not hostile enough: {faults:?}");
}
