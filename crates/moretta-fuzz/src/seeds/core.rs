//! Lists of actions for a gateway's core, as clients, targets and a shell would make them.

use super::Seed;
use crate::core::Op;
use crate::h3::LINES;
use crate::input::Script;

const HIGH: u8 = 0x80;
const SECOND: u8 = 0x40;

/// Settings, then actions.
fn hardened() -> Script {
    Script::default().byte(0)
}

fn interop() -> Script {
    Script::default().byte(1)
}

/// Words for what [`Script`] writes in numbers.
impl Script {
    fn act(self, op: Op) -> Self {
        self.byte(op as u8)
    }

    fn act_high(self, op: Op) -> Self {
        self.byte(op as u8 | HIGH)
    }

    fn ask(self, target: u8) -> Self {
        self.act(Op::Ask).byte(target)
    }

    fn up(self, request: u8, payload: &[u8]) -> Self {
        self.act(Op::Datagram).byte(request).sized(payload)
    }

    /// `segment_size` 0: one datagram.
    fn down(self, flow: u8, segment_size: u8, payload: &[u8]) -> Self {
        self.act(Op::FromTarget).byte(flow).byte(segment_size).sized(payload)
    }

    fn wait(self, milliseconds: u64) -> Self {
        self.act(Op::Advance).number(milliseconds)
    }

    fn quic(self, frames: &[u8]) -> Self {
        self.act(Op::Frames).sized(frames)
    }

    fn data_frame(self, request: u8, payload: &[u8]) -> Self {
        self.act(Op::Frame).byte(request).number(0).sized(payload)
    }

    fn change(self, what: u8, at: u8, value: u8) -> Self {
        self.act(Op::Change).byte(what).byte(at).byte(value)
    }

    fn answer(self, answer: u8) -> Self {
        self.act(Op::Answer).byte(answer)
    }

    fn order(self, what: u8) -> Self {
        self.act(Op::Order).byte(what)
    }

    fn raw(self, flags: u8, packet: &[u8]) -> Self {
        self.byte(Op::Raw as u8 | flags).byte(0).sized(packet)
    }

    fn get(self, request: u8) -> Self {
        let mut script = self.byte(Op::Section as u8 | HIGH).byte(request).byte(4);
        for line in [(":method", "GET"), (":scheme", "https"), (":authority", "proxy.example"), (":path", "/")] {
            let index = LINES.iter().position(|known| *known == line).unwrap();
            script = script.byte(u8::try_from(index).unwrap());
        }
        script
    }
}

