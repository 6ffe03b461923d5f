"""What Python code does wrong on its side costs nothing on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

import moretta
from moretta import testing

from .conftest import Echo


async def test_a_handler_that_raises_loses_no_event_behind_it(echo: Echo) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    seen: list[str] = []
    complete = asyncio.Event()

    def on_record(record: Mapping[str, Any]) -> None:
        seen.append(record["event"])
        if seen.count("record_closed") == 10:
            complete.set()
        if record["event"] == "record_opened":
            raise ZeroDivisionError

    async with testing.gateway(on_record=on_record) as proxy, proxy.connect() as gateway:
        for _ in range(10):
            async with gateway.open_udp(echo.host, echo.port):
                pass
        await complete.wait()
    assert seen.count("record_opened") == 10
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError] * 10


async def test_a_protocol_that_raises_ends_nothing(gateway: moretta.Gateway, echo: Echo) -> None:
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))

    class Protocol(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.second: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- asyncio's shape
            if data == b"first":
                raise ZeroDivisionError
            self.second.set_result(data)

    transport, protocol = await gateway.create_datagram_endpoint(Protocol, echo.host, echo.port)
    transport.sendto(b"first")
    transport.sendto(b"second")
    assert await protocol.second == b"second"
    assert [type(fault["exception"]) for fault in faults] == [ZeroDivisionError]
    transport.abort()
    await asyncio.sleep(0)


@pytest.mark.parametrize("wrong", ["text", 5, None, [b"x"]], ids=["text", "number", "none", "list"])
async def test_what_is_no_datagram_is_a_type_error(gateway: moretta.Gateway, echo: Echo, wrong: Any) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        with pytest.raises(TypeError):
            tunnel.send(wrong)
        with pytest.raises(TypeError):
            tunnel.send_many([b"fine", wrong])
        tunnel.send(b"still fine")
        assert await tunnel.recv() == b"still fine"
