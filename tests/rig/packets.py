"""QUIC packets with frames that no library would write, protected with the keys of a live connection."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import Epoch

from rig import wire
from rig.peer import RawPeer

PING = 0x01
PADDING = 0x00
PACKET_TYPES = {
    Epoch.INITIAL: QuicPacketType.INITIAL,
    Epoch.HANDSHAKE: QuicPacketType.HANDSHAKE,
    Epoch.ONE_RTT: QuicPacketType.ONE_RTT,
}


def packet(quic: QuicConnection, frames: bytes, epoch: Epoch = Epoch.ONE_RTT, *, first: int = PING) -> bytes:
    """One datagram with a frame of type `first` and `frames` behind it, taking the connection's next packet number."""
    assert quic._version is not None
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid,
        is_client=True,
        max_datagram_size=quic._max_datagram_size,
        packet_number=quic._packet_number,
        peer_cid=quic._peer_cid.cid,
        peer_token=quic._peer_token,
        version=quic._version,
    )
    builder.start_packet(PACKET_TYPES[epoch], quic._cryptos[epoch])
    builder.start_frame(first, capacity=1 + len(frames)).push_bytes(frames)
    datagrams, _ = builder.flush()
    quic._packet_number = builder.packet_number
    assert len(datagrams) == 1
    return bytes(datagrams[0])


def probe(quic: QuicConnection) -> bytes:
    """A packet that asks whether its sender's address is reached, smaller than allowed, and is no reason to move there."""
    return packet(quic, b"\x1a" + os.urandom(8), first=PADDING)


def inject(peer: RawPeer, frames: bytes) -> int:
    """Sends `frames` in a packet of their own, past all limits and books of the peer's own QUIC; says how large it is."""
    assert peer._transport is not None
    datagram = packet(peer._quic, frames)
    peer._transport.sendto(datagram, peer._quic.get_peer_address())
    return len(datagram)


def withhold_acks(peer: RawPeer) -> None:
    """The peer's QUIC acknowledges nothing from now on."""

    def nothing(builder: QuicPacketBuilder, space: QuicPacketSpace, now: float) -> None:
        space.ack_at = None

    setattr(peer._quic, "_write_ack_frame", nothing)  # noqa: B010 -- assigning to a method is what it does


def numbers_received(peer: RawPeer) -> set[int]:
    """The packet numbers that the peer receives from now on; grows by itself."""
    numbers: set[int] = set()
    queue = peer._quic._spaces[Epoch.ONE_RTT].ack_queue
    add = queue.add

    def noting(start: int, stop: int | None = None) -> None:
        numbers.add(start)
        add(start, stop)

    setattr(queue, "add", noting)  # noqa: B010 -- as above
    return numbers


def grant_nothing(peer: RawPeer) -> None:
    """The peer's QUIC raises no limit of streams or data from now on."""

    def nothing(*_: object, **__: object) -> None: ...

    for method in ("_write_stream_limits", "_write_connection_limits"):
        setattr(peer._quic, method, nothing)


def packet_of_datagrams(peer: RawPeer, datagrams: list[bytes]) -> bytes:
    """Many DATAGRAM frames in one packet, for `send_datagram_frame`; from now on the peer sends nothing else by it."""

    def as_it_is(builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType) -> bool:
        builder.start_frame(frame_type, capacity=1 + len(data)).push_bytes(data)
        return True

    peer._quic._write_datagram_frame = as_it_is  # type: ignore[method-assign]
    frames = [wire.varint(QuicFrameType.DATAGRAM_WITH_LENGTH) + wire.varint(len(one)) + one for one in datagrams]
    # The type of the first is written by aioquic.
    return b"".join(frames)[1:]


def first_flight(
    address: tuple[str, int], *, parameters: Callable[[bytes], bytes] | None = None, verify: bool = True
) -> tuple[QuicConnection, list[bytes]]:
    """A client that has not been answered, and the datagrams with its ClientHello; `parameters` may spoil what it offers."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost")
    if not verify:
        configuration.verify_mode = ssl.CERT_NONE
    quic = QuicConnection(configuration=configuration)
    if parameters is not None:
        good = quic._serialize_transport_parameters
        setattr(quic, "_serialize_transport_parameters", lambda: parameters(good()))  # noqa: B010 -- as above
    now = time.monotonic()
    quic.connect(address, now)
    return quic, [bytes(datagram) for datagram, _ in quic.datagrams_to_send(now)]
