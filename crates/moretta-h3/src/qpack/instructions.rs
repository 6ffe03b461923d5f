//! The peer's QPACK streams (RFC 9204 §4.3, §4.4). Without a dynamic table almost everything on them is an error.

/// Whether these bytes of the peer's encoder stream ask for nothing: only "Set Dynamic Table Capacity 0" (the one byte
/// 0x20) does. Every other instruction needs a table: `QPACK_ENCODER_STREAM_ERROR`.
pub(crate) fn encoder_stream_is_idle(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0x20)
}

/// Reads the peer's decoder stream: Stream Cancellation is the only instruction that makes sense, since no section of
/// ours ever needs an acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct DecoderStream {
    /// Continuation bytes seen of a Stream Cancellation that is not over.
    continuation: Option<u8>,
}

impl DecoderStream {
    /// Whether all is well; `false` means `QPACK_DECODER_STREAM_ERROR`.
    pub(crate) fn handle(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| match self.continuation {
            None if byte & 0xc0 == 0x40 => {
                self.continuation = (byte & 0x3f == 0x3f).then_some(0);
                true
            }
            None => false,
            Some(seen) => {
                self.continuation = (byte & 0x80 != 0).then_some(seen + 1);
                seen < 9
            }
        })
    }
}
