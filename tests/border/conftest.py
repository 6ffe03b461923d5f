"""A gateway, a client and a target that does not need the event loop."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

import moretta
from moretta import testing


@dataclass(frozen=True, slots=True)
class Echo:
    """A UDP socket in a thread that sends everything back."""

    host: str
    port: int


@pytest.fixture
def echo() -> Iterator[Echo]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        target.bind(("127.0.0.1", 0))
        address = target.getsockname()

        def serve() -> None:
            while True:
                data, sender = target.recvfrom(65535)
                if sender == address:
                    return
                with contextlib.suppress(OSError):
                    target.sendto(data, sender)

        thread = threading.Thread(target=serve, name="echo")
        thread.start()
        try:
            yield Echo(*address)
        finally:
            target.sendto(b"", address)
            thread.join()


@pytest.fixture
async def proxy() -> AsyncIterator[testing.RunningGateway]:
    async with testing.gateway() as running:
        yield running


@pytest.fixture
async def gateway(proxy: testing.RunningGateway) -> AsyncIterator[moretta.Gateway]:
    async with proxy.connect() as connected:
        yield connected


async def no_tunnels(proxy: testing.RunningGateway) -> None:
    """Wait until the gateway has no tunnel left; the test's timeout bounds it."""
    import asyncio

    while proxy.server.stats()["tunnels"]["open"]:
        # The gateway answers questions at its own pace: let it and the loop run.
        await asyncio.to_thread(threading.Event().wait, 0.005)
