//! What is fuzzed: every function takes bytes of a stranger and panics when a promise is broken.
//!
//! A promise is more than "does not crash": parsers must not depend on how bytes are cut, what is written must read
//! back, and what is held must stay within its bound. The functions are driven by libFuzzer (`fuzz_targets`) and, over
//! fixed seeds, by the ordinary tests (`tests/seeds.rs`).

use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_h3::{Action, Config, Connection, Role};
use moretta_proto::Now;
use moretta_proto::limits::Limits;
use moretta_proto::profile::Profile;
use moretta_proto::tunnel::budget::CapsuleBudget;
use moretta_proto::tunnel::udp::{Options, Role as TunnelRole, UdpTunnel, Verdict};
use moretta_wire::capsule::{CapsuleReader, Piece};
use moretta_wire::datagram::{split_context_id, split_quarter_stream_id};
use moretta_wire::fields::{ProxyStatus, capsule_protocol};
use moretta_wire::host::Host;
use moretta_wire::prefix::classify;
use moretta_wire::template::{PathMatch, UriTemplate};

/// Every target with its name, as `cargo fuzz run` knows it.
pub const TARGETS: [(&str, fn(&[u8])); 7] = [
    ("capsule", capsule),
    ("datagram", datagram),
    ("template", template),
    ("host", host),
    ("fields", fields),
    ("h3", h3),
    ("tunnel", tunnel),
];

/// Cuts the front off as a number; 0 when there is nothing left.
fn take_number(data: &mut &[u8]) -> usize {
    let Some((first, rest)) = data.split_first() else { return 0 };
    *data = rest;
    usize::from(*first)
}

/// Cuts up to `length` bytes off the front.
fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(length.min(data.len()));
    *data = rest;
    taken
}

/// What a capsule stream says, without the places at which it was cut.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Header(u64, u64),
    Value(Vec<u8>),
    End,
}

fn capsules<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Said>, bool) {
    let mut reader = CapsuleReader::new();
    let mut said = Vec::new();
    for mut chunk in chunks {
        while let Some(piece) = reader.next(&mut chunk) {
            match (piece, said.last_mut()) {
                (Piece::Header { capsule_type, length }, _) => said.push(Said::Header(capsule_type.get(), length)),
                (Piece::Value(bytes), Some(Said::Value(before))) => before.extend_from_slice(bytes),
                (Piece::Value(bytes), _) => said.push(Said::Value(bytes.to_vec())),
                (Piece::End, _) => said.push(Said::End),
            }
        }
        assert!(chunk.is_empty(), "the reader left bytes of a chunk");
    }
    (said, reader.is_between_capsules())
}

/// A capsule stream reads the same however it is cut.
pub fn capsule(mut data: &[u8]) {
    let step = take_number(&mut data) % 17 + 1;
    let whole = capsules(std::iter::once(data));
    assert_eq!(whole, capsules(data.chunks(step)), "cut every {step} bytes");
    assert_eq!(whole, capsules(data.chunks(1)), "cut at every byte");
}

/// The prefixes of an HTTP Datagram lie inside it.
pub fn datagram(data: &[u8]) {
    if let Ok((stream_id, used)) = split_quarter_stream_id(data) {
        assert_eq!(stream_id % 4, 0, "not a request stream");
        let rest = data.get(used..).expect("inside the datagram");
        if let Ok((_, used)) = split_context_id(rest) {
            assert!((1..=8).contains(&used) && used <= rest.len());
        }
    }
}

/// A template that is accepted finds in its own expansion what was put in.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (template, path) = text.split_once('\n').unwrap_or((text, ""));
    let _ = UriTemplate::parse_template_or_origin(template);
    if let Ok(parsed) = UriTemplate::parse_path(template) {
        for (target, port) in [("192.0.2.1", 1), ("2001:db8::1", 443), ("a-b.example", 65_535)] {
            let expanded = parsed.expand(target, port);
            match parsed.match_path(expanded.path.as_bytes()) {
                PathMatch::Variables { host, port: found, .. } => {
                    assert_eq!((host.as_str(), found.as_str()), (target, port.to_string().as_str()));
                }
                other => panic!("{template:?} does not match {:?}: {other:?}", expanded.path),
            }
        }
        let _ = parsed.match_path(path.as_bytes());
    }
}

/// A host that is accepted is written in a form that reads back as the same host, and every address has a tier.
pub fn host(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(parsed) = Host::parse(text) {
        assert_eq!(Host::parse(&parsed.to_string()), Ok(parsed.clone()), "{text:?}");
        if let Host::Ipv4(address) = parsed {
            let (plain, mapped) = (classify(address.into()).tier, classify(address.to_ipv6_mapped().into()).tier);
            assert!(mapped >= plain, "{address} is more open as {mapped:?} than as {plain:?}");
        }
    }
}

