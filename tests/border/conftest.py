"""A gateway, a client and a target that does not need the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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


def engine_threads() -> list[str]:
    """Return the names of the engine's threads in this process."""
    names = []
    for thread in Path("/proc/self/task").iterdir():
        # It may end between being listed and being asked.
        with contextlib.suppress(OSError):
            names.append(thread.joinpath("comm").read_text().strip())
    return sorted(name for name in names if name.startswith("moretta"))


#: The threads of one engine with one worker.
ONE_ENGINE = ["moretta-0", "moretta-helper"]


def wait_for_engine_threads(expected: list[str]) -> None:
    """Spin until these are the engine's threads.

    A thread gives itself its name a moment after it started, and the kernel lists it for a moment after it was joined.
    """
    while engine_threads() != expected:
        pass


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is so; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 -- what is waited for sets no event
        await asyncio.sleep(0)


async def no_tunnels(proxy: testing.RunningGateway) -> None:
    """Wait until the gateway has no tunnel left; the test's timeout bounds it."""
    while proxy.server.stats()["tunnels"]["open"]:
        # The gateway answers questions at its own pace: let it and the loop run.
        await asyncio.to_thread(threading.Event().wait, 0.005)
