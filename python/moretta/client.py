"""The client: a connection to a gateway, and what can be opened through it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from moretta import engine
from moretta._waiting import Answer, Opening, Signal
from moretta.address import SocketAddress
from moretta.errors import (
    ConfigurationError,
    EngineClosed,
    EngineFault,
    GatewayClosed,
    GatewayUnreachable,
    GatewayUntrusted,
    ListenError,
    ListenNotPermitted,
    NarrowPathWarning,
    Problem,
    TunnelClosed,
)
from moretta.refusal import refusal_of
from moretta.udp import UdpTunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moretta.transport import TunnelTransport

P = TypeVar("P", bound=asyncio.DatagramProtocol)

#: How long opening takes at most where the caller does not say.
DEFAULT_TIMEOUT_SECONDS = 10.0
#: RFC 9000 section 14: what the first datagrams of a QUIC connection inside a tunnel measure.
QUIC_HANDSHAKE_BYTES = 1200
#: The engine accepts no less.
LEAST_TIMEOUT_SECONDS = 0.001
#: Reasons that mean that the handshake itself was refused here: the certificate or the key is not the expected one.
UNTRUSTED = frozenset({"tls_failed", "trust_unusable"})


def connect(
    origin_or_template: str,
    *,
    ca_file: str | Path | None = None,
    pin_sha256: str | None = None,
    server_name: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    bind: str | None = None,
    workers: int = 1,
) -> Opening[Gateway]:
    """Connect to a gateway over HTTP/3: ``async with moretta.connect("https://gateway.example") as gateway``.

    origin_or_template: ``https://host[:port]``, served by the default template of RFC 9298 section 2, or a whole URI
        template with ``{target_host}`` and ``{target_port}``.
    ca_file: trust only the authorities in this PEM file instead of the system's.
    pin_sha256: trust only a certificate whose public key (SPKI) has this SHA-256, in base64 as curl's
        ``--pinnedpubkey`` takes it; the prefix ``sha256//`` may be left out.
    server_name: name to verify and to send in SNI instead of the origin's host.
    timeout_seconds: bound of name lookup and handshake together.
    bind: local address and port to send from.
    workers: threads of the engine.

    Within one process a further connection to the same gateway with the same trust resumes the TLS session of an
    earlier one, by which the gateway knows that it is the same client; early data is never sent.
    Raises GatewayUnreachable, GatewayUntrusted, ConfigurationError (a wrong argument). Trust is never off.
    """

    async def open_gateway() -> Gateway:
        arguments = {
            "origin_or_template": origin_or_template,
            "ca_pem": _read_authorities(ca_file),
            "pin_sha256": _read_pin(pin_sha256),
            "server_name": server_name,
            "timeout_seconds": float(timeout_seconds),
            "bind": bind,
        }
        attached = engine.Engine(workers=workers)
        gateway = Gateway(attached)
        try:
            await gateway._connect(arguments)  # noqa: SLF001 -- nobody else may
        except BaseException:
            await attached.close()
            raise
        return gateway

    return Opening(open_gateway)


class Gateway:
    """A connection to a gateway. Made by `connect`; safe for concurrent use by tasks of one loop."""

    def __init__(self, attached: engine.Engine) -> None:
        self._engine = attached
        self._number = attached.new_number()
        self._end: GatewayClosed | None = None
        self._ended = Signal()
        self._connected: engine.Event = {}

    def __repr__(self) -> str:
        return f"<Gateway at {self._connected.get('remote')}, {'closed' if self._end else 'open'}>"

    @property
    def remote(self) -> SocketAddress:
        """The gateway's address."""
        return SocketAddress.parse(self._connected["remote"])

    @property
    def handshake_seconds(self) -> float:
        """Time from the first packet to the gateway's settings."""
        value: float = self._connected["handshake_seconds"]
        return value

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._end is not None

    def open_udp(self, host: str, port: int, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Opening[UdpTunnel]:
        """Open a UDP tunnel (RFC 9298) and wait for the gateway's final response.

        host: DNS name or IP literal, IPv6 without brackets; resolved by the gateway, not here.
        port: 1 to 65535.
        timeout_seconds: bound of the whole opening; TimeoutError after it.
        Await it, or use it with ``async with``. Cancelling resets the stream and leaks nothing. Raises TunnelRefused
        (its kinds tell why, with `status` and `proxy_status`), GatewayClosed, TimeoutError; warns with
        NarrowPathWarning where less than 1200 bytes fit.
        """
        return Opening(lambda: self._open_udp(host, port, timeout_seconds))

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], P],
        host: str,
        port: int,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> tuple[TunnelTransport, P]:
        """Open a UDP tunnel under a protocol, as ``loop.create_datagram_endpoint`` opens a socket under it.

        Closing the transport closes the tunnel. Raises as `open_udp` does.
        """
        tunnel = await self.open_udp(host, port, timeout_seconds=timeout_seconds)
        try:
            protocol = protocol_factory()
            transport = tunnel.transport(protocol)
            # connection_made has been called when the caller goes on, as with a socket.
            await asyncio.sleep(0)
        except BaseException:
            tunnel.abort()
            raise
        return transport, protocol

    def forward(
        self,
        bind: str | SocketAddress,
        host: str,
        port: int,
        *,
        max_peers: int = 1024,
        idle_timeout_seconds: float = 120.0,
    ) -> Opening[Forward]:
        """Listen on a local UDP port and give each peer its own tunnel to `host`:`port`.

        bind: ``127.0.0.1:5353`` or ``[::1]:5353``; port 0 takes a free one (see `Forward.address`).
        max_peers: peers at once; datagrams of a further one are dropped and counted.
        idle_timeout_seconds: a peer that is silent both ways for this long loses its tunnel.
        No datagram of it enters Python. Raises ListenError, GatewayClosed.
        """
        return Opening(lambda: self._open_forward(str(bind), host, port, max_peers, idle_timeout_seconds))

    def rebind(self, bind: str | None = None) -> None:
        """Move the connection to a new local socket, as after a change of network (RFC 9000 section 9).

        bind: local IP address of the new socket; None lets the system choose. Raises GatewayClosed.
        """
        self._command("rebind_gateway", gateway=self._number, bind=bind)

    async def ping(self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> float:
        """Return the time in seconds from a packet sent now to the gateway's acknowledgement.

        Raises GatewayClosed, TimeoutError.
        """
        number = self._engine.new_number()
        answer: Answer[engine.Event] = Answer()
        self._engine.handle("ping", number, answer)
        try:
            self._command("ping", gateway=self._number, ping=number)
            async with asyncio.timeout(timeout_seconds):
                event = await answer
        finally:
            self._engine.forget("ping", number)
        if event["event"] == "pong_failed":
            if event["reason"] == "timeout":
                raise TimeoutError
            raise self._end or GatewayClosed(f"the path was not measured: {event['reason']}", event["reason"])
        seconds: float = event["round_trip_seconds"]
        return seconds

    def stats(self) -> dict[str, Any]:
        """Return all counters of this client's engine by reason."""
        return self._engine.stats()

    async def close(self) -> None:
        """Close the connection with all its tunnels and the engine under it; idempotent."""
        if self._end is None:
            with contextlib.suppress(EngineClosed, EngineFault):
                self._engine.command("close_gateway", gateway=self._number)
            self._set_end(GatewayClosed("the connection was closed here", "client_closed"))
        await self._engine.close()

    def raise_if_closed(self) -> None:
        """Raise GatewayClosed if the connection has ended."""
        if self._end is not None:
            raise self._end

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ends it."""
        while self._end is None:
            await self._ended.wait()

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _connect(self, arguments: Mapping[str, object]) -> None:
        answer: Answer[engine.Event] = Answer()
        self._engine.handle("gateway", self._number, answer)
        try:
            self._engine.command("open_gateway", gateway=self._number, **arguments)
        except EngineFault as fault:
            raise _argument_error(fault) from None
        event = await answer
        if event["event"] != "gateway_connected":
            _raise_unreachable(event)
        self._connected = event
        self._engine.handle("gateway", self._number, self._on_event)
        answer.hand_over(self._on_event)

    async def _open_udp(self, host: str, port: int, timeout_seconds: float) -> UdpTunnel:
        token = self._engine.new_number()
        answer: Answer[engine.Event] = Answer()
        self._engine.handle("tunnel", token, answer)
        try:
            self._command(
                "open_udp",
                gateway=self._number,
                tunnel=token,
                host=host,
                port=port,
                # A second bound, should this loop be stalled when the time is up.
                timeout_seconds=max(float(timeout_seconds), LEAST_TIMEOUT_SECONDS),
            )
        except BaseException:
            self._engine.forget("tunnel", token)
            raise
        try:
            async with asyncio.timeout(timeout_seconds):
                event = await answer
            if event["event"] == "tunnel_opened" and (native := self._engine.tunnel(token)) is not None:
                tunnel = UdpTunnel(self._engine, token, native, (host, port), event)
                answer.hand_over(tunnel.on_event)
                if tunnel.uses_datagrams and tunnel.max_datagram_size < QUIC_HANDSHAKE_BYTES:
                    warnings.warn(
                        f"only {tunnel.max_datagram_size} bytes fit into a datagram of {tunnel!r}: a QUIC handshake "
                        f"inside it needs {QUIC_HANDSHAKE_BYTES}",
                        NarrowPathWarning,
                        stacklevel=2,
                    )
                return tunnel
        except BaseException:
            # Cancelled or too late, perhaps while the answer was on its way: the stream is reset in any case.
            self._engine.forget("tunnel", token)
            with contextlib.suppress(EngineClosed, EngineFault):
                self._engine.command("reset_tunnel", tunnel=token)
            raise
        self._engine.forget("tunnel", token)
        if event["event"] == "tunnel_opened":
            # It ended so fast that the engine has let its queues go.
            ends: list[engine.Event] = []
            answer.hand_over(ends.append)
            raise TunnelClosed(ends[-1]["reason"] if ends else "connection_closed")
        raise refusal_of(event)

    async def _open_forward(
        self, bind: str, host: str, port: int, max_peers: int, idle_timeout_seconds: float
    ) -> Forward:
        number = self._engine.new_number()
        answer: Answer[engine.Event] = Answer()
        self._engine.handle("forward", number, answer)
        try:
            self._command(
                "forward",
                forward=number,
                gateway=self._number,
                bind=bind,
                host=host,
                port=port,
                max_peers=max_peers,
                idle_timeout_seconds=float(idle_timeout_seconds),
            )
            event = await answer
        except BaseException:
            self._engine.forget("forward", number)
            with contextlib.suppress(EngineClosed, EngineFault):
                self._engine.command("close_forward", forward=number)
            raise
        if event["event"] != "forwarding":
            self._engine.forget("forward", number)
            kind = ListenNotPermitted if event["reason"] == "permission_denied" else ListenError
            raise kind(event["error"], event["reason"])
        forward = Forward(self._engine, number, SocketAddress.parse(event["address"]))
        answer.hand_over(forward.on_event)
        return forward

    def _command(self, command: str, **arguments: object) -> None:
        if self._end is not None:
            raise self._end
        try:
            self._engine.command(command, **arguments)
        except EngineFault as fault:
            if fault.code == "unknown_number":
                # Its end is on its way up.
                raise GatewayClosed("the connection to the gateway has ended") from None
            if fault.code == "invalid_document":
                raise _argument_error(fault) from None
            raise

    def _on_event(self, event: engine.Event) -> None:
        self._set_end(GatewayClosed(event["error"] or event["reason"], event["reason"]))

    def _set_end(self, end: GatewayClosed) -> None:
        self._end = end
        self._engine.forget("gateway", self._number)
        self._ended.wake()


class Forward:
    """A local UDP port whose peers each have a tunnel. Made by `Gateway.forward`."""

    def __init__(self, attached: engine.Engine, number: int, address: SocketAddress) -> None:
        self._engine = attached
        self._number = number
        self._end: str | None = None
        self._ended = Signal()
        self.address = address
        attached.handle("forward", number, self.on_event)

    def __repr__(self) -> str:
        return f"<Forward on {self.address}, {self._end or 'open'}>"

    @property
    def end_reason(self) -> str | None:
        """Why the forward ended, as a stable word; None while it lives."""
        return self._end

    async def close(self) -> None:
        """Stop listening and end the peers' tunnels; idempotent."""
        if self._end is None:
            with contextlib.suppress(EngineClosed, EngineFault):
                self._engine.command("close_forward", forward=self._number)
                await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the forward has ended, whoever ends it."""
        while self._end is None:
            await self._ended.wait()

    async def __aenter__(self) -> Forward:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def on_event(self, event: engine.Event) -> None:
        """Take the engine's word about this forward."""
        self._end = event["reason"]
        self._engine.forget("forward", self._number)
        self._ended.wake()


def _read_authorities(ca_file: str | Path | None) -> str | None:
    if ca_file is None:
        return None
    try:
        text = Path(ca_file).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problem = Problem("ca_file", f"cannot read {ca_file}: {error.strerror}", "name the PEM file of the authority")
        raise ConfigurationError(problem) from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        problem = Problem("ca_file", f"{ca_file} holds no PEM certificate", "name the PEM file of the authority")
        raise ConfigurationError(problem)
    return text


def _read_pin(pin: str | None) -> str | None:
    if pin is None:
        return None
    text = pin.removeprefix("sha256//")
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise ConfigurationError(Problem("pin_sha256", "expected the base64 of a SHA-256", "it has 44 characters"))
    return text


def _argument_error(fault: EngineFault) -> ConfigurationError:
    return ConfigurationError(Problem(fault.path, fault.message.removeprefix(f"{fault.path}: ")))


def _raise_unreachable(event: engine.Event) -> NoReturn:
    reason: str = event["reason"]
    kind = GatewayUntrusted if reason in UNTRUSTED else GatewayUnreachable
    raise kind(event["error"] or reason, reason)
