//! The capsule stream of a tunnel, in whatever chunks, against a reader that has all of it in memory.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moretta_proto::Now;
use moretta_proto::error::{DropReason, EndReason};
use moretta_proto::limits::Limits;
use moretta_proto::profile::{Profile, UnknownCapsule};
use moretta_proto::tunnel::budget::CapsuleBudget;
use moretta_proto::tunnel::udp::{Options, Role, UdpTunnel};
use moretta_wire::capsule::{CapsuleReader, CapsuleType, Piece};
use moretta_wire::datagram::MAX_UDP_PAYLOAD_BYTES;

use crate::input::Input;
use crate::naive::{self, Capsule};

/// The path to the target: small, so that short inputs exceed it too.
const TARGET_PAYLOAD_BYTES: usize = 48;

/// What capsules of unknown types may carry.
const UNKNOWN_CREDIT: u64 = 96;

/// One byte says what an unknown type does, one how many chunk sizes follow (at most 15, used in turns); the rest is
/// the stream.
pub fn target(data: &[u8]) {
    let mut input = Input::new(data);
    let unknown_capsule = match input.byte() % 4 {
        0 => UnknownCapsule::Close,
        1 => UnknownCapsule::AbortStream,
        _ => UnknownCapsule::Skip,
    };
    let count = usize::from(input.byte() % 16);
    let sizes = input.bytes(count);
    let stream = input.rest();
    let chunks = cut(stream, sizes);

    check_reader(stream, &chunks);
    for budget_bytes in [usize::MAX, TARGET_PAYLOAD_BYTES / 2] {
        check_tunnel(stream, &chunks, unknown_capsule, budget_bytes);
    }
}

/// Chunks of these sizes in turns; empty ones too, but not only.
fn cut<'a>(stream: &'a [u8], sizes: &[u8]) -> Vec<&'a [u8]> {
    if sizes.iter().all(|size| *size == 0) {
        return vec![stream];
    }
    let mut chunks = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, after) = rest.split_at(usize::from(*size).min(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

fn check_reader(stream: &[u8], chunks: &[&[u8]]) {
    struct Seen {
        capsule_type: u64,
        length: u64,
        value: Vec<u8>,
        is_ended: bool,
    }
    let mut reader = CapsuleReader::new();
    let mut seen: Vec<Seen> = Vec::new();
    for chunk in chunks {
        let mut rest = *chunk;
        while let Some(piece) = reader.next(&mut rest) {
            match piece {
                Piece::Header { capsule_type, length } => {
                    assert!(seen.last().is_none_or(|last| last.is_ended), "a header inside a capsule");
                    assert_eq!(CapsuleType::new(capsule_type.get()), Some(capsule_type));
                    seen.push(Seen { capsule_type: capsule_type.get(), length, value: Vec::new(), is_ended: false });
                }
                Piece::Value(value) => {
                    assert!(!value.is_empty());
                    seen.last_mut().expect("a header comes first").value.extend_from_slice(value);
                }
                Piece::End => seen.last_mut().expect("a header comes first").is_ended = true,
            }
        }
        assert!(rest.is_empty(), "every byte is consumed at once");
    }
    let (expected, is_clean) = naive::capsules(stream);
    assert_eq!(reader.is_between_capsules(), is_clean);
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!((seen.capsule_type, seen.length), (expected.kind, expected.length));
        assert_eq!(seen.value, expected.value);
        assert_eq!(seen.is_ended, expected.is_complete());
    }
}

/// What a tunnel without a budget makes of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome<'a> {
    payloads: Vec<&'a [u8]>,
    unknown_contexts: u64,
    no_context: u64,
    too_large: u64,
    end: Option<EndReason>,
}

