//! Lists of actions for HTTP/3, as a peer and an application would make them.

use moretta_wire::varint;

use super::Seed;
use crate::h3::{LINES, Op};
use crate::input::Script;

const FIN: u8 = 0x80;
const CONTROL: u64 = 0x00;
const SETTINGS: u64 = 0x04;
const HEADERS: u64 = 0x01;
const DATA: u64 = 0x00;

/// Words for what [`Script`] writes in numbers.
impl Script {
    fn op(self, op: Op) -> Self {
        self.byte(op as u8)
    }

    fn stream(self, stream_id: u64, bytes: &[u8]) -> Self {
        self.op(Op::Stream).number(stream_id).sized(bytes)
    }

    fn frame(self, stream_id: u64, frame_type: u64, payload: &[u8]) -> Self {
        self.op(Op::Frame).number(stream_id).number(frame_type).sized(payload)
    }

    fn ends_with_frame(self, stream_id: u64, frame_type: u64, payload: &[u8]) -> Self {
        self.byte(Op::Frame as u8 | FIN).number(stream_id).number(frame_type).sized(payload)
    }

    fn fin(self, stream_id: u64) -> Self {
        self.byte(Op::Stream as u8 | FIN).number(stream_id).sized(&[])
    }

    fn headers(self, stream_id: u64, fin: bool, lines: &[(&str, &str)]) -> Self {
        let op = Op::Section as u8 | if fin { FIN } else { 0 };
        let mut script = self.byte(op).number(stream_id).byte(u8::try_from(lines.len()).unwrap());
        for line in lines {
            script = match LINES.iter().position(|known| known == line) {
                Some(index) => script.byte(u8::try_from(index).unwrap()),
                None => script.byte(0xfe).sized(line.0.as_bytes()).sized(line.1.as_bytes()),
            };
        }
        script
    }

    /// The control stream with SETTINGS of these pairs.
    fn settings(self, stream_id: u64, pairs: &[(u64, u64)]) -> Self {
        let payload: Vec<u8> = pairs.iter().flat_map(|(id, value)| [encoded(*id), encoded(*value)].concat()).collect();
        self.stream(stream_id, &encoded(CONTROL)).frame(stream_id, SETTINGS, &payload)
    }

    fn reset(self, stream_id: u64, code: u64) -> Self {
        self.op(Op::Reset).number(stream_id).number(code)
    }

    fn stop(self, stream_id: u64, code: u64) -> Self {
        self.op(Op::Stop).number(stream_id).number(code)
    }

    fn datagram(self, stream_id: u64, payload: &[u8]) -> Self {
        self.op(Op::Datagram).number(stream_id).sized(payload)
    }

    /// Server: an answer; client: a request.
    fn head(self, stream_id: u64, choice: u8) -> Self {
        self.op(Op::Head).number(stream_id).byte(choice)
    }

    fn data(self, stream_id: u64, bytes: &[u8]) -> Self {
        self.op(Op::Data).number(stream_id).sized(bytes)
    }

    fn trailers(self, stream_id: u64) -> Self {
        self.op(Op::Trailers).number(stream_id)
    }

    fn enable_datagrams(self, stream_id: u64) -> Self {
        self.op(Op::Datagrams).number(stream_id).byte(0)
    }

    fn advance(self, milliseconds: u64) -> Self {
        self.op(Op::Advance).number(milliseconds)
    }
}

fn encoded(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint::encode(value, &mut out);
    out
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "proxy.example"), (":path", "/")];
const POST: [(&str, &str); 5] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "proxy.example"),
    (":path", "/"),
    ("content-length", "5"),
];
const CONNECT_UDP: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "connect-udp"),
    (":scheme", "https"),
    (":authority", "proxy.example"),
    (":path", "/.well-known/masque/udp/192.0.2.6/443/"),
    ("capsule-protocol", "?1"),
];

/// The client's control stream.
const CLIENT_CONTROL: u64 = 2;
/// The server's.
const SERVER_CONTROL: u64 = 3;

fn begin(control: u64, pairs: &[(u64, u64)]) -> Script {
    Script::default().settings(control, pairs)
}

/// A client that allows datagrams has said so.
fn client_speaks() -> Script {
    begin(CLIENT_CONTROL, &[(0x33, 1)])
}

/// A gateway has said what it is.
fn server_speaks() -> Script {
    begin(SERVER_CONTROL, &[(0x08, 1), (0x33, 1)])
}

