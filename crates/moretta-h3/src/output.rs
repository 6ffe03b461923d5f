//! What waits to be written, and the list of streams that have something to write.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use moretta_wire::varint;

use crate::frame;

/// The bytes of one stream on their way to QUIC.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    fin: Fin,
    pub(crate) turn: Turn,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fin {
    #[default]
    No,
    Queued,
    Written,
}

/// Where the stream stands in the list of writable ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Not in the list.
    #[default]
    None,
    /// In the list, or in the caller's hand.
    Listed,
    /// QUIC takes no more of it for now.
    Blocked,
}

impl Outgoing {
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    pub(crate) fn finish(&mut self) {
        if self.fin == Fin::No {
            self.fin = Fin::Queued;
        }
    }

    /// Whether there are bytes or a FIN to write.
    pub(crate) fn is_pending(&self) -> bool {
        self.queued_bytes > 0 || self.fin == Fin::Queued
    }

    /// Whether the FIN is written: nothing can follow.
    pub(crate) fn is_over(&self) -> bool {
        self.fin == Fin::Written
    }

    pub(crate) fn wants_fin(&self) -> bool {
        self.queued_bytes == 0 && self.fin == Fin::Queued
    }

    pub(crate) fn wrote_fin(&mut self) {
        if self.wants_fin() {
            self.fin = Fin::Written;
        }
    }

    pub(crate) const fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(crate) fn front(&self) -> &[Bytes] {
        self.queue.as_slices().0
    }

    pub(crate) fn wrote(&mut self, bytes: usize) {
        let mut left = bytes.min(self.queued_bytes);
        self.queued_bytes -= left;
        while let Some(first) = self.queue.front_mut() {
            if left < first.len() {
                bytes::Buf::advance(first, left);
                break;
            }
            left -= first.len();
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            // An idle tunnel keeps no buffer.
            self.queue = VecDeque::new();
        }
    }
}

/// Streams that have something to write, in turns: each stands in it once, so nobody walks over the idle ones.
#[derive(Debug, Default)]
pub(crate) struct TurnList {
    waiting: VecDeque<u64>,
    in_hand: Option<u64>,
}

impl TurnList {
    /// Puts a stream with pending output into the list unless it is there or blocked.
    pub(crate) fn add(&mut self, stream_id: u64, out: &mut Outgoing) {
        if out.turn == Turn::None && out.is_pending() {
            out.turn = Turn::Listed;
            self.waiting.push_back(stream_id);
        }
    }

    /// The stream that the caller had last.
    pub(crate) fn take_in_hand(&mut self) -> Option<u64> {
        self.in_hand.take()
    }

    pub(crate) fn next(&mut self) -> Option<u64> {
        self.waiting.pop_front()
    }

    pub(crate) fn hand_out(&mut self, stream_id: u64) {
        self.in_hand = Some(stream_id);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Cuts DATA frame headers out of one block after another, so that a frame costs no allocation of its own.
#[derive(Debug, Default)]
pub(crate) struct FrameHeaders {
    block: BytesMut,
}

const BLOCK_BYTES: usize = 512;

impl FrameHeaders {
    /// The header of a DATA frame with `length` bytes of payload.
    pub(crate) fn data(&mut self, length: usize) -> Bytes {
        if self.block.capacity() < 1 + varint::MAX_ENCODED_BYTES {
            self.block.reserve(BLOCK_BYTES);
        }
        self.block.put_u8(frame::DATA as u8);
        let (bytes, used) = varint::encode_array(length as u64);
        self.block.put_slice(bytes.get(..used).unwrap_or_default());
        self.block.split().freeze()
    }
}
