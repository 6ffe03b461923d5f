//! The capsule protocol (RFC 9297 §3): a stream of `type, length, value`.
//!
//! [`CapsuleReader`] cuts whatever chunks the stream arrives in, down to single bytes, into headers and pieces of
//! values. It holds back at most the 16 bytes of an unfinished header, so skipping a capsule of 2^62 − 1 bytes costs
//! nothing and flow-control credit can be returned for every chunk at once (RFC 9297 §3.1). Which types are known, and
//! what an unknown one costs, is decided by the caller.
//!
//! ```
//! use moretta_wire::capsule::{CapsuleReader, CapsuleType, Piece};
//!
//! let mut reader = CapsuleReader::new();
//! let mut datagrams = 0;
//! for chunk in [&[0x42][..], &[0xa5, 0x02, 0xff], &[0xff, 0x00, 0x01, 0x00]] {
//!     let mut rest = chunk;
//!     while let Some(piece) = reader.next(&mut rest) {
//!         match piece {
//!             Piece::Header { capsule_type: CapsuleType::DATAGRAM, .. } => datagrams += 1,
//!             Piece::Header { .. } | Piece::Value(_) | Piece::End => {} // 0x2a5 is skipped
//!         }
//!     }
//! }
//! assert_eq!(datagrams, 1);
//! assert!(reader.is_between_capsules());
//! ```

use bytes::BufMut;

use crate::datagram::ContextId;
use crate::varint;

/// A capsule type (RFC 9297 §3.2, registry §5.4); 0 to 2^62 − 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CapsuleType(u64);

impl CapsuleType {
    /// An HTTP Datagram (RFC 9297 §3.5).
    pub const DATAGRAM: CapsuleType = CapsuleType(0x00);
    /// Addresses the sender has assigned (RFC 9484 §4.7.1).
    pub const ADDRESS_ASSIGN: CapsuleType = CapsuleType(0x01);
    /// Addresses the sender wants (RFC 9484 §4.7.2).
    pub const ADDRESS_REQUEST: CapsuleType = CapsuleType(0x02);
    /// Ranges the sender forwards to (RFC 9484 §4.7.3).
    pub const ROUTE_ADVERTISEMENT: CapsuleType = CapsuleType(0x03);

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

    /// Whether the type is one of 0x29 * N + 0x17, which exist to be ignored (RFC 9297 §5.4).
    #[inline]
    pub const fn is_reserved(self) -> bool {
        self.0 >= 0x17 && (self.0 - 0x17).is_multiple_of(0x29)
    }
}

/// One step through a capsule stream. Every capsule yields one `Header`, any number of `Value`s and one `End`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A capsule begins.
    Header {
        /// What it is.
        capsule_type: CapsuleType,
        /// How many bytes of value follow; 0 to 2^62 − 1. Announced by the peer, so nothing to allocate by.
        length: u64,
    },
    /// The next bytes of its value; never empty.
    Value(&'a [u8]),
    /// The value is complete.
    End,
}

/// Cuts a stream of chunks into capsules. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct CapsuleReader {
    /// The beginning of a header that no chunk has finished yet.
    header: [u8; MAX_HEADER_BYTES],
    filled: u8,
    /// Inside a capsule: how much of its value has not come yet.
    remaining: Option<u64>,
}

/// Type and length, both in their longest form.
const MAX_HEADER_BYTES: usize = 2 * varint::MAX_ENCODED_BYTES;

impl CapsuleReader {
    /// A reader at the start of a data stream.
    pub const fn new() -> Self {
        Self { header: [0; MAX_HEADER_BYTES], filled: 0, remaining: None }
    }