/// What a Proxy-Status field says is written as a field that says the same.
pub fn fields(data: &[u8]) {
    let _ = capsule_protocol([data]);
    let members = ProxyStatus::parse(data);
    let written: Vec<String> = members.iter().map(ProxyStatus::to_field_value).collect();
    let again = ProxyStatus::parse(written.join(", ").as_bytes());
    let written_again: Vec<String> = again.iter().map(ProxyStatus::to_field_value).collect();
    assert_eq!(written, written_again);
}

/// An HTTP/3 connection holds no more than it says, whatever streams and datagrams bring, and never speaks after Close.
pub fn h3(mut data: &[u8]) {
    let role = if take_number(&mut data).is_multiple_of(2) { Role::Server } else { Role::Client };
    let config = Config::default();
    // One field section per request in flight, one control frame, and the early datagrams.
    let bound = 64 * (config.max_field_section_bytes as usize + 4096) + config.early_datagram_bytes;
    let mut connection = Connection::new(role, config);
    connection.start();
    let start = Instant::now();
    let mut steps = 0u32;
    let mut closed = false;
    while !data.is_empty() && steps < 256 {
        steps += 1;
        let now = start + Duration::from_millis(u64::from(steps) * 10);
        let stream_id = (take_number(&mut data) % 64) as u64;
        let what = take_number(&mut data);
        let length = take_number(&mut data);
        let bytes = Bytes::copy_from_slice(take(&mut data, length));
        match what % 8 {
            0..=3 => connection.handle_stream(now, stream_id, bytes, what >= 128),
            4 => connection.handle_reset(stream_id, what as u64),
            5 => connection.handle_stop_sending(stream_id, what as u64),
            6 => {
                let _ = connection.route_datagram(now, stream_id, &bytes);
            }
            _ => connection.handle_timeout(now),
        }
        let mut uni = 3u64.wrapping_sub(u64::from(role == Role::Client));
        while let Some(action) = connection.poll_action() {
            assert!(!closed, "{action:?} after Close");
            match action {
                Action::Close { .. } => closed = true,
                Action::OpenUni { kind } => {
                    connection.handle_uni_opened(kind, uni);
                    uni += 4;
                }
                Action::Reset { .. } | Action::StopSending { .. } => {}
            }
        }
        while connection.poll_event().is_some() {}
        while let Some(writable) = connection.poll_writable() {
            let waiting: usize = connection.front(writable).iter().map(Bytes::len).sum();
            connection.wrote(writable, waiting);
            if connection.wants_fin(writable) {
                connection.wrote_fin(writable);
            }
        }
        assert!(connection.buffered_bytes() <= bound, "{} bytes are held", connection.buffered_bytes());
    }
}

/// A tunnel forwards only what lies inside a datagram, keeps to its budget, and says nothing more once it has ended.
pub fn tunnel(mut data: &[u8]) {
    let choice = take_number(&mut data);
    let role = if choice.is_multiple_of(2) { TunnelRole::Proxy } else { TunnelRole::Client };
    let profile = if choice & 2 == 0 { Profile::hardened() } else { Profile::interop() };
    let limits = Limits::default();
    let now = Now { instant: Instant::now(), unix: Duration::ZERO };
    let mut tunnel = UdpTunnel::new(Options::new(role, profile, &limits), now);
    const BUDGET_BYTES: usize = 4096;
    let budget = CapsuleBudget::new(BUDGET_BYTES);
    while !data.is_empty() {
        let on_stream = take_number(&mut data).is_multiple_of(2);
        let length = take_number(&mut data);
        let bytes = take(&mut data, length);
        let ended = tunnel.is_ended();
        if on_stream {
            let mut payloads = 0;
            let read = tunnel.from_peer_stream(&Bytes::copy_from_slice(bytes), &budget, &mut |_| payloads += 1);
            assert!(!ended || (read.is_ok() && payloads == 0), "an ended tunnel read its stream");
            assert_eq!(tunnel.is_ended(), ended || read.is_err());
        } else {
            match tunnel.from_peer_datagram(bytes) {
                Verdict::Forward { offset } => {
                    assert!(!ended, "an ended tunnel forwarded");
                    assert!((1..=8).contains(&offset) && offset <= bytes.len());
                }
                Verdict::Drop(_) => {}
                Verdict::End(_) => assert!(!ended && tunnel.is_ended()),
            }
        }
        assert!(budget.held_bytes() <= BUDGET_BYTES);
    }
    drop(tunnel);
    assert_eq!(budget.held_bytes(), 0, "the budget did not come back");
}
