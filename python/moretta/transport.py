"""A UDP tunnel as an `asyncio.DatagramTransport`, so that protocols written for UDP sockets run over it unchanged."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

from moretta.errors import DatagramTooLarge, TunnelClosed
from moretta.udp import BATCH, ORDERLY_ENDS

if TYPE_CHECKING:
    from moretta.udp import UdpTunnel


class TunnelTransport(asyncio.DatagramTransport):
    """Carries one tunnel's datagrams to and from a protocol.

    Like a connected UDP socket: `sendto` goes to the tunnel's target and refuses any other address, and what arrives
    comes from ``get_extra_info("peername")``. Sending never waits, so the protocol is never paused. A datagram that
    does not fit is reported to ``error_received`` as EMSGSIZE. `get_extra_info` also knows ``tunnel``.
    """

    def __init__(self, tunnel: UdpTunnel, protocol: asyncio.DatagramProtocol) -> None:
        # No local address: the socket that the target sees is the gateway's.
        super().__init__({"peername": tunnel.address, "sockname": None, "socket": None, "tunnel": tunnel})
        self._tunnel = tunnel
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._started = False
        self._reading = True
        self._lost = False
        self._closer: asyncio.Task[None] | None = None
        self._loop.call_soon(self._start)

    def __repr__(self) -> str:
        return f"<TunnelTransport over {self._tunnel!r}>"

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one payload to the tunnel's target; `addr` may repeat it but name no other."""
        if addr is not None and tuple(addr[:2]) != self._tunnel.target:
            msg = f"this transport is connected to {self._tunnel.target}, not to {addr}"
            raise ValueError(msg)
        try:
            self._tunnel.send(data)
        except DatagramTooLarge as error:
            self._protocol.error_received(OSError(errno.EMSGSIZE, str(error)))
        except TunnelClosed:
            # As a closed socket's transport does: what is sent after the end goes nowhere.
            pass

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, or the tunnel has ended."""
        return self._tunnel.is_closed

    def close(self) -> None:
        """End the tunnel in an orderly way; ``connection_lost(None)`` follows."""
        if self._closer is None and not self._lost:
            self._closer = self._loop.create_task(self._tunnel.close())

    def abort(self) -> None:
        """Reset the tunnel's stream; ``connection_lost(None)`` follows."""
        self._tunnel.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand what arrives to another protocol from now on."""
        if not isinstance(protocol, asyncio.DatagramProtocol):
            msg = f"{protocol!r} is no DatagramProtocol"
            raise TypeError(msg)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.DatagramProtocol:
        """Return the protocol."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """Return 0: sending never waits."""
        return 0

    def pause_reading(self) -> None:
        """Leave what arrives in the tunnel's bounded queue."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again, beginning with what has waited."""
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self.deliver)

    def is_reading(self) -> bool:
        """Whether what arrives is delivered."""
        return self._reading and not self.is_closing()

    def deliver(self) -> None:
        """Hand over one batch; called whenever something may have arrived and when the tunnel has ended."""
        if not self._started or self._lost:
            return
        if not self._reading:
            if self._tunnel.end_reason is not None:
                self._lose()
            return
        datagrams = self._tunnel.take(BATCH)
        address = self._tunnel.address
        for datagram in datagrams:
            try:
                self._protocol.datagram_received(datagram, address)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 -- it costs its own datagram and not those behind it
                self._loop.call_exception_handler(
                    {
                        "message": "datagram_received failed",
                        "exception": error,
                        "transport": self,
                        "protocol": self._protocol,
                    }
                )
        if len(datagrams) == BATCH:
            # There may be more, and others want to run.
            self._loop.call_soon(self.deliver)
        elif self._tunnel.end_reason is not None:
            self._lose()

    def _start(self) -> None:
        self._started = True
        try:
            self._protocol.connection_made(self)
        finally:
            # What arrived, and the end, before there was a protocol were announced already.
            self.deliver()

    def _lose(self) -> None:
        if self._lost:
            return
        self._lost = True
        reason = self._tunnel.end_reason
        orderly = reason is None or reason in ORDERLY_ENDS or reason == "client_reset"
        self._loop.call_soon(self._protocol.connection_lost, None if orderly else TunnelClosed(reason or ""))