    /// The next piece of the stream; takes what it used off the front of `chunk`.
    ///
    /// `None` means that `chunk` is used up and the next one is needed. Call again until then: `End` comes without
    /// taking a byte. No input is an error; the reader can only find itself [between capsules](Self::is_between_capsules)
    /// or not when the stream ends.
    #[inline]
    pub fn next<'a>(&mut self, chunk: &mut &'a [u8]) -> Option<Piece<'a>> {
        match self.remaining {
            None => self.next_header(chunk),
            Some(0) => {
                self.remaining = None;
                Some(Piece::End)
            }
            Some(_) if chunk.is_empty() => None,
            Some(remaining) => {
                let here = usize::try_from(remaining).map_or(chunk.len(), |remaining| remaining.min(chunk.len()));
                let (value, rest) = chunk.split_at_checked(here).unwrap_or((chunk, &[]));
                *chunk = rest;
                self.remaining = Some(remaining - value.len() as u64);
                Some(Piece::Value(value))
            }
        }
    }

    /// Whether a stream that ends here ends cleanly. RFC 9297 §3.3: one that ends inside a capsule is malformed
    /// (HTTP/3: H3_MESSAGE_ERROR). Meaningful once [`next`](Self::next) has returned `None`.
    #[inline]
    pub const fn is_between_capsules(&self) -> bool {
        self.filled == 0 && matches!(self.remaining, None | Some(0))
    }

    #[inline]
    fn next_header<'a>(&mut self, chunk: &mut &'a [u8]) -> Option<Piece<'a>> {
        if self.filled == 0
            && let Some((capsule_type, length, used)) = decode_header(chunk)
        {
            *chunk = chunk.get(used..).unwrap_or(&[]);
            return Some(self.begin(capsule_type, length));
        }
        self.next_split_header(chunk)
    }

    /// The rare case: the header began in an earlier chunk or does not end in this one.
    #[cold]
    fn next_split_header<'a>(&mut self, chunk: &mut &'a [u8]) -> Option<Piece<'a>> {
        while let Some((byte, rest)) = chunk.split_first() {
            // Never out of bounds: 16 bytes always hold a complete header, which resets `filled`.
            *self.header.get_mut(usize::from(self.filled))? = *byte;
            self.filled += 1;
            *chunk = rest;
            let so_far = self.header.get(..usize::from(self.filled))?;
            if let Some((capsule_type, length, _)) = decode_header(so_far) {
                self.filled = 0;
                return Some(self.begin(capsule_type, length));
            }
        }
        None
    }

    #[inline]
    fn begin<'a>(&mut self, capsule_type: CapsuleType, length: u64) -> Piece<'a> {
        self.remaining = Some(length);
        Piece::Header { capsule_type, length }
    }
}

#[inline]
fn decode_header(bytes: &[u8]) -> Option<(CapsuleType, u64, usize)> {
    let (capsule_type, type_length) = varint::decode(bytes)?;
    let (length, length_length) = varint::decode(bytes.get(type_length..)?)?;
    Some((CapsuleType(capsule_type), length, type_length + length_length))
}

/// Appends the header of a capsule whose value of `length` bytes (at most 2^62 − 1) the caller appends next.
#[inline]
pub fn write_header(capsule_type: CapsuleType, length: u64, out: &mut impl BufMut) {
    varint::encode(capsule_type.0, out);
    varint::encode(length, out);
}

/// Appends a whole DATAGRAM capsule (RFC 9297 §3.5) around one payload of `context`.
#[inline]
pub fn write_datagram(context: ContextId, payload: &[u8], out: &mut impl BufMut) {
    write_datagram_header(context, payload.len(), out);
    out.put_slice(payload);
}

