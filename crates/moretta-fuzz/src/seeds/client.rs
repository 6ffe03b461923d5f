//! Lists of actions for a client's core, as servers and an application would make them.

use super::Seed;
use crate::client::Op;
use crate::h3::frame;
use crate::input::Script;

const HIGH: u8 = 0x80;
const SECOND: u8 = 0x40;

const INTEROP: u8 = 1;
const RETRY: u8 = 2;
const NO_DATAGRAMS_THERE: u8 = 4;
const NO_DATAGRAMS_HERE: u8 = 8;
const NO_CONTROL_STREAM: u8 = 16;
const NARROW: u8 = 32;
const FIRST_ADDRESS_IS_DEAD: u8 = 64;

/// Positions in `client::ANSWERS`.
const OK: u8 = 0;
const CONTINUE: u8 = 4;
const SWITCHING: u8 = 6;
const FORBIDDEN: u8 = 7;
const BAD_GATEWAY: u8 = 8;

const GOAWAY: u64 = 7;
const SETTINGS: u64 = 4;

/// Settings, then actions: words for what [`Script`] writes in numbers.
struct Steps(Script);

fn with(settings: u8) -> Steps {
    Steps(Script::default().byte(settings))
}

/// One tunnel, asked for and granted.
fn tunnel() -> Steps {
    with(0).ask().answer(0, OK)
}

impl Steps {
    fn act(self, op: Op, flags: u8) -> Self {
        Self(self.0.byte(op as u8 | flags))
    }

    fn byte(self, byte: u8) -> Self {
        Self(self.0.byte(byte))
    }

    fn number(self, number: u64) -> Self {
        Self(self.0.number(number))
    }

    fn sized(self, bytes: &[u8]) -> Self {
        Self(self.0.sized(bytes))
    }

    fn ask(self) -> Self {
        self.act(Op::Ask, 0).byte(0)
    }

    fn answer(self, request: u8, answer: u8) -> Self {
        self.act(Op::Answer, 0).byte(request).byte(answer)
    }

    /// From the server to the application.
    fn down(self, request: u8, payload: &[u8]) -> Self {
        self.act(Op::Datagram, 0).byte(request).sized(payload)
    }

    /// And back. `segment_size` 0: one datagram.
    fn up(self, flow: u8, segment_size: u8, payload: &[u8]) -> Self {
        self.act(Op::FromApplication, 0).byte(flow).byte(segment_size).sized(payload)
    }

    fn data(self, request: u8, payload: &[u8]) -> Self {
        self.act(Op::Frame, 0).byte(request).number(0).sized(payload)
    }

    fn stream(self, flags: u8, index: u8, bytes: &[u8]) -> Self {
        self.act(Op::Stream, flags).byte(index).sized(bytes)
    }

    fn control(self, kind: u64, payload: &[u8]) -> Self {
        self.stream(SECOND, 0, &frame(kind, payload))
    }

    fn quic(self, frames: &[u8]) -> Self {
        self.act(Op::Frames, 0).sized(frames)
    }

    fn change(self, what: u8, at: u8, value: u8) -> Self {
        self.act(Op::Change, 0).byte(what).byte(at).byte(value)
    }

    fn reset(self, request: u8) -> Self {
        self.act(Op::Reset, 0).byte(request).number(0x10c)
    }

    fn stop(self, request: u8) -> Self {
        self.act(Op::Stop, 0).byte(request).number(0x100)
    }

    fn wait(self, milliseconds: u64) -> Self {
        self.act(Op::Advance, 0).number(milliseconds)
    }

    fn finish(self, tunnel: u8) -> Self {
        self.act(Op::End, HIGH).byte(tunnel)
    }

    fn abandon(self, tunnel: u8) -> Self {
        self.act(Op::End, 0).byte(tunnel)
    }

    fn order(self, what: u8) -> Self {
        self.act(Op::Order, 0).byte(what)
    }
}

