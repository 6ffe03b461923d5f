//! The capsule stream of one CONNECT-UDP request, cut into UDP payloads.
//!
//! A payload that lies whole in one chunk is handed on as a slice of it. One that does not is assembled in one buffer,
//! reserved from the connection's budget. Everything else — unknown types, unknown contexts, payloads that no path
//! could carry — is skipped as it comes and never held.

use bytes::{Bytes, BytesMut};
use moretta_wire::capsule::{CapsuleReader, CapsuleType, Piece};
use moretta_wire::datagram::{ContextId, MAX_UDP_PAYLOAD_BYTES, split_context_id};

use super::budget::{CapsuleBudget, Reservation};
use crate::error::DropReason;

/// What the stream turned out to hold, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// One UDP payload, whole.
    Payload(Bytes),
    /// A DATAGRAM capsule that is not one; the rest of it is skipped.
    Dropped(DropReason),
    /// A capsule of another type begins; its value is skipped.
    Unknown,
    /// That many bytes of its value.
    UnknownBytes(usize),
    /// RFC 9298 §5: more than 65 527 bytes on context 0; the request stream is to be aborted.
    TooLong,
}

/// Reads chunks; holds at most the header of one capsule, its Context ID and one payload.
#[derive(Debug, Default)]
pub(super) struct CapsuleInput {
    reader: CapsuleReader,
    value: Value,
}

/// Where in a capsule's value the stream is.
#[derive(Debug, Default)]
enum Value {
    /// Before a capsule, or in the rest of one that is dealt with.
    #[default]
    Done,
    /// In the value of an unknown type.
    Unknown,
    /// At the front of a DATAGRAM capsule of `length` bytes, whose Context ID is not complete.
    Context { length: u64, bytes: [u8; 8], filled: u8 },
    /// In a payload that came in pieces.
    Payload(Assembly),
}

#[derive(Debug)]
struct Assembly {
    buffer: BytesMut,
    length: usize,
    /// Held until the payload is complete or the capsule is given up.
    _reservation: Reservation,
}

impl CapsuleInput {
    /// Whether a stream that ends here ends cleanly (RFC 9297 §3.3).
    pub(super) const fn is_between_capsules(&self) -> bool {
        self.reader.is_between_capsules()
    }

    /// Gives back what is held.
    pub(super) fn clear(&mut self) {
        self.value = Value::Done;
    }

    /// Reads all of `chunk`, or up to the first `found` that returns an error.
    ///
    /// `max_payload_bytes`: what the path to the target carries; a larger payload is skipped.
    pub(super) fn read<E>(
        &mut self,
        chunk: &Bytes,
        max_payload_bytes: usize,
        budget: &CapsuleBudget,
        mut found: impl FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest: &[u8] = chunk;
        while let Some(piece) = self.reader.next(&mut rest) {
            match piece {
                Piece::Header { capsule_type: CapsuleType::DATAGRAM, length } => {
                    self.value = Value::Context { length, bytes: [0; 8], filled: 0 };
                }
                Piece::Header { .. } => {
                    self.value = Value::Unknown;
                    found(Found::Unknown)?;
                }
                Piece::Value(value) => {
                    let end = chunk.len() - rest.len();
                    let slice = Slice { chunk, start: end - value.len(), end };
                    if let Some(item) = self.value(slice, value, max_payload_bytes, budget) {
                        found(item)?;
                    }
                }
                // Empty, or over before its Context ID was.
                Piece::End if matches!(self.value, Value::Context { .. }) => {
                    self.value = Value::Done;
                    found(Found::Dropped(DropReason::NoContextId))?;
                }
                Piece::End => self.value = Value::Done,
            }
        }
        Ok(())
    }

