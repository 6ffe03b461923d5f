"""What Python code does wrong on its side costs nothing on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

import moretta
from moretta import testing

from .conftest import ONE_ENGINE, Echo, no_tunnels, until, wait_for_engine_threads


@pytest.fixture
def faults() -> list[dict[str, Any]]:
    """What the loop's exception handler is told; with it, a fault fails no test by itself."""
    told: list[dict[str, Any]] = []
    return told


def listen_for(faults: list[dict[str, Any]]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))


def kinds(faults: list[dict[str, Any]]) -> list[type[BaseException]]:
    return [type(fault["exception"]) for fault in faults]


@pytest.mark.parametrize("fault", [ZeroDivisionError, asyncio.CancelledError])
async def test_a_handler_that_raises_loses_no_event_behind_it(
    echo: Echo, faults: list[dict[str, Any]], fault: type[BaseException]
) -> None:
    listen_for(faults)
    seen: list[str] = []
    complete = asyncio.Event()

    def on_record(record: Mapping[str, Any]) -> None:
        seen.append(record["event"])
        if seen.count("record_closed") == 10:
            complete.set()
        if record["event"] == "record_opened":
            raise fault

    async with testing.gateway(on_record=on_record) as proxy, proxy.connect() as gateway:
        tunnels = await asyncio.gather(*(gateway.open_udp(echo.host, echo.port) for _ in range(10)))
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))
        await complete.wait()
    assert seen.count("record_opened") == 10
    assert kinds(faults) == [fault] * 10


def test_a_handler_that_ends_the_program_loses_no_event_behind_it() -> None:
    """SystemExit leaves the loop at once; whoever runs it again, to clean up, finds the events that were behind."""
    loop = asyncio.new_event_loop()
    seen: list[str] = []

    def on_record(record: Mapping[str, Any]) -> None:
        seen.append(record["event"])
        raise SystemExit

    async def open_udp(gateway: moretta.Gateway) -> None:
        await gateway.open_udp("192.0.2.1", 53)

    async def open_and_close() -> None:
        async with testing.gateway(on_record=on_record) as proxy, proxy.connect() as gateway:
            opening = [asyncio.ensure_future(open_udp(gateway)) for _ in range(3)]
            await asyncio.sleep(0)
            # The loop stands still until all three have come, so that they are one batch.
            while proxy.server.stats()["core"]["tunnels_refused"] < 3:
                pass
            await asyncio.gather(*opening, return_exceptions=True)
            await until(lambda: len(seen) >= 3)

    main = loop.create_task(open_and_close())
    exits = 0
    while not main.done():
        try:
            loop.run_until_complete(main)
        except SystemExit:
            exits += 1
    main.result()
    loop.close()
    assert (exits, seen) == (3, ["record_refused"] * 3)


class Faulty(asyncio.DatagramProtocol):
    """Raises where it is told to, after it has noted what it was told."""

    def __init__(self, where: str, fault: type[BaseException] = ZeroDivisionError) -> None:
        self.where, self.fault = where, fault
        self.told: list[object] = []
        self.lost = asyncio.Event()

    def _note(self, what: object, where: str) -> None:
        self.told.append(what)
        if where == self.where:
            raise self.fault

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 -- asyncio's shape
        self._note("made", "connection_made")

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- asyncio's shape
        self._note(data, "datagram_received")

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 -- asyncio's shape
        self._note("error", "error_received")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's shape
        self.lost.set()
        self._note("lost", "connection_lost")


@pytest.mark.parametrize("fault", [ZeroDivisionError, asyncio.CancelledError])
@pytest.mark.parametrize("where", ["connection_made", "datagram_received", "connection_lost"])
async def test_a_protocol_that_raises_hears_all_the_same_and_ends_nothing(
    gateway: moretta.Gateway, echo: Echo, faults: list[dict[str, Any]], where: str, fault: type[BaseException]
) -> None:
    listen_for(faults)
    neighbours = [await gateway.open_udp(echo.host, echo.port) for _ in range(5)]
    transport, protocol = await gateway.create_datagram_endpoint(lambda: Faulty(where, fault), echo.host, echo.port)
    transport.sendto(b"first")
    transport.sendto(b"second")
    for neighbour in neighbours:
        neighbour.send(b"beside")
    # The loop stands still until all of it is back, so that it is one batch.
    tunnels = [transport.get_extra_info("tunnel"), *neighbours]
    while sum(tunnel.counters.received for tunnel in tunnels) < 7:
        pass
    assert await asyncio.gather(*(neighbour.recv() for neighbour in neighbours)) == [b"beside"] * 5
    await until(lambda: len(protocol.told) >= 3)
    transport.close()
    await protocol.lost.wait()
    await asyncio.sleep(0)
    assert protocol.told == ["made", b"first", b"second", "lost"]
    assert kinds(faults) == [fault] * (2 if where == "datagram_received" else 1)


async def test_a_protocol_that_raises_at_its_beginning_hears_what_was_there_before_it(
    gateway: moretta.Gateway, echo: Echo, faults: list[dict[str, Any]]
) -> None:
    listen_for(faults)
    tunnel = await gateway.open_udp(echo.host, echo.port)
    tunnel.send(b"before")
    await until(lambda: tunnel.counters.received)
    protocol = Faulty("connection_made")
    transport = tunnel.transport(protocol)
    await until(lambda: len(protocol.told) >= 2)
    assert protocol.told == ["made", b"before"]
    transport.abort()
    await protocol.lost.wait()


async def test_a_protocol_that_raises_about_its_own_error_raises_at_its_sender(
    gateway: moretta.Gateway, echo: Echo
) -> None:
    transport, protocol = await gateway.create_datagram_endpoint(lambda: Faulty("error_received"), echo.host, echo.port)
    with pytest.raises(ZeroDivisionError):
        transport.sendto(bytes(60_000))
    transport.sendto(b"fits")
    await until(lambda: b"fits" in protocol.told)
    transport.abort()
    await protocol.lost.wait()


async def test_a_factory_that_raises_leaves_no_tunnel(proxy: testing.RunningGateway, echo: Echo) -> None:
    async with proxy.connect() as gateway:
        with pytest.raises(ZeroDivisionError):
            await gateway.create_datagram_endpoint(lambda: 1 // 0, echo.host, echo.port)  # type: ignore[type-var]
        await no_tunnels(proxy)


async def test_a_body_that_raises_closes_everything(proxy: testing.RunningGateway, echo: Echo) -> None:
    wait_for_engine_threads(ONE_ENGINE)
    with pytest.raises(ZeroDivisionError):
        async with proxy.connect() as gateway, gateway.open_udp(echo.host, echo.port):
            raise ZeroDivisionError
    wait_for_engine_threads(ONE_ENGINE)
    await no_tunnels(proxy)


@pytest.mark.parametrize("wrong", ["text", 5, None, [b"x"]], ids=["text", "number", "none", "list"])
async def test_what_is_no_datagram_is_a_type_error(gateway: moretta.Gateway, echo: Echo, wrong: Any) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        with pytest.raises(TypeError):
            tunnel.send(wrong)
        with pytest.raises(TypeError):
            tunnel.send_many([b"fine", wrong])
        tunnel.send(b"still fine")
        assert await tunnel.recv() == b"still fine"
