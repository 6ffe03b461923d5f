//! Integers with a prefix (RFC 7541 §5.1, RFC 9204 §4.1.1).

/// Largest value taken: what RFC 9204 §4.1.1 asks of a decoder, and no more.
const MAX: u64 = (1 << 62) - 1;

/// Reads an integer whose first byte leaves it the low `prefix_bits` (1 to 8). Gives value and bytes used; `None` if
/// it is cut off or above 2^62 − 1.
pub(super) fn decode(bytes: &[u8], prefix_bits: u32) -> Option<(u64, usize)> {
    let (first, rest) = bytes.split_first()?;
    let full = u64::from(u8::MAX >> (8 - prefix_bits));
    let low = u64::from(*first) & full;
    if low < full {
        return Some((low, 1));
    }
    let mut value = full;
    // Ten continuation bytes hold 70 bits; an encoder that pads further has no good reason to.
    for (index, byte) in rest.iter().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        let shift = 7 * index as u32;
        if part > MAX >> shift.min(63) {
            return None;
        }
        value += part << shift.min(63);
        if value > MAX {
            return None;
        }
        if byte & 0x80 == 0 {
            return Some((value, index + 2));
        }
    }
    None
}

/// Appends `value`; `flags` are the bits of the first byte above the prefix.
pub(super) fn encode(value: u64, prefix_bits: u32, flags: u8, out: &mut Vec<u8>) {
    let full = u64::from(u8::MAX >> (8 - prefix_bits));
    if value < full {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
