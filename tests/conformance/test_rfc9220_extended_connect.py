"""Extended CONNECT on HTTP/3: RFC 9220 with RFC 8441 and RFC 9114 sections 4.1 to 4.4 and 5.2."""

from __future__ import annotations

import asyncio

import pytest

from rig import wire
from rig.fixtures import Gateway, Target
from rig.peer import Fields, RawPeer, connect_udp_fields

pytestmark = pytest.mark.asyncio


async def refused_as_malformed(peer: RawPeer, stream_id: int) -> None:
    """RFC 9114 section 4.1.2: H3_MESSAGE_ERROR, perhaps behind an error response; the connection lives."""
    await peer.until(lambda: peer.stream(stream_id).ended or peer.closed, "the end of the stream")
    assert peer.closed is None, peer.closed
    if peer.heads(stream_id):
        assert (await peer.response(stream_id)).status == 400
    else:
        assert peer.stream(stream_id).reset_code == wire.H3_MESSAGE_ERROR, peer.stream(stream_id)


def changed(fields: Fields, name: bytes, *values: bytes) -> Fields:
    """`fields` with the pseudo-header `name` replaced in place by one line per value (none removes it)."""
    return [line for key, value in fields for line in ([(key, v) for v in values] if key == name else [(key, value)])]


MALFORMED: dict[str, tuple[str, object]] = {
    "XC-7": (":protocol with GET", lambda f: changed(f, b":method", b"GET")),
    "XC-8 scheme": ("missing :scheme", lambda f: changed(f, b":scheme")),
    "XC-8 path": ("missing :path", lambda f: changed(f, b":path")),
    "XC-9 scheme": ("empty :scheme", lambda f: changed(f, b":scheme", b"")),
    "XC-9 path": ("empty :path", lambda f: changed(f, b":path", b"")),
    "XC-10": ("missing :authority", lambda f: changed(f, b":authority")),
    "XC-11": (":authority differs from host", lambda f: [*f, (b"host", b"other.example")]),
    "XC-12": (":authority with userinfo", lambda f: changed(f, b":authority", b"a@localhost")),
    "XC-13": ("duplicate :protocol", lambda f: changed(f, b":protocol", b"connect-udp", b"connect-udp")),
    "XC-14": ("pseudo-header after a field", lambda f: [*f[:2], (b"x-early", b"1"), *f[2:]]),
    "XC-15": ("unknown pseudo-header", lambda f: [(b":foo", b"1"), *f]),
    "XC-16": ("upper-case field name", lambda f: [*f, (b"Capsule-Protocol", b"?1")]),
    "XC-17 connection": ("connection", lambda f: [*f, (b"connection", b"keep-alive")]),
    "XC-17 upgrade": ("upgrade", lambda f: [*f, (b"upgrade", b"connect-udp")]),
    "XC-17 keep-alive": ("keep-alive", lambda f: [*f, (b"keep-alive", b"timeout=5")]),
    "XC-17 proxy-connection": ("proxy-connection", lambda f: [*f, (b"proxy-connection", b"keep-alive")]),
    "XC-17 transfer-encoding": ("transfer-encoding", lambda f: [*f, (b"transfer-encoding", b"chunked")]),
    "XC-18": ("te other than trailers", lambda f: [*f, (b"te", b"gzip")]),
    "XC-21": ("CONNECT with :path but no :protocol", lambda f: changed(f, b":protocol")),
    "XC-26": ("duplicate :path", lambda f: changed(f, b":path", b"/", b"/")),
}


@pytest.mark.row(
    "XC-7",
    "XC-8",
    "XC-9",
    "XC-10",
    "XC-11",
    "XC-12",
    "XC-13",
    "XC-14",
    "XC-15",
    "XC-16",
    "XC-17",
    "XC-18",
    "XC-21",
    "XC-26",
)
@pytest.mark.parametrize("case", MALFORMED, ids=list(MALFORMED))
async def test_a_malformed_request_costs_its_stream_and_nothing_else(
    gateway: Gateway, peer: RawPeer, echo_target: Target, case: str
) -> None:
    alive = await gateway.open(peer, echo_target.address)
    change = MALFORMED[case][1]
    assert callable(change)
    stream_id = peer.request(change(connect_udp_fields(gateway.host, *echo_target.address)))
    await refused_as_malformed(peer, stream_id)
    peer.send_http_datagram(alive, b"unharmed")
    assert await peer.http_datagram(alive) == b"\x00unharmed"


@pytest.mark.row("XC-19")
@pytest.mark.parametrize("token", [b"foo-bar", b"websocket", b"CONNECT-UDP"])
async def test_an_unknown_protocol_is_answered_501(
    gateway: Gateway, peer: RawPeer, target: Target, token: bytes
) -> None:
    stream_id = peer.request(changed(connect_udp_fields(gateway.host, *target.address), b":protocol", token))
    assert (await peer.response(stream_id)).status == 501


