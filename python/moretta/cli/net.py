"""The verbs that go through a gateway: `forward`, `nc` and `ping`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moretta.address import HIGHEST_PORT, SocketAddress
from moretta.cli import output
from moretta.client import connect
from moretta.environment import variables
from moretta.errors import ConfigurationError, DatagramTooLarge, Problem, TunnelClosed
from moretta.udp import ORDERLY_ENDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from moretta._waiting import Opening
    from moretta.client import Gateway
    from moretta.udp import UdpTunnel


@dataclass(frozen=True, slots=True)
class Through:
    """Which gateway, and why to trust it; `asked_as` is how the verb takes the gateway."""

    gateway: str | None
    asked_as: str
    ca: Path | None
    pin: str | None
    server_name: str | None
    timeout_seconds: float

    def connect(self) -> Opening[Gateway]:
        """Return the connection to be opened. Raises ConfigurationError if no gateway is named."""
        url = self.gateway or variables().get("MORETTA_GATEWAY")
        if not url:
            problem = Problem(
                "", "no gateway is named", f"add {self.asked_as}, as in https://HOST:PORT, or set MORETTA_GATEWAY"
            )
            raise ConfigurationError(problem)
        return connect(
            url,
            ca_file=self.ca or variables().get("MORETTA_CA") or None,
            pin_sha256=self.pin,
            server_name=self.server_name,
            timeout_seconds=self.timeout_seconds,
        )


@dataclass(frozen=True, slots=True)
class ForwardSpecification:
    """``[bind:]port:host:hostport/udp``."""

    bind: SocketAddress
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ForwardSpecification:
        """Read a specification; IPv6 addresses stand in brackets, `bind` is loopback where it is absent.

        Raises ConfigurationError with an example.
        """
        part = r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/]+)"
        match = re.fullmatch(rf"(?:{part}:)?([0-9]{{1,5}}):{part}:([0-9]{{1,5}})(/\w+)?", text)
        if match is None:
            raise _bad_forward(text, "expected [BIND:]PORT:HOST:PORT/udp, as in 5353:9.9.9.9:53/udp")
        bind, local, host, port, protocol = match.groups()
        if protocol != "/udp":
            raise _bad_forward(text, f"only UDP is carried at present: write {text.removesuffix(protocol or '')}/udp")
        if int(local) > HIGHEST_PORT or not 1 <= int(port) <= HIGHEST_PORT:
            raise _bad_forward(text, "a port is at most 65535, and a target's at least 1")
        try:
            address = SocketAddress.parse(f"{bind or '127.0.0.1'}:{local}")
        except ValueError as error:
            raise _bad_forward(text, str(error)) from None
        return cls(address, host.strip("[]"), int(port))


def forward(through: Through, specifications: Sequence[str], *, as_json: bool) -> int:
    """Forward local ports until interrupted."""
    parsed = [ForwardSpecification.parse(text) for text in specifications]

    async def run() -> int:
        async with through.connect() as gateway, contextlib.AsyncExitStack() as stack, _interrupted() as interrupted:
            forwards = [
                await stack.enter_async_context(gateway.forward(one.bind, one.host, one.port)) for one in parsed
            ]
            if as_json:
                listed = [
                    {"address": str(opened.address), "host": one.host, "port": one.port, "protocol": "udp"}
                    for opened, one in zip(forwards, parsed, strict=True)
                ]
                output.document({"forwards": listed, "pid": os.getpid()})
            else:
                for opened, one in zip(forwards, parsed, strict=True):
                    output.say(f"{opened.address} goes to {one.host} port {one.port} (UDP)")
            closed = asyncio.get_running_loop().create_task(gateway.wait_closed())
            await _first(interrupted, closed)
            gateway.raise_if_closed()
        return 0

    return asyncio.run(run())


def netcat(through: Through, host: str, port: int, *, wait_seconds: float) -> int:
    """Carry stdin and stdout through one tunnel."""

    async def run() -> int:
        async with (
            through.connect() as gateway,
            gateway.open_udp(host, port, timeout_seconds=through.timeout_seconds) as tunnel,
            _interrupted() as interrupted,
        ):
            most = f"datagrams of at most {tunnel.max_datagram_size} bytes"
            output.note(f"connected to {host} port {port} through {gateway.remote}, {most}")
            sender = asyncio.get_running_loop().create_task(_send_stdin(tunnel, wait_seconds))
            receiver = asyncio.get_running_loop().create_task(_write_stdout(tunnel))
            await _first(interrupted, sender, receiver)
        return 0

    return asyncio.run(run())


def ping(through: Through, count: int, *, as_json: bool) -> int:
    """Measure handshake and round trips."""

    async def run() -> int:
        async with through.connect() as gateway:
            round_trips = []
            for number in range(count):
                round_trips.append(seconds := await gateway.ping(timeout_seconds=through.timeout_seconds))
                if not as_json:
                    output.say(f"{number + 1}: {gateway.remote} answered in {seconds * 1000:.2f} ms")
            if as_json:
                output.document(
                    {
                        "remote": str(gateway.remote),
                        "handshake_seconds": gateway.handshake_seconds,
                        "round_trip_seconds": round_trips,
                    }
                )
            else:
                output.say(
                    f"handshake {gateway.handshake_seconds * 1000:.2f} ms, round trip "
                    f"{min(round_trips) * 1000:.2f} to {max(round_trips) * 1000:.2f} ms"
                )
        return 0

    return asyncio.run(run())


async def _first(*waiting: asyncio.Future[None]) -> None:
    """Wait for the first one, cancel the others, and raise what the first one raised."""
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for one in done:
        one.result()


@contextlib.asynccontextmanager
async def _interrupted() -> AsyncIterator[asyncio.Future[None]]:
    """Yield a future that SIGINT or SIGTERM completes: the orderly end of a verb that has no other."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def interrupt() -> None:
        if not future.done():
            future.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        yield future
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _send_stdin(tunnel: UdpTunnel, wait_seconds: float) -> None:
    """Send what is read as datagrams, then wait for late answers."""
    # A read waits in a thread: stdin may be a regular file, which no poller watches.
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
    loop = asyncio.get_running_loop()

    def read() -> None:
        while True:
            chunk = os.read(sys.stdin.fileno(), tunnel.max_datagram_size)
            try:
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
            except RuntimeError:
                return  # the loop has gone
            if not chunk:
                return

    # A daemon, because a terminal may never give its next line.
    threading.Thread(target=read, name="moretta-stdin", daemon=True).start()
    while chunk := await chunks.get():
        try:
            tunnel.send(chunk)
        except DatagramTooLarge as error:
            output.note(f"moretta: not sent: {error}")
    await asyncio.sleep(wait_seconds)


async def _write_stdout(tunnel: UdpTunnel) -> None:
    try:
        while True:
            for datagram in await tunnel.recv_many():
                sys.stdout.buffer.write(datagram)
            sys.stdout.buffer.flush()
    except TunnelClosed as closed:
        if closed.reason not in ORDERLY_ENDS:
            raise


def _bad_forward(text: str, reason: str) -> ConfigurationError:
    return ConfigurationError(Problem("", f"{text!r}: {reason}", source="argument -L"))
