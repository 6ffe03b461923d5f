//! What stands in front of a UDP payload: Quarter Stream ID (HTTP/3 only, RFC 9297 §2.1) and Context ID (RFC 9298 §4).
//!
//! A QUIC DATAGRAM frame carries `Quarter Stream ID, Context ID, payload`; a DATAGRAM capsule carries
//! `Context ID, payload`. Both functions here look at the front of a slice and say how long it is; they never copy.

use crate::varint;

/// The largest UDP payload (RFC 9298 §5): 65 535 bytes of UDP length less the 8 bytes of its header.
pub const MAX_UDP_PAYLOAD_BYTES: usize = 65_527;

/// The largest Quarter Stream ID, 2^60 − 1 (RFC 9297 §2.1): a quarter of the largest stream ID.
pub const MAX_QUARTER_STREAM_ID: u64 = varint::MAX >> 2;

/// What the payload of an HTTP Datagram means within its request (RFC 9298 §4); 0 to 2^62 − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId(u64);

impl ContextId {
    /// Context 0: the payload is one unmodified UDP payload (RFC 9298 §5).
    pub const UDP_PAYLOAD: ContextId = ContextId(0);

    /// `None` above 2^62 − 1.
    #[inline]
    pub const fn new(value: u64) -> Option<Self> {
        if value <= varint::MAX { Some(Self(value)) } else { None }
    }

    /// The number on the wire.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// RFC 9298 §4: a client allocates even Context IDs above zero, a proxy odd ones; zero belongs to neither.
    pub const fn is_client_allocated(self) -> bool {
        self.0 != 0 && self.0.is_multiple_of(2)
    }

    /// RFC 9298 §4: odd Context IDs are allocated by the proxy.
    pub const fn is_proxy_allocated(self) -> bool {
        !self.0.is_multiple_of(2)
    }
}

/// Why a QUIC DATAGRAM frame belongs to no request. RFC 9297 §2.1: either is a **connection** error H3_DATAGRAM_ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuarterStreamIdError {
    /// The frame ends inside the Quarter Stream ID, or is empty.
    #[error("the datagram ends inside its Quarter Stream ID")]
    Truncated,
    /// The Quarter Stream ID is above 2^60 − 1 and so names no stream.
    #[error("the Quarter Stream ID exceeds 2^60 - 1")]
    OutOfRange,
}

/// An HTTP Datagram ends inside its Context ID. RFC 9298 is silent; the datagram is dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datagram ends inside its Context ID")]
pub struct Truncated;

/// Reads the Quarter Stream ID at the front of a QUIC DATAGRAM frame's data: `(request stream ID, bytes used)`.
///
/// The stream ID is already multiplied by four; what follows `bytes used` is the HTTP Datagram Payload, possibly empty.
///
/// # Errors
/// Both end the connection with H3_DATAGRAM_ERROR (RFC 9297 §2.1).
#[inline]
pub fn split_quarter_stream_id(data: &[u8]) -> Result<(u64, usize), QuarterStreamIdError> {
    let (quarter, used) = varint::decode(data).ok_or(QuarterStreamIdError::Truncated)?;
    if quarter > MAX_QUARTER_STREAM_ID {
        return Err(QuarterStreamIdError::OutOfRange);
    }
    Ok((quarter << 2, used))
}

/// Reads the Context ID at the front of an HTTP Datagram Payload: `(Context ID, bytes used)`.
///
/// `payload` is what follows the Quarter Stream ID (HTTP/3) or the header of a DATAGRAM capsule.
///
/// # Errors
/// [`Truncated`] if the integer runs past the end; the caller drops the datagram.
#[inline]
pub fn split_context_id(payload: &[u8]) -> Result<(ContextId, usize), Truncated> {
    let (value, used) = varint::decode(payload).ok_or(Truncated)?;
    Ok((ContextId(value), used))
}

/// The encoded front of every datagram of one tunnel and context, computed once: Quarter Stream ID and Context ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; 2 * varint::MAX_ENCODED_BYTES],
    length: u8,
}