@pytest.mark.row("XC-20")
async def test_the_host_in_authority_is_never_dialled(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    accepted = asyncio.Event()
    listener = await asyncio.start_server(lambda *_: accepted.set(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        stream_id = peer.request(
            changed(connect_udp_fields(gateway.host, *target.address), b":authority", b"127.0.0.1:%d" % port)
        )
        await peer.response(stream_id)
        await peer.settled()
        assert not accepted.is_set()
    finally:
        listener.close()


@pytest.mark.row("XC-22", "UDP-45")
async def test_a_clients_fin_ends_the_tunnel_cleanly_and_frees_the_socket(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_http_datagram(stream_id, b"hello")
    source = await target.peer()
    peer.send(stream_id, b"", fin=True)
    await peer.stream_finished(stream_id)
    assert peer.stream(stream_id).reset_code is None
    await socket_is_gone(source)


@pytest.mark.row("XC-23")
async def test_a_clients_reset_ends_the_tunnel_and_frees_the_socket(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_http_datagram(stream_id, b"hello")
    source = await target.peer()
    peer.reset(stream_id, wire.H3_REQUEST_CANCELLED)
    await peer.until(lambda: peer.stream(stream_id).ended, "the end of the gateway's side")
    await socket_is_gone(source)


async def socket_is_gone(address: tuple[str, int], seconds: float = 5.0) -> None:
    """A datagram to a closed port is answered by the kernel: the next send on a connected socket fails."""
    loop = asyncio.get_running_loop()
    refused = asyncio.Event()

    class Prober(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            if isinstance(exc, ConnectionRefusedError):
                refused.set()

    transport, _ = await loop.create_datagram_endpoint(Prober, remote_addr=address)
    try:
        async with asyncio.timeout(seconds):
            while not refused.is_set():
                transport.sendto(b"anyone there?")
                with_answer = asyncio.ensure_future(refused.wait())
                await asyncio.wait([with_answer], timeout=0.02)
                with_answer.cancel()
    finally:
        transport.close()


@pytest.mark.row("XC-24", "XC-28", "XC-29")
async def test_a_draining_gateway_says_goaway_keeps_tunnels_and_rejects_new_ones(
    gateway: Gateway, peer: RawPeer, echo_target: Target
) -> None:
    stream_id = await gateway.open(peer, echo_target.address)
    draining = asyncio.ensure_future(gateway.server.drain(deadline_seconds=5.0))

    def goaway_ids() -> list[int]:
        for number, stream in peer.streams.items():
            if number & 0x3 == 0x3 and stream.data[:1] == b"\x00":
                found = [
                    wire.read_varint(f.payload)
                    for f in wire.read_frames(stream.data[1:])
                    if f.type == wire.FRAME_GOAWAY
                ]
                return [value[0] for value in found if value is not None]
        return []

    try:
        await peer.until(goaway_ids, "GOAWAY")
        peer.send_http_datagram(stream_id, b"still here")
        assert await peer.http_datagram(stream_id) == b"\x00still here"
        await peer.until(lambda: len(goaway_ids()) >= 2, "the second GOAWAY")
        ids = goaway_ids()
        assert ids[0] == (1 << 62) - 4
        assert ids == sorted(ids, reverse=True) and ids[-1] <= 4 * 4
        late = peer.request(connect_udp_fields(gateway.host, *echo_target.address))
        assert await peer.stream_reset(late) == wire.H3_REQUEST_REJECTED
    finally:
        peer.send(stream_id, b"", fin=True)
        await draining


@pytest.mark.row("XC-25")
async def test_a_processed_request_is_never_called_rejected(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.stop(stream_id)
    peer.reset(stream_id)
    await peer.until(lambda: peer.stream(stream_id).ended, "the end of the stream")
    assert peer.stream(stream_id).reset_code != wire.H3_REQUEST_REJECTED


@pytest.mark.row("XC-30")
async def test_a_hundred_tunnels_work_on_one_connection(gateway: Gateway, peer: RawPeer, echo_target: Target) -> None:
    streams = [peer.request(connect_udp_fields(gateway.host, *echo_target.address)) for _ in range(100)]
    for stream_id in streams:
        assert (await peer.response(stream_id)).status == 200
    for number, stream_id in enumerate(streams):
        peer.send_http_datagram(stream_id, b"%d" % number)
    for number, stream_id in enumerate(streams):
        assert await peer.http_datagram(stream_id) == b"\x00%d" % number


@pytest.mark.row("XC-31")
async def test_an_oversized_field_section_is_answered_431_and_the_connection_lives(
    gateway: Gateway, peer: RawPeer, echo_target: Target
) -> None:
    stream_id = peer.request(
        connect_udp_fields(gateway.host, *echo_target.address, extra=[(b"x-padding", b"x" * 2000)] * 32)
    )
    assert (await peer.response(stream_id)).status == 431
    alive = await gateway.open(peer, echo_target.address)
    peer.send_http_datagram(alive, b"alive")
    assert await peer.http_datagram(alive) == b"\x00alive"
