"""Opening through a gateway, event by event, with an engine that the test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes import FakeEngine, FakeNative
from moretta.client import Gateway
from moretta.errors import (
    ConfigurationError,
    EngineFault,
    GatewayClosed,
    ListenError,
    ListenNotPermitted,
    NarrowPathWarning,
    PolicyRefused,
    TunnelClosed,
)
from moretta.udp import UdpTunnel

OPENED: dict[str, Any] = {"event": "tunnel_opened", "status": 200, "proxy_status": None, "datagrams": True}
CLOSED: dict[str, Any] = {"event": "tunnel_closed", "reason": "connection_lost", "counters": {"drops": {}}}
REFUSED: dict[str, Any] = {
    "event": "tunnel_refused",
    "status": 403,
    "proxy_status": "p; error=http_request_denied",
    "reason": "policy_refused",
    "error": "no rule allows this target",
}


class Opened:
    """A gateway over a fake engine."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        attached: Any = self.engine
        self.gateway = Gateway(attached)

    async def opening(self, **arguments: Any) -> tuple[asyncio.Task[UdpTunnel], int]:
        """Start `open_udp` and return its task and token once the command is out."""

        async def open_udp() -> UdpTunnel:
            return await self.gateway.open_udp("192.0.2.1", 53, **arguments)

        task = asyncio.create_task(open_udp())
        await asyncio.sleep(0)
        command, given = self.engine.commands[-1]
        assert command == "open_udp"
        token: int = given["tunnel"]
        self.engine.natives[token] = FakeNative()
        return task, token

    def last_command(self) -> str:
        return self.engine.commands[-1][0]


@pytest.fixture
async def opened() -> Opened:
    return Opened()


async def test_an_accepted_tunnel_is_returned(opened: Opened) -> None:
    task, token = await opened.opening(timeout_seconds=3)
    assert opened.engine.commands[-1][1]["timeout_seconds"] == 3.0
    opened.engine.tell("tunnel", token, **OPENED)
    tunnel = await task
    assert tunnel.target == ("192.0.2.1", 53)
    assert tunnel.uses_datagrams


