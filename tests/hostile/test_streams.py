"""Known failures of other implementations (K-…): requests, resets, field sections, critical streams and capsules."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

import pytest

from rig import wire
from rig.fixtures import Target
from rig.names import NameServer
from rig.packets import inject
from rig.peer import Fields, RawPeer, connect_udp_fields
from rig.victim import Victim

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("neighbour")]

OpenVictim = Callable[..., contextlib.AbstractContextManager[Victim]]
MIB = 1 << 20
STREAMS_AT_ONCE = 128
QPACK_DECOMPRESSION_FAILED = 0x200
QPACK_ENCODER_STREAM_ERROR = 0x201
QPACK_DECODER_STREAM_ERROR = 0x202


async def settled(peer: RawPeer) -> None:
    """As `RawPeer.settled`, for a connection that may be closed meanwhile."""
    with contextlib.suppress(ConnectionError):
        await peer.settled()


async def answered(peer: RawPeer, stream_id: int) -> None:
    """Waits for the end of a stream or the beginning of its answer."""
    await peer.until(
        lambda: peer.frames(stream_id) or peer.stream(stream_id).ended or peer.closed, f"an answer on {stream_id}"
    )


async def until_closed(peer: RawPeer, attack: Callable[[], None], *, most: int, batch: int = 20) -> tuple[int, int]:
    """Attacks again and again; the number of attacks that were made before the connection was closed, and its code."""
    made = 0
    while made < most and peer.closed is None:
        for _ in range(batch):
            attack()
        made += batch
        await settled(peer)
    return made, (await peer.connection_closed()).code


@pytest.mark.known("K-1")
@pytest.mark.parametrize("how", ["RESET_STREAM", "STOP_SENDING", "both", "half a head"])
async def test_cancelled_requests_close_the_connection(victim: Victim, target: Target, how: str) -> None:
    fields = connect_udp_fields(victim.host, *target.address)
    opened = victim.counter("core.tunnels_opened")
    async with victim.client() as peer:

        def attack() -> None:
            stream_id = peer._quic.get_next_available_stream_id()
            head = peer.headers_frame(fields)
            peer._quic.send_stream_data(stream_id, head[:20] if how == "half a head" else head)
            if how != "STOP_SENDING":
                peer._quic.reset_stream(stream_id, wire.H3_REQUEST_CANCELLED)
            if how in {"STOP_SENDING", "both"}:
                peer._quic.stop_stream(stream_id, wire.H3_REQUEST_CANCELLED)
            if how == "STOP_SENDING":
                peer._quic.send_stream_data(stream_id, b"", end_stream=True)
            peer.transmit()

        made, code = await until_closed(peer, attack, most=5000)
        assert code == wire.H3_EXCESSIVE_LOAD
        assert made <= 1000
    assert victim.counter("core.tunnels_opened") - opened <= 2 * STREAMS_AT_ONCE


GET: Fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/")]
ILLEGAL: dict[str, Callable[[RawPeer], bytes]] = {
    "no pseudo-header": lambda peer: peer.headers_frame([(b"a", b"b")]),
    "upper case": lambda peer: peer.headers_frame([*GET, (b"X-Upper", b"1")]),
    "two methods": lambda peer: peer.headers_frame([*GET[:1], *GET]),
    "connection field": lambda peer: peer.headers_frame([*GET, (b"connection", b"close")]),
    "too much content": lambda peer: (
        peer.headers_frame([(b":method", b"POST"), *GET[1:], (b"content-length", b"1")]) + wire.frame(0, b"too much")
    ),
    "content and a tunnel": lambda peer: peer.headers_frame(
        [*connect_udp_fields("localhost", "127.0.0.1", 9), (b"content-length", b"1")]
    ),
}


@pytest.mark.known("K-2")
@pytest.mark.parametrize("kind", ILLEGAL)
async def test_resets_that_the_gateway_is_made_to_send_close_the_connection(victim: Victim, kind: str) -> None:
    async with victim.client() as peer:

        def attack() -> None:
            stream_id = peer._quic.get_next_available_stream_id()
            peer.send(stream_id, ILLEGAL[kind](peer))

        made, code = await until_closed(peer, attack, most=5000)
        assert code == wire.H3_EXCESSIVE_LOAD
        assert made <= 1000


def large(size: int) -> Fields:
    """Fields of `size` bytes in all; pylsqpack takes no value of 64 KiB."""
    return [(b"x-large", b"\xff" * min(size, 1 << 14))] * max(1, size >> 14)


@pytest.mark.known("K-4")
async def test_field_sections_of_any_size_cost_bounded_memory(victim: Victim, target: Target) -> None:
    before = victim.memory()
    for size in (1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20):
        async with victim.client() as peer:
            for _ in range(8):
                fields = [*connect_udp_fields(victim.host, *target.address), *large(size)]
                stream_id = peer.request(fields)
                await answered(peer, stream_id)
                assert peer.closed is None
                expected = 200 if size < 1 << 14 else 431
                if peer.frames(stream_id):
                    assert (await peer.response(stream_id)).status == expected
                else:
                    assert size > 1 << 14
    assert victim.peak_memory() - before < 32 * MIB


@pytest.mark.known("K-4")
async def test_trailers_of_any_size_end_the_exchange(victim: Victim, target: Target) -> None:
    before = victim.memory()
    for size in (1 << 10, 1 << 14, 1 << 20):
        async with victim.client() as peer:
            stream_id = await _opened(victim, peer, target)
            peer.send_headers(stream_id, large(size))
            assert (await peer.connection_closed()).code == wire.H3_FRAME_UNEXPECTED
    assert victim.peak_memory() - before < 32 * MIB


@pytest.mark.known("K-4")
async def test_field_sections_that_never_end_cost_bounded_memory(victim: Victim) -> None:
    """A hundred streams each begin a section of 16 KiB and leave out its last byte; nothing is ever acknowledged."""
    before = victim.memory()
    async with victim.client() as peer:
        section = peer.encode([*GET, (b"x-large", b"\xff" * 16_000)])
        frame = wire.frame(wire.FRAME_HEADERS, section)
        for _ in range(STREAMS_AT_ONCE):
            peer.send(peer._quic.get_next_available_stream_id(), frame[:-1])
        await settled(peer)
        assert victim.memory() - before < 16 * MIB


@pytest.mark.known("K-4")
async def test_a_section_that_waits_for_inserts_is_refused_and_not_kept(victim: Victim) -> None:
    """The gateway allows no dynamic table, so that no stream can be blocked (RFC 9204 section 2.1.2)."""
    async with victim.client() as peer:
        # Required Insert Count 2, base 0, one indexed field of the dynamic table.
        peer.request([])
        stream_id = peer._quic.get_next_available_stream_id()
        peer.send(stream_id, wire.frame(wire.FRAME_HEADERS, b"\x02\x00\x80"))
        assert (await peer.connection_closed()).code in {QPACK_DECOMPRESSION_FAILED, wire.H3_MESSAGE_ERROR}


K5: dict[str, tuple[Callable[[RawPeer], object], set[int]]] = {
    "two encoder streams": (
        lambda peer: (peer.open_uni(2), peer.open_uni(2)),
        {wire.H3_STREAM_CREATION_ERROR},
    ),
    "two decoder streams": (
        lambda peer: (peer.open_uni(3), peer.open_uni(3)),
        {wire.H3_STREAM_CREATION_ERROR},
    ),
    "a finished encoder stream": (lambda peer: peer.open_uni(2, fin=True), {wire.H3_CLOSED_CRITICAL_STREAM}),
    "an encoder stream that is finished and opened again": (
        lambda peer: (peer.open_uni(2, fin=True), peer.open_uni(2)),
        {wire.H3_CLOSED_CRITICAL_STREAM, wire.H3_STREAM_CREATION_ERROR},
    ),
    "capacity 2^62-1": (
        lambda peer: peer.open_uni(2, b"\x3f" + b"\xff" * 8 + b"\x7f"),
        {QPACK_ENCODER_STREAM_ERROR},
    ),
    "insert with a static name of index 2^62-1": (
        lambda peer: peer.open_uni(2, b"\xff" + b"\xff" * 8 + b"\x3f\x00"),
        {QPACK_ENCODER_STREAM_ERROR},
    ),
    "insert with an empty name": (lambda peer: peer.open_uni(2, b"\x40\x00"), {QPACK_ENCODER_STREAM_ERROR}),
    "duplicate of index 2^62-1": (
        lambda peer: peer.open_uni(2, b"\x1f" + b"\xff" * 8 + b"\x3f"),
        {QPACK_ENCODER_STREAM_ERROR},
    ),
    "insert count increment of 2^62-1": (
        lambda peer: peer.open_uni(3, b"\x3f" + b"\xff" * 8 + b"\x3f"),
        {QPACK_DECODER_STREAM_ERROR},
    ),
    "insert count increment of 0": (lambda peer: peer.open_uni(3, b"\x00"), {QPACK_DECODER_STREAM_ERROR}),
    "acknowledgement of a section that never was": (
        lambda peer: peer.open_uni(3, b"\x80"),
        {QPACK_DECODER_STREAM_ERROR},
    ),
    "a field of the static table at index 2^62-1": (
        lambda peer: peer.send(0, wire.frame(1, b"\x00\x00\xff" + b"\xff" * 8 + b"\x3f")),
        {QPACK_DECOMPRESSION_FAILED},
    ),
    "a string of 2^62-1 bytes": (
        lambda peer: peer.send(0, wire.frame(1, b"\x00\x00\x27" + b"\xff" * 8 + b"\x3f")),
        {QPACK_DECOMPRESSION_FAILED},
    ),
}


@pytest.mark.known("K-5")
@pytest.mark.parametrize("what", K5)
async def test_a_broken_qpack_stream_closes_its_connection(victim: Victim, what: str) -> None:
    attack, codes = K5[what]
    async with victim.client() as peer:
        attack(peer)
        assert (await peer.connection_closed()).code in codes


@pytest.mark.known("K-5")
@pytest.mark.parametrize("stream_type", [0x00, 0x02, 0x03])
async def test_no_frame_for_a_critical_stream_that_has_ended_opens_it_again(victim: Victim, stream_type: int) -> None:
    """STREAM frames after the RESET_STREAM of the same stream, in one packet and in later ones."""
    async with victim.client() as peer:
        await peer.settled()
        # The peer's own control stream is 2; 6 is opened here.
        stream_id = wire.varint(2 if stream_type == 0 else 6)
        reset = b"\x04" + stream_id + wire.varint(0x100) + wire.varint(64)
        again = b"\x0a" + stream_id + wire.varint(1) + bytes([stream_type])
        inject(peer, again)
        await peer.settled()
        inject(peer, reset + again)
        inject(peer, again)
        assert (await peer.connection_closed()).code == wire.H3_CLOSED_CRITICAL_STREAM


async def _opened(victim: Victim, peer: RawPeer, target: Target) -> int:
    return await victim.open(peer, target.address)


@pytest.mark.known("K-30")
async def test_capsules_of_every_size_leave_nothing_in_the_connection(open_victim: OpenVictim, target: Target) -> None:
    """Unknown and oversized capsules, whole and cut, on tunnel after tunnel of one connection that lives on."""
    with open_victim(profile="interop") as victim:
        async with victim.client() as peer:
            await _cut_capsules(victim, peer, target, 20)
            before, descriptors = victim.memory(), victim.descriptors()
            await _cut_capsules(victim, peer, target, 100)
            assert victim.memory() - before < 4 * MIB
            assert victim.descriptors() <= descriptors
            assert peer.closed is None


async def _cut_capsules(victim: Victim, peer: RawPeer, target: Target, tunnels: int) -> None:
    for number in range(tunnels):
        stream_id = await _opened(victim, peer, target)
        whole = wire.capsule(0x1234_5678, b"u" * 3000) + wire.datagram_capsule(b"whole")
        cut = wire.varint(0 if number % 2 else 0x1234_5678) + wire.varint(wire.MAX_VARINT) + b"\x00" + b"c" * 3000
        peer.send_data(stream_id, whole + cut)
        assert await target.take() == b"whole"
        peer.reset(stream_id)
        peer.stop(stream_id)
    await victim.until(lambda stats: stats["tunnels"]["open"] == 0, "all tunnels to be closed")


@pytest.mark.known("K-31")
@pytest.mark.parametrize("limit", [0, 1, 2, 10, 65_535, wire.MAX_VARINT])
async def test_every_limit_of_datagram_frames_is_kept_or_replaced_by_capsules(
    victim: Victim, echo_target: Target, limit: int
) -> None:
    async with victim.client(max_datagram_frame_size=limit) as peer:
        stream_id = await victim.open(peer, echo_target.address)
        if limit >= 65_535:
            peer.send_http_datagram(stream_id, b"there and back")
            assert await peer.http_datagram(stream_id) == b"\x00there and back"
            return
        peer.send_data(stream_id, wire.datagram_capsule(b"there and back"))
        await peer.until(
            lambda: wire.Capsule(0, b"\x00there and back") in peer.capsules(stream_id), "the answer in a capsule"
        )
        assert peer.datagrams == []


STEPS: dict[str, Callable[[RawPeer, int], None]] = {
    "RESET": lambda peer, stream_id: peer.reset(stream_id),
    "STOP": lambda peer, stream_id: peer.stop(stream_id),
    "FIN": lambda peer, stream_id: peer.send(stream_id, b"", fin=True),
    "close": lambda peer, _: peer.close(),
}
STATES = ["half a head", "resolving", "open", "open with datagrams", "refused"]


@pytest.mark.known("K-32")
async def test_all_orders_of_ending_in_all_states_leave_nothing(
    open_victim: OpenVictim, names: NameServer, echo_target: Target
) -> None:
    """All 24 orders; what QUIC forbids is not sent (anything after `close`, a FIN after RESET)."""
    names.silent.add("slow.example")
    nameservers = [f"{names.address[0]}:{names.address[1]}"]
    with open_victim(resolver={"nameservers": nameservers}) as victim:
        async with victim.client() as first:
            await victim.open(first, echo_target.address)
        await _all_gone(victim)
        descriptors = victim.descriptors()

        async def end(state: str, order: tuple[str, ...]) -> None:
            async with victim.client() as peer:
                stream_id = await _in_state(victim, peer, echo_target, state)
                for step in order[: order.index("close") + 1]:
                    with contextlib.suppress(RuntimeError):
                        STEPS[step](peer, stream_id)

        for state in STATES:
            await asyncio.gather(*(end(state, order) for order in itertools.permutations(STEPS)))
        await _all_gone(victim)
        stats = victim.stats()
        assert victim.descriptors() <= descriptors
        assert stats["core"]["panicked_connections"] == 0
        assert stats["core"]["connections_closed"] == 1 + 24 * len(STATES)
        assert stats["gauges"]["target_sockets"] == stats["dns"]["questions_held"] == stats["tunnels"]["open"] == 0


async def _all_gone(victim: Victim) -> None:
    await victim.until(lambda stats: stats["gauges"]["connections"] == 0, "all connections to be gone")


async def _in_state(victim: Victim, peer: RawPeer, target: Target, state: str) -> int:
    if state == "half a head":
        stream_id = peer._quic.get_next_available_stream_id()
        peer.send(stream_id, peer.headers_frame(GET)[:5])
    elif state == "resolving":
        # `slow.example` is a name that no name server answers for.
        stream_id = peer.request(connect_udp_fields(victim.host, "slow.example", 9))
    elif state == "refused":
        stream_id = peer.request(connect_udp_fields(victim.host, "10.0.0.1", 9))
        assert (await peer.response(stream_id)).status == 403
    else:
        stream_id = await victim.open(peer, target.address)
        if state == "open with datagrams":
            for _ in range(8):
                peer.send_http_datagram(stream_id, b"x" * 1000)
    return stream_id
