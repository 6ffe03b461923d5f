"""Known failures of others by packets whose sender is a lie: forged ICMP, and servers made to answer each other."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct

import pytest

from rig import wire
from rig.fixtures import Authority, udp_target
from rig.namespace import Everywhere
from rig.packets import first_flight
from rig.peer import RawPeer
from rig.victim import Victim, running

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("network")]

Address = tuple[str, int]
UNREACHABLE = 3
CODES = {"port unreachable": 3, "host unreachable": 1, "protocol unreachable": 2, "administratively prohibited": 13}
TOO_BIG = 4
#: linux/in.h: send what is larger than a path's MTU is believed to be, also after one forged here.
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, protocol, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:]


def udp_packet(source: Address, destination: Address, payload: bytes) -> bytes:
    """An IPv4 packet; a UDP checksum of zero is none."""
    header = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)
    return ipv4_header(source[0], destination[0], socket.IPPROTO_UDP, 8 + len(payload)) + header + payload


def icmp_error(code: int, quoted: bytes, mtu: int = 0) -> bytes:
    body = struct.pack("!BBHHH", UNREACHABLE, code, 0, 0, mtu) + quoted[: 20 + 8 + 64]
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


@pytest.mark.known("K-33")
async def test_forged_icmp_errors_stop_neither_tunnels_nor_the_listener(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory, network: Everywhere
) -> None:
    """Each quotes a packet that the gateway might have sent to its client, or to the target."""
    with running(authority, tmp_path_factory.mktemp("victim") / "log") as victim:
        async with udp_target(echo=True) as target, victim.client() as peer:
            stream_id = await victim.open(peer, target.address)
            peer.send_http_datagram(stream_id, b"before")
            await echoed(peer, stream_id, b"before")
            flow = target.received[-1][1]
            assert peer._transport is not None
            client = ("127.0.0.1", peer._transport.get_extra_info("sockname")[1])
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger:
                for source, destination in ((victim.address, client), (flow, target.address)):
                    quoted = udp_packet(source, destination, bytes(1200))
                    for mtu in (0, 68, 576, 1199, 1280):
                        forger.sendto(icmp_error(TOO_BIG, quoted, mtu), ("127.0.0.1", 0))
                quoted = udp_packet(victim.address, client, bytes(1200))
                for code in CODES.values():
                    for _ in range(50):
                        forger.sendto(icmp_error(code, quoted), ("127.0.0.1", 0))
            assert victim.stats()
            payload = b"after" + bytes(1100)
            peer.send_http_datagram(stream_id, payload)
            await echoed(peer, stream_id, payload)
            # What the kernel now believes of the path to the target, the tunnel does not.
            capsule = wire.datagram_capsule(b"in pieces" + bytes(1100))
            peer.send_data(stream_id, capsule[:600])
            peer.send_data(stream_id, capsule[600:])
            await echoed(peer, stream_id, b"in pieces" + bytes(1100))
        async with udp_target(echo=True) as target, victim.client() as peer:
            stream_id = await victim.open(peer, target.address)
            peer.send_http_datagram(stream_id, b"a new client")
            await echoed(peer, stream_id, b"a new client")


async def test_what_a_router_says_about_the_path_to_a_target_bounds_what_is_assembled_for_it(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory, network: Everywhere
) -> None:
    """UDP-47: a capsule in pieces is held only if the path carries its payload; here a router is forged that wants less."""
    with running(authority, tmp_path_factory.mktemp("victim") / "log") as victim:
        # The kernel keeps what it is told for all sockets to an address: this one is for this test alone.
        async with udp_target("127.0.0.3") as target, victim.client() as peer:
            stream_id = await victim.open(peer, target.address)

            async def in_pieces(size: int) -> None:
                capsule = wire.datagram_capsule(bytes(size))
                for start in range(0, len(capsule), 1000):
                    peer.send_data(stream_id, capsule[start : start + 1000])
                await peer.settled()

            await in_pieces(9000)
            flow = await target.peer()
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger:
                quoted = udp_packet(flow, target.address, bytes(1200))
                forger.sendto(icmp_error(TOO_BIG, quoted, 1400), (flow[0], 0))
            await victim.until(lambda stats: stats["core"]["flow_errors_too_large"] > 0, "the report")
            for size in (1373, 1372):
                await in_pieces(size)
            assert len(await target.take()) == 1372


async def echoed(peer: RawPeer, stream_id: int, payload: bytes) -> None:
    assert await peer.http_datagram(stream_id) == b"\x00" + payload


def answers(victim: Victim) -> int:
    return victim.counter("core.endpoint_answers")


@pytest.mark.known("K-35")
async def test_two_gateways_that_are_made_to_answer_each_other_stop(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """To each, packets that provoke an answer come from the address of the other: resets, versions, first flights."""
    folder = tmp_path_factory.mktemp("victims")
    with running(authority, folder / "one") as one, running(authority, folder / "two") as two:
        triggers = 0
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as forger:
            forger.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            for _ in range(50):
                for to, source in ((one, two), (two, one)):
                    unknown = b"\xc0\x1a\x2a\x3a\x4a\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
                    for payload in (b"\x40" + os.urandom(1199), unknown + bytes(1200 - len(unknown))):
                        forger.sendto(udp_packet(source.address, to.address, payload), (to.address[0], 0))
                        triggers += 1
        async with asyncio.timeout(5):
            said, before = answers(one) + answers(two), -1
            while said != before:
                # Two answers in a row without another packet said: whatever went to and fro has died.
                before = said
                for _ in range(10):
                    await asyncio.to_thread(one.stats)
                said = answers(one) + answers(two)
        assert 0 < said <= 20 * triggers


@pytest.mark.exhaustion("X-1")
async def test_first_flights_from_addresses_that_are_not_theirs_are_bounded_by_retry(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """1,000 of them, each from another address: who is really there is still served."""
    with running(authority, tmp_path_factory.mktemp("victim") / "log") as victim:
        before = victim.memory()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as forger:
            forger.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            for number in range(1000):
                source = (f"11.{number % 7}.{number >> 8}.{number & 255}", 1024 + number)
                for datagram in first_flight(victim.address)[1]:
                    forger.sendto(udp_packet(source, victim.address, datagram), (victim.address[0], 0))
                if number % 100 == 99:
                    victim.stats()
        stats = victim.stats()
        assert stats["core"]["retries_sent"] >= 400
        assert stats["gauges"]["connections"] <= 256 * len(stats["workers"])
        assert victim.memory() - before <= 256 * len(stats["workers"]) * (64 << 10) + (16 << 20)
        async with udp_target(echo=True) as target, victim.client() as peer:
            stream_id = await victim.open(peer, target.address)
            peer.send_http_datagram(stream_id, b"really there")
            await echoed(peer, stream_id, b"really there")
