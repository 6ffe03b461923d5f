"""Known failures of QUIC implementations (K-…), with frames and packets that no library would send."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch, State

from rig import wire
from rig.fixtures import Target
from rig.neighbour import Neighbour
from rig.packets import first_flight, inject, numbers_received, packet, probe, withhold_acks
from rig.peer import RawPeer, connect_udp_fields
from rig.toll import Attack, Bystander, toll
from rig.victim import Victim

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("neighbour")]

OpenVictim = Callable[..., contextlib.AbstractContextManager[Victim]]
MIB = 1 << 20
FRAME_ENCODING_ERROR = 0x07
TRANSPORT_PARAMETER_ERROR = 0x08
CONNECTION_ID_LIMIT_ERROR = 0x09
PROTOCOL_VIOLATION = 0x0A
CRYPTO_BUFFER_EXCEEDED = 0x0D


#: After so many packets the gateway is asked for its statistics: by then it has taken what the kernel held.
PACKETS_AT_ONCE = 64


async def flood(peer: RawPeer, packets: Iterator[bytes], *, burst: int = 32) -> int:
    """Injects packets as fast as the gateway takes them, until it closes the connection; says how many."""
    sent = 0
    for frames in packets:
        if peer.closed is not None:
            break
        inject(peer, frames)
        sent += 1
        if sent % burst == 0:
            try:
                await peer.settled()
            except ConnectionError:
                break
    return sent


@pytest.mark.known("K-6")
async def test_connection_ids_that_retire_each_other_cost_bounded_memory(victim: Victim, watching: Bystander) -> None:
    """100,000 of them, each retiring all before; what the gateway answers is never acknowledged."""
    attack = Attack("K-6", "connection IDs that retire those before")

    def packets() -> Iterator[bytes]:
        for first in range(8, 100_000, 32):
            attack.made += 32
            if first // 32 % PACKETS_AT_ONCE == 0:
                victim.stats()
            yield b"".join(
                b"\x18" + wire.varint(number) + wire.varint(number) + b"\x08" + os.urandom(8) + os.urandom(16)
                for number in range(first, first + 32)
            )

    with toll(victim, watching, attack, memory_bytes=16 * MIB, cpu_microseconds=200):
        async with victim.client() as peer:
            await peer.settled()
            withhold_acks(peer)
            for frames in packets():
                inject(peer, frames)
            inject(peer, b"")


@pytest.mark.known("K-6")
async def test_more_connection_ids_than_allowed_close_the_connection(victim: Victim) -> None:
    async with victim.client() as peer:
        inject(
            peer,
            b"".join(
                b"\x18" + wire.varint(number) + b"\x00\x08" + os.urandom(8) + os.urandom(16) for number in range(8, 40)
            ),
        )
        assert (await peer.connection_closed()).code == CONNECTION_ID_LIMIT_ERROR


@pytest.mark.known("K-7")
async def test_a_flood_of_path_challenges_costs_bounded_memory(victim: Victim, watching: Bystander) -> None:
    attack = Attack("K-7", "path challenges")

    def packets() -> Iterator[bytes]:
        for number in range(2000):
            attack.made += 120
            if number % PACKETS_AT_ONCE == 0:
                victim.stats()
            yield b"".join(b"\x1a" + os.urandom(8) for _ in range(120))

    with toll(victim, watching, attack, memory_bytes=16 * MIB, cpu_microseconds=200):
        async with victim.client() as peer:
            await peer.settled()
            withhold_acks(peer)
            for frames in packets():
                inject(peer, frames)


@pytest.mark.known("K-8")
async def test_valid_packets_from_many_ports_cost_nothing_and_are_not_believed(
    victim: Victim, echo_target: Target
) -> None:
    """Nobody answers at those ports: the tunnel goes on at the real one, which alone is written down."""
    before = victim.memory()
    async with victim.client() as peer:
        stream_id = await victim.open(peer, echo_target.address)
        assert peer._transport is not None
        own_port = peer._transport.get_extra_info("sockname")[1]
        for _ in range(20_000):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
                elsewhere.sendto(packet(peer._quic, b""), victim.address)
        await peer.settled()
        peer.send_http_datagram(stream_id, b"still at home")
        assert await peer.http_datagram(stream_id) == b"\x00still at home"
        peer.send(stream_id, b"", fin=True)
        await peer.stream_finished(stream_id)
        assert victim.memory() - before < 16 * MIB
    closed = await victim.record("tunnel.close", echo_target.address)
    assert closed["client"] == f"127.0.0.1:{own_port}"


@pytest.mark.known("K-8")
@pytest.mark.parametrize("answer", [b"", b"\x1b" + bytes(8)], ids=["silent", "a made-up answer to the challenge"])
async def test_a_tunnel_asked_for_from_an_address_that_nobody_proved_is_not_written_to_its_account(
    victim: Victim, target: Target, answer: bytes
) -> None:
    """Whoever has a connection may write any sender on its packets: such a one must not stand in a record."""
    async with victim.client() as peer:
        await peer.settled()
        assert peer._transport is not None
        own_port = peer._transport.get_extra_info("sockname")[1]
        head = peer.headers_frame(connect_udp_fields(victim.host, *target.address))
        opened, migrated = victim.counter("core.tunnels_opened"), victim.counter("core.connections_migrated")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            if answer:
                elsewhere.settimeout(5)
                # Large enough for several packets back, of which the first holds the challenge.
                elsewhere.sendto(packet(peer._quic, bytes(1100)), victim.address)
                await victim.until(lambda stats: stats["core"]["connections_migrated"] > migrated, "the move")
                assert elsewhere.recv(2048)
                elsewhere.sendto(packet(peer._quic, answer + bytes(1100)), victim.address)
                assert elsewhere.recv(2048)
            frames = b"\x0a\x00" + wire.varint(len(head)) + head
            elsewhere.sendto(packet(peer._quic, frames), victim.address)
            await victim.until(lambda stats: stats["core"]["tunnels_opened"] > opened, "the tunnel")
        opened_record = await victim.record("tunnel.open", target.address)
        assert opened_record["client"] == f"127.0.0.1:{own_port}"


BROKEN: dict[str, tuple[bytes, set[int]]] = {
    "K-9 a packet never sent is acknowledged": (b"\x02" + wire.varint(1 << 29) + b"\x00\x00\x00", {PROTOCOL_VIOLATION}),
    "K-9 all packets there can be are acknowledged": (
        b"\x02" + wire.varint(wire.MAX_VARINT) + b"\x00\x00" + wire.varint(wire.MAX_VARINT),
        {PROTOCOL_VIOLATION, FRAME_ENCODING_ERROR},
    ),
    "K-9 a range below zero": (b"\x02\x05\x00\x00\x06", {PROTOCOL_VIOLATION, FRAME_ENCODING_ERROR}),
    "K-10 CRYPTO at 2^40": (
        b"\x06" + wire.varint(1 << 40) + b"\x01\x00",
        {CRYPTO_BUFFER_EXCEEDED, PROTOCOL_VIOLATION, FRAME_ENCODING_ERROR},
    ),
    "K-10 CRYPTO beyond 2^62": (
        b"\x06" + wire.varint(wire.MAX_VARINT) + b"\x01\x00",
        {CRYPTO_BUFFER_EXCEEDED, PROTOCOL_VIOLATION, FRAME_ENCODING_ERROR},
    ),
    "K-12 an unknown frame": (b"\x21", {FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION}),
    "K-12 an unknown frame of type 2^62-1": (wire.varint(wire.MAX_VARINT), {FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION}),
    "K-12 HANDSHAKE_DONE from a client": (b"\x1e", {PROTOCOL_VIOLATION}),
    "K-12 NEW_TOKEN from a client": (b"\x07\x01\x00", {PROTOCOL_VIOLATION}),
    "K-12 STREAM cut in its id": (b"\x0a\x40", {FRAME_ENCODING_ERROR}),
    "K-12 STREAM beyond 2^62": (b"\x0e\x00" + wire.varint(wire.MAX_VARINT) + b"\x02ab", {FRAME_ENCODING_ERROR, 3, 6}),
    "K-12 STREAM on the gateway's own": (b"\x0a\x03\x01\x00", {5}),
    "K-12 a stream far beyond the limit": (b"\x0a" + wire.varint(wire.MAX_VARINT - 3) + b"\x01\x00", {4, 5}),
    "K-12 RESET_STREAM below what was sent": (b"\x0a\x00\x02\x01\x02\x04\x00\x00\x01", {6}),
    "K-12 MAX_STREAMS above 2^60": (b"\x12" + wire.varint(wire.MAX_VARINT), {FRAME_ENCODING_ERROR, 4}),
    "K-12 MAX_STREAM_DATA for a stream that cannot be": (b"\x11\x02\x01", {5}),
    "K-12 RETIRE_CONNECTION_ID of one never issued": (b"\x19" + wire.varint(1 << 40), {PROTOCOL_VIOLATION}),
    "K-12 NEW_CONNECTION_ID without an ID": (
        b"\x18\x09\x00\x00" + bytes(16),
        {FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION},
    ),
    "K-12 NEW_CONNECTION_ID that retires itself": (
        b"\x18\x09\x0a\x08" + bytes(24),
        {FRAME_ENCODING_ERROR, PROTOCOL_VIOLATION},
    ),
    "K-12 a DATAGRAM cut in its length": (b"\x31\x41", {FRAME_ENCODING_ERROR}),
    "K-12 a connection close cut in its reason": (b"\x1c\x00\x00\x05ab", {FRAME_ENCODING_ERROR}),
}


@pytest.mark.known("K-9", "K-10", "K-12")
async def test_broken_frames_close_their_connection_with_the_right_error(victim: Victim) -> None:
    async def code(frames: bytes) -> int:
        async with victim.client() as peer:
            await peer.settled()
            inject(peer, frames)
            return (await peer.connection_closed()).code

    found = await asyncio.gather(*(code(frames) for frames, _ in BROKEN.values()))
    wrong = {name: code for (name, (_, codes)), code in zip(BROKEN.items(), found, strict=True) if code not in codes}
    assert wrong == {}


@pytest.mark.known("K-9")
async def test_a_number_that_was_left_out_is_a_trap_for_whoever_acknowledges_what_he_has_not_seen(
    victim: Victim,
) -> None:
    """RFC 9000 section 21.4. Nothing is lost on loopback: a gap in the numbers of the gateway's packets is such a trap."""
    async with victim.client() as peer:
        numbers = numbers_received(peer)
        await peer.settled()
        while not (left_out := set(range(min(numbers), max(numbers))) - numbers):
            await peer.ping()
        inject(peer, b"\x02" + wire.varint(max(left_out)) + b"\x00\x00\x00")
        assert (await peer.connection_closed()).code == PROTOCOL_VIOLATION


