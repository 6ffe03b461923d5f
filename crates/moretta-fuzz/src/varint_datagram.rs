//! A QUIC DATAGRAM frame from its first byte to the verdict on its payload.

use std::time::{Duration, Instant};

use moretta_proto::Now;
use moretta_proto::error::{DropReason, EndReason};
use moretta_proto::limits::Limits;
use moretta_proto::profile::{Profile, UnknownContext};
use moretta_proto::tunnel::udp::{Options, Role, UdpTunnel, Verdict};
use moretta_wire::datagram::{
    ContextId, MAX_UDP_PAYLOAD_BYTES, Prefix, QuarterStreamIdError, split_context_id, split_quarter_stream_id,
};
use moretta_wire::varint;

use crate::naive;

/// `data` is one frame's payload. It is read as a lone varint, as a whole datagram, and, sixteen bytes further on each
/// time, as the datagrams of one tunnel.
pub fn target(data: &[u8]) {
    check_varint(data);
    if let Some(payload) = check_quarter_stream_id(data) {
        check_context_id(payload);
    }
    check_tunnel(data);
}

fn check_varint(data: &[u8]) {
    let decoded = varint::decode(data);
    assert_eq!(decoded, naive::varint(data));
    let Some((value, used)) = decoded else { return };
    assert!(value <= varint::MAX && used <= data.len());
    let mut encoded = Vec::new();
    varint::encode(value, &mut encoded);
    assert_eq!(varint::decode(&encoded), Some((value, encoded.len())));
    assert!(encoded.len() <= used, "written shorter than it came, or as long");
    assert_eq!(encoded.len(), varint::encoded_len(value));
    let (array, length) = varint::encode_array(value);
    assert_eq!(&array[..length], encoded);
}

/// What follows the Quarter Stream ID, if there is one.
fn check_quarter_stream_id(data: &[u8]) -> Option<&[u8]> {
    let expected = match naive::varint(data) {
        None => Err(QuarterStreamIdError::Truncated),
        Some((quarter, _)) if quarter >= 1 << 60 => Err(QuarterStreamIdError::OutOfRange),
        Some((quarter, used)) => Ok((quarter * 4, used)),
    };
    assert_eq!(split_quarter_stream_id(data), expected);
    let (stream_id, used) = expected.ok()?;
    let payload = &data[used..];
    if let Ok((context, more)) = split_context_id(payload) {
        let prefix = Prefix::new(stream_id, context);
        let written = prefix.as_slice();
        assert!(written.len() <= used + more);
        let (again, length) = split_quarter_stream_id(written).unwrap();
        assert_eq!(again, stream_id);
        assert_eq!(split_context_id(&written[length..]), Ok((context, written.len() - length)));
    }
    Some(payload)
}

fn check_context_id(payload: &[u8]) {
    match (split_context_id(payload), naive::varint(payload)) {
        (Ok((context, used)), Some((value, expected))) => {
            assert_eq!((context.get(), used), (value, expected));
            assert_eq!(ContextId::new(value), Some(context));
            // RFC 9298 §4: 0 is nobody's; all others are of one side.
            let owners = u8::from(context.is_client_allocated()) + u8::from(context.is_proxy_allocated());
            assert_eq!(owners, u8::from(value != 0));
        }
        (Err(_), None) => {}
        (ours, reference) => panic!("{ours:?} but {reference:?}"),
    }
}

fn check_tunnel(data: &[u8]) {
    const MOST_UNKNOWN: u32 = 3;
    let profile = Profile { unknown_context: UnknownContext::AbortAfter(MOST_UNKNOWN), ..Profile::hardened() };
    let now = Now { instant: Instant::now(), unix: Duration::ZERO };
    let mut tunnel = UdpTunnel::new(Options::new(Role::Proxy, profile, &Limits::default()), now);
    let (mut forwarded, mut bytes, mut unknown, mut truncated) = (0, 0, 0, 0);
    for payload in data.chunks(16).chain([data]) {
        match (tunnel.from_peer_datagram(payload), naive::varint(payload)) {
            (Verdict::Forward { offset }, Some((0, used))) => {
                assert_eq!(offset, used);
                assert!(payload.len() - used <= MAX_UDP_PAYLOAD_BYTES);
                forwarded += 1;
                bytes += (payload.len() - used) as u64;
            }
            (Verdict::Drop(DropReason::NoContextId), None) => truncated += 1,
            (Verdict::Drop(DropReason::UnknownContext), Some((1.., _))) => unknown += 1,
            (Verdict::End(EndReason::PayloadTooLong), Some((0, used))) => {
                assert!(payload.len() - used > MAX_UDP_PAYLOAD_BYTES);
                break;
            }
            (Verdict::End(EndReason::ContextFlood), Some((1.., _))) => {
                assert_eq!(unknown, u64::from(MOST_UNKNOWN));
                unknown += 1;
                break;
            }
            (verdict, reference) => panic!("{verdict:?} of {reference:?}"),
        }
    }
    let counters = tunnel.counters();
    assert_eq!((counters.client_to_target.datagrams, counters.client_to_target.bytes), (forwarded, bytes));
    assert_eq!(counters.drops.get(DropReason::NoContextId), truncated);
    assert_eq!(counters.drops.get(DropReason::UnknownContext), unknown);
    assert_eq!(counters.drops.total(), truncated + unknown);
}