    fn value(&mut self, slice: Slice<'_>, value: &[u8], max: usize, budget: &CapsuleBudget) -> Option<Found> {
        match &mut self.value {
            Value::Done => None,
            Value::Unknown => Some(Found::UnknownBytes(value.len())),
            Value::Payload(assembly) => {
                assembly.buffer.extend_from_slice(value);
                if assembly.buffer.len() < assembly.length {
                    return None;
                }
                let payload = std::mem::take(&mut assembly.buffer).freeze();
                self.value = Value::Done;
                Some(Found::Payload(payload))
            }
            Value::Context { length, bytes, filled } => {
                let length = *length;
                let before = usize::from(*filled);
                // The Context ID is whatever is left over from earlier chunks, continued in this one.
                for (slot, byte) in bytes.iter_mut().skip(before).zip(value) {
                    *slot = *byte;
                    *filled += 1;
                }
                let Ok((context, used)) = split_context_id(bytes.get(..usize::from(*filled))?) else {
                    return None;
                };
                let payload_bytes = length.saturating_sub(used as u64);
                self.value = Value::Done;
                self.payload(context, payload_bytes, slice.skip(used - before), max, budget)
            }
        }
    }

    /// A Context ID is complete; `begun` is as much of the payload as this chunk holds.
    fn payload(
        &mut self,
        context: ContextId,
        payload_bytes: u64,
        begun: Slice<'_>,
        max: usize,
        budget: &CapsuleBudget,
    ) -> Option<Found> {
        if context != ContextId::UDP_PAYLOAD {
            return Some(Found::Dropped(DropReason::UnknownContext));
        }
        if payload_bytes > MAX_UDP_PAYLOAD_BYTES as u64 {
            return Some(Found::TooLong);
        }
        let length = payload_bytes as usize;
        if length > max {
            return Some(Found::Dropped(DropReason::CapsuleTooLarge));
        }
        if begun.len() == length {
            return Some(Found::Payload(begun.to_bytes()));
        }
        let Some(reservation) = budget.reserve(length) else {
            return Some(Found::Dropped(DropReason::CapsuleBudget));
        };
        let mut buffer = BytesMut::with_capacity(length);
        buffer.extend_from_slice(&begun.to_bytes());
        self.value = Value::Payload(Assembly { buffer, length, _reservation: reservation });
        None
    }
}

/// Part of a chunk, not yet counted as a reference to it.
#[derive(Clone, Copy)]
struct Slice<'a> {
    chunk: &'a Bytes,
    start: usize,
    end: usize,
}