@pytest.mark.known("K-10")
async def test_crypto_data_after_finished_is_not_kept(victim: Victim, watching: Bystander, target: Target) -> None:
    """In the packet number space of the handshake, before the gateway has a chance to say that it is over."""
    attack = Attack("K-10", "handshakes with CRYPTO data behind their end")
    with toll(victim, watching, attack, memory_bytes=16 * MIB, cpu_microseconds=50_000):
        for attack.made in range(1, 101):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                quic = shake_hands(sender, victim.address)
                finished = [bytes(datagram) for datagram, _ in quic.datagrams_to_send(time.monotonic())]
                end = quic._crypto_streams[Epoch.HANDSHAKE].sender._buffer_stop
                late = [
                    packet(quic, b"\x06" + wire.varint(offset) + wire.varint(900) + bytes(900), Epoch.HANDSHAKE)
                    for offset in (end, end + 900, end + 4096, 1 << 20, 1 << 40)
                ]
                for datagram in finished + late:
                    sender.sendto(datagram, victim.address)
        victim.stats()
    async with victim.client() as peer:
        await victim.open(peer, target.address)


def shake_hands(sender: socket.socket, address: tuple[str, int]) -> QuicConnection:
    """A client with keys, whose Finished has not been sent."""
    quic, datagrams = first_flight(address, verify=False)
    sender.settimeout(10)
    while True:
        for datagram in datagrams:
            sender.sendto(datagram, address)
        quic.receive_datagram(sender.recv(2048), address, time.monotonic())
        if quic.tls.state == State.CLIENT_POST_HANDSHAKE:
            return quic
        datagrams = [bytes(datagram) for datagram, _ in quic.datagrams_to_send(time.monotonic())]


