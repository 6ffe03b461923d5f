//! Field sections to field lines (RFC 9204 §4.5).

use std::ops::Range;

use bytes::Bytes;

use super::{huffman, integer, static_table};

/// One line as it came, pseudo-header or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: Bytes,
    pub(crate) value: Bytes,
}

/// Why there are no lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// Not a field section, or one that needs a dynamic table: `QPACK_DECOMPRESSION_FAILED`.
    Failed,
    /// The lines together exceed the limit (RFC 9114 §4.2.2).
    TooLarge,
}

/// Where a string of the section is.
enum Span {
    Static(&'static [u8]),
    Literal(Range<usize>),
}

impl Span {
    fn len(&self) -> usize {
        match self {
            Self::Static(bytes) => bytes.len(),
            Self::Literal(range) => range.len(),
        }
    }

    fn resolve(self, literals: &Bytes) -> Bytes {
        match self {
            Self::Static(bytes) => Bytes::from_static(bytes),
            Self::Literal(range) if range.is_empty() => Bytes::new(),
            Self::Literal(range) => literals.slice(range),
        }
    }
}

/// Decodes a whole field section. All literals share one allocation of at most 8/5 of the section.
///
/// `limit` counts as RFC 9114 §4.2.2 does: name + value + 32 for each line; the work stops at the line that exceeds it.
pub(crate) fn decode(section: &[u8], limit: u64) -> Result<Vec<Line>, DecodeError> {
    let mut input = Input { rest: section, literals: Vec::new() };
    // Required Insert Count must be 0; with it a set sign bit would make Base negative (RFC 9204 §4.5.1).
    if input.integer(8)? != 0 || input.peek()? & 0x80 != 0 {
        return Err(DecodeError::Failed);
    }
    input.integer(7)?;
    let mut spans = Vec::new();
    let mut size = 0_u64;
    while let Some(first) = input.rest.first().copied() {
        let line = input.line(first)?;
        size += (line.0.len() + line.1.len()) as u64 + 32;
        if size > limit {
            return Err(DecodeError::TooLarge);
        }
        spans.push(line);
    }
    let literals = Bytes::from(input.literals);
    Ok(spans
        .into_iter()
        .map(|(name, value)| Line { name: name.resolve(&literals), value: value.resolve(&literals) })
        .collect())
}

struct Input<'a> {
    rest: &'a [u8],
    literals: Vec<u8>,
}

impl Input<'_> {
    fn peek(&self) -> Result<u8, DecodeError> {
        self.rest.first().copied().ok_or(DecodeError::Failed)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn integer(&mut self, prefix_bits: u32) -> Result<u64, DecodeError> {
        let (value, used) = integer::decode(self.rest, prefix_bits).ok_or(DecodeError::Failed)?;
        self.skip(used);
        Ok(value)
    }

    /// One line (RFC 9204 §4.5.2 to §4.5.6); `first` is its first byte, still in the input.
    fn line(&mut self, first: u8) -> Result<(Span, Span), DecodeError> {
        if first & 0xc0 == 0xc0 {
            // 11: indexed, static table.
            let (name, value) = self.static_entry(6)?;
            Ok((Span::Static(name), Span::Static(value)))
        } else if first & 0xd0 == 0x50 {
            // 01N1: literal with name reference, static table.
            let (name, _) = self.static_entry(4)?;
            Ok((Span::Static(name), self.string(7)?))
        } else if first & 0xe0 == 0x20 {
            // 001N: literal with literal name.
            Ok((self.string(3)?, self.string(7)?))
        } else {
            // Everything else refers to the dynamic table, which is empty.
            Err(DecodeError::Failed)
        }
    }

    fn static_entry(&mut self, prefix_bits: u32) -> Result<(&'static [u8], &'static [u8]), DecodeError> {
        let index = self.integer(prefix_bits)?;
        static_table::get(index).ok_or(DecodeError::Failed)
    }

    /// A string whose length has `prefix_bits`, with the Huffman bit above them (RFC 7541 §5.2).
    fn string(&mut self, prefix_bits: u32) -> Result<Span, DecodeError> {
        let coded = self.peek()? >> prefix_bits & 1 == 1;
        let length = usize::try_from(self.integer(prefix_bits)?).map_err(|_| DecodeError::Failed)?;
        let bytes = self.rest.get(..length).ok_or(DecodeError::Failed)?;
        let start = self.literals.len();
        if coded {
            huffman::decode(bytes, &mut self.literals).ok_or(DecodeError::Failed)?;
        } else {
            self.literals.extend_from_slice(bytes);
        }
        self.skip(length);
        Ok(Span::Literal(start..self.literals.len()))
    }
}
