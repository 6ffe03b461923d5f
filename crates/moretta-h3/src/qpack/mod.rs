//! QPACK (RFC 9204) without a dynamic table: we announce capacity 0 and 0 blocked streams (both by silence, the
//! defaults), and use none towards the peer. A field section then needs no other stream and no state.

mod decode;
mod encode;
mod huffman;
mod instructions;
mod integer;
mod static_table;

pub(crate) use decode::{DecodeError, Line, decode};
pub(crate) use encode::{encode_line, start_section};
pub(crate) use instructions::{DecoderStream, encoder_stream_is_idle};

#[cfg(test)]
mod tests;
