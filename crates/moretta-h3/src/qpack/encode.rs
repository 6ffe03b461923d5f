//! Field lines to field sections (RFC 9204 §4.5).

use super::static_table::{Found, find};
use super::{huffman, integer};

/// Begins a section: Required Insert Count 0, Base 0.
pub(crate) fn start_section(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0]);
}

/// Appends one line, in the shortest form the static table allows.
///
/// Credentials carry the N bit, so that no hop after this one puts them into a table where their size can be guessed
/// at (RFC 9204 §7.1.3).
pub(crate) fn encode_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let never_index = matches!(name, b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie");
    match find(name, value) {
        Found::Line(index) if !never_index => integer::encode(index, 6, 0xc0, out),
        Found::Line(index) | Found::Name(index) => {
            integer::encode(index, 4, if never_index { 0x70 } else { 0x50 }, out);
            string(value, 7, 0, out);
        }
        Found::Nothing => {
            string(name, 3, if never_index { 0x30 } else { 0x20 }, out);
            string(value, 7, 0, out);
        }
    }
}

/// A string whose length has `prefix_bits`; Huffman where that is shorter.
fn string(text: &[u8], prefix_bits: u32, flags: u8, out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        integer::encode(coded as u64, prefix_bits, flags | 1 << prefix_bits, out);
        huffman::encode(text, out);
    } else {
        integer::encode(text.len() as u64, prefix_bits, flags, out);
        out.extend_from_slice(text);
    }
}
