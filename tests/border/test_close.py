"""Closing: twice, early, from elsewhere, and what a closed handle says."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings

import pytest

import moretta
from moretta import _engine, engine, testing
from moretta.errors import EngineClosed, GatewayClosed, TunnelClosed

from .conftest import ONE_ENGINE, Echo, wait_for_engine_threads


def test_a_closed_native_engine_refuses_and_has_no_threads() -> None:
    wait_for_engine_threads([])
    native = _engine.Engine(b'{"version": 1, "workers": 2}')
    wait_for_engine_threads(["moretta-0", "moretta-1", "moretta-helper"])
    native.close()
    native.close()
    assert native.closed
    wait_for_engine_threads([])
    with pytest.raises(EngineClosed):
        native.submit(b'{"version": 1, "command": "drain", "deadline_seconds": 1.0}')
    with pytest.raises(EngineClosed):
        native.put_secret("a", b"b")
    assert native.tunnel(1) is None


def test_an_engine_is_closed_when_it_is_forgotten() -> None:
    wait_for_engine_threads([])
    native = _engine.Engine(b'{"version": 1, "workers": 1}')
    wait_for_engine_threads(ONE_ENGINE)
    del native
    gc.collect()
    wait_for_engine_threads([])


def test_many_threads_may_close_at_once() -> None:
    native = _engine.Engine(b'{"version": 1, "workers": 1}')
    threads = [threading.Thread(target=native.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert native.closed


async def test_an_attached_engine_closes_once_also_when_the_first_closing_is_cancelled() -> None:
    attached = engine.Engine(workers=1)
    first = asyncio.create_task(attached.close())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await attached.close()
    await attached.close()
    assert attached.closed
    with pytest.raises(EngineClosed):
        attached.stats()


async def test_an_engine_that_nobody_closes_warns_and_is_closed() -> None:
    wait_for_engine_threads([])

    def forget() -> None:
        engine.Engine(workers=1)
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed"):
        forget()
    wait_for_engine_threads([])


async def test_closing_a_gateway_twice_ends_its_tunnels_once(proxy: testing.RunningGateway, echo: Echo) -> None:
    gateway = await proxy.connect()
    tunnel = await gateway.open_udp(echo.host, echo.port)
    receiver = asyncio.create_task(tunnel.recv())
    await asyncio.sleep(0)
    await asyncio.gather(gateway.close(), gateway.close())
    with pytest.raises(TunnelClosed):
        await receiver
    await tunnel.wait_closed()
    await tunnel.close()
    with pytest.raises(TunnelClosed):
        tunnel.send(b"x")
    with pytest.raises(GatewayClosed):
        await gateway.open_udp(echo.host, echo.port)
    with pytest.raises(GatewayClosed):
        await gateway.ping()
    with pytest.raises(GatewayClosed):
        gateway.rebind()


async def test_closing_a_server_twice_ends_its_clients(echo: Echo) -> None:
    async with testing.gateway() as proxy, proxy.connect() as gateway:
        tunnel = await gateway.open_udp(echo.host, echo.port)
        await asyncio.gather(proxy.server.close(), proxy.server.close())
        await tunnel.wait_closed()
        await gateway.wait_closed()
        with pytest.raises(EngineClosed):
            proxy.server.stats()
        with pytest.raises(EngineClosed):
            await proxy.server.reload()


async def test_a_closing_tunnel_needs_no_one_who_reads(proxy: testing.RunningGateway, echo: Echo) -> None:
    async with proxy.connect() as gateway, gateway.open_udp(echo.host, echo.port) as tunnel:
        for _ in range(100):
            tunnel.send(b"never read")


async def test_nothing_here_warns_of_anything_left_open(proxy: testing.RunningGateway, echo: Echo) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with proxy.connect() as gateway:
            await (await gateway.open_udp(echo.host, echo.port)).close()
        gc.collect()
    assert isinstance(gateway, moretta.Gateway)