@pytest.mark.known("K-10")
async def test_crypto_data_far_ahead_is_not_kept_before_the_handshake(victim: Victim) -> None:
    """Each attempt: a whole first flight that is then followed by CRYPTO frames at offset 2^40, and by bytes that are none."""
    before = victim.memory()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            quic, datagrams = first_flight(victim.address)
            for datagram in datagrams:
                sender.sendto(datagram, victim.address)
            ahead = b"\x06" + wire.varint(1 << 40) + wire.varint(900) + bytes(900)
            for _ in range(8):
                sender.sendto(packet(quic, ahead, Epoch.INITIAL) + os.urandom(100), victim.address)
    assert victim.stats()
    assert victim.memory() - before < 16 * MIB


@pytest.mark.known("K-11")
async def test_fragments_of_a_byte_with_gaps_cost_bounded_memory(victim: Victim) -> None:
    """Every second byte of the windows of 8 streams, each in a frame of its own: a quarter of a million fragments."""
    before = victim.memory()

    def packets() -> Iterator[bytes]:
        for start in range(1, 64_000, 2 * 150):
            for stream_id in range(0, 32, 4):
                yield b"".join(
                    b"\x0e" + wire.varint(stream_id) + wire.varint(offset) + b"\x01\xff"
                    for offset in range(start, min(start + 300, 64_000), 2)
                )

    async with victim.client() as peer:
        await peer.settled()
        await flood(peer, packets(), burst=64)
        assert victim.memory() - before < 48 * MIB