fn seeds(scripts: Vec<(&str, Script)>) -> Vec<Seed> {
    scripts.into_iter().map(|(name, script)| Seed::new(name, script.0)).collect()
}

pub(crate) fn h3_server() -> Vec<Seed> {
    let long_line = "v".repeat(500);
    let tunnel = || client_speaks().headers(0, false, &CONNECT_UDP).enable_datagrams(0).head(0, 0x40);
    let mut rapid_reset = client_speaks();
    let mut gaps = client_speaks();
    let mut too_many = client_speaks();
    for index in 0..9 {
        rapid_reset = rapid_reset.headers(index * 4, false, &GET).reset(index * 4, 0x10c);
        gaps = gaps.headers((8 - index) * 8, true, &GET);
        too_many = too_many.headers(index * 4, false, &CONNECT_UDP);
    }
    seeds(vec![
        ("get-answered", client_speaks().headers(0, true, &GET).head(0, 0).data(0, b"hello").trailers(0)),
        ("post-with-body", client_speaks().headers(0, false, &POST).ends_with_frame(0, DATA, b"hello").head(0, 0x80)),
        ("post-too-short", client_speaks().headers(0, false, &POST).ends_with_frame(0, DATA, b"hell")),
        ("post-too-long", client_speaks().headers(0, false, &POST).frame(0, DATA, b"hello!")),
        (
            "post-with-trailers",
            client_speaks().headers(0, false, &POST).frame(0, DATA, b"hello").headers(0, true, &[("x", "y")]),
        ),
        ("pseudo-in-trailers", client_speaks().headers(0, false, &GET).headers(0, true, &[(":path", "/")])),
        (
            "tunnel",
            tunnel().datagram(0, b"\0ping").frame(0, DATA, b"\0\x03\0hi").data(0, b"\0\x03\0ho").fin(0).head(0, 0),
        ),
        ("tunnel-reset", tunnel().datagram(0, b"\0ping").reset(0, 0x10c).op(Op::ResetOurs).number(0).number(0x10c)),
        ("tunnel-stopped", tunnel().stop(0, 0x10c).datagram(0, b"\0ping").fin(0)),
        ("tunnel-headers-after-2xx", tunnel().headers(0, false, &[("x", "y")])),
        (
            "tunnel-refused",
            client_speaks().headers(0, false, &CONNECT_UDP).datagram(0, b"\0a").head(0, 5).datagram(0, b"\0b"),
        ),
        (
            "early-datagrams",
            client_speaks()
                .datagram(0, b"\0a")
                .datagram(4, b"\0b")
                .headers(0, false, &CONNECT_UDP)
                .op(Op::Datagrams)
                .number(0)
                .byte(2)
                .enable_datagrams(0)
                .datagram(0, b"\0c")
                .advance(2000),
        ),
        (
            "early-datagrams-refused",
            client_speaks().datagram(0, b"\0a").headers(0, false, &CONNECT_UDP).op(Op::Datagrams).number(0).byte(1),
        ),
        (
            "early-datagrams-too-many",
            client_speaks().datagram(0, &[0; 200]).datagram(0, &[0; 200]).datagram(0, &[0; 200]).reset(0, 0),
        ),
        (
            "datagram-before-settings",
            Script::default().datagram(0, b"\0a").settings(CLIENT_CONTROL, &[]).datagram(0, b"\0b"),
        ),
        ("datagram-for-a-get", client_speaks().headers(0, false, &GET).datagram(0, b"\0a")),
        ("datagram-out-of-reach", client_speaks().datagram(varint::MAX - 3, b"\0a").datagram(0xfffc, b"\0b")),
        ("bad-datagram", client_speaks().headers(0, false, &CONNECT_UDP).op(Op::BadDatagram)),
        (
            "classic-connect",
            client_speaks()
                .headers(0, false, &[(":method", "CONNECT"), (":authority", "a.example:443")])
                .head(0, 0)
                .frame(0, DATA, b"x"),
        ),
        (
            "head-request",
            client_speaks().headers(0, true, &[(":method", "HEAD"), GET[1], GET[2], GET[3]]).head(0, 0).data(0, b"no"),
        ),
        ("interim-responses", client_speaks().headers(0, true, &GET).head(0, 3).head(0, 4).head(0, 0)),
        ("settings-twice", client_speaks().frame(CLIENT_CONTROL, SETTINGS, &[])),
        ("settings-repeated-id", begin(CLIENT_CONTROL, &[(0x33, 1), (0x33, 1)])),
        ("settings-of-http2", begin(CLIENT_CONTROL, &[(0x02, 1)])),
        ("settings-not-boolean", begin(CLIENT_CONTROL, &[(0x33, 2)])),
        (
            "settings-grease",
            begin(CLIENT_CONTROL, &[(0x21, 0), (0x40 + 0x21, varint::MAX), (0x06, 64)])
                .headers(0, true, &GET)
                .head(0, 0xc0),
        ),
        ("settings-missing", Script::default().stream(CLIENT_CONTROL, &[0]).frame(CLIENT_CONTROL, 0x07, &[0])),
        ("settings-too-long", Script::default().stream(CLIENT_CONTROL, &[0, 4, 0x60, 0])),
        ("control-closed", client_speaks().fin(CLIENT_CONTROL)),
        ("control-reset", client_speaks().reset(CLIENT_CONTROL, 0x100)),
        ("control-twice", client_speaks().stream(6, &[0])),
        ("our-control-stopped", client_speaks().stop(3, 0x100)),
        ("qpack-streams", client_speaks().stream(6, &[2]).stream(10, &[3]).headers(0, true, &GET).stream(6, &[0x20])),
        ("qpack-encoder-inserts", client_speaks().stream(6, &[2, 0x3f, 0x45]).stream(6, &[0xc0, 1, b'x'])),
        ("qpack-decoder-lies", client_speaks().stream(10, &[3, 0x80])),
        ("qpack-dynamic", client_speaks().frame(0, HEADERS, &[2, 0, 0x80])),
        (
            "qpack-static-huffman",
            client_speaks().frame(
                0,
                HEADERS,
                &[0, 0, 0xd1, 0xd7, 0x50, 0x86, 0xa0, 0xe4, 0x1d, 0x13, 0x9d, 0x09, 0xc1],
            ),
        ),
        ("qpack-cut", client_speaks().ends_with_frame(0, HEADERS, &[0, 0, 0x27])),
        ("push-stream", client_speaks().stream(6, &[1, 0])),
        (
            "unknown-uni-streams",
            client_speaks().stream(6, &[0x21, 1, 2]).stream(6, &[3]).stream(10, &[0x40, 0x52]).reset(14, 0),
        ),
        ("goaway-of-client", client_speaks().frame(CLIENT_CONTROL, 0x07, &[8]).frame(CLIENT_CONTROL, 0x07, &[9])),
        ("max-push-id", client_speaks().frame(CLIENT_CONTROL, 0x0d, &[8]).frame(CLIENT_CONTROL, 0x0d, &[7])),
        ("cancel-push", client_speaks().frame(CLIENT_CONTROL, 0x03, &[0])),
        (
            "goaway-of-ours",
            client_speaks()
                .headers(0, true, &GET)
                .op(Op::GoAway)
                .number(4)
                .headers(4, true, &GET)
                .datagram(8, b"\0a")
                .head(0, 0),
        ),
        ("frames-of-http2", client_speaks().frame(0, 0x06, &[0; 8])),
        ("frames-in-wrong-places", client_speaks().frame(0, DATA, b"x")),
        ("settings-on-request", client_speaks().headers(0, false, &GET).frame(0, SETTINGS, &[])),
        (
            "unknown-frames",
            client_speaks()
                .frame(0, 0x21, b"grease")
                .headers(0, false, &GET)
                .frame(0, 0x40, &[0; 80])
                .frame(0, 0x21, &[])
                .fin(0),
        ),
        (
            "unknown-frame-flood",
            client_speaks()
                .headers(0, false, &GET)
                .frame(0, 0x21, &[0; 300])
                .advance(60_000)
                .frame(0, 0x21, &[0; 250])
                .frame(0, 0x21, &[0; 250]),
        ),
        ("empty-data-flood", client_speaks().headers(0, false, &GET).stream(0, &[0; 80])),
        ("frame-cut-by-fin", client_speaks().byte(Op::Stream as u8 | FIN).number(0).sized(&[1, 40, 0, 0])),
        ("frame-of-2-to-the-62", client_speaks().stream(0, &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
        (
            "headers-too-large",
            client_speaks().headers(0, true, &[GET[0], GET[1], GET[2], GET[3], ("x", &long_line)]).fin(0),
        ),
        (
            "headers-many-lines",
            client_speaks().headers(
                0,
                true,
                &[
                    GET[0],
                    GET[1],
                    GET[2],
                    GET[3],
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                    ("x", "y"),
                ],
            ),
        ),
        (
            "content-length-too-large",
            client_speaks()
                .headers(0, false, &[POST[0], POST[1], POST[2], POST[3], ("content-length", "300")])
                .frame(0, DATA, &[0; 100]),
        ),
        (
            "malformed-heads",
            client_speaks()
                .headers(0, false, &[GET[0]])
                .headers(4, false, &[("x", "y"), GET[0]])
                .headers(8, false, &[GET[0], GET[0]])
                .headers(12, false, &[("X", "y")]),
        ),
        (
            "malformed-values",
            client_speaks()
                .headers(0, false, &[GET[0], GET[1], GET[2], GET[3], ("x", "a\nb")])
                .headers(4, false, &[GET[0], GET[1], GET[2], GET[3], ("connection", "close")])
                .headers(8, false, &[GET[0], GET[1], GET[2], GET[3], ("te", "gzip")]),
        ),
        (
            "host-differs",
            client_speaks().headers(0, true, &[GET[0], GET[1], GET[2], GET[3], ("host", "other.example")]).headers(
                4,
                true,
                &[GET[0], GET[1], GET[3], ("host", "proxy.example")],
            ),
        ),
        (
            "protocol-on-get",
            client_speaks().headers(0, true, &[GET[0], GET[1], GET[2], GET[3], (":protocol", "connect-udp")]),
        ),
        ("rapid-reset", rapid_reset),
        ("streams-in-reverse", gaps),
        ("too-many-requests", too_many),
        ("stopped-before-answer", client_speaks().headers(0, true, &GET).stop(0, 0x10c).stop(4, 0x10c).reset(8, 0x10c)),
        ("server-bidi-streams", client_speaks().stream(1, b"x").stop(1, 0).reset(1, 0)),
        (
            "blocked-writes",
            client_speaks()
                .op(Op::Write)
                .number(20)
                .headers(0, true, &GET)
                .head(0, 0)
                .data(0, &[7; 100])
                .byte(Op::Data as u8 | FIN)
                .number(0)
                .sized(&[8; 10])
                .op(Op::Unblock),
        ),
        (
            "bytes-after-fin",
            client_speaks().headers(0, true, &GET).stream(0, b"late").reset(0, 0).stop(0, 0).stop(0, 0),
        ),
    ])
}

pub(crate) fn h3_client() -> Vec<Seed> {
    const OK: (&str, &str) = (":status", "200");
    let long_line = "v".repeat(500);
    let get = || server_speaks().byte(Op::Head as u8 | FIN).number(0).byte(1);
    let tunnel = || server_speaks().head(0, 0).enable_datagrams(0).headers(0, false, &[OK, ("capsule-protocol", "?1")]);
    seeds(vec![
        ("get-answered", get().headers(0, false, &[OK, ("content-length", "5")]).ends_with_frame(0, DATA, b"hello")),
        ("get-too-short", get().headers(0, false, &[OK, ("content-length", "5")]).ends_with_frame(0, DATA, b"hell")),
        ("get-too-long", get().headers(0, false, &[OK, ("content-length", "5")]).frame(0, DATA, b"hello!")),
        ("get-with-trailers", get().headers(0, false, &[OK]).frame(0, DATA, b"hello").headers(0, true, &[("x", "y")])),
        ("post", server_speaks().head(0, 3).data(0, b"hello").trailers(0).headers(0, true, &[(":status", "204")])),
        (
            "interim-responses",
            get().headers(0, false, &[(":status", "103")]).headers(0, false, &[(":status", "100")]).headers(
                0,
                true,
                &[OK],
            ),
        ),
        ("interim-then-end", get().headers(0, true, &[(":status", "103")])),
        ("status-101", get().headers(0, true, &[(":status", "101")])),
        ("no-response", get().fin(0)),
        (
            "head-with-content",
            server_speaks()
                .byte(Op::Head as u8 | FIN)
                .number(0)
                .byte(2)
                .headers(0, false, &[OK, ("content-length", "5")])
                .frame(0, DATA, b"hello"),
        ),
        (
            "not-modified-with-content",
            get().headers(0, false, &[(":status", "304"), ("content-length", "5")]).frame(0, DATA, b"hello"),
        ),
        (
            "tunnel",
            tunnel()
                .datagram(0, b"\0ping")
                .frame(0, DATA, b"\0\x03\0hi")
                .data(0, b"\0\x03\0ho")
                .fin(0)
                .byte(Op::Data as u8 | FIN)
                .number(0)
                .sized(&[]),
        ),
        (
            "tunnel-datagram-first",
            server_speaks().head(0, 0).enable_datagrams(0).datagram(0, b"\0ping").headers(0, false, &[OK]),
        ),
        (
            "tunnel-refused",
            server_speaks()
                .head(0, 0)
                .enable_datagrams(0)
                .headers(0, true, &[(":status", "403")])
                .datagram(0, b"\0ping"),
        ),
        ("tunnel-reset", tunnel().reset(0, 0x10f).datagram(0, b"\0a").op(Op::ResetOurs).number(0).number(0x10c)),
        ("tunnel-stopped", tunnel().stop(0, 0x100).data(0, b"x").fin(0)),
        ("tunnel-headers-after-2xx", tunnel().headers(0, false, &[("x", "y")])),
        (
            "tunnel-before-settings",
            Script::default().head(0, 0).settings(SERVER_CONTROL, &[(0x08, 1), (0x33, 1)]).head(0, 0),
        ),
        ("classic-connect", server_speaks().head(0, 4).headers(0, false, &[OK]).frame(0, DATA, b"x")),
        ("datagram-not-asked-for", server_speaks().datagram(0, b"\0a").datagram(8, b"\0b")),
        ("datagram-for-a-get", get().datagram(0, b"\0a")),
        ("bad-datagram", tunnel().op(Op::BadDatagram)),
        ("no-datagrams-here", begin(SERVER_CONTROL, &[(0x08, 1)]).head(0, 0).enable_datagrams(0).datagram(0, b"\0a")),
        ("small-field-sections", begin(SERVER_CONTROL, &[(0x06, 600)]).head(0, 0x81).head(4, 1)),
        ("goaway", get().frame(SERVER_CONTROL, 0x07, &[4]).head(4, 1).frame(SERVER_CONTROL, 0x07, &[0])),
        ("goaway-grows", get().frame(SERVER_CONTROL, 0x07, &[4]).frame(SERVER_CONTROL, 0x07, &[8])),
        ("goaway-wrong-kind", get().frame(SERVER_CONTROL, 0x07, &[5])),
        ("goaway-of-ours", get().op(Op::GoAway).number(3).op(Op::GoAway).number(4)),
        ("push-promise", get().frame(0, 0x05, &[0, 0, 0])),
        ("push-stream", server_speaks().stream(7, &[1, 0])),
        ("cancel-push", server_speaks().frame(SERVER_CONTROL, 0x03, &[0])),
        ("max-push-id-from-server", server_speaks().frame(SERVER_CONTROL, 0x0d, &[0])),
        ("server-bidi-stream", server_speaks().stream(1, b"x")),
        ("server-bidi-reset", server_speaks().reset(5, 0)),
        ("settings-twice", server_speaks().frame(SERVER_CONTROL, SETTINGS, &[])),
        ("settings-not-boolean", begin(SERVER_CONTROL, &[(0x08, 2)])),
        ("control-closed", server_speaks().fin(SERVER_CONTROL)),
        ("our-control-stopped", server_speaks().stop(2, 0x100)),
        ("qpack-streams", server_speaks().stream(7, &[2]).stream(11, &[3]).stream(7, &[0x20]).stream(11, &[0x80])),
        ("qpack-dynamic", get().frame(0, HEADERS, &[2, 0, 0x80])),
        ("response-too-large", get().headers(0, true, &[OK, ("x", &long_line)])),
        (
            "malformed-responses",
            get().head(4, 1).head(8, 1).headers(0, true, &[("x", "y")]).headers(4, true, &[OK, GET[3]]).headers(
                8,
                true,
                &[OK, OK],
            ),
        ),
        ("unknown-frames", get().frame(0, 0x21, b"grease").headers(0, false, &[OK]).frame(0, 0x40, &[]).fin(0)),
        ("unknown-uni-streams", server_speaks().stream(7, &[0x21, 1, 2]).stream(7, &[3])),
        ("response-to-nothing", server_speaks().headers(0, true, &[OK]).head(0, 1)),
        (
            "requests-out-of-order",
            server_speaks().head(8, 1).head(0, 1).head(0, 1).headers(0, true, &[OK]).headers(8, true, &[OK]),
        ),
        (
            "blocked-writes",
            server_speaks().op(Op::Write).number(10).head(0, 3).data(0, &[7; 100]).op(Op::Unblock).headers(
                0,
                true,
                &[OK],
            ),
        ),
    ])
}