pub(crate) fn core_client() -> Vec<Seed> {
    let capsule = b"\0\x05\0ping";
    let scripts = vec![
        ("both-ways", tunnel().up(0, 0, b"ping").down(0, b"pong").up(0, 3, b"abcdefgh").down(0, b"")),
        ("datagram-before-the-answer", with(0).ask().down(0, b"early").answer(0, OK).down(0, b"later")),
        ("datagrams-of-streams-that-are-not", tunnel().down(1, b"x").down(200, b"x").down(0, b"x")),
        ("datagram-without-a-stream", tunnel().act(Op::Datagram, HIGH).byte(0).sized(b"")),
        ("datagram-of-a-stream-too-large", tunnel().act(Op::Datagram, HIGH).byte(0).sized(&[0xff; 8])),
        ("datagram-of-another-context", tunnel().act(Op::Datagram, HIGH).byte(0).sized(b"\0\x02x")),
        ("capsules", with(NO_DATAGRAMS_THERE).ask().answer(0, OK).up(0, 0, b"ping").data(0, capsule)),
        ("capsules-only-here", with(NO_DATAGRAMS_HERE).ask().answer(0, OK).up(0, 0, b"ping").data(0, capsule)),
        ("capsule-in-pieces", tunnel().data(0, &capsule[..3]).data(0, &capsule[3..]).up(0, 0, b"x")),
        ("capsules-under-narrow-credit", with(NARROW | NO_DATAGRAMS_THERE).ask().answer(0, OK).up(0, 100, &[7; 2000])),
        ("unknown-capsule-closes", tunnel().data(0, &[0x21, 1, 0])),
        ("unknown-capsule-is-skipped", with(INTEROP).ask().answer(0, OK).data(0, &[0x21, 1, 0]).data(0, capsule)),
        ("capsule-of-an-exbibyte", tunnel().data(0, &[0, 0xd0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("cut-in-a-capsule", tunnel().data(0, &capsule[..3]).stream(HIGH, 0, b"")),
        ("refused", with(0).ask().answer(0, FORBIDDEN).down(0, b"x")),
        ("refused-with-a-broken-field", with(0).ask().answer(0, BAD_GATEWAY)),
        ("interim-answers", with(0).ask().answer(0, CONTINUE).answer(0, CONTINUE + 1).answer(0, OK).down(0, b"x")),
        ("switching-protocols", with(0).ask().answer(0, SWITCHING)),
        ("answer-with-fin", with(0).ask().act(Op::Answer, HIGH).byte(0).byte(OK).down(0, b"x")),
        ("fin-instead-of-an-answer", with(0).ask().stream(HIGH, 0, b"")),
        ("two-answers", tunnel().answer(0, OK)),
        ("trailers", tunnel().answer(0, 15)),
        ("answers-in-the-wrong-order", with(0).ask().ask().ask().answer(2, OK).answer(0, FORBIDDEN).answer(1, OK)),
        ("answer-spelled-out", with(0).ask().act(Op::Section, 0).byte(0).byte(2).byte(13).byte(20)),
        ("no-answer", with(0).ask().wait(21_000)),
        ("answer-too-late", with(0).ask().wait(21_000).answer(0, OK)),
        ("reset", tunnel().up(0, 0, b"x").reset(0)),
        ("reset-instead-of-an-answer", with(0).ask().reset(0)),
        ("stop-then-answer", with(0).ask().stop(0).answer(0, FORBIDDEN)),
        ("stop", tunnel().stop(0).up(0, 0, b"x").down(0, b"x")),
        ("half-close", tunnel().stream(HIGH, 0, b"").up(0, 0, b"x")),
        ("finish", tunnel().up(0, 0, b"x").finish(0).down(0, b"late").stream(HIGH, 0, b"")),
        ("finish-and-never-hear-of-it", tunnel().finish(0).wait(60_000)),
        ("abandon", tunnel().up(0, 0, b"x").abandon(0).down(0, b"late")),
        ("abandon-before-the-answer", with(0).ask().abandon(0).answer(0, OK)),
        ("flow-fails", tunnel().act(Op::FlowError, 0).byte(0).down(0, b"x")),
        ("goaway", tunnel().ask().control(GOAWAY, &[4]).down(0, b"x").ask().finish(0).stream(HIGH, 0, b"")),
        ("goaway-for-all", tunnel().control(GOAWAY, &[0])),
        ("goaway-twice", tunnel().control(GOAWAY, &[0x40, 0x40]).control(GOAWAY, &[0x40, 0x44])),
        ("goaway-before-settings", with(NO_CONTROL_STREAM).ask().stream(SECOND, 0, &[0, 7, 1, 0])),
        ("settings-late", with(NO_CONTROL_STREAM).ask().wait(1000).stream(SECOND, 0, &[0, 4, 4, 8, 1, 0x33, 1])),
        ("settings-never", with(NO_CONTROL_STREAM).ask().wait(11_000)),
        ("settings-without-connect", with(NO_CONTROL_STREAM).ask().stream(SECOND, 0, &[0, 4, 2, 0x33, 1])),
        ("settings-without-datagrams", with(NO_CONTROL_STREAM).ask().stream(SECOND, 0, &[0, 4, 2, 8, 1]).answer(0, OK)),
        ("settings-with-a-small-limit", with(NO_CONTROL_STREAM).ask().stream(SECOND, 0, &[0, 4, 4, 8, 1, 6, 9])),
        ("settings-twice", tunnel().control(SETTINGS, &[8, 1])),
        ("datagrams-in-quic-only", with(NO_DATAGRAMS_THERE).ask().answer(0, OK).down(0, b"x")),
        ("control-stream-ends", tunnel().stream(SECOND | HIGH, 0, b"")),
        ("push-stream", tunnel().stream(SECOND, 1, &[1, 0, 1, 2])),
        (
            "unknown-streams",
            tunnel().stream(SECOND, 1, &[0x21, 1]).stream(SECOND, 2, &[0x21]).stream(SECOND, 3, &[0x3f]),
        ),
        ("qpack-streams", tunnel().stream(SECOND, 1, &[2, 0x3f, 0xe1, 0x1f]).stream(SECOND, 2, &[3, 0x80])),
        ("push-promise", with(0).ask().act(Op::Frame, 0).byte(0).number(5).sized(&[0, 0, 0])),
        ("server-closes", tunnel().ask().act(Op::CloseServer, 0).number(0x100)),
        ("server-closes-at-once", with(0).act(Op::CloseServer, 0).number(0).ask()),
        ("connect-again", tunnel().act(Op::CloseServer, 0).number(0x100).act(Op::Connect, 0).ask().answer(0, OK)),
        (
            "connect-again-with-a-token",
            tunnel()
                .quic(&[7, 8, 1, 2, 3, 4, 5, 6, 7, 8])
                .act(Op::CloseServer, 0)
                .number(0x100)
                .act(Op::Connect, 0)
                .ask()
                .answer(0, OK),
        ),
        ("two-gateways", tunnel().act(Op::Connect, 0).ask().answer(0, OK).up(1, 0, b"x").down(0, b"y")),
        ("retry", with(RETRY).ask().answer(0, OK).up(0, 0, b"x")),
        ("second-address", with(FIRST_ADDRESS_IS_DEAD).ask().answer(0, OK).up(0, 0, b"x")),
        ("narrow", with(NARROW).ask().ask().ask().answer(0, FORBIDDEN).reset(0).wait(100).answer(1, OK).up(0, 0, b"x")),
        (
            "server-moves",
            tunnel().act(Op::Elsewhere, 0).down(0, b"x").up(0, 0, b"x").act(Op::Elsewhere, HIGH).down(0, b"y"),
        ),
        ("server-falls-silent", tunnel().act(Op::Hold, HIGH).up(0, 0, b"x").wait(160_000)),
        ("client-moves", tunnel().order(2).up(0, 0, b"x").down(0, b"y").wait(100).order(5)),
        ("client-moves-before-it-is-there", with(0).act(Op::Connect, 0).order(2).ask().answer(0, OK)),
        ("link-fails", tunnel().order(5)),
        ("ping", tunnel().order(0).wait(100)),
        ("close", tunnel().ask().order(1)),
        ("drain", tunnel().ask().order(9).ask().wait(4000).wait(10_000)),
        ("close-all", tunnel().order(4).ask()),
        ("connect-after-the-end", with(0).order(4).act(Op::Connect, 0).ask()),
        ("connect-while-draining", tunnel().order(9).act(Op::Connect, 0).ask().wait(10_000)),
        ("idle", tunnel().up(0, 0, b"x").wait(29_000).up(0, 0, b"x").wait(31_000)),
        ("idle-connection", with(0).wait(140_000).wait(140_000)),
        ("flood-from-application", tunnel().act(Op::Hold, HIGH).up(0, 100, &[7; 2000]).up(0, 100, &[7; 2000])),
        ("too-large-from-application", tunnel().up(0, 0, &[7; 2000]).up(0, 0, &[7; 1300])),
        ("keys-are-updated", tunnel().act(Op::UpdateKeys, 0).down(0, b"x").up(0, 0, b"x").act(Op::UpdateKeys, 0)),
        (
            "raw-packets",
            tunnel().act(Op::Raw, 0).sized(&[0x40; 60]).act(Op::Raw, HIGH).sized(&[0xc0, 0, 0, 0, 1, 0, 0]),
        ),
        (
            "version-negotiation",
            with(0).act(Op::Connect, 0).act(Op::Raw, 0).sized(&[0x80, 0, 0, 0, 0, 0, 0, 0x1a, 0x2a, 0x3a, 0x4a]),
        ),
        ("packet-flipped", tunnel().down(0, b"x").change(0, 20, 1).down(0, b"y").change(0, 0, 0x40).wait(500)),
        ("packet-cut", tunnel().down(0, b"x").change(1, 12, 0).down(0, b"y").change(1, 0, 0)),
        ("packet-lost-and-again", tunnel().down(0, b"x").change(3, 0, 0).wait(500).down(0, b"y").change(4, 0, 0)),
        ("frames-ack-of-the-future", tunnel().quic(&[2, 0x80, 1, 0, 0, 0, 0, 0])),
        ("frames-reset-stream", tunnel().quic(&[4, 0, 0x41, 0x0c, 0x40, 0x80])),
        ("frames-stop-sending", tunnel().quic(&[5, 0, 0x41, 0x0c]).quic(&[5, 2, 0]).quic(&[5, 3, 0])),
        ("frames-crypto", tunnel().quic(&[6, 0, 4, 1, 2, 3, 4]).quic(&[6, 0xbf, 0xff, 0xff, 0xff, 1, 0])),
        ("frames-empty-token", tunnel().quic(&[7, 0])),
        ("frames-stream-with-gap", tunnel().quic(&[0x0e, 0, 0x80, 0, 0x10, 0, 1, 0])),
        ("frames-stream-of-nobody", tunnel().quic(&[0x0a, 8, 1, 0]).quic(&[0x0a, 1, 1, 0])),
        ("frames-final-size-shrinks", tunnel().quic(&[0x0b, 0, 0, 4, 0, 0, 0])),
        ("frames-flow-control", tunnel().quic(&[0x10, 0]).quic(&[0x11, 0, 0]).quic(&[0x12, 0xd0, 0, 0, 0, 0, 0, 0, 1])),
        (
            "frames-connection-ids",
            tunnel()
                .quic(&[&[0x18, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..], &[9; 16]].concat())
                .quic(&[&[0x18, 2, 2, 8, 1, 2, 3, 4, 5, 6, 7, 9][..], &[8; 16]].concat())
                .quic(&[0x19, 0]),
        ),
        ("frames-path", tunnel().quic(&[0x1a, 1, 2, 3, 4, 5, 6, 7, 8]).quic(&[0x1b, 1, 2, 3, 4, 5, 6, 7, 8])),
        ("frames-close", tunnel().quic(&[0x1c, 0, 0, 2, b'h', b'i']).up(0, 0, b"x")),
        ("frames-close-in-bad-utf8", tunnel().quic(&[0x1d, 0x41, 0, 2, 0xff, 0xfe]).wait(10_000)),
        ("frames-handshake-done", tunnel().quic(&[0x1e])),
        ("frames-datagrams", tunnel().quic(&[0x31, 3, 0, 0, b'a', 0x31, 2, 0, 0, 0x31, 0, 0x30, 0, 0, b'b'])),
        ("frames-unknown", tunnel().quic(&[0x40, 0x52, 1, 2, 3])),
    ];
    scripts.into_iter().map(|(name, steps)| Seed::new(name, steps.0.0)).collect()
}