def parameter(key: int, value: bytes) -> bytes:
    return wire.varint(key) + wire.varint(len(value)) + value


BAD_PARAMETERS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda good: good[:-1],
    "a length past the end": lambda good: good + b"\x21\x7f",
    "twice": lambda good: good + parameter(0x04, wire.varint(1)) + parameter(0x04, wire.varint(1)),
    "a server's": lambda good: good + parameter(0x02, bytes(16)),
    "a preferred address": lambda good: good + parameter(0x0D, bytes(41)),
    "max_udp_payload_size 0": lambda good: good + parameter(0x03, b"\x00"),
    "ack_delay_exponent 21": lambda good: good + parameter(0x0A, b"\x15"),
    "max_ack_delay 2^14": lambda good: good + parameter(0x0B, wire.varint(1 << 14)),
    "active_connection_id_limit 1": lambda good: good + parameter(0x0E, b"\x01"),
    "too many streams": lambda good: good + parameter(0x08, wire.varint(wire.MAX_VARINT)),
    "a number with a tail": lambda good: good + parameter(0x20, b"\x01\x01"),
    "none": lambda _: b"",
    "noise": lambda _: bytes(range(255, 200, -1)),
}


@pytest.mark.known("K-12")
async def test_broken_transport_parameters_end_the_handshake(victim: Victim) -> None:
    accepted = victim.counter("core.connections_established")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for change in BAD_PARAMETERS.values():
            for datagram in first_flight(victim.address, parameters=change)[1]:
                sender.sendto(datagram, victim.address)
    await victim.until(
        lambda stats: stats["core"]["failed_handshakes"] + stats["core"]["failed_first_packets"] >= len(BAD_PARAMETERS),
        "all handshakes to fail",
    )
    assert victim.counter("core.connections_established") == accepted


@pytest.mark.known("K-12")
async def test_late_packets_that_nobody_can_decrypt_are_dropped(
    victim: Victim, watching: Bystander, echo_target: Target
) -> None:
    """For a live connection: 1-RTT with a seal that is broken, and of the spaces whose keys are gone (RFC 9001 section 4.9)."""
    attack = Attack("K-12", "packets that cannot be decrypted")
    async with victim.client() as peer:
        stream_id = await victim.open(peer, echo_target.address)
        quic = peer._quic
        good, destination, source = packet(quic, b""), quic._peer_cid.cid, quic.host_cid
        ids = bytes([len(destination)]) + destination + bytes([len(source)]) + source
        initial, early, handshake = (
            bytes([0xC0 | kind << 4]) + (1).to_bytes(4) + ids + token + wire.varint(1000)
            for kind, token in ((0, b"\x00"), (1, b""), (2, b""))
        )
        with (
            toll(victim, watching, attack, memory_bytes=4 * MIB, cpu_microseconds=100),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere,
        ):
            for attack.made in range(1, 40_001):
                junk = (good[:-8], initial, early, handshake)[attack.made % 4] + os.urandom(1000)
                elsewhere.sendto(junk, victim.address)
                if attack.made % PACKETS_AT_ONCE == 0:
                    victim.stats()
        peer.send_http_datagram(stream_id, b"not concerned")
        assert await peer.http_datagram(stream_id) == b"\x00not concerned"


