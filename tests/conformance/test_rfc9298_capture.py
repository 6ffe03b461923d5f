"""What leaves the gateway's machine, seen by a packet socket: RFC 9298 sections 3.1 and 6.2 (needs CAP_NET_RAW)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from rig.fixtures import Gateway, OpenGateway, Target, udp_target
from rig.namespace import beyond_a_tunnel_device
from rig.peer import RawPeer

pytestmark = pytest.mark.asyncio

ETH_P_ALL = 3
ETHERNET_HEADER_BYTES = 14
SO_ATTACH_FILTER = 26


@pytest.fixture
def loopback_capture() -> Iterator[socket.socket]:
    try:
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    except PermissionError:
        pytest.skip("a packet socket needs CAP_NET_RAW")
    with capture:
        capture.bind(("lo", 0))
        capture.settimeout(5)
        yield capture


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


def only_udp_to(capture: socket.socket, port: int, *, version: int) -> None:
    """A filter in the kernel: other tests flood loopback, and what they send must not push our packet out."""
    ethertype, protocol_at, port_at = {4: (0x0800, 23, 36), 6: (0x86DD, 20, 56)}[version]
    load_half, load_byte, jump_if_equal, answer = 0x28, 0x30, 0x15, 0x06
    program = [
        (load_half, 0, 0, 12),
        (jump_if_equal, 0, 5, ethertype),
        (load_byte, 0, 0, protocol_at),
        (jump_if_equal, 0, 3, socket.IPPROTO_UDP),
        (load_half, 0, 0, port_at),
        (jump_if_equal, 0, 1, port),
        (answer, 0, 0, 65535),
        (answer, 0, 0, 0),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    capture.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code)))


async def packet_with(capture: socket.socket, payload: bytes, send: Callable[[], None]) -> bytes:
    """The first IP packet let through by the filter that carries `payload`; datagrams may be lost, so it is sent again."""

    def search() -> bytes:
        while True:
            packet = capture.recv(65536)[ETHERNET_HEADER_BYTES:]
            if payload in packet:
                return packet

    found = asyncio.get_running_loop().run_in_executor(None, search)
    while not found.done():
        send()
        await asyncio.wait([found], timeout=0.25)
    return found.result()


@pytest.mark.row("UDP-48", "UDP-50")
async def test_an_ipv4_datagram_leaves_with_df_and_not_ect(
    gateway: Gateway, peer: RawPeer, target: Target, loopback_capture: socket.socket
) -> None:
    only_udp_to(loopback_capture, target.address[1], version=4)
    stream_id = await gateway.open(peer, target.address)
    payload = b"is DF set on this one?"
    packet = await packet_with(loopback_capture, payload, partial(peer.send_http_datagram, stream_id, payload))
    assert packet[0] >> 4 == 4
    flags_and_offset = int.from_bytes(packet[6:8], "big")
    assert flags_and_offset & 0x4000, "DF"
    assert flags_and_offset & 0x3FFF == 0, "no fragment"
    assert packet[1] & 0x03 == 0, "Not-ECT"


@pytest.mark.row("UDP-49")
async def test_an_ipv6_datagram_leaves_without_a_fragment_header(
    gateway: Gateway, peer: RawPeer, loopback_capture: socket.socket, stack: AsyncExitStack
) -> None:
    try:
        target = await stack.enter_async_context(udp_target("::1"))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback on this machine: {error}")
    only_udp_to(loopback_capture, target.address[1], version=6)
    stream_id = await gateway.open(peer, target.address)
    payload = b"is there a fragment header on this one?"
    packet = await packet_with(loopback_capture, payload, partial(peer.send_http_datagram, stream_id, payload))
    assert packet[0] >> 4 == 6
    assert packet[6] == socket.IPPROTO_UDP, "the next header is UDP itself"


def folded(data: bytes) -> int:
    """The sum of RFC 1071: 0xffff over whatever contains its own checksum."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def datagram_with(device: int, payload: bytes, seconds: float = 10.0) -> tuple[bytes, bytes]:
    """The UDP datagram that carries `payload`, and the pseudo-header that its checksum covers too."""
    until = time.monotonic() + seconds
    while select.select([device], [], [], max(0.0, until - time.monotonic()))[0]:
        packet = os.read(device, 65_536)
        header, addresses = (20, packet[12:20]) if packet[0] >> 4 == 4 else (40, packet[8:40])
        if packet.endswith(payload):
            datagram = packet[header:]
            return datagram, addresses + struct.pack("!II", len(datagram), socket.IPPROTO_UDP)
    raise AssertionError(f"nothing carried {payload!r}")


@pytest.mark.row("UDP-52")
@pytest.mark.parametrize("target", ["11.0.0.1", "2a0e:b101::1"])
async def test_a_datagram_leaves_with_a_checksum_that_is_right(open_gateway: OpenGateway, target: str) -> None:
    """RFC 768; RFC 8200 section 8.1 forbids a checksum of zero, which would be none."""
    rules = [{"id": "public", "action": "allow", "protocol": "udp", "destination": ["*"], "ports": "*"}]
    with beyond_a_tunnel_device() as device:
        async with open_gateway(rules=rules, danger=[]) as gateway, gateway.client() as peer:
            stream_id = await gateway.open(peer, (target, 9))
            for payload in (b"an even number of bytes.", b"an odd number of bytes.", bytes(range(256)) * 4):
                peer.send_http_datagram(stream_id, payload)
                datagram, covered = await asyncio.to_thread(datagram_with, device, payload)
                assert datagram[6:8] != b"\x00\x00"
                assert folded(covered + datagram) == 0xFFFF