impl Prefix {
    /// `stream_id`: the request stream, client-initiated and bidirectional, hence a multiple of four up to 2^62 − 4.
    pub fn new(stream_id: u64, context: ContextId) -> Self {
        debug_assert!(stream_id.is_multiple_of(4), "stream {stream_id} carries no requests");
        let (quarter, quarter_length) = varint::encode_array((stream_id >> 2).min(MAX_QUARTER_STREAM_ID));
        let (context, context_length) = varint::encode_array(context.get());
        let mut bytes = [0; 2 * varint::MAX_ENCODED_BYTES];
        let encoded = quarter.iter().take(quarter_length).chain(context.iter().take(context_length));
        for (slot, byte) in bytes.iter_mut().zip(encoded) {
            *slot = *byte;
        }
        // At most 8 + 8.
        Self { bytes, length: (quarter_length + context_length) as u8 }
    }

    /// The 2 to 16 bytes to write before the payload.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stream_44_is_quarter_stream_11() {
        assert_eq!(Prefix::new(44, ContextId::UDP_PAYLOAD).as_slice(), [11, 0]);
        assert_eq!(split_quarter_stream_id(&[11, 0, 0xaa]), Ok((44, 1)));
    }

    #[test]
    fn a_datagram_cut_inside_its_quarter_stream_id_is_truncated() {
        // H3D-11
        assert_eq!(split_quarter_stream_id(&[]), Err(QuarterStreamIdError::Truncated));
        // H3D-12
        assert_eq!(split_quarter_stream_id(&[0xc0]), Err(QuarterStreamIdError::Truncated));
    }

    #[test]
    fn the_largest_quarter_stream_id_is_2_to_the_60_less_1() {
        // H3D-13
        assert_eq!(
            split_quarter_stream_id(&[0xd0, 0, 0, 0, 0, 0, 0, 0]),
            Err(QuarterStreamIdError::OutOfRange),
            "2^60"
        );
        // H3D-14
        assert_eq!(
            split_quarter_stream_id(&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Ok(((1 << 62) - 4, 8)),
            "2^60 - 1"
        );
    }

    /// UDP-56, UDP-57, UDP-58.
    #[test]
    fn context_ids_are_read_in_every_length() {
        assert_eq!(split_context_id(&[]), Err(Truncated));
        assert_eq!(split_context_id(&[0x40]), Err(Truncated));
        assert_eq!(split_context_id(&[0x40, 0x00]), Ok((ContextId::UDP_PAYLOAD, 2)));
        assert_eq!(split_context_id(&[0xff; 8]), Ok((ContextId::new(varint::MAX).unwrap(), 8)));
    }

    /// UDP-37: a context alone is an empty UDP payload, not a truncated one.
    #[test]
    fn an_empty_udp_payload_is_legal() {
        assert_eq!(split_context_id(&[0]), Ok((ContextId::UDP_PAYLOAD, 1)));
    }

    #[test]
    fn parity_tells_who_allocated_a_context() {
        let context = |value| ContextId::new(value).unwrap();
        assert!(!context(0).is_client_allocated() && !context(0).is_proxy_allocated());
        assert!(context(2).is_client_allocated() && !context(2).is_proxy_allocated());
        assert!(!context(1).is_client_allocated() && context(1).is_proxy_allocated());
        assert_eq!(ContextId::new(varint::MAX + 1), None);
    }

    proptest! {
        #[test]
        fn a_prefix_reads_back_as_it_was_made(
            quarter in 0..=MAX_QUARTER_STREAM_ID,
            context in 0..=varint::MAX,
            shift in 0_u32..60,
            payload in prop::collection::vec(any::<u8>(), 0..32),
        ) {
            let (stream_id, context) = ((quarter >> shift) << 2, ContextId::new(context >> shift).unwrap());
            let mut wire = Prefix::new(stream_id, context).as_slice().to_vec();
            wire.extend_from_slice(&payload);
            let (read_stream, used) = split_quarter_stream_id(&wire).unwrap();
            let (read_context, more) = split_context_id(&wire[used..]).unwrap();
            prop_assert_eq!((read_stream, read_context), (stream_id, context));
            prop_assert_eq!(&wire[used + more..], &payload[..]);
        }
    }
}
