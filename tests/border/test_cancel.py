"""Cancellation at every await resets the stream and leaks nothing."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import pytest

import moretta
from moretta import testing
from moretta.errors import EngineClosed

from .conftest import ONE_ENGINE, Echo, no_tunnels, until, wait_for_engine_threads


async def cancelled_at(suspension: int, operation: Callable[[], Awaitable[Any]]) -> bool:
    """Run `operation` and cancel it when it waits for the so-manieth time; False when it came to its end before."""

    @types.coroutine
    def run() -> Generator[Any, Any, bool]:
        task = asyncio.current_task()
        assert task is not None
        steps = operation().__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        for number in itertools.count():
            try:
                awaited = resume(value)
            except StopIteration:
                return False
            if number == suspension:
                task.cancel()
            try:
                resume, value = steps.send, (yield awaited)
            except BaseException as error:  # noqa: BLE001 -- the operation decides what becomes of it
                resume, value = steps.throw, error
        raise AssertionError

    async def start() -> bool:
        return await run()

    task = asyncio.create_task(start())
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(result, bool | asyncio.CancelledError), result
    return task.cancelled()


async def every_await(operation: Callable[[], Awaitable[Any]]) -> AsyncIterator[int]:
    """Cancel `operation` at its first await, at its second … and yield after each, until it has no further one."""
    for suspension in itertools.count():
        if not await cancelled_at(suspension, operation):
            assert suspension, "it waited for nothing"
            return
        yield suspension


def handlers(gateway: moretta.Gateway) -> set[str]:
    return {kind for kind, _ in gateway._engine._handlers}


async def test_a_cancelled_open_leaves_no_tunnel(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    async def open_and_close() -> None:
        tunnel = await gateway.open_udp(echo.host, echo.port)
        tunnel.abort()

    async for _ in every_await(open_and_close):
        assert handlers(gateway) == {"gateway"}
        await no_tunnels(proxy)


async def test_a_cancelled_endpoint_leaves_no_tunnel(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    async def open_and_close() -> None:
        transport, _ = await gateway.create_datagram_endpoint(asyncio.DatagramProtocol, echo.host, echo.port)
        transport.abort()

    async for _ in every_await(open_and_close):
        assert handlers(gateway) == {"gateway"}
        await no_tunnels(proxy)


async def test_an_open_that_is_cancelled_as_its_answer_arrives_leaves_no_tunnel(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        await gateway.open_udp(echo.host, echo.port)

    task = asyncio.create_task(run())
    dispatch = gateway._engine._dispatch

    def watched(event: dict[str, Any]) -> None:
        dispatch(event)
        if event["event"] == "tunnel_opened":
            # The answer is in, and the task that waits for it has not run yet.
            task.cancel()

    monkeypatch.setattr(gateway._engine, "_dispatch", watched)
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await no_tunnels(proxy)
    assert handlers(gateway) == {"gateway"}


async def test_a_cancelled_connect_leaves_no_thread(proxy: testing.RunningGateway) -> None:
    wait_for_engine_threads(ONE_ENGINE)

    async def connect() -> None:
        async with proxy.connect():
            pass

    async for _ in every_await(connect):
        wait_for_engine_threads(ONE_ENGINE)


@pytest.mark.parametrize("how", ["recv", "recv_many", "async for"])
async def test_a_cancelled_receiver_loses_no_datagram(gateway: moretta.Gateway, echo: Echo, how: str) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        received: list[bytes] = []

        async def receive() -> None:
            if how == "recv":
                received.append(await tunnel.recv())
            elif how == "recv_many":
                received.extend(await tunnel.recv_many())
            else:
                received.append(await anext(tunnel))

        for number in range(20):
            async for _ in every_await(receive):
                # The wait that follows may find it there, or begin before it.
                tunnel.send(str(number).encode())
                if number % 2:
                    await gateway.ping()
        await gateway.ping()
        sent = tunnel.counters.sent
        while len(received) < sent:
            received += await tunnel.recv_many()
        assert sorted(set(received), key=int) == [str(number).encode() for number in range(20)]
        assert len(received) == sent


async def test_a_cancelled_close_resets_and_leaves_nothing(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    tunnel = await gateway.open_udp(echo.host, echo.port)

    async def close() -> None:
        await tunnel.close()

    async for _ in every_await(close):
        assert tunnel.end_reason == "client_reset"
        await tunnel.close()
        await no_tunnels(proxy)
        tunnel = await gateway.open_udp(echo.host, echo.port)
    assert handlers(gateway) == {"gateway"}


async def test_a_cancelled_wait_ends_nothing(gateway: moretta.Gateway, echo: Echo) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        assert await cancelled_at(0, tunnel.wait_closed)
        assert await cancelled_at(0, gateway.wait_closed)
        tunnel.send(b"still here")
        assert await tunnel.recv() == b"still here"


async def test_a_gateway_whose_closing_was_cancelled_can_be_closed(proxy: testing.RunningGateway, echo: Echo) -> None:
    for suspension in itertools.count():
        gateway = await proxy.connect()
        tunnel = await gateway.open_udp(echo.host, echo.port)
        was_cancelled = await cancelled_at(suspension, gateway.close)
        await gateway.close()
        await tunnel.wait_closed()
        wait_for_engine_threads(ONE_ENGINE)
        await no_tunnels(proxy)
        if not was_cancelled:
            break


async def test_an_open_that_takes_too_long_is_a_timeout_and_leaves_nothing(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    with pytest.raises(TimeoutError):
        await gateway.open_udp(echo.host, echo.port, timeout_seconds=0.000001)
    await no_tunnels(proxy)
    assert handlers(gateway) == {"gateway"}


async def test_a_cancelled_ping_leaves_no_handler(gateway: moretta.Gateway) -> None:
    async for _ in every_await(gateway.ping):
        assert handlers(gateway) == {"gateway"}
    await gateway.ping()


async def test_a_cancelled_forward_leaves_no_socket(gateway: moretta.Gateway, echo: Echo) -> None:
    async def forward() -> None:
        async with gateway.forward("127.0.0.1:0", echo.host, echo.port):
            pass

    async for _ in every_await(forward):
        await until(lambda: not gateway.stats()["gauges"]["forwards"])
    await gateway.ping()
    assert handlers(gateway) == {"gateway"}


async def test_a_server_whose_start_was_cancelled_has_no_thread_and_can_start(proxy: testing.RunningGateway) -> None:
    wait_for_engine_threads(ONE_ENGINE)
    server = moretta.Server(proxy.server.config)

    async def start_and_close() -> None:
        await server.start()
        await server.close()

    async for _ in every_await(start_and_close):
        await server.close()
        wait_for_engine_threads(ONE_ENGINE)


async def test_a_reload_that_was_cancelled_leaves_the_server_serving(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        async for _ in every_await(proxy.server.reload):
            tunnel.send(b"still here")
            assert await tunnel.recv() == b"still here"
        before = proxy.server.generation
        await proxy.server.reload()
        assert proxy.server.generation > before


async def test_a_drain_goes_on_when_waiting_for_it_is_cancelled(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: Echo
) -> None:
    tunnel = await gateway.open_udp(echo.host, echo.port)

    async def drain() -> None:
        await proxy.server.drain(30)

    assert await cancelled_at(0, drain)
    with pytest.raises(moretta.TunnelRefused):
        await gateway.open_udp(echo.host, echo.port)
    await tunnel.close()
    await proxy.server.drain()


async def test_a_server_whose_closing_was_cancelled_closes(proxy: testing.RunningGateway) -> None:
    assert await cancelled_at(0, proxy.server.close)
    await proxy.server.close()
    with pytest.raises(EngineClosed):
        proxy.server.stats()
