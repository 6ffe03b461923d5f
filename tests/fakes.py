"""An engine without threads: what a tunnel sees of it, played by the test."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from moretta import engine
from moretta.udp import UdpTunnel


class FakeNative:
    """The queues of one tunnel."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.arrived: deque[bytes] = deque()
        self.max_datagram_size = 1200
        self.closed = False
        self.room = 1000

    def send(self, datagram: bytes) -> int:
        if self.closed:
            return engine.CLOSED
        if len(datagram) > self.max_datagram_size:
            return engine.TOO_LARGE
        if len(self.sent) >= self.room:
            return engine.DROPPED
        self.sent.append(datagram)
        return engine.QUEUED

    def send_many(self, datagrams: list[bytes]) -> tuple[int, int]:
        for count, datagram in enumerate(datagrams):
            if (outcome := self.send(datagram)) in {engine.TOO_LARGE, engine.CLOSED}:
                return count, outcome
        return len(datagrams), engine.QUEUED

    def recv(self) -> bytes | None:
        return self.arrived.popleft() if self.arrived else None

    def recv_many(self, limit: int) -> list[bytes]:
        return [self.arrived.popleft() for _ in range(min(limit, len(self.arrived)))]

    def counters(self) -> tuple[int, int, int, int]:
        return len(self.sent), 0, 0, 0


class FakeEngine:
    """Registers handlers and writes down commands."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.handlers: dict[tuple[str, int], Callable[[dict[str, Any]], None]] = {}
        self.ready: dict[int, Callable[[], None]] = {}
        self.natives: dict[int, FakeNative] = {}
        self.refuse: Exception | None = None
        self._number = 0

    def new_number(self) -> int:
        self._number += 1
        return self._number

    def tunnel(self, token: int) -> FakeNative | None:
        return self.natives.get(token)

    def tell(self, kind: str, number: int, **event: Any) -> None:
        """Dispatch an event, if anybody listens."""
        if (handler := self.handlers.get((kind, number))) is not None:
            handler(event)

    def handle(self, kind: str, number: int, handler: Callable[[dict[str, Any]], None]) -> None:
        self.handlers[kind, number] = handler

    def handle_ready(self, token: int, handler: Callable[[], None]) -> None:
        self.ready[token] = handler

    def forget(self, kind: str, number: int) -> None:
        self.handlers.pop((kind, number), None)
        self.ready.pop(number, None)

    def command(self, command: str, **arguments: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.commands.append((command, arguments))


class FakeTunnel:
    """A tunnel over the two."""

    def __init__(self, host: str = "192.0.2.1", port: int = 53) -> None:
        self.engine, self.native = FakeEngine(), FakeNative()
        opened = {"event": "tunnel_opened", "tunnel": 7, "status": 200, "proxy_status": "p", "datagrams": True}
        attached: Any = self.engine
        native: Any = self.native
        self.tunnel = UdpTunnel(attached, 7, native, (host, port), opened)

    def arrive(self, *datagrams: bytes) -> None:
        self.native.arrived.extend(datagrams)
        self.engine.ready[7]()

    def end(self, reason: str) -> None:
        self.native.closed = True
        self.engine.handlers["tunnel", 7](
            {"event": "tunnel_closed", "tunnel": 7, "reason": reason, "counters": {"drops": {"stale": 1}}}
        )