/// Appends all of a DATAGRAM capsule but the payload, for callers that send the payload from where it lies.
///
/// At most 18 bytes for a UDP payload: type, length and Context ID.
#[inline]
pub fn write_datagram_header(context: ContextId, payload_bytes: usize, out: &mut impl BufMut) {
    let length = varint::encoded_len(context.get()) as u64 + payload_bytes as u64;
    write_header(CapsuleType::DATAGRAM, length, out);
    varint::encode(context.get(), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A capsule as the tests compare it: type, announced length, value so far, complete.
    type Seen = (u64, u64, Vec<u8>, bool);

    fn read_all<'a>(reader: &mut CapsuleReader, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        for mut chunk in chunks {
            while let Some(piece) = reader.next(&mut chunk) {
                match piece {
                    Piece::Header { capsule_type, length } => seen.push((capsule_type.get(), length, vec![], false)),
                    Piece::Value(bytes) => {
                        assert!(!bytes.is_empty());
                        seen.last_mut().unwrap().2.extend_from_slice(bytes);
                    }
                    Piece::End => seen.last_mut().unwrap().3 = true,
                }
            }
            assert!(chunk.is_empty(), "None before the chunk was used up");
        }
        seen
    }

    fn read(bytes: &[u8]) -> (Vec<Seen>, bool) {
        let mut reader = CapsuleReader::new();
        let seen = read_all(&mut reader, [bytes]);
        (seen, reader.is_between_capsules())
    }

    /// CAP-6: several capsules in one chunk, in order.
    #[test]
    fn many_capsules_in_one_chunk_come_in_order() {
        let mut wire = Vec::new();
        for index in 0..100_u8 {
            write_datagram(ContextId::UDP_PAYLOAD, &[index], &mut wire);
        }
        let (seen, clean) = read(&wire);
        assert!(clean);
        assert_eq!(seen.len(), 100);
        for (index, capsule) in seen.iter().enumerate() {
            assert_eq!(capsule, &(0, 2, vec![0, index as u8], true));
        }
    }

    /// CAP-4.
    #[test]
    fn zero_length_capsules_end_without_a_value() {
        assert_eq!(read(&[0x17, 0, 0, 0]), (vec![(0x17, 0, vec![], true), (0, 0, vec![], true)], true));
    }

    /// CAP-5, CAP-7: longest encodings, one byte at a time.
    #[test]
    fn a_padded_header_split_into_bytes_is_read() {
        let mut wire = vec![0xc0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 3];
        wire.extend_from_slice(b"abc\x00\x00");
        let mut reader = CapsuleReader::new();
        let seen = read_all(&mut reader, wire.chunks(1));
        assert_eq!(seen, [(0, 3, b"abc".to_vec(), true), (0, 0, vec![], true)]);
        assert!(reader.is_between_capsules());
    }

    /// CAP-3: the largest length there is passes through without being held.
    #[test]
    fn a_capsule_of_2_to_the_62_less_1_bytes_is_not_accumulated() {
        let mut reader = CapsuleReader::new();
        let mut wire = Vec::new();
        write_header(CapsuleType::new(0x2a5).unwrap(), varint::MAX, &mut wire);
        read_all(&mut reader, [&wire[..]]);
        let body = vec![0; 1 << 16];
        for _ in 0..64 {
            let mut chunk = &body[..];
            assert_eq!(reader.next(&mut chunk), Some(Piece::Value(&body)));
            assert_eq!(reader.next(&mut chunk), None);
        }
        assert!(!reader.is_between_capsules());
        assert!(size_of::<CapsuleReader>() <= 40, "the reader is all there is");
    }

    /// CAP-8: every cut but the one between capsules is unclean.
    #[test]
    fn a_stream_that_ends_inside_a_capsule_is_noticed() {
        let mut wire = Vec::new();
        write_header(CapsuleType::new(0x2a5).unwrap(), 3, &mut wire);
        wire.extend_from_slice(b"abc");
        for cut in 1..wire.len() {
            assert!(!read(&wire[..cut]).1, "cut at {cut}");
        }
        assert!(read(&[]).1);
        assert!(read(&wire).1);
    }

    /// CAP-2.
    #[test]
    fn reserved_types_are_recognised() {
        for value in [0x17, 0x40, 0x69, 0x92] {
            assert!(CapsuleType::new(value).unwrap().is_reserved(), "{value:#x}");
        }
        for value in [0, 1, 2, 3, 0x16, 0x18, 0x41, 0x2a5] {
            assert!(!CapsuleType::new(value).unwrap().is_reserved(), "{value:#x}");
        }
        assert_eq!(CapsuleType::new(varint::MAX + 1), None);
    }

    #[test]
    fn the_header_of_a_datagram_capsule_counts_its_context_id() {
        let mut out = Vec::new();
        write_datagram_header(ContextId::new(0x40).unwrap(), 5, &mut out);
        assert_eq!(out, [0, 7, 0x40, 0x40]);
    }

    prop_compose! {
        fn capsules()(raw in prop::collection::vec(
            (0..=varint::MAX, 0_u32..62, prop::collection::vec(any::<u8>(), 0..80)), 0..8,
        )) -> Vec<(u64, Vec<u8>)> {
            raw.into_iter().map(|(value, shift, body)| (value >> shift, body)).collect()
        }
    }

    proptest! {
        /// CAP-5: RFC 9297 §3.1 lets any layer cut the stream anywhere.
        #[test]
        fn chunking_changes_nothing(capsules in capsules(), cuts in prop::collection::vec(0_usize..24, 1..40)) {
            let mut wire = Vec::new();
            for (capsule_type, body) in &capsules {
                write_header(CapsuleType::new(*capsule_type).unwrap(), body.len() as u64, &mut wire);
                wire.extend_from_slice(body);
            }
            let mut chunks = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
                if rest.is_empty() || cuts.iter().all(|cut| *cut == 0) {
                    break;
                }
            }
            chunks.push(rest);
            let mut reader = CapsuleReader::new();
            let seen = read_all(&mut reader, chunks);
            let expected: Vec<Seen> =
                capsules.into_iter().map(|(kind, body)| (kind, body.len() as u64, body, true)).collect();
            prop_assert_eq!(seen, expected);
            prop_assert!(reader.is_between_capsules());
        }
    }
}
