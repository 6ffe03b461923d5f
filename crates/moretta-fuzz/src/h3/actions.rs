//! The form of an input: one byte that names an action, then what it needs.

use moretta_wire::head::{Fields, RequestHead, ResponseHead};
use moretta_wire::varint;

use crate::input::Input;

/// One step of an input.
#[derive(Debug)]
pub(super) enum Action<'a> {
    /// Bytes on a stream, as they are.
    Stream { stream_id: u64, fin: bool, bytes: Vec<u8> },
    /// RESET_STREAM of the peer.
    Reset { stream_id: u64, code: u64 },
    /// STOP_SENDING of the peer.
    Stop { stream_id: u64, code: u64 },
    /// A datagram's payload for a request stream.
    Datagram { stream_id: u64, payload: &'a [u8] },
    /// A datagram without a Quarter Stream ID.
    BadDatagram,
    /// Time goes by.
    Advance { milliseconds: u64 },
    /// Server: answer. Client: a new request.
    Head { stream_id: u64, choice: u8, fin: bool },
    /// Content of ours.
    Data { stream_id: u64, bytes: &'a [u8], fin: bool },
    /// Trailers of ours.
    Trailers { stream_id: u64 },
    /// The application resets.
    ResetOurs { stream_id: u64, code: u64 },
    /// GOAWAY of ours.
    GoAway { id: u64 },
    /// What the application decides about datagrams: enable, refuse, take those held.
    Datagrams { stream_id: u64, choice: u8 },
    /// The transport takes this many bytes, then blocks the stream that it stands at.
    Write { bytes: u64 },
    /// The transport takes everything again.
    Unblock,
}

/// The bytes that name actions; also what the seeds are made of.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Op {
    Stream,
    Frame,
    Section,
    Reset,
    Stop,
    Datagram,
    BadDatagram,
    Advance,
    Head,
    Data,
    Trailers,
    ResetOurs,
    GoAway,
    Datagrams,
    Write,
    Unblock,
}

impl<'a> Action<'a> {
    /// The next action; `None` at the end of the input. Any bytes are some actions.
    pub(super) fn read(input: &mut Input<'a>) -> Option<Self> {
        if input.is_empty() {
            return None;
        }
        let op = input.byte();
        // The high bit ends a stream with whatever the action puts on it.
        let fin = op & 0x80 != 0;
        Some(match op & 0x0f {
            0 => Self::Stream { stream_id: stream_id(input), fin, bytes: input.sized().to_vec() },
            1 => {
                let stream_id = stream_id(input);
                let (frame_type, payload) = (input.number(), input.sized());
                Self::Stream { stream_id, fin, bytes: frame(frame_type, payload) }
            }
            2 => {
                let stream_id = stream_id(input);
                let lines = usize::from(input.byte() % 16);
                let section = section((0..lines).map(|_| line(input)));
                Self::Stream { stream_id, fin, bytes: frame(0x01, &section) }
            }
            3 => Self::Reset { stream_id: stream_id(input), code: input.number() },
            4 => Self::Stop { stream_id: stream_id(input), code: input.number() },
            5 => Self::Datagram { stream_id: stream_id(input), payload: input.sized() },
            6 => Self::BadDatagram,
            7 => Self::Advance { milliseconds: input.number() % 120_000 },
            8 => Self::Head { stream_id: stream_id(input), choice: input.byte(), fin },
            9 => Self::Data { stream_id: stream_id(input), bytes: input.sized(), fin },
            10 => Self::Trailers { stream_id: stream_id(input) },
            11 => Self::ResetOurs { stream_id: stream_id(input), code: input.number() },
            12 => Self::GoAway { id: input.number() },
            13 => Self::Datagrams { stream_id: stream_id(input), choice: input.byte() },
            14 => Self::Write { bytes: input.number() },
            _ => Self::Unblock,
        })
    }
}

/// Ids up to 254 as they are: streams that a short connection has.
fn stream_id(input: &mut Input<'_>) -> u64 {
    input.number() & varint::MAX
}

pub(crate) fn frame(frame_type: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(frame_type & varint::MAX, &mut out);
    varint::encode(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// Lines that matter, so that a single byte makes one; others are spelled out.
pub(crate) const LINES: &[(&str, &str)] = &[
    (":method", "GET"),
    (":method", "HEAD"),
    (":method", "POST"),
    (":method", "CONNECT"),
    (":scheme", "https"),
    (":scheme", "http"),
    (":authority", "proxy.example"),
    (":authority", "a.example:443"),
    (":path", "/"),
    (":path", "/.well-known/masque/udp/192.0.2.6/443/"),
    (":path", "*"),
    (":protocol", "connect-udp"),
    (":protocol", "connect-ip"),
    (":status", "200"),
    (":status", "204"),
    (":status", "304"),
    (":status", "100"),
    (":status", "103"),
    (":status", "101"),
    (":status", "403"),
    ("capsule-protocol", "?1"),
    ("content-length", "0"),
    ("content-length", "5"),
    ("content-length", "300"),
    ("host", "proxy.example"),
    ("host", "other.example"),
    ("te", "trailers"),
    ("te", "gzip"),
    ("connection", "close"),
    ("transfer-encoding", "chunked"),
    ("cookie", "a=b"),
    ("x", "y"),
    ("X", "y"),
    (":unknown", "1"),
    (":path", ""),
    ("", ""),
];

/// A field line: a number of [`LINES`], or 0xfe and a line spelled out.
pub(crate) fn line<'a>(input: &mut Input<'a>) -> (&'a [u8], &'a [u8]) {
    match input.byte() {
        0xfe => (input.sized(), input.sized()),
        index => {
            let (name, value) = LINES[usize::from(index) % LINES.len()];
            (name.as_bytes(), value.as_bytes())
        }
    }
}

/// A field section of literals without Huffman (RFC 9204 §4.5.6): nothing is corrected on the way.
pub(crate) fn section<'a>(lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        prefixed(name.len(), 3, 0x20, &mut out);
        out.extend_from_slice(name);
        prefixed(value.len(), 7, 0, &mut out);
        out.extend_from_slice(value);
    }
    out
}

/// RFC 7541 §5.1.
fn prefixed(value: usize, bits: u32, flags: u8, out: &mut Vec<u8>) {
    let full = (1 << bits) - 1;
    if value < full {
        out.push(flags | value as u8);
        return;
    }
    out.push(flags | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// A request that a client may send.
pub(super) fn request(choice: u8) -> RequestHead {
    let (method, protocol) = match choice % 5 {
        0 => ("CONNECT", Some("connect-udp")),
        1 => ("GET", None),
        2 => ("HEAD", None),
        3 => ("POST", None),
        _ => ("CONNECT", None),
    };
    let is_classic_connect = method == "CONNECT" && protocol.is_none();
    let mut fields = Fields::new();
    if choice >= 0x80 {
        fields.push("x", vec![b'y'; 600]);
    }
    RequestHead {
        method: method.into(),
        scheme: (!is_classic_connect).then(|| "https".into()),
        authority: Some("proxy.example".into()),
        path: (!is_classic_connect).then(|| "/.well-known/masque/udp/192.0.2.6/443/".into()),
        protocol: protocol.map(Into::into),
        fields,
    }
}

/// A response that a server may send.
pub(super) fn response(choice: u8) -> ResponseHead {
    let mut head = ResponseHead::new([200, 204, 304, 100, 103, 403, 404, 503][usize::from(choice % 8)]);
    if choice & 0x40 != 0 {
        head.fields.push("capsule-protocol", "?1");
    }
    if choice & 0x80 != 0 {
        head.fields.push("content-length", "5");
    }
    head
}
