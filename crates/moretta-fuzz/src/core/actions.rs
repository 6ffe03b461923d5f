//! The form of an input: one byte that names an action, then what it needs.

use crate::h3::{frame, line, section};
use crate::input::Input;

/// One step of an input.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// A packet as it stands, from the client's address or a stranger's; `long`: padded to a first packet's size.
    Raw { stranger: bool, long: bool, segment_size: usize, bytes: &'a [u8] },
    /// The client's next packet, changed on the way.
    Change { what: Change, at: usize, value: u8 },
    /// Frames of the input's own in a genuine 1-RTT packet.
    Frames(&'a [u8]),
    /// Bytes on a stream of the client: a request stream, or a unidirectional one.
    Stream { uni: bool, index: usize, fin: bool, bytes: Vec<u8> },
    /// A CONNECT-UDP request for a target of this number.
    Ask { target: u8, fin: bool },
    /// An HTTP Datagram for a request stream.
    Datagram { index: usize, bytes: &'a [u8] },
    /// RESET_STREAM.
    Reset { index: usize, code: u32 },
    /// Packets of the client are kept back from now on, or no longer.
    Hold(bool),
    /// Time goes by.
    Advance { milliseconds: u64 },
    /// Datagrams of a target.
    FromTarget { flow: usize, segment_size: usize, bytes: &'a [u8] },
    /// An error of a target's socket.
    TargetError { flow: usize, error: u8 },
    /// Whether the shell answers at once, and if not, an answer.
    Answer { at_once: bool, answer: u8 },
    /// An answer to what nobody asked.
    Stray { kind: u8, index: u32 },
    /// A new snapshot that allows the targets, or denies them.
    Snapshot { allow: bool },
    /// An order from above.
    Order { what: u8 },
    /// The client appears at another address, or another client begins.
    Elsewhere { anew: bool },
}

/// What happens to a packet on the way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Flip,
    Cut,
    Extend,
    Drop,
    Twice,
}

/// The bytes that name actions; also what the seeds are made of.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Op {
    Raw,
    Change,
    Frames,
    Stream,
    Frame,
    Section,
    Ask,
    Datagram,
    Reset,
    Hold,
    Advance,
    FromTarget,
    TargetError,
    Answer,
    Snapshot,
    Order,
    Elsewhere,
    Stray,
}

const OPS: u8 = Op::Stray as u8 + 1;

impl<'a> Action<'a> {
    /// The next action; `None` at the end of the input. Any bytes are some actions.
    pub(super) fn read(input: &mut Input<'a>) -> Option<Self> {
        if input.is_empty() {
            return None;
        }
        let op = input.byte();
        // The two high bits are whatever the action makes of them.
        let (high, second) = (op & 0x80 != 0, op & 0x40 != 0);
        Some(match op & 0x3f {
            op if op % OPS == Op::Raw as u8 => {
                Self::Raw { stranger: high, long: second, segment_size: input.length(), bytes: input.sized() }
            }
            op if op % OPS == Op::Change as u8 => {
                let what = match input.byte() % 5 {
                    0 => Change::Flip,
                    1 => Change::Cut,
                    2 => Change::Extend,
                    3 => Change::Drop,
                    _ => Change::Twice,
                };
                Self::Change { what, at: input.length(), value: input.byte() }
            }
            op if op % OPS == Op::Frames as u8 => Self::Frames(input.sized()),
            op if op % OPS == Op::Stream as u8 => {
                let index = index(input);
                Self::Stream { uni: second, index, fin: high, bytes: input.sized().to_vec() }
            }
            op if op % OPS == Op::Frame as u8 => {
                let (index, kind) = (index(input), input.number());
                Self::Stream { uni: second, index, fin: high, bytes: frame(kind, input.sized()) }
            }
            op if op % OPS == Op::Section as u8 => {
                let index = index(input);
                let lines = usize::from(input.byte() % 16);
                let section = section((0..lines).map(|_| line(input)));
                Self::Stream { uni: false, index, fin: high, bytes: frame(0x01, &section) }
            }
            op if op % OPS == Op::Ask as u8 => Self::Ask { target: input.byte(), fin: high },
            op if op % OPS == Op::Datagram as u8 => Self::Datagram { index: index(input), bytes: input.sized() },
            op if op % OPS == Op::Reset as u8 => Self::Reset { index: index(input), code: input.number() as u32 },
            op if op % OPS == Op::Hold as u8 => Self::Hold(high),
            op if op % OPS == Op::Advance as u8 => Self::Advance { milliseconds: input.number() % 300_000 },
            op if op % OPS == Op::FromTarget as u8 => {
                Self::FromTarget { flow: index(input), segment_size: input.length(), bytes: input.sized() }
            }
            op if op % OPS == Op::TargetError as u8 => Self::TargetError { flow: index(input), error: input.byte() },
            op if op % OPS == Op::Answer as u8 => Self::Answer { at_once: high, answer: input.byte() },
            op if op % OPS == Op::Snapshot as u8 => Self::Snapshot { allow: high },
            op if op % OPS == Op::Order as u8 => Self::Order { what: input.byte() },
            op if op % OPS == Op::Elsewhere as u8 => Self::Elsewhere { anew: high },
            _ => Self::Stray { kind: input.byte(), index: u32::from(input.byte()) },
        })
    }
}

/// The number of something that there may be, taken modulo how many there are.
fn index(input: &mut Input<'_>) -> usize {
    usize::from(input.byte())
}
