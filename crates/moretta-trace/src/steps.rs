//! Single steps: what is parsed, matched and decided on the way of a datagram or of a request.
//!
//! One round does the step for every input of a fixed list; an item is one input.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bytes::Bytes;
use moretta_h3::{Action, Config, Connection, DatagramRoute, Event, Role};
use moretta_proto::policy::{OwnAddresses, Policy, PolicyDocument};
use moretta_proto::{Protocol, request};
use moretta_sim::{Random, bytes3};
use moretta_wire::capsule::{self, CapsuleReader};
use moretta_wire::datagram::{self, ContextId};
use moretta_wire::host::{Host, Name};
use moretta_wire::template::{PathMatch, UriTemplate};
use moretta_wire::varint;
use serde_json::{Value, json};

use crate::Trace;
use crate::meter::Meter;

/// Inputs of a round.
const INPUTS: usize = 64;
const SEED: u64 = 2;

/// A step that keeps nothing between rounds.
struct Step<I, F> {
    inputs: Vec<I>,
    step: F,
}

/// `step` says whether an input came out as it must.
fn each<I: 'static>(inputs: Vec<I>, step: impl FnMut(&I) -> bool + 'static) -> Box<dyn Trace> {
    Box::new(Step { inputs, step })
}

impl<I, F: FnMut(&I) -> bool> Trace for Step<I, F> {
    fn round(&mut self, meter: &mut Meter) -> u64 {
        let Self { inputs, step } = self;
        let right = meter.run(|| inputs.iter().filter(|&input| step(black_box(input))).count());
        assert_eq!(right, inputs.len());
        right as u64
    }
}

/// One varint of each length in turn, read and written again (RFC 9000 §16).
pub(crate) fn varints() -> Box<dyn Trace> {
    let mut random = Random::new(SEED, "varints");
    let lengths = [1_u64 << 6, 1 << 14, 1 << 30, 1 << 62];
    let inputs = (0..INPUTS).map(|index| {
        // In the upper half of what takes so many bytes.
        let end = lengths[index % 4];
        let mut encoded = Vec::new();
        varint::encode(end / 2 + random.below(end / 2), &mut encoded);
        encoded
    });
    each(inputs.collect(), |encoded: &Vec<u8>| {
        let Some((value, used)) = varint::decode(encoded) else { return false };
        let (array, length) = varint::encode_array(black_box(value));
        used == encoded.len() && array[..length] == **encoded
    })
}

/// DATAGRAM capsules of 100 bytes, sixteen to a chunk (RFC 9297 §3.2).
pub(crate) fn capsules() -> Box<dyn Trace> {
    let mut chunk = Vec::new();
    for _ in 0..16 {
        capsule::write_datagram(ContextId::UDP_PAYLOAD, &[7; 100], &mut chunk);
    }
    let mut reader = CapsuleReader::new();
    each(vec![chunk; INPUTS], move |chunk| {
        let mut rest = chunk.as_slice();
        let mut pieces = 0;
        while let Some(piece) = reader.next(&mut rest) {
            black_box(piece);
            pieces += 1;
        }
        pieces == 3 * 16 && reader.is_between_capsules()
    })
}

/// An HTTP Datagram to its request stream and Context ID, through the slow path of HTTP/3 (RFC 9297 §2.1).
pub(crate) fn datagrams() -> Box<dyn Trace> {
    let mut server = server();
    let streams: Vec<u64> = (0..INPUTS as u64).map(|index| 4 * index).collect();
    for &stream in &streams {
        ask(&mut server, stream);
        server.enable_datagrams(stream);
    }
    let inputs: Vec<Bytes> = streams.iter().map(|stream| bytes3::datagram(*stream, &[7; 100]).into()).collect();
    let now = Instant::now();
    each(inputs, move |data| {
        let Ok((stream, used)) = datagram::split_quarter_stream_id(data) else { return false };
        let payload = data.slice(used..);
        let route = server.route_datagram(now, stream, &payload);
        let context = datagram::split_context_id(&payload);
        matches!(route, DatagramRoute::Deliver) && matches!(context, Ok((ContextId::UDP_PAYLOAD, 1)))
    })
}

/// A server's end of HTTP/3 whose client has sent its SETTINGS.
fn server() -> Connection {
    let mut server = Connection::new(Role::Server, Config { max_cancelled_requests: u64::MAX, ..Config::default() });
    server.start();
    server.handle_stream(Instant::now(), 2, bytes3::control_stream().into(), false);
    assert_eq!(server.poll_event(), Some(Event::Settings));
    // Nobody opens the streams that it asks for: it can do without.
    while let Some(Action::OpenUni { .. }) = server.poll_action() {}
    server
}

fn ask(server: &mut Connection, stream: u64) {
    server.handle_stream(Instant::now(), stream, bytes3::connect_udp("gateway.test", "9.9.9.9", 443).into(), false);
    assert!(matches!(server.poll_event(), Some(Event::Request { .. })));
}

