//! The Huffman code of RFC 7541 Appendix B, shared by QPACK (RFC 9204 §4.1.2).
//!
//! The code is canonical: codes of one length count upwards in symbol order, and shorter codes come first. So the
//! lengths alone define it, and all tables below are computed from them by the compiler.

/// Code length in bits of each symbol; the last one, 256, is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const SYMBOLS: usize = 257;
/// Longest code, in bits.
const LONGEST: usize = 30;

/// How codes of one length are laid out.
#[derive(Clone, Copy)]
struct Length {
    /// The first code of this length.
    first: u32,
    /// Where its symbol stands in [`SORTED`].
    offset: u32,
    /// The first value, aligned to the left of 32 bits, that belongs to longer codes only.
    end: u64,
}

struct Tables {
    codes: [(u32, u8); SYMBOLS],
    sorted: [u16; SYMBOLS],
    lengths: [Length; LONGEST + 1],
    /// Symbol and length of the code that begins with these 8 bits; length 0 if the code is longer.
    short: [(u8, u8); 256],
}

#[expect(clippy::indexing_slicing, reason = "runs in the compiler: an index out of bounds does not build")]
const fn build() -> Tables {
    let mut tables = Tables {
        codes: [(0, 0); SYMBOLS],
        sorted: [0; SYMBOLS],
        lengths: [Length { first: 0, offset: 0, end: 0 }; LONGEST + 1],
        short: [(0, 0); 256],
    };
    let (mut code, mut offset, mut length) = (0_u32, 0_usize, 1_usize);
    while length <= LONGEST {
        code <<= 1;
        tables.lengths[length].first = code;
        tables.lengths[length].offset = offset as u32;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                tables.codes[symbol] = (code, length as u8);
                tables.sorted[offset] = symbol as u16;
                if length <= 8 {
                    let mut low = 0;
                    while low < 1 << (8 - length) {
                        tables.short[((code as usize) << (8 - length)) | low] = (symbol as u8, length as u8);
                        low += 1;
                    }
                }
                code += 1;
                offset += 1;
            }
            symbol += 1;
        }
        tables.lengths[length].end = (code as u64) << (32 - length);
        length += 1;
    }
    tables
}

static TABLES: Tables = build();

/// Symbol and length of the first code in `window` (aligned to the left).
fn lookup(window: u32) -> Option<(u16, u32)> {
    let (symbol, length) = TABLES.short.get((window >> 24) as usize).copied()?;
    if length > 0 {
        return Some((u16::from(symbol), u32::from(length)));
    }
    let (length, row) = (9..).zip(TABLES.lengths.iter().skip(9)).find(|(_, row)| u64::from(window) < row.end)?;
    let index = row.offset + ((window >> (32 - length)) - row.first);
    Some((TABLES.sorted.get(index as usize).copied()?, length))
}

/// Appends what `coded` stands for; at most 8/5 of its length.
///
/// `None`: EOS in the text, or an end that is not up to seven bits of ones (RFC 7541 §5.2). `out` then holds a part.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut input = coded.iter();
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56 {
            let Some(byte) = input.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            count += 8;
        }
        // Missing bits are read as ones, as the padding is.
        let window =
            if count >= 32 { (bits >> (count - 32)) as u32 } else { (bits << (32 - count)) as u32 | u32::MAX >> count };
        if count < 8 && window == u32::MAX {
            return Some(());
        }
        let (symbol, length) = lookup(window)?;
        count = count.checked_sub(length)?;
        out.push(u8::try_from(symbol).ok()?); // EOS does not fit
    }
}

/// Bytes that [`encode`] appends.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(code(*byte).1)).sum();
    bits.div_ceil(8)
}

/// Appends the code of `text`, padded with ones.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in text {
        let (code, length) = code(*byte);
        bits = bits << length | u64::from(code);
        count += u32::from(length);
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | u8::MAX >> count);
    }
}

fn code(byte: u8) -> (u32, u8) {
    TABLES.codes.get(usize::from(byte)).copied().unwrap_or_default()
}