async def test_a_tunnel_that_ended_in_the_batch_that_opened_it_is_told_so(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.tell("tunnel", token, **OPENED)
    opened.engine.tell("tunnel", token, **CLOSED)
    tunnel = await task
    with pytest.raises(TunnelClosed, match="connection lost"):
        await tunnel.recv()


async def test_a_tunnel_whose_queues_have_gone_already_is_closed(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.natives.clear()
    opened.engine.tell("tunnel", token, **OPENED)
    opened.engine.tell("tunnel", token, **CLOSED)
    with pytest.raises(TunnelClosed, match="connection lost"):
        await task
    assert not opened.engine.handlers


async def test_a_refusal_is_raised_and_forgotten(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.tell("tunnel", token, **REFUSED)
    with pytest.raises(PolicyRefused, match="no rule allows this target"):
        await task
    assert not opened.engine.handlers
    assert opened.last_command() == "open_udp"


async def test_a_cancelled_opening_resets_its_stream(opened: Opened) -> None:
    task, token = await opened.opening()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert opened.engine.commands[-1] == ("reset_tunnel", {"tunnel": token})
    assert not opened.engine.handlers


async def test_an_opening_that_is_cancelled_with_its_answer_in_hand_resets_its_stream(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.tell("tunnel", token, **OPENED)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert opened.last_command() == "reset_tunnel"
    assert not opened.engine.handlers


async def test_time_that_runs_out_resets_the_stream(opened: Opened) -> None:
    task, _ = await opened.opening(timeout_seconds=0)
    with pytest.raises(TimeoutError):
        await task
    assert opened.last_command() == "reset_tunnel"
    assert not opened.engine.handlers


async def test_the_engines_own_deadline_is_a_timeout_as_well(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.tell(
        "tunnel", token, **{**REFUSED, "reason": "request_timeout", "status": None, "proxy_status": None}
    )
    with pytest.raises(TimeoutError):
        await task


async def test_a_path_too_narrow_for_quic_is_said(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.natives[token].max_datagram_size = 1100
    opened.engine.tell("tunnel", token, **OPENED)
    with pytest.warns(NarrowPathWarning, match="only 1100 bytes"):
        await task


async def test_capsules_are_no_narrow_path(opened: Opened) -> None:
    task, token = await opened.opening()
    opened.engine.natives[token].max_datagram_size = 0
    opened.engine.tell("tunnel", token, **{**OPENED, "datagrams": False})
    assert not (await task).uses_datagrams


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (EngineFault("there is no gateway 1", "unknown_number"), GatewayClosed),
        (EngineFault("port: 70000 is no port", "invalid_document", "port"), ConfigurationError),
        (EngineFault("too much waits", "engine_busy"), EngineFault),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
async def test_what_the_engine_refuses_at_once_leaves_no_handler(
    opened: Opened, fault: Exception, kind: type[Exception]
) -> None:
    opened.engine.refuse = fault
    with pytest.raises(kind):
        await opened.gateway.open_udp("192.0.2.1", 53)
    assert not opened.engine.handlers


@pytest.mark.parametrize(("reason", "kind"), [("port_in_use", ListenError), ("permission_denied", ListenNotPermitted)])
async def test_a_forward_that_cannot_listen_says_why(opened: Opened, reason: str, kind: type[ListenError]) -> None:
    async def forward() -> None:
        async with opened.gateway.forward("127.0.0.1:53", "192.0.2.1", 53):
            pass

    task = asyncio.create_task(forward())
    await asyncio.sleep(0)
    number = opened.engine.commands[-1][1]["forward"]
    opened.engine.tell("forward", number, event="forward_failed", reason=reason, error="one sentence")
    with pytest.raises(kind, match="one sentence"):
        await task
    assert not opened.engine.handlers


async def test_a_cancelled_forward_is_closed(opened: Opened) -> None:
    async def forward() -> None:
        async with opened.gateway.forward("127.0.0.1:0", "192.0.2.1", 53):
            pass

    task = asyncio.create_task(forward())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert opened.last_command() == "close_forward"
    assert not opened.engine.handlers


async def test_a_forward_lives_until_it_is_closed(opened: Opened) -> None:
    async def forward() -> None:
        async with opened.gateway.forward("127.0.0.1:0", "192.0.2.1", 53) as opened_forward:
            assert str(opened_forward.address) == "127.0.0.1:5353"

    task = asyncio.create_task(forward())
    await asyncio.sleep(0)
    number = opened.engine.commands[-1][1]["forward"]
    opened.engine.tell("forward", number, event="forwarding", address="127.0.0.1:5353")
    while opened.last_command() != "close_forward":  # noqa: ASYNC110
        await asyncio.sleep(0)
    opened.engine.tell("forward", number, event="forward_closed", reason="closed")
    await task
    assert not opened.engine.handlers


async def test_a_ping_that_fails_is_an_end_or_a_timeout(opened: Opened) -> None:
    for reason, kind in (("timeout", TimeoutError), ("gateway_closed", GatewayClosed)):
        task = asyncio.create_task(opened.gateway.ping())
        await asyncio.sleep(0)
        number = opened.engine.commands[-1][1]["ping"]
        opened.engine.tell("ping", number, event="pong_failed", reason=reason)
        with pytest.raises(kind):
            await task
    assert not opened.engine.handlers


@pytest.mark.parametrize("pin", ["", "abc", "sha256//", "sha256//" + "A" * 43, "A" * 64, "sha512//" + "A" * 44])
async def test_a_pin_that_is_none_is_refused(pin: str) -> None:
    from moretta.client import connect

    with pytest.raises(ConfigurationError, match="base64 of a SHA-256"):
        await connect("https://gateway.example", pin_sha256=pin)
