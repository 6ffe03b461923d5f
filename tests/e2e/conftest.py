"""A gateway, a client and targets, over real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

import moretta
from moretta import testing


class EchoProtocol(asyncio.DatagramProtocol):
    """Sends everything back and remembers from where it came."""

    def __init__(self) -> None:
        self.senders: list[tuple[str, int]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.senders.append(addr)
        self.transport.sendto(data, addr)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.transport.get_extra_info("sockname")[:2]
        return host, port


@pytest.fixture
async def echo() -> AsyncIterator[EchoProtocol]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(EchoProtocol, local_addr=("127.0.0.1", 0))
    yield protocol
    transport.close()


@pytest.fixture
def certificates(tmp_path: Path) -> testing.Certificates:
    return testing.make_certificates(tmp_path)


@pytest.fixture
async def proxy() -> AsyncIterator[testing.RunningGateway]:
    async with testing.gateway() as running:
        yield running


@pytest.fixture
async def gateway(proxy: testing.RunningGateway) -> AsyncIterator[moretta.Gateway]:
    async with proxy.connect() as connected:
        yield connected
