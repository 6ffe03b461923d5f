"""HTTP/3 Datagrams: RFC 9297 section 2 with RFC 9221 and RFC 9114 beneath it, in section order."""

from __future__ import annotations

import contextlib

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder

from rig import wire
from rig.fixtures import Gateway, Target
from rig.peer import Fields, RawPeer

pytestmark = pytest.mark.asyncio


# RFC 9297 section 2.1: Quarter Stream ID


@pytest.mark.row("H3D-11")
async def test_an_empty_datagram_frame_closes_the_connection(peer: RawPeer) -> None:
    peer.send_datagram_frame(b"")
    assert (await peer.connection_closed()).code == wire.H3_DATAGRAM_ERROR


@pytest.mark.row("H3D-12")
async def test_a_truncated_quarter_stream_id_closes_the_connection(peer: RawPeer) -> None:
    peer.send_datagram_frame(b"\xc0")
    assert (await peer.connection_closed()).code == wire.H3_DATAGRAM_ERROR


@pytest.mark.row("H3D-13")
async def test_a_quarter_stream_id_above_2_60_minus_1_closes_the_connection(peer: RawPeer) -> None:
    peer.send_datagram_frame(wire.varint(1 << 60) + b"\x00x")
    assert (await peer.connection_closed()).code == wire.H3_DATAGRAM_ERROR


@pytest.mark.row("H3D-14", "H3D-20")
async def test_the_largest_quarter_stream_id_is_an_unknown_stream_and_not_a_parse_error(peer: RawPeer) -> None:
    peer.send_datagram_frame(wire.varint((1 << 60) - 1) + b"\x00x")
    with contextlib.suppress(ConnectionError):
        await peer.settled()
    assert peer.closed is None or peer.closed.code == wire.H3_ID_ERROR


