//! The form of an input: one byte that names an action, then what it needs.

use crate::h3::{frame, line, section};
use crate::input::Input;

/// One step of an input.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// A packet as it stands, from the server's address or a stranger's.
    Raw { stranger: bool, bytes: &'a [u8] },
    /// The server's next packet, changed on the way.
    Change { what: Change, at: usize, value: u8 },
    /// Frames of the input's own in a genuine 1-RTT packet.
    Frames(&'a [u8]),
    /// Bytes on a stream: one of the client's, or a unidirectional one of the server's.
    Stream { uni: bool, index: usize, fin: bool, bytes: Vec<u8> },
    /// A response head of [`ANSWERS`].
    Answer { index: usize, choice: u8, fin: bool },
    /// An HTTP Datagram for a stream of the client; or, `raw`, the payload of a DATAGRAM frame as it stands.
    Datagram { raw: bool, index: usize, bytes: &'a [u8] },
    /// RESET_STREAM.
    Reset { index: usize, code: u32 },
    /// STOP_SENDING.
    Stop { index: usize, code: u32 },
    /// The server closes the connection.
    CloseServer { code: u32 },
    /// The server's keys are updated.
    UpdateKeys,
    /// The server's packets come from another address from now on, or from the right one again.
    Elsewhere { right: bool },
    /// Packets of the server are kept back from now on, or no longer.
    Hold(bool),
    /// Time goes by.
    Advance { milliseconds: u64 },
    /// The application connects once more.
    Connect,
    /// It asks for a tunnel.
    Ask { target: u8 },
    /// It sends datagrams.
    FromApplication { flow: usize, segment_size: usize, bytes: &'a [u8] },
    /// It ends a tunnel, in good order or not.
    End { index: usize, finish: bool },
    /// Its flow fails.
    FlowError { flow: usize },
    /// It gives an order about a connection.
    Order { what: u8 },
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
    Answer,
    Datagram,
    Reset,
    Stop,
    CloseServer,
    UpdateKeys,
    Elsewhere,
    Hold,
    Advance,
    Connect,
    Ask,
    FromApplication,
    End,
    FlowError,
    Order,
}

const OPS: u8 = Op::Order as u8 + 1;

/// Response heads that matter, so that a single byte makes one; sections spell out others.
pub(crate) const ANSWERS: &[&[(&str, &str)]] = &[
    &[(":status", "200"), ("capsule-protocol", "?1")],
    &[(":status", "200")],
    &[(":status", "204"), ("capsule-protocol", "?0")],
    &[(":status", "299"), ("proxy-status", "gateway.test")],
    &[(":status", "100")],
    &[(":status", "103"), ("link", "</>")],
    &[(":status", "101")],
    &[(":status", "403"), ("proxy-status", "gateway.test; error=destination_ip_prohibited")],
    &[(":status", "502"), ("proxy-status", "\"unfinished")],
    &[(":status", "302"), ("location", "https://gateway.test/")],
    &[(":status", "200"), ("content-length", "5")],
    &[(":status", "200"), ("transfer-encoding", "chunked")],
    &[(":status", "200"), (":status", "403")],
    &[(":status", "999")],
    &[(":status", "20")],
    &[("server", "no status")],
];

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
            op if op % OPS == Op::Raw as u8 => Self::Raw { stranger: high, bytes: input.sized() },
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
            op if op % OPS == Op::Answer as u8 => Self::Answer { index: index(input), choice: input.byte(), fin: high },
            op if op % OPS == Op::Datagram as u8 => {
                Self::Datagram { raw: high, index: index(input), bytes: input.sized() }
            }
            op if op % OPS == Op::Reset as u8 => Self::Reset { index: index(input), code: input.number() as u32 },
            op if op % OPS == Op::Stop as u8 => Self::Stop { index: index(input), code: input.number() as u32 },
            op if op % OPS == Op::CloseServer as u8 => Self::CloseServer { code: input.number() as u32 },
            op if op % OPS == Op::UpdateKeys as u8 => Self::UpdateKeys,
            op if op % OPS == Op::Elsewhere as u8 => Self::Elsewhere { right: high },
            op if op % OPS == Op::Hold as u8 => Self::Hold(high),
            op if op % OPS == Op::Advance as u8 => Self::Advance { milliseconds: input.number() % 300_000 },
            op if op % OPS == Op::Connect as u8 => Self::Connect,
            op if op % OPS == Op::Ask as u8 => Self::Ask { target: input.byte() },
            op if op % OPS == Op::FromApplication as u8 => {
                Self::FromApplication { flow: index(input), segment_size: input.length(), bytes: input.sized() }
            }
            op if op % OPS == Op::End as u8 => Self::End { index: index(input), finish: high },
            op if op % OPS == Op::FlowError as u8 => Self::FlowError { flow: index(input) },
            _ => Self::Order { what: input.byte() },
        })
    }
}

/// The number of something that there may be, taken modulo how many there are.
fn index(input: &mut Input<'_>) -> usize {
    usize::from(input.byte())
}
