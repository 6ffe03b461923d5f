"""A tunnel as an asyncio transport."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from fakes import FakeTunnel
from moretta.errors import TunnelClosed
from moretta.udp import BATCH


class Protocol(asyncio.DatagramProtocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 -- asyncio's shape
        self.calls.append("made")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.calls.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.calls.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(("lost", exc))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_arrived_before_the_transport_comes_after_connection_made() -> None:
    fake, protocol = FakeTunnel(), Protocol()
    fake.arrive(b"early")
    fake.tunnel.transport(protocol)
    fake.arrive(b"late")
    await settled()
    assert protocol.calls == ["made", (b"early", ("192.0.2.1", 53)), (b"late", ("192.0.2.1", 53))]


async def test_addresses_have_the_form_that_asyncio_gives_them() -> None:
    four, six, name = FakeTunnel("192.0.2.1"), FakeTunnel("2001:db8::1"), FakeTunnel("a.test")
    addresses = [fake.tunnel.transport(Protocol()).get_extra_info("peername") for fake in (four, six, name)]
    assert addresses == [("192.0.2.1", 53), ("2001:db8::1", 53, 0, 0), ("a.test", 53)]
    await settled()


async def test_sending_goes_to_the_target_and_nowhere_else() -> None:
    fake = FakeTunnel()
    transport = fake.tunnel.transport(Protocol())
    transport.sendto(b"a")
    transport.sendto(b"b", ("192.0.2.1", 53))
    with pytest.raises(ValueError, match="connected to"):
        transport.sendto(b"c", ("192.0.2.2", 53))
    assert fake.native.sent == [b"a", b"b"]
    assert transport.get_write_buffer_size() == 0
    await settled()


async def test_a_datagram_that_does_not_fit_is_emsgsize_as_on_a_socket() -> None:
    fake, protocol = FakeTunnel(), Protocol()
    transport = fake.tunnel.transport(protocol)
    transport.sendto(bytes(2000))
    assert protocol.calls[-1].errno == errno.EMSGSIZE
    await settled()


async def test_what_is_sent_after_the_end_goes_nowhere() -> None:
    fake = FakeTunnel()
    transport = fake.tunnel.transport(Protocol())
    fake.end("proxy_finished")
    transport.sendto(b"x")
    assert transport.is_closing()
    await settled()


@pytest.mark.parametrize(
    ("reason", "orderly"), [("proxy_finished", True), ("client_reset", True), ("connection_lost", False)]
)
async def test_the_end_is_told_once_after_everything_that_arrived(reason: str, orderly: bool) -> None:
    fake, protocol = FakeTunnel(), Protocol()
    fake.tunnel.transport(protocol)
    await settled()
    fake.native.arrived.append(b"last")
    fake.end(reason)
    await settled()
    made, (data, _), (lost, error) = protocol.calls
    assert (made, data, lost) == ("made", b"last", "lost")
    assert error is None if orderly else isinstance(error, TunnelClosed)


async def test_closing_finishes_the_tunnel_once() -> None:
    fake, protocol = FakeTunnel(), Protocol()
    transport = fake.tunnel.transport(protocol)
    transport.close()
    transport.close()
    await settled()
    assert [command for command, _ in fake.engine.commands] == ["finish_tunnel"]
    fake.end("client_finished")
    await settled()
    assert protocol.calls == ["made", ("lost", None)]


async def test_aborting_resets_the_tunnel() -> None:
    fake, protocol = FakeTunnel(), Protocol()
    fake.tunnel.transport(protocol).abort()
    await settled()
    assert [command for command, _ in fake.engine.commands] == ["reset_tunnel"]
    assert protocol.calls == ["made", ("lost", None)]


async def test_a_flood_is_delivered_in_batches_between_which_others_run() -> None:
    fake, protocol = FakeTunnel(), Protocol()
    fake.tunnel.transport(protocol)
    await settled()
    fake.arrive(*(b"x" for _ in range(2 * BATCH + 1)))
    assert len(protocol.calls) == 1 + BATCH
    await settled()
    assert len(protocol.calls) == 1 + 2 * BATCH + 1


async def test_reading_can_be_paused() -> None:
    fake, protocol = FakeTunnel(), Protocol()
    transport = fake.tunnel.transport(protocol)
    await settled()
    transport.pause_reading()
    fake.arrive(b"x")
    assert not transport.is_reading()
    assert protocol.calls == ["made"]
    transport.resume_reading()
    await settled()
    assert protocol.calls[-1] == (b"x", ("192.0.2.1", 53))


async def test_a_tunnel_has_one_transport() -> None:
    fake = FakeTunnel()
    transport = fake.tunnel.transport(Protocol())
    with pytest.raises(RuntimeError, match="already"):
        fake.tunnel.transport(Protocol())
    with pytest.raises(TypeError):
        transport.set_protocol(asyncio.Protocol())
    other = Protocol()
    transport.set_protocol(other)
    assert transport.get_protocol() is other
    await settled()