/// The HEADERS of a CONNECT-UDP request, from bytes to a checked head, and the reset of its stream (RFC 9114 §4.3).
pub(crate) fn heads() -> Box<dyn Trace> {
    struct Heads {
        server: Connection,
        next: u64,
        now: Instant,
        bytes: Bytes,
    }

    impl Trace for Heads {
        fn round(&mut self, meter: &mut Meter) -> u64 {
            let Self { server, next, now, bytes } = self;
            let right = meter.run(|| {
                let mut right = 0;
                for _ in 0..INPUTS {
                    server.handle_stream(*now, *next, bytes.clone(), false);
                    right += u64::from(matches!(server.poll_event(), Some(Event::Request { .. })));
                    server.handle_reset(*next, moretta_h3::code::H3_REQUEST_CANCELLED);
                    server.reset(*next, moretta_h3::code::H3_REQUEST_CANCELLED);
                    while black_box(server.poll_event()).is_some() {}
                    while black_box(server.poll_action()).is_some() {}
                    *next += 4;
                }
                right
            });
            assert_eq!(right, INPUTS as u64);
            assert_eq!(self.server.open_requests(), 0);
            right
        }
    }

    let bytes = bytes3::connect_udp("gateway.test", "host.target.test", 443).into();
    Box::new(Heads { server: server(), next: 0, now: Instant::now(), bytes })
}

/// Targets as clients name them: addresses of both families, and names.
fn targets() -> Vec<(String, u16)> {
    let mut random = Random::new(SEED, "targets");
    let target = |index| match index % 3 {
        0 => format!("9.9.{}.{}", random.below(256), random.below(256)),
        1 => format!("2620:fe::{:x}", random.below(0xffff)),
        _ => format!("host-{}.target.test", random.below(1000)),
    };
    (0..INPUTS).map(target).zip(1024..).collect()
}

/// A request head to a tunnel request (RFC 9298 §3.4).
pub(crate) fn requests() -> Box<dyn Trace> {
    let template = UriTemplate::for_origin("https://gateway.test").unwrap();
    let heads = targets().iter().map(|(host, port)| request::connect_udp(&template, host, *port)).collect();
    let templates = vec![UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).unwrap()];
    each(heads, move |head| black_box(request::parse(head, &templates)).is_ok())
}

/// A path against the default template (RFC 9298 §2).
pub(crate) fn paths() -> Box<dyn Trace> {
    let template = UriTemplate::for_origin("https://gateway.test").unwrap();
    let paths = targets().iter().map(|(host, port)| template.expand(host, *port).path).collect();
    let served = UriTemplate::parse_path(UriTemplate::DEFAULT_PATH).unwrap();
    each(paths, move |path: &String| {
        matches!(black_box(served.match_path(path.as_bytes())), PathMatch::Variables { .. })
    })
}

/// A policy of a thousand rules: names, suffixes and prefixes, some of them denied.
fn thousand_rules() -> Policy {
    let rule = |index: usize| -> Value {
        let destination = match index % 4 {
            0 => format!("host-{index}.target.test"),
            1 => format!("*.zone-{index}.test"),
            2 => format!("9.{}.{}.0/24", index / 256, index % 256),
            _ => format!("2620:fe:{index:x}::/48"),
        };
        // None of these is asked for below.
        let action = if matches!(index % 16, 3 | 5 | 6 | 12) { "deny" } else { "allow" };
        json!({"id": format!("rule-{index}"), "action": action, "protocol": "udp", "destination": [destination],
            "ports": [443, "8000-8100"]})
    };
    let rules: Vec<_> = (0..1000).map(rule).collect();
    PolicyDocument::parse(&json!({ "rules": rules })).unwrap().compile().unwrap()
}

/// An address against a thousand rules. Every second one is allowed.
pub(crate) fn policy_addresses() -> Box<dyn Trace> {
    let policy = thousand_rules();
    let own = OwnAddresses::default();
    let address = |index: usize| {
        // Of the rules every fourth names a prefix; none names this third octet.
        let (rule, is_allowed) = (index % 60 * 16 + 2, index.is_multiple_of(2));
        let third = if is_allowed { rule % 256 } else { 255 };
        (IpAddr::from(Ipv4Addr::new(9, (rule / 256) as u8, third as u8, 1)), is_allowed)
    };
    each((0..INPUTS).map(address).collect(), move |(address, allowed)| {
        policy.check_address(Protocol::Udp, None, *address, 443, &own).allowed == *allowed
    })
}

/// A name against a thousand rules, before and after it is resolved.
pub(crate) fn policy_names() -> Box<dyn Trace> {
    let policy = thousand_rules();
    let own = OwnAddresses::default();
    let host = |index: usize| {
        let number = index % 60 * 16;
        match index % 2 {
            0 => format!("host-{number}.target.test"),
            _ => format!("a.b.zone-{}.test", number + 1),
        }
    };
    let names = (0..INPUTS).map(|index| Name::parse(&host(index)).unwrap());
    each(names.map(|name| (Host::Name(name.clone()), name)).collect(), move |(host, name)| {
        let refused =
            matches!(policy.check_host(Protocol::Udp, host, 443), moretta_proto::policy::HostDecision::Refused(_));
        let address = IpAddr::from(Ipv4Addr::new(8, 8, 8, 8));
        !refused && policy.check_address(Protocol::Udp, Some(name), address, 443, &own).allowed
    })
}
