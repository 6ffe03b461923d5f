"""A UDP tunnel (RFC 9298) as an application holds it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from moretta import engine
from moretta._waiting import Signal
from moretta.errors import DatagramTooLarge, EngineClosed, EngineFault, TunnelClosed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moretta.transport import TunnelTransport

#: Datagrams per crossing, and the most that one task takes before others get their turn.
BATCH = 64

#: Ends after which `async for` stops instead of raising: nobody did anything wrong.
ORDERLY_ENDS = frozenset({"client_finished", "proxy_finished", "drained", "idle_timeout"})


@dataclass(frozen=True, slots=True)
class TunnelCounters:
    """What passed through one tunnel on this side.

    sent, received: datagrams.
    send_dropped: datagrams that `send` dropped because the queue to the gateway was full.
    receive_dropped: datagrams that were dropped, oldest first, because the application did not take them.
    """

    sent: int
    send_dropped: int
    received: int
    receive_dropped: int


class UdpTunnel:
    """Datagrams to and from one target through a gateway.

    Made by `Gateway.open_udp`. Each `send` is one UDP payload; they may be lost, reordered or duplicated on the way, as
    with any UDP socket. Iterating yields payloads until the tunnel ends in an orderly way.
    """

    def __init__(
        self,
        attached: engine.Engine,
        token: int,
        native: engine.Tunnel,
        target: tuple[str, int],
        opened: Mapping[str, Any],
    ) -> None:
        self._engine = attached
        self._token = token
        self._native = native
        self._target = target
        self._opened = opened
        self._readable = Signal()
        self._ended = Signal()
        self._end: str | None = None
        self._drops: Mapping[str, int] = {}
        self._closing = False
        self._taken_in_a_row = 0
        self._transport: TunnelTransport | None = None
        attached.handle("tunnel", token, self.on_event)
        attached.handle_ready(token, self._on_ready)

    def __repr__(self) -> str:
        state = self._end or ("closing" if self._closing else "open")
        return f"<UdpTunnel to {self._target[0]} port {self._target[1]}, {state}>"

    @property
    def target(self) -> tuple[str, int]:
        """Host and port as they were asked for."""
        return self._target

    @property
    def proxy_status(self) -> str | None:
        """The Proxy-Status field (RFC 9209) of the gateway's response, as it came."""
        value: str | None = self._opened["proxy_status"]
        return value

    @property
    def uses_datagrams(self) -> bool:
        """Whether payloads travel in QUIC datagrams; otherwise in capsules on the stream (RFC 9297 section 3.5)."""
        value: bool = self._opened["datagrams"]
        return value

    @property
    def max_datagram_size(self) -> int:
        """Largest payload in bytes that fits now; it follows the path MTU to the gateway."""
        return self._native.max_datagram_size

    @property
    def counters(self) -> TunnelCounters:
        """Datagrams so far."""
        return TunnelCounters(*self._native.counters())

    @property
    def drops(self) -> Mapping[str, int]:
        """Datagrams that this side dropped as malformed, by reason; known when the tunnel has ended."""
        return self._drops

    @property
    def is_closed(self) -> bool:
        """Whether the tunnel has ended or is being closed; what was received can still be taken."""
        return self._closing or self._end is not None

    @property
    def end_reason(self) -> str | None:
        """Why the tunnel ended, as a stable word; None while it lives."""
        return self._end

    def send(self, datagram: bytes | bytearray | memoryview) -> None:
        """Send one UDP payload. Never waits; one that finds the queue full is dropped and counted.

        Raises DatagramTooLarge (nothing is sent, the tunnel lives on) and TunnelClosed.
        """
        if not isinstance(datagram, bytes):
            # Not bytes(): of a number that would make as many zeros.
            datagram = memoryview(datagram).tobytes()
        if self._closing:
            self._raise_closed()
        outcome = self._native.send(datagram)
        if outcome == engine.TOO_LARGE:
            raise DatagramTooLarge(self._native.max_datagram_size, len(datagram))
        if outcome == engine.CLOSED:
            self._raise_closed()

    def send_many(self, datagrams: Iterable[bytes]) -> None:
        """Send payloads in order with one crossing into the engine.

        Raises as `send` does, for the first payload that it would raise for; those before it were sent, none after it.
        """
        batch = list(datagrams)
        if self._closing:
            self._raise_closed()
        count, outcome = self._native.send_many(batch)
        if outcome == engine.TOO_LARGE:
            raise DatagramTooLarge(self._native.max_datagram_size, len(batch[count]))
        if outcome == engine.CLOSED:
            self._raise_closed()

    async def recv(self) -> bytes:
        """Return the next payload, waiting for one if need be.

        Cancelling loses no datagram. After the end of the tunnel what had arrived is returned first, then TunnelClosed
        is raised.
        """
        await self._let_others_run()
        while (datagram := self._native.recv()) is None:
            await self._wait_readable()
        self._taken_in_a_row += 1
        return datagram

    async def recv_many(self, limit: int = BATCH) -> list[bytes]:
        """Return from 1 to `limit` payloads, oldest first; raises as `recv` does."""
        if limit < 1:
            msg = f"limit is {limit}, but at least one datagram is returned"
            raise ValueError(msg)
        await self._let_others_run()
        while not (datagrams := self._native.recv_many(limit)):
            await self._wait_readable()
        self._taken_in_a_row += len(datagrams)
        return datagrams

    def __aiter__(self) -> UdpTunnel:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.recv()
        except TunnelClosed as closed:
            if closed.reason in ORDERLY_ENDS:
                raise StopAsyncIteration from None
            raise

    async def close(self) -> None:
        """End the tunnel (FIN on its stream) and wait until it is closed; a second call only waits.

        If waiting is cancelled the stream is reset.
        """
        if self._end is None and not self._closing:
            self._closing = True
            self._readable.wake()
            if not self._tell("finish_tunnel"):
                self._set_end("client_finished")
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.abort()
            raise

    def abort(self) -> None:
        """End the tunnel at once by resetting its stream; does not wait."""
        if self._end is not None:
            return
        self._tell("reset_tunnel")
        self._set_end("client_reset")

    async def wait_closed(self) -> None:
        """Wait until the tunnel has ended, whoever ends it; `end_reason` tells why."""
        while self._end is None:
            await self._ended.wait()

    async def __aenter__(self) -> UdpTunnel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def transport(self, protocol: asyncio.DatagramProtocol) -> TunnelTransport:
        """Return an `asyncio.DatagramTransport` that carries this tunnel's datagrams to `protocol`.

        From now on the transport takes what arrives; `recv` must not be used beside it.
        """
        from moretta.transport import TunnelTransport

        if self._transport is not None:
            msg = "this tunnel has a transport already"
            raise RuntimeError(msg)
        self._transport = TunnelTransport(self, protocol)
        return self._transport

    @property
    def address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The target in the form in which asyncio gives socket addresses: four parts for IPv6."""
        host, port = self._target
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).version == 6:
                return host, port, 0, 0
        return host, port

    def take(self, limit: int) -> list[bytes]:
        """Return up to `limit` payloads that have arrived already, without waiting; for transports."""
        return self._native.recv_many(limit)

    async def _let_others_run(self) -> None:
        # A consumer that never finds the queue empty would otherwise never give the loop back.
        if self._taken_in_a_row >= BATCH:
            self._taken_in_a_row = 0
            await asyncio.sleep(0)

    async def _wait_readable(self) -> None:
        if self._end is not None or self._closing:
            self._raise_closed()
        self._taken_in_a_row = 0
        await self._readable.wait()

    def _raise_closed(self) -> NoReturn:
        raise TunnelClosed(self._end or "client_finished")

    def _tell(self, command: str) -> bool:
        """Submit a command about this tunnel; False when the engine no longer knows it."""
        try:
            self._engine.command(command, tunnel=self._token)
        except (EngineClosed, EngineFault):
            return False
        return True

    def _on_ready(self) -> None:
        if self._transport is not None:
            self._transport.deliver()
        else:
            self._readable.wake()

    def on_event(self, event: engine.Event) -> None:
        """Take the engine's word about this tunnel: its end."""
        self._drops = event.get("counters", {}).get("drops", {})
        self._set_end(event["reason"])

    def _set_end(self, reason: str) -> None:
        self._end = reason
        self._engine.forget("tunnel", self._token)
        self._on_ready()
        self._ended.wake()