impl Slice<'_> {
    fn skip(self, bytes: usize) -> Self {
        Self { start: (self.start + bytes).min(self.end), ..self }
    }

    const fn len(self) -> usize {
        self.end - self.start
    }

    fn to_bytes(self) -> Bytes {
        self.chunk.slice(self.start..self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moretta_wire::capsule::{write_datagram, write_header};
    use proptest::prelude::*;

    const MTU: usize = 1472;

    /// Everything found, with runs of `UnknownBytes` joined: their cuts follow the chunks.
    fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Found>, bool, usize) {
        let budget = CapsuleBudget::new(256 * 1024);
        let mut input = CapsuleInput::default();
        let mut all: Vec<Found> = Vec::new();
        for chunk in chunks {
            let result = input.read(&Bytes::copy_from_slice(chunk), MTU, &budget, |found| {
                match (all.last_mut(), found) {
                    (Some(Found::UnknownBytes(sum)), Found::UnknownBytes(more)) => *sum += more,
                    (_, Found::TooLong) => {
                        all.push(Found::TooLong);
                        return Err(());
                    }
                    (_, found) => all.push(found),
                }
                Ok(())
            });
            if result.is_err() {
                break;
            }
        }
        (all, input.is_between_capsules(), budget.held_bytes())
    }

    fn payload(bytes: &'static [u8]) -> Found {
        Found::Payload(Bytes::from_static(bytes))
    }

    fn datagram(context: u64, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        write_datagram(ContextId::new(context).unwrap(), payload, &mut wire);
        wire
    }

    /// The value's first bytes, with more announced than sent.
    fn announced(capsule_type: u64, length: u64, begun: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        write_header(CapsuleType::new(capsule_type).unwrap(), length, &mut wire);
        wire.extend_from_slice(begun);
        wire
    }

    /// CAP-6, UDP-37.
    #[test]
    fn payloads_come_in_order_and_an_empty_one_is_a_payload() {
        let wire = [datagram(0, b"one"), datagram(0, b""), datagram(0, b"three")].concat();
        assert_eq!(read([&wire[..]]).0, [payload(b"one"), payload(b""), payload(b"three")]);
    }

    #[test]
    fn a_payload_that_lies_whole_in_its_chunk_is_not_copied() {
        let chunk = Bytes::from(datagram(0, b"payload"));
        let mut input = CapsuleInput::default();
        let budget = CapsuleBudget::new(0);
        let mut pointers = Vec::new();
        let read = input.read::<()>(&chunk, MTU, &budget, |found| {
            if let Found::Payload(payload) = found {
                pointers.push(payload.as_ptr());
            }
            Ok(())
        });
        assert_eq!(read, Ok(()));
        assert_eq!(pointers, [chunk[3..].as_ptr()]);
    }

    /// CAP-4, UDP-58.
    #[test]
    fn a_datagram_capsule_without_a_whole_context_id_is_dropped() {
        let wire = [announced(0, 0, b""), announced(0, 1, &[0x40]), datagram(0, b"next")].concat();
        let dropped = || Found::Dropped(DropReason::NoContextId);
        assert_eq!(read([&wire[..]]).0, [dropped(), dropped(), payload(b"next")]);
        assert_eq!(read(wire.chunks(1)).0, [dropped(), dropped(), payload(b"next")]);
    }

    /// CAP-27, UDP-54, UDP-55, UDP-56: an unknown context is skipped at any length, without being held.
    #[test]
    fn an_unknown_context_is_dropped_without_being_held() {
        let body = vec![0; 4096];
        for context in [1_u8, 2, 0x3f] {
            let wire = announced(0, 1 << 28, &[context]);
            let (found, clean, held) = read(std::iter::once(&wire[..]).chain(std::iter::repeat_n(&body[..], 64)));
            assert_eq!(found, [Found::Dropped(DropReason::UnknownContext)]);
            assert_eq!((clean, held), (false, 0));
        }
        let largest = [datagram((1 << 62) - 1, b"x"), datagram(0, b"next")].concat();
        assert_eq!(read([&largest[..]]).0, [Found::Dropped(DropReason::UnknownContext), payload(b"next")]);
    }

    /// UDP-46, AU-2: 65 527 bytes are a payload, though larger than the path; 65 528 abort, from the header alone.
    #[test]
    fn a_payload_above_65527_bytes_aborts_before_it_has_come() {
        let (found, _, _) = read([&announced(0, 1 + 65_527, &[0])[..]]);
        assert_eq!(found, [Found::Dropped(DropReason::CapsuleTooLarge)]);
        assert_eq!(read([&announced(0, 1 + 65_528, &[0])[..]]).0, [Found::TooLong]);
        assert_eq!(read([&announced(0, (1 << 62) - 1, &[0x40, 0])[..]]).0, [Found::TooLong]);
        // A padded Context ID does not count as payload.
        let (found, _, _) = read([&announced(0, 8 + 65_527, &[0xc0, 0, 0, 0, 0, 0, 0, 0])[..]]);
        assert_eq!(found, [Found::Dropped(DropReason::CapsuleTooLarge)]);
    }

    /// UDP-57, CAP-5, CAP-7: a padded Context ID may end in another chunk than it begins.
    #[test]
    fn a_padded_context_id_may_be_split_anywhere() {
        for padded in [&[0x40, 0][..], &[0x80, 0, 0, 0], &[0xc0, 0, 0, 0, 0, 0, 0, 0]] {
            let value = [padded, b"payload"].concat();
            let wire = announced(0, value.len() as u64, &value);
            for cut in 0..=wire.len() {
                let (found, clean, held) = read([&wire[..cut], &wire[cut..]]);
                assert_eq!((found, clean, held), (vec![payload(b"payload")], true, 0), "{padded:?} cut at {cut}");
            }
        }
    }

    /// C-12: what no path carries is skipped, whole or split.
    #[test]
    fn a_payload_larger_than_the_path_is_skipped_whole_or_split() {
        let wire = [datagram(0, &[7; MTU + 1]), datagram(0, &[8; MTU])].concat();
        for chunk_bytes in [wire.len(), 100] {
            let (found, clean, held) = read(wire.chunks(chunk_bytes));
            assert_eq!(found, [Found::Dropped(DropReason::CapsuleTooLarge), Found::Payload(Bytes::from(vec![8; MTU]))]);
            assert_eq!((clean, held), (true, 0));
        }
    }

    /// HG-F4, AU-7: the budget bounds what all tunnels of a connection hold together.
    #[test]
    fn a_split_payload_beyond_the_budget_is_skipped_and_the_next_one_lives() {
        let budget = CapsuleBudget::new(150);
        let (mut first, mut second) = (CapsuleInput::default(), CapsuleInput::default());
        let mut all = Vec::new();
        let wire = datagram(0, &[1; 100]);
        let mut feed = |input: &mut CapsuleInput, bytes: &[u8]| {
            let read = input.read::<()>(&Bytes::copy_from_slice(bytes), MTU, &budget, |found| {
                all.push(found);
                Ok(())
            });
            assert_eq!(read, Ok(()));
        };
        feed(&mut first, &wire[..50]);
        assert_eq!(budget.held_bytes(), 100);
        feed(&mut second, &wire[..50]);
        assert_eq!(budget.held_bytes(), 100, "the second is not held");
        feed(&mut second, &wire[50..]);
        feed(&mut first, &wire[50..]);
        assert_eq!(budget.held_bytes(), 0);
        feed(&mut second, &wire[..50]);
        feed(&mut second, &wire[50..]);
        let whole = || Found::Payload(Bytes::from(vec![1; 100]));
        assert_eq!(all, [Found::Dropped(DropReason::CapsuleBudget), whole(), whole()]);
    }

    /// AU-14.
    #[test]
    fn what_is_held_comes_back_when_the_tunnel_goes_mid_capsule() {
        let budget = CapsuleBudget::new(1000);
        let begun = Bytes::from(announced(0, 101, &[0, 1, 2]));
        for clear in [true, false] {
            let mut input = CapsuleInput::default();
            assert_eq!(input.read::<()>(&begun, MTU, &budget, |_| Ok(())), Ok(()));
            assert_eq!(budget.held_bytes(), 100);
            if clear {
                input.clear();
            } else {
                drop(input);
            }
            assert_eq!(budget.held_bytes(), 0);
        }
    }

    /// CAP-1, CAP-2, C-2: types of other protocols are unknown here too.
    #[test]
    fn every_type_but_datagram_is_unknown() {
        for capsule_type in [1, 2, 3, 0x17, 0x40, 0x69, 0x2a5] {
            let wire = [announced(capsule_type, 5, b"12345"), datagram(0, b"next")].concat();
            let expected = [Found::Unknown, Found::UnknownBytes(5), payload(b"next")];
            assert_eq!(read([&wire[..]]).0, expected, "{capsule_type:#x}");
        }
    }

    /// One capsule as a client may send it.
    fn any_capsule() -> impl Strategy<Value = Vec<u8>> {
        let context = prop_oneof![4 => Just(0_u64), 1 => 0..=(1_u64 << 62) - 1];
        prop_oneof![
            4 => (context, 0_usize..2000).prop_map(|(context, length)| datagram(context, &vec![length as u8; length])),
            1 => (1_u32..4, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(size, payload)| {
                let padded = [&[(size << 6) as u8][..], &[0; 7][..(1 << size) - 1], &payload].concat();
                announced(0, padded.len() as u64, &padded)
            }),
            1 => (0_u64..0x100, prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(kind, value)| announced(kind, value.len() as u64, &value)),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        /// CAP-5: how a stream is cut changes nothing about what is found in it.
        #[test]
        fn any_chunking_finds_what_the_whole_stream_holds(
            capsules in prop::collection::vec(any_capsule(), 0..12),
            cuts in prop::collection::vec(1_usize..700, 1..40),
        ) {
            let wire = capsules.concat();
            let mut chunks = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, more) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = more;
            }
            let (whole, clean, _) = read([&wire[..]]);
            let (split, split_clean, _) = read(chunks);
            prop_assert_eq!(&split, &whole);
            if !whole.contains(&Found::TooLong) {
                prop_assert_eq!(split_clean, clean);
            }
        }

        /// CAP-36: no byte string is a panic or an allocation beyond the budget.
        #[test]
        fn random_bytes_never_hold_more_than_the_budget(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..64),
        ) {
            let (_, _, held) = read(chunks.iter().map(|chunk| &chunk[..]));
            prop_assert!(held <= MTU);
        }
    }
}