fn reference<'a>(capsules: &[Capsule<'a>], unknown_capsule: UnknownCapsule) -> Outcome<'a> {
    let mut outcome = Outcome::default();
    let mut credit = UNKNOWN_CREDIT;
    for capsule in capsules {
        if capsule.kind != 0 {
            let cost = 16 + capsule.value.len() as u64;
            outcome.end = match unknown_capsule {
                UnknownCapsule::Close => Some(EndReason::CapsuleClosedConnection),
                UnknownCapsule::AbortStream => Some(EndReason::CapsuleRefused),
                UnknownCapsule::Skip => (cost > credit).then_some(EndReason::CapsuleFlood),
            };
            credit = credit.saturating_sub(cost);
        } else if let Some((context, used)) = naive::varint(capsule.value) {
            let payload_bytes = capsule.length - used as u64;
            if context != 0 {
                outcome.unknown_contexts += 1;
            } else if payload_bytes > MAX_UDP_PAYLOAD_BYTES as u64 {
                outcome.end = Some(EndReason::PayloadTooLong);
            } else if payload_bytes > TARGET_PAYLOAD_BYTES as u64 {
                outcome.too_large += 1;
            } else if capsule.is_complete() {
                outcome.payloads.push(&capsule.value[used..]);
            }
        } else if capsule.is_complete() {
            outcome.no_context += 1;
        }
        if outcome.end.is_some() {
            break;
        }
    }
    outcome
}

fn check_tunnel(stream: &[u8], chunks: &[&[u8]], unknown_capsule: UnknownCapsule, budget_bytes: usize) {
    let now = Now { instant: Instant::now(), unix: Duration::ZERO };
    let profile = Profile { unknown_capsule, ..Profile::interop() };
    let options = Options {
        target_payload_bytes: TARGET_PAYLOAD_BYTES,
        unknown_capsule_bytes: UNKNOWN_CREDIT,
        ..Options::new(Role::Proxy, profile, &Limits::default())
    };
    let mut tunnel = UdpTunnel::new(options, now);
    let budget = CapsuleBudget::new(budget_bytes);
    let mut payloads = Vec::new();
    let mut end = None;
    for chunk in chunks {
        let chunk = Bytes::copy_from_slice(chunk);
        end = tunnel.from_peer_stream(&chunk, &budget, &mut |payload| payloads.push(payload)).err();
        assert!(budget.held_bytes() <= TARGET_PAYLOAD_BYTES.min(budget_bytes), "one buffer of one payload");
        if end.is_some() {
            break;
        }
    }
    let (capsules, is_clean) = naive::capsules(stream);
    let expected = reference(&capsules, unknown_capsule);
    assert_eq!(end, expected.end);

    let drops = |reason| tunnel.counters().drops.get(reason);
    assert_eq!(drops(DropReason::UnknownContext), expected.unknown_contexts);
    assert_eq!(drops(DropReason::NoContextId), expected.no_context);
    assert_eq!(drops(DropReason::CapsuleTooLarge), expected.too_large);
    let traffic = tunnel.counters().client_to_target;
    assert_eq!(traffic.datagrams, payloads.len() as u64);
    assert_eq!(traffic.bytes, payloads.iter().map(|payload| payload.len() as u64).sum::<u64>());
    if budget_bytes == usize::MAX {
        assert_eq!(drops(DropReason::CapsuleBudget), 0);
        assert_eq!(payloads, expected.payloads);
    } else {
        // Some are missing, none is out of place.
        let mut left = expected.payloads.iter();
        assert!(payloads.iter().all(|payload| left.any(|expected| payload == expected)));
        let missing = (expected.payloads.len() - payloads.len()) as u64;
        let given_up = drops(DropReason::CapsuleBudget);
        // The last capsule may have been given up although it never became complete.
        assert!((missing..=missing + 1).contains(&given_up), "{given_up} for {missing}");
    }

    let expected_end = match (end, is_clean) {
        (Some(_), _) => None,
        (None, true) => Some(EndReason::ClientFinished),
        (None, false) => Some(EndReason::CapsuleTruncated),
    };
    assert_eq!(tunnel.on_peer_fin(), expected_end);
    assert!(tunnel.is_ended());
    assert_eq!(budget.held_bytes(), 0, "an ended tunnel holds nothing");
}
