//! Scripts of stream bytes, what they lead to, and how to damage them.

use std::collections::BTreeMap;

use moretta_h3::code::H3_NO_ERROR;
use moretta_h3::{Config, Event, Role};

use super::{CONNECT_UDP, Endpoint, GET, Http3, Random, data, frame, headers, normalized, request, settings, with};

/// Events of each stream in order; streams among each other may differ.
pub fn by_stream(events: Vec<Event>) -> Vec<Event> {
    let mut streams: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for event in events {
        streams.entry(stream_of(&event).unwrap_or(u64::MAX)).or_default().push(event);
    }
    for events in streams.values_mut() {
        // h3wire ends both sides at the peer's reset, so STOP_SENDING is no news to it afterwards.
        if events.iter().any(|event| matches!(event, Event::Reset { .. })) {
            events.retain(|event| !matches!(event, Event::StopSending { .. }));
        }
    }
    streams.into_values().flat_map(normalized).collect()
}

pub fn stream_of(event: &Event) -> Option<u64> {
    match event {
        Event::Request { stream_id, .. }
        | Event::Response { stream_id, .. }
        | Event::Data { stream_id, .. }
        | Event::Trailers { stream_id, .. }
        | Event::Finished { stream_id }
        | Event::Reset { stream_id, .. }
        | Event::StopSending { stream_id, .. }
        | Event::Aborted { stream_id, .. } => Some(*stream_id),
        Event::Settings | Event::GoAway { .. } => None,
    }
}

/// What a script of bytes leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Connection(u64),
    /// Per stream: the code it was reset or stopped with, or what was told of it.
    Streams(BTreeMap<u64, Result<Vec<Event>, u64>>),
}

pub type Script = Vec<(u64, Vec<u8>, bool)>;

/// Also gives the endpoint and all that was told.
pub fn play<H: Http3>(role: Role, script: &Script) -> (Outcome, Endpoint<H>, Vec<Event>) {
    let mut endpoint: Endpoint<H> = Endpoint::new(role, Config::default());
    if role == Role::Client {
        endpoint.feed(3, &[vec![0], settings(&[(0x08, 1)])].concat(), false);
        for (stream_id, method) in [(0, "GET"), (8, "HEAD")] {
            endpoint.h3.send_request(stream_id, &request(&with(&GET, &[(":method", method)])), true).unwrap();
        }
        endpoint.h3.send_request(4, &request(&CONNECT_UDP), false).unwrap();
    }
    endpoint.settle();
    endpoint.take_events();
    for (stream_id, bytes, fin) in script {
        endpoint.feed(*stream_id, bytes, *fin);
    }
    let told = endpoint.take_events();
    if let Some(code) = endpoint.close {
        return (Outcome::Connection(code), endpoint, told);
    }
    let mut streams: BTreeMap<u64, Result<Vec<Event>, u64>> = BTreeMap::new();
    for event in told.clone() {
        let id = stream_of(&event).unwrap_or(u64::MAX);
        let stream = streams.entry(id).or_insert(Ok(Vec::new()));
        match (event, stream) {
            (Event::Aborted { code, .. }, stream) => *stream = Err(code),
            (event, Ok(events)) => events.push(event),
            (_, Err(_)) => {}
        }
    }
    for events in streams.values_mut().flatten() {
        *events = normalized(std::mem::take(events));
    }
    // Asked to stop because the answer is there already: no error, and needless if the end had come.
    let stops = endpoint.stops.iter().filter(|(_, code)| *code != H3_NO_ERROR);
    for (id, code) in endpoint.resets.iter().chain(stops) {
        streams.insert(*id, Err(*code));
    }
    (Outcome::Streams(streams), endpoint, told)
}

pub fn heads(role: Role) -> Vec<Vec<u8>> {
    let classic = [(":method", "CONNECT"), (":authority", "example.org:443")];
    match role {
        Role::Server => vec![
            headers(&GET),
            headers(&with(&GET, &[(":method", "PUT"), ("content-length", "3"), ("te", "trailers")])),
            headers(&with(&GET, &[("host", "example.org"), ("cookie", "a=b")])),
            headers(&CONNECT_UDP),
            headers(&classic),
        ],
        Role::Client => vec![
            headers(&[(":status", "200"), ("content-length", "3")]),
            headers(&[(":status", "103")]),
            headers(&[(":status", "204")]),
            headers(&[(":status", "200"), ("server", "x")]),
            headers(&[(":status", "404")]),
        ],
    }
}

pub fn pieces(role: Role) -> Vec<Vec<u8>> {
    let mut pieces = heads(role);
    pieces.extend([data(b"abc"), data(b""), headers(&[("t", "1")]), frame(0x21, b"grease"), frame(0xf_0700, b"\0u=1")]);
    pieces.extend([frame(0x05, &[0, 0, 0]), frame(0x07, &[0]), frame(0x04, &[]), frame(0x02, &[]), frame(0x0d, &[0])]);
    pieces
}

/// A stream made of pieces, then damaged in a place or two.
pub fn mutated(random: &mut Random, role: Role) -> (Vec<u8>, bool) {
    let mut bytes = random.pick(&heads(role)).clone();
    for _ in 0..random.below(4) {
        bytes.extend(random.pick(&pieces(role)));
    }
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, random.next() as u8),
            4 => bytes.truncate(at + 1),
            _ => bytes[at] = *random.pick(b" :/@#*A0%\0\x7f\xff"),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    (bytes, random.below(2) == 0)
}