pub(crate) fn core_datagrams() -> Vec<Seed> {
    let capsule = b"\0\x05\0ping";
    let tunnel = || hardened().ask(1);
    let scripts = vec![
        ("both-ways", tunnel().up(0, b"ping").down(0, 0, b"pong").up(0, b"").down(0, 3, b"abcdefgh")),
        ("early-datagrams", hardened().up(0, b"early").ask(1).up(0, b"later")),
        ("early-datagrams-of-nothing", hardened().up(0, b"early").wait(3000)),
        (
            "capsules",
            tunnel()
                .data_frame(0, capsule)
                .down(0, 0, b"pong")
                .data_frame(0, &capsule[..3])
                .data_frame(0, &capsule[3..])
                .up(0, b"x")
                .down(0, 0, b"pong"),
        ),
        ("no-datagrams", Script::default().byte(4).ask(1).data_frame(0, capsule).down(0, 0, b"pong").up(0, b"x")),
        ("no-datagrams-frame", Script::default().byte(4).ask(1).quic(&[0x31, 3, 0, 0, b'a'])),
        ("no-datagrams-empty-frame", Script::default().byte(4).ask(1).quic(&[0x31, 0])),
        ("unknown-capsule-closes", tunnel().data_frame(0, &[0x21, 1, 0])),
        ("unknown-capsule-is-skipped", interop().ask(1).data_frame(0, &[0x21, 1, 0]).data_frame(0, capsule)),
        ("half-close", tunnel().up(0, b"x").byte(Op::Stream as u8 | HIGH).byte(0).sized(&[]).down(0, 0, b"late")),
        ("cut-in-a-capsule", tunnel().byte(Op::Frame as u8 | HIGH).byte(0).number(0).sized(&capsule[..3])),
        ("reset", tunnel().up(0, b"x").act(Op::Reset).byte(0).number(0x10c).down(0, 0, b"late")),
        ("names", hardened().ask(4).up(0, b"x").down(0, 0, b"y")),
        (
            "names-that-fail",
            hardened().answer(0).ask(4).answer(5).ask(4).answer(2).ask(4).answer(1).answer(1).answer(0),
        ),
        ("refused-targets", hardened().ask(5).ask(6).ask(7).up(0, b"x")),
        (
            "flow-fails-to-open",
            hardened().answer(0).ask(1).answer(2).ask(1).answer(4).ask(4).answer(1).answer(3).answer(0),
        ),
        ("flow-never-opens", hardened().answer(0).ask(1).up(0, b"x").wait(20_000)),
        ("reset-while-opening", hardened().answer(0).ask(1).act(Op::Reset).byte(0).number(1).answer(0)),
        ("too-many-tunnels", hardened().ask(1).ask(2).ask(3).ask(1).ask(2).ask(3)),
        ("two-clients", tunnel().act_high(Op::Elsewhere).ask(2).up(0, b"x").down(0, 0, b"a").down(1, 0, b"b")),
        ("client-moves", tunnel().up(0, b"x").act(Op::Elsewhere).up(0, b"y").down(0, 0, b"z").wait(100).up(0, b"y")),
        ("retry-always", Script::default().byte(2).ask(1).up(0, b"x")),
        (
            "target-errors",
            tunnel().act(Op::TargetError).byte(0).byte(0).act(Op::TargetError).byte(0).byte(1).up(0, b"x"),
        ),
        ("target-errors-interop", interop().ask(1).act(Op::TargetError).byte(0).byte(3).up(0, b"x")),
        ("target-gone", tunnel().act(Op::TargetError).byte(0).byte(4).up(0, b"x").down(0, 0, b"y")),
        ("flood-from-target", tunnel().down(0, 100, &[7; 2000]).down(0, 100, &[7; 2000]).down(0, 100, &[7; 2000])),
        ("too-large-from-target", tunnel().down(0, 0, &[7; 2000]).down(0, 0, &[7; 1300])),
        (
            "client-stops-listening",
            tunnel().act_high(Op::Hold).down(0, 50, &[7; 2000]).down(0, 50, &[7; 2000]).wait(1000).act(Op::Hold),
        ),
        ("idle", tunnel().up(0, b"x").wait(29_000).up(0, b"x").wait(31_000)),
        ("idle-connection", hardened().wait(200_000)),
        ("policy-changes", tunnel().act(Op::Snapshot).up(0, b"x").ask(2).act_high(Op::Snapshot).ask(2)),
        ("drain", tunnel().order(8).ask(2).up(0, b"x").wait(10_000)),
        ("close", tunnel().order(3).up(0, b"x")),
        ("listener-removed", tunnel().order(1).act_high(Op::Elsewhere).up(0, b"x").order(2).act_high(Op::Elsewhere)),
        (
            "stray-answers",
            tunnel()
                .act(Op::Stray)
                .byte(0)
                .byte(9)
                .act(Op::Stray)
                .byte(1)
                .byte(9)
                .act(Op::Stray)
                .byte(3)
                .byte(0)
                .act(Op::Stray)
                .byte(4)
                .byte(1),
        ),
        ("get", hardened().get(0).get(1)),
        (
            "rubbish-on-streams",
            hardened()
                .act(Op::Stream)
                .byte(0)
                .sized(b"GET / HTTP/1.1\r\n\r\n")
                .byte(Op::Stream as u8 | SECOND)
                .byte(1)
                .sized(&[0x21, 0, 1]),
        ),
        ("control-stream-ends", hardened().byte(Op::Stream as u8 | SECOND | HIGH).byte(0).sized(&[])),
        ("packet-flipped", tunnel().up(0, b"x").change(0, 20, 1).up(0, b"y").change(0, 0, 0x40).wait(500)),
        ("packet-cut", tunnel().up(0, b"x").change(1, 12, 0).up(0, b"y").change(1, 0, 0)),
        ("packet-extended", tunnel().up(0, b"x").change(2, 40, 7)),
        ("packet-lost-and-again", tunnel().up(0, b"x").change(3, 0, 0).wait(500).up(0, b"y").change(4, 0, 0)),
        (
            "handshake-of-strangers",
            hardened().raw(HIGH | SECOND, &[0xc0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x44, 0x9e]),
        ),
        (
            "unknown-version",
            hardened().raw(HIGH | SECOND, &[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0]),
        ),
        ("short-header-of-nobody", hardened().raw(HIGH, &[0x40; 60]).raw(0, &[0x40; 60])),
        ("another-slot", hardened().raw(HIGH, &[[0x40, 3].as_slice(), &[9; 60]].concat())),
        ("frames-ping-padding", tunnel().quic(&[1, 0, 0, 1])),
        ("frames-ack-of-the-future", tunnel().quic(&[2, 0x80, 1, 0, 0, 0, 0, 0])),
        ("frames-ack-ranges", tunnel().quic(&[3, 10, 0, 2, 1, 1, 0, 2, 0, 0, 0])),
        ("frames-reset-stream", tunnel().quic(&[4, 0, 0x41, 0x0c, 0x40, 0x80]).quic(&[5, 0, 0x41, 0x0c])),
        ("frames-reset-other-streams", tunnel().quic(&[4, 1, 0, 0]).quic(&[5, 2, 0])),
        ("frames-crypto", tunnel().quic(&[6, 0, 4, 1, 2, 3, 4]).quic(&[6, 0xbf, 0xff, 0xff, 0xff, 1, 0])),
        ("frames-new-token", tunnel().quic(&[7, 2, 1, 2])),
        ("frames-stream-with-gap", tunnel().quic(&[0x0e, 0, 0x80, 0, 0x10, 0, 1, 0])),
        (
            "frames-stream-beyond-limits",
            tunnel().quic(&[0x0e, 0, 0xbf, 0xff, 0xff, 0xff, 1, 0]).quic(&[0x0a, 0x80, 1, 0, 0, 1, 0]),
        ),
        ("frames-final-size-changes", tunnel().quic(&[0x0b, 4, 1, 0]).quic(&[0x0b, 4, 2, 0, 0])),
        // A fault of quinn-proto: FIN below what has come, then the same final size once more.
        ("frames-final-size-shrinks", hardened().ask(6).quic(&[0x0b, 0, 0, 4, 0, 0, 0]).ask(1).up(1, b"x")),
        ("frames-flow-control", tunnel().quic(&[0x10, 0]).quic(&[0x11, 0, 0]).quic(&[0x12, 0xd0, 0, 0, 0, 0, 0, 0, 1])),
        ("frames-blocked", tunnel().quic(&[0x14, 0, 0x15, 0, 0, 0x16, 0, 0x17, 0])),
        (
            "frames-connection-ids",
            tunnel()
                .quic(&[&[0x18, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..], &[9; 16]].concat())
                .quic(&[0x19, 0])
                .quic(&[0x19, 9]),
        ),
        ("frames-path", tunnel().quic(&[0x1a, 1, 2, 3, 4, 5, 6, 7, 8]).quic(&[0x1b, 1, 2, 3, 4, 5, 6, 7, 8])),
        ("frames-close", tunnel().quic(&[0x1c, 0, 0, 2, b'h', b'i']).up(0, b"x")),
        ("frames-application-close", tunnel().quic(&[0x1d, 0x41, 0, 0]).wait(10_000)),
        ("frames-handshake-done", tunnel().quic(&[0x1e])),
        ("frames-datagrams", tunnel().quic(&[0x31, 3, 0, 0, b'a', 0x31, 2, 0, 0, 0x31, 0, 0x30, 0, 0, b'b'])),
        ("frames-unknown", tunnel().quic(&[0x40, 0x52, 1, 2, 3])),
    ];
    let findings: [(&str, &[u8]); 1] = [(
        // A flow opened in the turn in which the client broke a rule: counted as closed, though it was never opened.
        "finding-flow-opens-as-connection-closes",
        b"\xff\xff\xd0\t\xff\0\x06\x01\x02\x04\x01\0\0\x01\xff\xff\xff\xff\0\x06\x04\x01\0\0\xaa\xaa\t\t",
    )];
    let scripts = scripts.into_iter().map(|(name, script)| Seed::new(name, script.0));
    scripts.chain(findings.map(|(name, bytes)| Seed::new(name, bytes.to_vec()))).collect()
}
