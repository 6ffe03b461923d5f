"""The Capsule Protocol on HTTP/3: RFC 9297 section 3, in section order."""

from __future__ import annotations

import asyncio
import os
from functools import partial

import pytest

from rig import wire
from rig.fixtures import Gateway, OpenGateway, Target
from rig.peer import RawPeer, Stream, connect_udp_fields

pytestmark = pytest.mark.asyncio

CLOSES_ON_UNKNOWN = "hardened closes the connection on an unknown capsule type (C-1)"


async def echoed(peer: RawPeer, stream_id: int, payload: bytes) -> None:
    """The tunnel lives: a QUIC datagram goes through and comes back."""
    peer.send_http_datagram(stream_id, payload)
    assert await peer.http_datagram(stream_id) == b"\x00" + payload


# Section 3.1: the data stream


@pytest.mark.row("CAP-5")
async def test_a_capsule_split_over_one_byte_frames_is_parsed(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    for byte in wire.datagram_capsule(b"byte by byte"):
        peer.send_data(stream_id, bytes([byte]))
    assert await target.take() == b"byte by byte"


# Section 3.2: the Capsule Protocol


@pytest.mark.row("CAP-1")
@pytest.mark.differs_when_hardened(CLOSES_ON_UNKNOWN)
async def test_an_unknown_capsule_is_skipped(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, wire.capsule(0x2A5, b"12345") + wire.datagram_capsule(b"after"))
    assert await target.take() == b"after"
    assert not peer.stream(stream_id).ended


@pytest.mark.row("CAP-2")
@pytest.mark.differs_when_hardened(CLOSES_ON_UNKNOWN)
@pytest.mark.parametrize("capsule_type", [0x17, 0x40, 0x69, 0x29 * 1000 + 0x17])
async def test_a_reserved_capsule_is_skipped(
    gateway: Gateway, peer: RawPeer, target: Target, capsule_type: int
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, wire.capsule(capsule_type, os.urandom(77)) + wire.datagram_capsule(b"after"))
    assert await target.take() == b"after"


@pytest.mark.row("CAP-3")
@pytest.mark.differs_when_hardened(CLOSES_ON_UNKNOWN)
async def test_an_unknown_capsule_of_a_gibibyte_is_drained_and_gives_credit_back(
    gateway: Gateway, peer: RawPeer
) -> None:
    stream_id = await gateway.open(peer, ("127.0.0.1", 9))
    stream = peer._quic._streams[stream_id]
    window = stream.max_stream_data_remote
    peer.send_data(stream_id, wire.varint(0x2A5) + wire.varint(1 << 30))
    for _ in range(4 * window // 16384):
        peer.send_data(stream_id, bytes(16384))
    async with asyncio.timeout(10):
        while stream.max_stream_data_remote < 4 * window:
            await peer.settled()
    assert not peer.stream(stream_id).ended and peer.closed is None


@pytest.mark.row("CAP-4")
async def test_a_datagram_capsule_of_length_zero_is_no_error(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, wire.capsule(0x00) + wire.datagram_capsule(b"after"))
    assert await target.take() == b"after"


@pytest.mark.row("CAP-4")
@pytest.mark.differs_when_hardened(CLOSES_ON_UNKNOWN)
async def test_an_unknown_capsule_of_length_zero_is_no_error(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, wire.capsule(0x17) + wire.datagram_capsule(b"after"))
    assert await target.take() == b"after"


@pytest.mark.row("CAP-6")
async def test_a_hundred_capsules_in_one_frame_are_forwarded_in_order(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, b"".join(wire.datagram_capsule(b"%d" % number) for number in range(100)))
    assert [await target.take() for _ in range(100)] == [b"%d" % number for number in range(100)]


@pytest.mark.row("CAP-7")
async def test_padded_varints_in_a_capsule_header_are_accepted(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, wire.capsule(0x00, b"\x00padded", type_size=8, length_size=4))
    assert await target.take() == b"padded"


@pytest.mark.row("CAP-13")
async def test_an_accepting_response_has_no_content_fields(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = peer.request(connect_udp_fields(gateway.host, *target.address))
    response = await peer.response(stream_id)
    for name in ("content-length", "content-type", "transfer-encoding"):
        assert response.all(name) == []


@pytest.mark.row("CAP-14", "CAP-15")
@pytest.mark.parametrize(
    ("name", "value"), [(b"content-length", b"0"), (b"content-length", b"10"), (b"content-type", b"text/plain")]
)
async def test_a_request_with_content_fields_is_malformed(
    gateway: Gateway, peer: RawPeer, target: Target, name: bytes, value: bytes
) -> None:
    stream_id = peer.request(connect_udp_fields(gateway.host, *target.address, extra=[(name, value)]))
    await peer.until(lambda: peer.stream(stream_id).ended, "the end of the stream")
    if peer.heads(stream_id):
        assert (await peer.response(stream_id)).status == 400
    else:
        assert peer.stream(stream_id).reset_code == wire.H3_MESSAGE_ERROR
    assert peer.closed is None and target.received == []


@pytest.mark.row("CAP-24")
async def test_capsules_behind_a_refused_request_are_not_processed(open_gateway: OpenGateway, target: Target) -> None:
    async with open_gateway(rules=[]) as gateway, gateway.client() as peer:
        stream_id = peer.request(connect_udp_fields(gateway.host, *target.address))
        peer.send_data(stream_id, wire.datagram_capsule(b"never"))
        assert (await peer.response(stream_id)).status == 403
        await peer.until(lambda: peer.stream(stream_id).ended, "the end of the stream")
        await peer.settled()
        assert target.received == [] and peer.closed is None


# Section 3.3: errors


@pytest.mark.row("CAP-8")
@pytest.mark.parametrize("cut", [1, 2, 5])
async def test_a_fin_inside_a_capsule_resets_the_stream(
    gateway: Gateway, peer: RawPeer, echo_target: Target, cut: int
) -> None:
    other = await gateway.open(peer, echo_target.address)
    stream_id = await gateway.open(peer, echo_target.address)
    peer.send_data(stream_id, wire.datagram_capsule(b"half of this")[:cut], fin=True)
    assert await peer.stream_reset(stream_id) == wire.H3_MESSAGE_ERROR
    await echoed(peer, other, b"unharmed")


@pytest.mark.row("CAP-35")
@pytest.mark.differs_when_hardened(CLOSES_ON_UNKNOWN)
async def test_unknown_capsules_beyond_the_budget_end_the_stream_with_a_load_error(open_gateway: OpenGateway) -> None:
    async with open_gateway(limits={"unknown_capsule_bytes": 65536}) as gateway, gateway.client() as peer:
        stream_id = await gateway.open(peer, ("127.0.0.1", 9))
        for _ in range(8):
            peer.send_data(stream_id, wire.capsule(0x2A5, bytes(16000)))
        assert await peer.stream_reset(stream_id) == wire.H3_EXCESSIVE_LOAD


# Section 3.4: the Capsule-Protocol header field


@pytest.mark.row("CAP-19", "UDP-30")
async def test_an_accepting_response_says_capsule_protocol(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = peer.request(connect_udp_fields(gateway.host, *target.address))
    response = await peer.response(stream_id)
    assert response.status == 200
    assert response.one("capsule-protocol") == b"?1"


@pytest.mark.row("CAP-20", "CAP-17")
async def test_a_refusing_response_does_not_say_capsule_protocol(open_gateway: OpenGateway, target: Target) -> None:
    async with open_gateway(rules=[]) as gateway, gateway.client() as peer:
        response = await peer.response(peer.request(connect_udp_fields(gateway.host, *target.address)))
        assert response.status == 403
        assert response.all("capsule-protocol") == []


@pytest.mark.row("CAP-21", "CAP-22", "CAP-23")
@pytest.mark.parametrize(
    "values",
    [[], [b"1"], [b'"x"'], [b"?0"], [b"?1", b"?1"], [b"?1;foo=bar"], [b"?1;a=1;b"], [b"token"], [b"(?1)"], [b"\x80"]],
    ids=[
        "absent",
        "integer",
        "string",
        "false",
        "twice",
        "parameter",
        "parameters",
        "token",
        "inner list",
        "not ascii",
    ],
)
async def test_any_capsule_protocol_field_of_a_request_is_tolerated(
    gateway: Gateway, peer: RawPeer, echo_target: Target, values: list[bytes]
) -> None:
    stream_id = await gateway.open(peer, echo_target.address, extra=[(b"capsule-protocol", value) for value in values])
    await echoed(peer, stream_id, b"alive")
    peer.send_data(stream_id, wire.datagram_capsule(b"in a capsule"))
    assert await peer.http_datagram(stream_id) == b"\x00in a capsule"


# Section 3.5: the DATAGRAM capsule


@pytest.mark.row("CAP-25")
async def test_capsules_and_datagram_frames_mix_on_one_stream(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    for number in range(10):
        if number % 2:
            peer.send_http_datagram(stream_id, b"%d" % number)
        else:
            peer.send_data(stream_id, wire.datagram_capsule(b"%d" % number))
    assert sorted([await target.take() for _ in range(10)]) == [b"%d" % number for number in range(10)]


@pytest.mark.row("CAP-25")
async def test_a_stream_of_capsules_is_answered_in_capsules_until_its_first_datagram(
    gateway: Gateway, peer: RawPeer, echo_target: Target
) -> None:
    stream_id = await gateway.open(peer, echo_target.address)
    peer.send_data(stream_id, wire.datagram_capsule(b"one"))
    await peer.until(lambda: peer.capsules(stream_id), "an answer in a capsule")
    assert peer.capsules(stream_id) == [wire.Capsule(0, b"\x00one")]
    peer.send_http_datagram(stream_id, b"two")
    assert await peer.http_datagram(stream_id) == b"\x00two"
    peer.send_data(stream_id, wire.datagram_capsule(b"three"))
    assert await peer.http_datagram(stream_id) == b"\x00three"
    assert len(peer.capsules(stream_id)) == 1


@pytest.mark.row("CAP-27")
async def test_an_oversized_datagram_capsule_is_discarded_without_buffering(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_data(stream_id, wire.varint(0) + wire.varint(1 << 28) + wire.varint(2))
    for _ in range(20):
        peer.send_data(stream_id, bytes(16384))
        await peer.settled()
    assert not peer.stream(stream_id).ended and peer.closed is None
    other = await gateway.open(peer, target.address)
    peer.send_http_datagram(other, b"unharmed")
    assert await target.take() == b"unharmed"


# RFC 9114 section 4.4: frames of a CONNECT stream


@pytest.mark.row("CAP-32")
async def test_a_headers_frame_after_acceptance_closes_the_connection(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_headers(stream_id, [(b"x-trailer", b"1")])
    assert (await peer.connection_closed()).code == wire.H3_FRAME_UNEXPECTED


@pytest.mark.row("CAP-33")
async def test_an_unknown_frame_between_data_frames_is_ignored(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    head, tail = wire.datagram_capsule(b"in two parts")[:5], wire.datagram_capsule(b"in two parts")[5:]
    peer.send_data(stream_id, head)
    peer.send(stream_id, wire.frame(0x21, os.urandom(30)))
    peer.send_data(stream_id, tail)
    assert await target.take() == b"in two parts"


def has_ended(peer: RawPeer, stream: Stream) -> bool:
    return stream.ended or peer.closed is not None


@pytest.mark.row("CAP-36")
async def test_random_bytes_on_the_data_stream_end_in_a_defined_way(
    gateway: Gateway, peer: RawPeer, echo_target: Target
) -> None:
    alive = await gateway.open(peer, echo_target.address)
    for _ in range(30):
        noise = os.urandom(200)
        stream_id = await gateway.open(peer, ("127.0.0.1", 9))
        peer.send_data(stream_id, noise, fin=True)
        stream = peer.stream(stream_id)
        await peer.until(partial(has_ended, peer, stream), f"an end after {noise.hex()}")
        if peer.closed is not None:
            assert peer.closed.code in (
                wire.H3_MESSAGE_ERROR,
                wire.H3_GENERAL_PROTOCOL_ERROR,
                wire.H3_EXCESSIVE_LOAD,
            ), noise.hex()
            return
        assert peer.stream(stream_id).reset_code in (None, wire.H3_MESSAGE_ERROR, wire.H3_EXCESSIVE_LOAD), noise.hex()
    await echoed(peer, alive, b"unharmed")
