//! Frame headers (RFC 9114 §7.1) and the frame types we know.

use bytes::{Buf, Bytes};
use moretta_wire::varint;

/// A frame type, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Data,
    Headers,
    CancelPush,
    Settings,
    PushPromise,
    GoAway,
    MaxPushId,
    /// Types that HTTP/2 used and HTTP/3 has no counterpart for (RFC 9114 §7.2.8).
    Http2,
    /// All others: reserved ones, extensions, PRIORITY_UPDATE (RFC 9218 is not implemented).
    Unknown,
}

impl FrameKind {
    pub(crate) const fn of(frame_type: u64) -> Self {
        match frame_type {
            0x00 => Self::Data,
            0x01 => Self::Headers,
            0x03 => Self::CancelPush,
            0x04 => Self::Settings,
            0x05 => Self::PushPromise,
            0x07 => Self::GoAway,
            0x0d => Self::MaxPushId,
            0x02 | 0x06 | 0x08 | 0x09 => Self::Http2,
            _ => Self::Unknown,
        }
    }
}

pub(crate) const DATA: u64 = 0x00;
pub(crate) const HEADERS: u64 = 0x01;
pub(crate) const SETTINGS: u64 = 0x04;
pub(crate) const GOAWAY: u64 = 0x07;

/// Appends a frame header.
pub(crate) fn write_header(frame_type: u64, length: usize, out: &mut Vec<u8>) {
    varint::encode(frame_type, out);
    varint::encode(length as u64, out);
}

/// Collects varints that may arrive byte by byte; holds at most two of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeaderReader {
    held: [u8; 2 * varint::MAX_ENCODED_BYTES],
    len: u8,
}

impl HeaderReader {
    /// Whether the stream is between headers.
    pub(crate) const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Type and length of the next frame, taken off `data`; `None` when `data` is used up.
    pub(crate) fn next_frame(&mut self, data: &mut Bytes) -> Option<(u64, u64)> {
        self.next(data, two_varints)
    }

    /// The next single varint, such as a stream type.
    pub(crate) fn next_varint(&mut self, data: &mut Bytes) -> Option<u64> {
        self.next(data, varint::decode)
    }

    fn next<T>(&mut self, data: &mut Bytes, parse: fn(&[u8]) -> Option<(T, usize)>) -> Option<T> {
        if let Some((value, used)) = parse(data).filter(|_| self.len == 0) {
            data.advance(used);
            return Some(value);
        }
        // What does not parse is shorter than the buffer, so this ends before it is full.
        while !data.is_empty() {
            *self.held.get_mut(usize::from(self.len))? = data.get_u8();
            self.len += 1;
            if let Some((value, _)) = parse(self.held.get(..usize::from(self.len))?) {
                self.len = 0;
                return Some(value);
            }
        }
        None
    }
}

fn two_varints(bytes: &[u8]) -> Option<((u64, u64), usize)> {
    let (frame_type, used) = varint::decode(bytes)?;
    let (length, more) = varint::decode(bytes.get(used..)?)?;
    Some(((frame_type, length), used + more))
}

/// The one varint that fills the payload of GOAWAY, MAX_PUSH_ID and CANCEL_PUSH.
pub(crate) fn parse_id(payload: &[u8]) -> Option<u64> {
    varint::decode(payload).filter(|(_, used)| *used == payload.len()).map(|(id, _)| id)
}
