"""Cancellation at every await resets the stream and leaks nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import moretta
from moretta import testing

from .conftest import ONE_ENGINE, Echo, no_tunnels, wait_for_engine_threads

#: No operation here takes more turns of the loop than this before it waits for the network.
TURNS = 8


async def cancelled_after(turns: int, operation: Callable[[], Awaitable[Any]]) -> bool:
    """Run `operation`, cancel it after so many turns of the loop, and tell whether that was in time."""

    async def run() -> None:
        await operation()

    task = asyncio.create_task(run())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert result is None or isinstance(result, asyncio.CancelledError), result
    return task.cancelled()


def handlers(gateway: moretta.Gateway) -> set[str]:
    return {kind for kind, _ in gateway._engine._handlers}


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_cancelled_open_leaves_no_tunnel(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo, turns: int
) -> None:
    for _ in range(5):
        await cancelled_after(turns, lambda: gateway.open_udp(echo.host, echo.port))
        # Opened in time after all: the test lets go of it, as a caller would that was cancelled a moment later.
    assert handlers(gateway) <= {"gateway", "tunnel"}
    for (kind, _), handler in list(gateway._engine._handlers.items()):
        if kind == "tunnel":
            tunnel = getattr(handler, "__self__", None)
            assert isinstance(tunnel, moretta.UdpTunnel)
            await tunnel.close()
    assert handlers(gateway) == {"gateway"}
    await no_tunnels(proxy)


async def test_an_open_that_is_cancelled_as_its_answer_arrives_leaves_no_tunnel(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await gateway.open_udp(echo.host, echo.port)

    task = asyncio.create_task(run())
    dispatch = gateway._engine._dispatch

    def watched(events: list[bytes]) -> None:
        dispatch(events)
        if any(b"tunnel_opened" in event for event in events):
            # The answer is in, and the task that waits for it has not run yet.
            task.cancel()

    monkeypatch.setattr(gateway._engine, "_dispatch", watched)
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await no_tunnels(proxy)
    assert handlers(gateway) == {"gateway"}


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_cancelled_connect_leaves_no_thread(proxy: testing.RunningGateway, turns: int) -> None:
    wait_for_engine_threads(ONE_ENGINE)

    async def connect() -> None:
        async with proxy.connect():
            pass

    await cancelled_after(turns, connect)
    wait_for_engine_threads(ONE_ENGINE)


async def test_a_cancelled_recv_loses_no_datagram(gateway: moretta.Gateway, echo: Echo) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        for number in range(20):
            waiting = asyncio.create_task(tunnel.recv())
            await asyncio.sleep(0)
            tunnel.send(str(number).encode())
            for _ in range(number):
                await asyncio.sleep(0)
            waiting.cancel()
            (result,) = await asyncio.gather(waiting, return_exceptions=True)
            received = result if isinstance(result, bytes) else await tunnel.recv()
            assert received == str(number).encode()


async def test_a_cancelled_close_resets_and_leaves_nothing(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    for turns in range(TURNS):
        tunnel = await gateway.open_udp(echo.host, echo.port)
        await cancelled_after(turns, tunnel.close)
        await tunnel.close()
    await no_tunnels(proxy)
    assert handlers(gateway) == {"gateway"}


async def test_an_open_that_takes_too_long_is_a_timeout_and_leaves_nothing(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    with pytest.raises(TimeoutError):
        await gateway.open_udp(echo.host, echo.port, timeout_seconds=0.000001)
    await no_tunnels(proxy)
    assert handlers(gateway) == {"gateway"}


async def test_a_cancelled_ping_and_forward_leave_no_handler(gateway: moretta.Gateway, echo: Echo) -> None:
    for turns in range(TURNS):
        await cancelled_after(turns, gateway.ping)

        async def forward() -> None:
            async with gateway.forward("127.0.0.1:0", echo.host, echo.port):
                pass

        await cancelled_after(turns, forward)
    await gateway.ping()
    assert handlers(gateway) <= {"gateway", "forward"}
