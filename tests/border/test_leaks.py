"""What was opened and closed is gone: descriptors, tasks, handlers, memory of the engine."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

import moretta
from moretta import testing

from .conftest import Echo, no_tunnels


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_many_tunnels_leave_nothing(proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo) -> None:
    async def open_and_close(number: int) -> None:
        async with gateway.open_udp(echo.host, echo.port) as tunnel:
            tunnel.send(str(number).encode())
            assert await tunnel.recv() == str(number).encode()

    await open_and_close(0)
    await no_tunnels(proxy)
    before = descriptors(), len(asyncio.all_tasks()), threading.active_count()
    for _ in range(10):
        await asyncio.gather(*(open_and_close(number) for number in range(50)))
    await no_tunnels(proxy)
    after = descriptors(), len(asyncio.all_tasks()), threading.active_count()
    # Fewer is fine: an engine of the test before may have been on its way out.
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
    assert {kind for kind, _ in gateway._engine._handlers} == {"gateway"}
    assert not gateway._engine._ready
    border = gateway.stats()["border"]
    assert border["events_reserved"] <= 8, border


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
    while descriptors() > before:  # noqa: ASYNC110 -- the system is what is asked
        await asyncio.sleep(0)
