"""What was opened and closed is gone: descriptors, tasks, handlers, memory of the engine."""

from __future__ import annotations

import asyncio
import resource
import threading
from pathlib import Path

import pytest

import moretta
from moretta import testing

from .conftest import Echo, no_tunnels, until

MIB = 1 << 20


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_ten_thousand_tunnels_leave_nothing(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    async def open_and_close(number: int) -> None:
        async with gateway.open_udp(echo.host, echo.port) as tunnel:
            tunnel.send(str(number).encode())
            assert await tunnel.recv() == str(number).encode()

    async def hundreds(count: int) -> None:
        for _ in range(count):
            await asyncio.gather(*(open_and_close(number) for number in range(100)))
        await no_tunnels(proxy)

    # What the allocator takes once is no leak.
    await hundreds(10)
    before = descriptors(), len(asyncio.all_tasks()), threading.active_count()
    memory = resident_bytes()
    await hundreds(100)
    grown = resident_bytes() - memory
    after = descriptors(), len(asyncio.all_tasks()), threading.active_count()
    # Fewer is fine: an engine of the test before may have been on its way out.
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
    assert {kind for kind, _ in gateway._engine._handlers} == {"gateway"}
    assert not gateway._engine._ready
    border = gateway.stats()["border"]
    assert border["events_reserved"] <= 8, border
    # Gateway and client are both in here: 10,000 tunnels that left 200 bytes each would show.
    assert grown <= 2 * MIB, grown


async def test_refused_tunnels_leave_nothing(proxy: testing.RunningGateway, gateway: moretta.Gateway) -> None:
    async def refused() -> None:
        with pytest.raises(moretta.PolicyRefused):
            await gateway.open_udp("192.0.2.1", 53)

    await refused()
    before = descriptors(), len(asyncio.all_tasks())
    await asyncio.gather(*(refused() for _ in range(200)))
    assert descriptors() <= before[0]
    assert len(asyncio.all_tasks()) <= before[1]
    assert {kind for kind, _ in gateway._engine._handlers} == {"gateway"}
    assert not proxy.server.stats()["tunnels"]["open"]


async def test_many_gateways_leave_nothing(proxy: testing.RunningGateway) -> None:
    async with proxy.connect():
        pass
    before = descriptors()
    for _ in range(10):
        async with proxy.connect() as gateway:
            await gateway.ping()
    # The thread that joined the last engine's threads lets go of it a moment after it said so.
    await until(lambda: descriptors() <= before)