@pytest.mark.known("K-34")
async def test_empty_and_junk_datagrams_starve_nobody(
    victim: Victim, watching: Bystander, neighbour: Neighbour
) -> None:
    """Each costs its share of a wake-up's budget, although it carries nothing."""
    attack = Attack("K-34", "empty and junk datagrams")
    received = victim.counter("sockets.links.datagrams_received") + victim.counter("sockets.links.dropped_by_kernel")
    with (
        toll(victim, watching, attack, memory_bytes=4 * MIB, cpu_microseconds=100),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for number in range(40):
            for _ in range(1000):
                sender.sendto(b"", victim.address)
                sender.sendto(os.urandom(1 + number * 30), victim.address)
                attack.made += 2
            await neighbour.works()
    now = victim.counter("sockets.links.datagrams_received") + victim.counter("sockets.links.dropped_by_kernel")
    assert now - received >= attack.made, "each was counted, also those that the kernel dropped"


@pytest.mark.known("K-35")
async def test_a_stateless_reset_is_smaller_than_what_provokes_it(victim: Victim) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0.1)
        for size in (1, 5, 20, 21, 22, 40, 43, 100, 1200, 1400):
            sender.sendto(b"\x40" + os.urandom(size - 1), victim.address)
            try:
                assert len(sender.recv(2048)) < size
            except TimeoutError:
                continue


@pytest.mark.known("K-36")
async def test_an_address_that_is_not_validated_gets_three_times_what_it_sent_at_most(victim: Victim) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sent = 0
        for datagram in first_flight(victim.address)[1]:
            sent += sender.sendto(datagram, victim.address)
        assert 0 < heard(sender) <= 3 * sent


@pytest.mark.known("K-36")
async def test_with_retry_it_gets_no_more_than_it_sent(open_victim: OpenVictim) -> None:
    with open_victim(limits={"half_open_before_retry": 0}) as victim:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sent = sum(sender.sendto(datagram, victim.address) for datagram in first_flight(victim.address)[1])
            assert 0 < heard(sender) <= sent
        assert victim.counter("core.retries_sent") >= 1


@pytest.mark.known("K-36")
@pytest.mark.parametrize("frames", ["a move", "a probe"])
async def test_an_address_that_a_client_only_claims_gets_no_more_than_the_client_paid_for(
    victim: Victim, frames: str
) -> None:
    """Small packets of a living connection from a port at which nobody answers, by turns with its own: to the gateway
    each is a move, or a question whether the new address is reached."""
    async with victim.client() as peer:
        await peer.settled()
        home = peer._quic._network_paths[0].bytes_sent
        setattr(peer, "datagram_received", lambda *_: None)  # noqa: B010 -- assigning to a method is what it does
        sent = 0

        async def taken(send: Callable[[], int]) -> int:
            before = victim.counter("core.packets_received")
            size = send()
            await victim.until(lambda stats: stats["core"]["packets_received"] > before, "the packet")
            return size

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            for _ in range(50):
                claim = packet(peer._quic, b"") if frames == "a move" else probe(peer._quic)
                sent += await taken(functools.partial(elsewhere.sendto, claim, victim.address))
                home += await taken(functools.partial(inject, peer, b""))
            gone = heard(elsewhere, 0.5)
        assert 0 < gone <= 3 * sent + home, (gone, sent, home)


def heard(receiver: socket.socket, seconds: float = 1.5) -> int:
    """All bytes that come in a while: retransmissions are part of it."""
    until = time.monotonic() + seconds
    total = 0
    while (left := until - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            total += len(receiver.recv(65_535))
        except TimeoutError:
            break
    return total
