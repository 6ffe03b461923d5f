//! QUIC variable-length integers (RFC 9000 §16).
//!
//! The two top bits of the first byte select 1, 2, 4 or 8 bytes; the rest is the value, most significant byte first.
//! Reading accepts encodings longer than needed, as RFC 9297 §1.1 asks; writing always uses the shortest.

use bytes::BufMut;

/// The largest value that can be encoded, 2^62 − 1.
pub const MAX: u64 = (1 << 62) - 1;

/// The longest encoding, in bytes.
pub const MAX_ENCODED_BYTES: usize = 8;

/// Reads one integer from the front of `bytes`: its value and how many bytes it took (1, 2, 4 or 8).
///
/// `None` means that `bytes` ends before the integer does; more input may complete it. No input is invalid otherwise.
#[inline]
pub fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    match first >> 6 {
        0 => Some((u64::from(first), 1)),
        1 => bytes.first_chunk::<2>().map(|raw| (u64::from(u16::from_be_bytes(*raw) & 0x3fff), 2)),
        2 => bytes.first_chunk::<4>().map(|raw| (u64::from(u32::from_be_bytes(*raw) & 0x3fff_ffff), 4)),
        _ => bytes.first_chunk::<8>().map(|raw| (u64::from_be_bytes(*raw) & MAX, 8)),
    }
}

/// How many bytes [`encode`] writes for `value`: 1, 2, 4 or 8.
#[inline]
pub const fn encoded_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends the shortest encoding of `value`.
///
/// `value` is at most [`MAX`]; a larger one is a mistake of the caller, caught in debug builds and written as [`MAX`]
/// otherwise. A `Vec<u8>` or `BytesMut` grows as needed; a fixed buffer must have [`encoded_len`] bytes left.
#[inline]
pub fn encode(value: u64, out: &mut impl BufMut) {
    let (bytes, length) = encode_array(value);
    // The length is 1, 2, 4 or 8 by construction, so the slice is always there.
    out.put_slice(bytes.get(..length).unwrap_or(&bytes));
}

/// The shortest encoding of `value` in the first `.1` bytes of `.0`; the rest is zero. Same bound as [`encode`].
#[inline]
pub fn encode_array(value: u64) -> ([u8; MAX_ENCODED_BYTES], usize) {
    debug_assert!(value <= MAX, "{value} has no variable-length encoding");
    let value = value.min(MAX);
    let length = encoded_len(value);
    // Length bits 00, 01, 10, 11 sit in the top two bits of the first of `length` bytes.
    let tagged = value | (u64::from(length.trailing_zeros()) << (8 * length - 2));
    // Left-aligned, so that the encoding is the front of the array.
    ((tagged << (64 - 8 * length)).to_be_bytes(), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_9000_appendix_a1_decode() {
        for (bytes, value) in [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
        }
    }

    /// H3D-22, CAP-7, UDP-57: RFC 9297 §1.1 lets an integer be longer than needed.
    #[test]
    fn padded_encodings_of_a_small_value_are_accepted() {
        assert_eq!(decode(&[0x40, 0x25]), Some((37, 2)));
        assert_eq!(decode(&[0x80, 0, 0, 0x25]), Some((37, 4)));
        assert_eq!(decode(&[0xc0, 0, 0, 0, 0, 0, 0, 0x25]), Some((37, 8)));
    }

    #[test]
    fn bytes_after_the_integer_are_left_alone() {
        assert_eq!(decode(&[0x25, 0xff, 0xff]), Some((37, 1)));
    }

    #[test]
    fn boundaries_take_the_shortest_form() {
        for (value, length) in
            [(0, 1), (0x3f, 1), (0x40, 2), (0x3fff, 2), (0x4000, 4), (0x3fff_ffff, 4), (0x4000_0000, 8), (MAX, 8)]
        {
            let mut out = Vec::new();
            encode(value, &mut out);
            assert_eq!((out.len(), encoded_len(value)), (length, length), "{value:#x}");
            assert_eq!(decode(&out), Some((value, length)), "{value:#x}");
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in 0..=MAX, shift in 0_u32..62, tail in prop::collection::vec(any::<u8>(), 0..4)) {
            let value = value >> shift;
            let mut out = Vec::new();
            encode(value, &mut out);
            let length = out.len();
            out.extend_from_slice(&tail);
            prop_assert_eq!(decode(&out), Some((value, length)));
        }

        #[test]
        fn every_cut_of_an_encoding_is_truncated(value in 0..=MAX, shift in 0_u32..62) {
            let (bytes, length) = encode_array(value >> shift);
            for cut in 0..length {
                prop_assert_eq!(decode(&bytes[..cut]), None);
            }
        }

        #[test]
        fn any_bytes_decode_to_a_value_in_range(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some((value, used)) = decode(&bytes) {
                prop_assert!(value <= MAX);
                prop_assert!(used <= bytes.len() && encoded_len(value) <= used);
            }
        }
    }
}
