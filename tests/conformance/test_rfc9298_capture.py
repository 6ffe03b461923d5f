"""What leaves the gateway's machine, seen by a packet socket: RFC 9298 sections 3.1 and 6.2 (needs CAP_NET_RAW)."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from rig.fixtures import Gateway, Target, udp_target
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