@pytest.mark.row("H3D-10")
async def test_datagram_frames_with_and_without_a_length_are_forwarded(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_http_datagram(stream_id, b"with a length")
    assert await target.take() == b"with a length"
    with_length = peer._quic._write_datagram_frame

    def to_the_end_of_the_packet(builder: QuicPacketBuilder, data: bytes, frame_type: int) -> bool:
        builder.start_frame(QuicFrameType.DATAGRAM, capacity=1 + len(data)).push_bytes(data)
        return True

    peer._quic._write_datagram_frame = to_the_end_of_the_packet  # type: ignore[method-assign]
    peer.send_http_datagram(stream_id, b"without a length")
    peer._quic._write_datagram_frame = with_length  # type: ignore[method-assign]
    assert await target.take() == b"without a length"


@pytest.mark.row("H3D-22")
@pytest.mark.parametrize("size", [2, 4, 8])
async def test_a_padded_quarter_stream_id_is_accepted(
    gateway: Gateway, peer: RawPeer, target: Target, size: int
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_http_datagram(stream_id, b"padded", quarter=wire.varint(stream_id // 4, size))
    assert await target.take() == b"padded"


@pytest.mark.row("H3D-17")
async def test_a_datagram_after_the_clients_fin_is_dropped(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send(stream_id, b"", fin=True)
    await peer.stream_finished(stream_id)
    peer.send_http_datagram(stream_id, b"too late")
    other = await gateway.open(peer, target.address)
    peer.send_http_datagram(other, b"in time")
    assert await target.take() == b"in time"
    assert peer.closed is None


@pytest.mark.row("H3D-18")
async def test_no_datagram_follows_the_end_of_the_gateways_stream(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_http_datagram(stream_id, b"hello")
    source = await target.peer()
    peer.send(stream_id, b"", fin=True)
    await peer.stream_finished(stream_id)
    peer.datagrams.clear()
    for _ in range(20):
        target.send(b"late", source)
    await peer.settled()
    assert peer.datagrams == []


@pytest.mark.row("H3D-19", "UDP-60")
async def test_a_datagram_ahead_of_its_request_is_held_or_dropped_without_an_error(
    gateway: Gateway, peer: RawPeer, target: Target
) -> None:
    stream_id = peer._quic.get_next_available_stream_id()
    peer.send_http_datagram(stream_id, b"early")
    assert await gateway.open(peer, target.address) == stream_id
    peer.send_http_datagram(stream_id, b"on time")
    first = await target.take()
    assert first in (b"early", b"on time")
    if first == b"early":
        assert await target.take() == b"on time"


@pytest.mark.row("H3D-21")
async def test_a_flood_of_datagrams_for_unopened_streams_is_dropped_and_counted(
    gateway: Gateway, peer: RawPeer, echo_target: Target
) -> None:
    stream_id = await gateway.open(peer, echo_target.address)
    for round_number in range(40):
        for _ in range(50):
            peer._quic.send_datagram_frame(wire.varint(90) + b"\x00" + bytes(1000))
        peer.transmit()
        await peer.settled()
        assert peer.closed is None, f"round {round_number}: {peer.closed}"
    peer.send_http_datagram(stream_id, b"alive")
    assert await peer.http_datagram(stream_id) == b"\x00alive"


@pytest.mark.row("H3D-23")
async def test_payloads_are_not_repeated(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    peer.send_http_datagram(stream_id, b"hello")
    source = await target.peer()
    for number in range(50):
        target.send(b"%d" % number, source)
    await peer.until(lambda: len(peer.datagrams) >= 50, "50 datagrams")
    await peer.settled()
    assert sorted(peer.datagrams) == sorted(wire.varint(stream_id // 4) + b"\x00%d" % number for number in range(50))


@pytest.mark.row("H3D-25")
async def test_a_packet_with_only_a_datagram_is_acknowledged(gateway: Gateway, peer: RawPeer, target: Target) -> None:
    stream_id = await gateway.open(peer, target.address)
    await peer.settled()
    space = peer._quic._loss.spaces[-1]
    peer.send_http_datagram(stream_id, b"acknowledge me")

    def in_flight() -> bool:
        return any(packet.is_ack_eliciting for packet in space.sent_packets.values())

    assert in_flight()
    await target.take()
    # The PING goes out behind the datagram, so its acknowledgement covers both; the datagram's alone must come within
    # max_ack_delay, of which only "not lost" can be seen from here.
    await peer.settled()
    assert not in_flight()


# RFC 9297 section 2.1.1: the setting


@pytest.mark.row("H3D-1", "XC-2")
async def test_the_gateways_settings_offer_datagrams_and_extended_connect_once(peer: RawPeer) -> None:
    pairs = await peer.settings_pairs()
    assert [value for key, value in pairs if key == wire.SETTING_H3_DATAGRAM] == [1]
    assert [value for key, value in pairs if key == wire.SETTING_ENABLE_CONNECT_PROTOCOL] == [1]


@pytest.mark.row("H3D-2", "XC-4")
@pytest.mark.parametrize("setting", [wire.SETTING_H3_DATAGRAM, wire.SETTING_ENABLE_CONNECT_PROTOCOL])
@pytest.mark.parametrize("value", [2, wire.MAX_VARINT])
async def test_a_boolean_setting_with_another_value_closes_the_connection(
    gateway: Gateway, setting: int, value: int
) -> None:
    async with gateway.client(settings=[(setting, value)]) as peer:
        assert (await peer.connection_closed()).code == wire.H3_SETTINGS_ERROR


@pytest.mark.row("H3D-3", "H3D-37")
async def test_the_transport_parameters_offer_datagrams_and_unidirectional_streams(peer: RawPeer) -> None:
    quic = peer.transport_parameters()
    assert quic._remote_max_datagram_frame_size is not None and quic._remote_max_datagram_frame_size >= 1452
    assert quic._remote_max_streams_uni >= 3
    assert quic._remote_max_stream_data_uni >= 1024


@pytest.mark.row("H3D-4")
async def test_no_datagram_frame_leaves_before_the_clients_settings(gateway: Gateway, echo_target: Target) -> None:
    async with gateway.client(settings=None) as peer:
        stream_id = await gateway.open(peer, echo_target.address)
        peer.send_data(stream_id, wire.datagram_capsule(b"one"))
        await peer.until(lambda: peer.capsules(stream_id), "an answer in a capsule")
        assert peer.datagrams == []
        peer.open_control()
        await peer.settled()
        peer.send_http_datagram(stream_id, b"two")
        assert await peer.http_datagram(stream_id) == b"\x00two"


@pytest.mark.row("H3D-5")
@pytest.mark.parametrize("settings", [[], [(wire.SETTING_H3_DATAGRAM, 0)]], ids=["absent", "zero"])
async def test_a_client_without_the_setting_is_answered_in_capsules(
    gateway: Gateway, echo_target: Target, settings: list[tuple[int, int]]
) -> None:
    async with gateway.client(settings=settings) as peer:
        stream_id = await gateway.open(peer, echo_target.address)
        peer.send_data(stream_id, wire.datagram_capsule(b"in a capsule"))
        await peer.until(lambda: peer.capsules(stream_id), "an answer in a capsule")
        assert peer.capsules(stream_id) == [wire.Capsule(0, b"\x00in a capsule")]
        assert peer.datagrams == []


@pytest.mark.row("H3D-6")
async def test_the_setting_without_the_transport_parameter_is_tolerated(gateway: Gateway, echo_target: Target) -> None:
    async with gateway.client(max_datagram_frame_size=None) as peer:
        stream_id = await gateway.open(peer, echo_target.address)
        peer.send_data(stream_id, wire.datagram_capsule(b"in a capsule"))
        await peer.until(lambda: peer.capsules(stream_id), "an answer in a capsule")
        assert peer.datagrams == [] and peer.closed is None


@pytest.mark.row("H3D-9")
async def test_the_clients_frame_size_limit_is_obeyed(gateway: Gateway, target: Target) -> None:
    async with gateway.client(max_datagram_frame_size=300) as peer:
        stream_id = await gateway.open(peer, target.address)
        peer.send_http_datagram(stream_id, b"hello")
        source = await target.peer()
        target.send(bytes(400), source)
        target.send(b"small", source)
        assert await peer.http_datagram(stream_id) == b"\x00small"
        assert peer.datagrams == [] and peer.closed is None


@pytest.mark.row("H3D-29")
async def test_unknown_and_legacy_settings_are_ignored(gateway: Gateway, echo_target: Target) -> None:
    async with gateway.client(
        settings=[(0x21, 7), (0xFFD277, 1), (wire.SETTING_H3_DATAGRAM, 1), (0x1F * 99 + 0x21, wire.MAX_VARINT)]
    ) as peer:
        stream_id = await gateway.open(peer, echo_target.address)
        peer.send_http_datagram(stream_id, b"alive")
        assert await peer.http_datagram(stream_id) == b"\x00alive"


@pytest.mark.row("H3D-30")
@pytest.mark.parametrize("setting", [0x00, 0x02, 0x03, 0x04, 0x05])
async def test_settings_left_over_from_http2_close_the_connection(gateway: Gateway, setting: int) -> None:
    async with gateway.client(settings=[(setting, 1)]) as peer:
        assert (await peer.connection_closed()).code == wire.H3_SETTINGS_ERROR


# RFC 9114 sections 6.2 and 7.2.4: the streams beneath


@pytest.mark.row("H3D-31")
async def test_a_control_stream_that_does_not_begin_with_settings_closes_the_connection(gateway: Gateway) -> None:
    async with gateway.client(settings=None) as peer:
        peer.open_uni(0x00, wire.frame(wire.FRAME_GOAWAY, wire.varint(0)))
        assert (await peer.connection_closed()).code == wire.H3_MISSING_SETTINGS


@pytest.mark.row("H3D-32")
async def test_a_second_settings_frame_closes_the_connection(peer: RawPeer) -> None:
    assert peer.control_stream_id is not None
    peer.send(peer.control_stream_id, wire.settings([]))
    assert (await peer.connection_closed()).code == wire.H3_FRAME_UNEXPECTED


@pytest.mark.row("H3D-33")
async def test_a_repeated_setting_is_refused_or_tolerated_but_never_breaks_anything(gateway: Gateway) -> None:
    async with gateway.client(settings=[(wire.SETTING_H3_DATAGRAM, 1), (wire.SETTING_H3_DATAGRAM, 1)]) as peer:
        assert (await peer.connection_closed()).code == wire.H3_SETTINGS_ERROR


@pytest.mark.row("H3D-34")
async def test_a_second_control_stream_closes_the_connection(peer: RawPeer) -> None:
    peer.open_uni(0x00, wire.settings([]))
    assert (await peer.connection_closed()).code == wire.H3_STREAM_CREATION_ERROR


@pytest.mark.row("H3D-35")
async def test_a_finished_control_stream_closes_the_connection(peer: RawPeer) -> None:
    assert peer.control_stream_id is not None
    peer.send(peer.control_stream_id, b"", fin=True)
    assert (await peer.connection_closed()).code == wire.H3_CLOSED_CRITICAL_STREAM


@pytest.mark.row("H3D-36")
async def test_an_unknown_unidirectional_stream_is_tolerated(
    gateway: Gateway, peer: RawPeer, echo_target: Target
) -> None:
    peer.open_uni(0x21, bytes(500))
    stream_id = await gateway.open(peer, echo_target.address)
    peer.send_http_datagram(stream_id, b"alive")
    assert await peer.http_datagram(stream_id) == b"\x00alive"


# RFC 9221 section 3


@pytest.mark.row("H3D-26")
async def test_early_data_is_refused_on_resumption(gateway: Gateway) -> None:
    tickets: list[object] = []

    def keep(configuration: QuicConfiguration) -> None:
        if tickets:
            configuration.session_ticket = tickets[0]  # type: ignore[assignment]

    async with gateway.client(session_ticket_handler=tickets.append) as peer:
        await peer.settled()
        await peer.until(lambda: tickets, "a session ticket")
    assert getattr(tickets[0], "max_early_data_size", None) in (None, 0)
    async with gateway.client(prepare=keep) as peer:
        assert peer._quic.tls._session_resumed
        assert not peer._quic.tls.early_data_accepted


async def test_a_datagram_on_a_finished_get_is_dropped(gateway: Gateway, peer: RawPeer) -> None:
    stream_id = peer.request(
        [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", gateway.host.encode()), (b":path", b"/")],
        fin=True,
    )
    response = await peer.response(stream_id)
    assert response.status == 404
    peer.send_http_datagram(stream_id, b"stray")
    await peer.settled()
    assert peer.closed is None


def without_datagrams(gateway: Gateway, kind: str) -> Fields:
    authority = (b":authority", gateway.host.encode())
    page = [(b":scheme", b"https"), authority, (b":path", b"/")]
    return {
        "GET": [(b":method", b"GET"), *page],
        "classic CONNECT": [(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:9")],
        "unknown protocol": [(b":method", b"CONNECT"), (b":protocol", b"no-such"), *page],
    }[kind]


@pytest.mark.row("H3D-15", "H3D-16")
@pytest.mark.parametrize("kind", ["GET", "classic CONNECT", "unknown protocol"])
async def test_a_datagram_for_a_request_that_has_none_aborts_it(gateway: Gateway, peer: RawPeer, kind: str) -> None:
    """The datagram is first: a gateway of tunnels answers such a request at once, and what comes later finds none."""
    stream_id = peer._quic.get_next_available_stream_id()
    peer.send_http_datagram(stream_id, b"stray")
    await peer.settled()
    assert peer.request(without_datagrams(gateway, kind)) == stream_id
    assert await peer.stream_reset(stream_id) == wire.H3_DATAGRAM_ERROR
    assert peer.stream(stream_id).data == b""
    # Nor does a datagram behind the answer cost more than itself.
    answered = peer.request(without_datagrams(gateway, kind))
    assert (await peer.response(answered)).status >= 400
    peer.send_http_datagram(answered, b"stray")
    await peer.settled()
    assert peer.stream(answered).reset_code is None
    assert peer.closed is None
