"""The border: the only module that imports the Rust engine.

Documents go down, events come up, and the datagrams of client tunnels cross as bytes. One descriptor wakes the loop,
once per burst; each wake-up takes one batch, and what is left keeps the descriptor readable, so that a flood of events
never starves the loop. Nothing here waits for the network except `Engine.close`, which joins threads elsewhere.

Every event belongs to the one handler that was registered for its kind and number with `Engine.handle`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import json
import warnings
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from moretta import _engine
from moretta._engine import CLOSED, DROPPED, QUEUED, TOO_LARGE, Tunnel, parse_template, parse_template_path, version
from moretta.errors import EngineClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CLOSED",
    "COMMANDS",
    "DROPPED",
    "EVENTS",
    "QUEUED",
    "TOO_LARGE",
    "Engine",
    "Event",
    "Tunnel",
    "check_policy",
    "classify_address",
    "documents",
    "error_table",
    "explain",
    "limits_table",
    "parse_template",
    "parse_template_path",
    "toml_positions",
    "version",
]

Event = dict[str, Any]

VERSION = 1
#: Events and ready tunnels per turn of the loop.
BATCH = 256

#: Every event: the kind of thing that it is about, and the key of its number (None: there is one only).
EVENTS: Mapping[str, tuple[str, str | None]] = {
    "listening": ("listener", None),
    "snapshot_applied": ("snapshot", "generation"),
    "snapshot_refused": ("snapshot", "generation"),
    "gateway_connected": ("gateway", "gateway"),
    "gateway_failed": ("gateway", "gateway"),
    "gateway_closed": ("gateway", "gateway"),
    "tunnel_opened": ("tunnel", "tunnel"),
    "tunnel_refused": ("tunnel", "tunnel"),
    "tunnel_closed": ("tunnel", "tunnel"),
    "forwarding": ("forward", "forward"),
    "forward_failed": ("forward", "forward"),
    "forward_closed": ("forward", "forward"),
    "pong": ("ping", "ping"),
    "pong_failed": ("ping", "ping"),
    "record_opened": ("record", None),
    "record_refused": ("record", None),
    "record_closed": ("record", None),
    "worker_restarted": ("record", None),
    "drained": ("drain", None),
    "closed": ("engine", None),
}

#: Every command with the keys that `Engine.command` is given for it; a test compares them with the engine's own list.
COMMANDS: Mapping[str, frozenset[str]] = {
    "open_gateway": frozenset(
        {
            "gateway",
            "origin_or_template",
            "ca_pem",
            "pin_sha256",
            "server_name",
            "timeout_seconds",
            "bind",
        }
    ),
    "open_udp": frozenset({"gateway", "tunnel", "host", "port", "timeout_seconds"}),
    "forward": frozenset({"forward", "gateway", "bind", "host", "port", "max_peers", "idle_timeout_seconds"}),
    "close_forward": frozenset({"forward"}),
    "finish_tunnel": frozenset({"tunnel"}),
    "reset_tunnel": frozenset({"tunnel"}),
    "close_gateway": frozenset({"gateway"}),
    "rebind_gateway": frozenset({"gateway", "bind"}),
    "drain": frozenset({"deadline_seconds"}),
    "ping": frozenset({"gateway", "ping"}),
}

#: What is told to those who still wait when an engine is closed.
_ENDS: Mapping[str, Event] = {
    "snapshot": {"event": "snapshot_refused", "path": "", "error": "the engine was closed", "code": "engine_closed"},
    "gateway": {"event": "gateway_closed", "reason": "client_closed", "error": "the connection was closed here"},
    "tunnel": {"event": "tunnel_closed", "reason": "connection_closed"},
    "forward": {"event": "forward_closed", "reason": "connection_closed"},
    "ping": {"event": "pong_failed", "reason": "connection_closed"},
    "drain": {"event": "drained"},
}

_living: weakref.WeakSet[_engine.Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Join every engine's threads before the interpreter takes itself apart."""
    for native in list(_living):
        # After fork() the engine belongs to the parent, which closes it.
        with contextlib.suppress(EngineClosed):
            native.close()


def _wake(reference: weakref.ref[Engine]) -> None:
    if (engine := reference()) is not None:
        engine.wake()


class Engine:
    """One engine, attached to the running loop.

    workers: threads; None means one per core.
    Must be closed; one that is collected open warns and is closed then.
    """

    _native: _engine.Engine | None = None

    def __init__(self, *, workers: int | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._native = _engine.Engine(_encode({"version": VERSION, "workers": workers}))
        _living.add(self._native)
        self._fd = self._native.fileno()
        self._handlers: dict[tuple[str, int], Callable[[Event], None]] = {}
        self._ready: dict[int, Callable[[], None]] = {}
        # Taken from the native queues and not told yet.
        self._tokens: deque[int] = deque()
        self._events: deque[Event] = deque()
        self._numbers = itertools.count(1)
        self._closing: asyncio.Future[None] | None = None
        # The loop holds no reference: an engine that is forgotten open is collected, closed and complained about.
        self._loop.add_reader(self._fd, _wake, weakref.ref(self))

    def __del__(self) -> None:
        if self._native is not None and self._closing is None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            with contextlib.suppress(EngineClosed):
                self._native.close()

    @property
    def native(self) -> _engine.Engine:
        """The Rust handle. Raises EngineClosed when it has been given up."""
        if self._native is None:
            msg = "the engine is closed"
            raise EngineClosed(msg)
        return self._native

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing is not None

    def new_number(self) -> int:
        """Return a number for a gateway, tunnel, forward or ping that this engine never had."""
        return next(self._numbers)

    def handle(self, kind: str, number: int, handler: Callable[[Event], None]) -> None:
        """Call `handler` with each event of this kind and number, until `forget`."""
        self._handlers[kind, number] = handler

    def forget(self, kind: str, number: int) -> None:
        """Stop calling the handler of this kind and number; unknown ones are fine."""
        self._handlers.pop((kind, number), None)
        if kind == "tunnel":
            self._ready.pop(number, None)

    def handle_ready(self, token: int, handler: Callable[[], None]) -> None:
        """Call `handler` when the tunnel `token` may have datagrams to read or changed its state."""
        self._ready[token] = handler

    def put_secret(self, name: str, secret: bytes) -> None:
        """Hand secret bytes to the engine; documents refer to them by name."""
        self.native.put_secret(name, secret)

    def apply(self, snapshot: Mapping[str, Any]) -> None:
        """Submit a snapshot; ``snapshot_applied`` or ``snapshot_refused`` answers.

        Raises EngineFault with `code` ``invalid_document`` and the path of what is wrong.
        """
        self.native.submit(_encode(snapshot))

    def command(self, command: str, **arguments: object) -> None:
        """Submit a command; its answers are events.

        Raises EngineFault (`code`: ``unknown_number``, ``engine_busy`` …) or EngineClosed.
        """
        self.native.submit(_encode({"version": VERSION, "command": command, **arguments}))

    def tunnel(self, token: int) -> Tunnel | None:
        """Return the queues of a tunnel, or None when the engine has let it go."""
        return self.native.tunnel(token)

    def stats(self) -> Event:
        """Return all counters by reason and all gauges."""
        stats: Event = json.loads(self.native.stats())
        return stats

    async def close(self) -> None:
        """End everything at once and join the engine's threads; idempotent, and cancelling it cancels nothing."""
        if self._closing is None:
            self._loop.remove_reader(self._fd)
            self._closing = self._loop.run_in_executor(None, self.native.close)
            self._closing.add_done_callback(lambda _: self._finish())
        await asyncio.shield(self._closing)

    def _finish(self) -> None:
        """Deliver what the engine said while it closed."""
        try:
            while events := self.native.take_events(BATCH):
                self._events.extend(_decode(events))
                self._tell()
        finally:
            # Whoever still waits for something hears that it will not come.
            for (kind, _), handler in list(self._handlers.items()):
                if (end := _ENDS.get(kind)) is not None:
                    self._call(handler, dict(end))
            self._handlers.clear()
            self._ready.clear()
            # The engine's memory and descriptors go now, and not when the last handle does.
            self._native = None

    def wake(self) -> None:
        """Take one batch of what waits; called by the loop when the descriptor is readable."""
        native = self.native
        # Tokens first: a datagram that came before its tunnel's end is read before the end is told.
        self._tokens.extend(native.take_ready(BATCH))
        self._events.extend(_decode(native.take_events(BATCH)))
        self._tell()

    def _tell(self) -> None:
        try:
            while self._tokens:
                if (ready := self._ready.get(self._tokens.popleft())) is not None:
                    ready()
            while self._events:
                self._dispatch(self._events.popleft())
        finally:
            if self._tokens or self._events:
                # The program is being ended from within a handler. To end it well the loop runs again, and what is
                # behind must be found then: the descriptor says nothing about it any more.
                self._loop.call_soon(self._tell)

    def _dispatch(self, event: Event) -> None:
        kind, key = EVENTS[event["event"]]
        handler = self._handlers.get((kind, event[key] if key is not None else 0))
        if handler is not None:
            self._call(handler, event)

    def _call(self, handler: Callable[[Event], None], event: Event) -> None:
        try:
            handler(event)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 -- one broken handler must not lose the events behind it
            self._loop.call_exception_handler(
                {"message": f"handler of {event['event']} failed", "exception": error, "engine": self}
            )


def documents() -> dict[str, Any]:
    """Return every document of the border with its fields, as the engine reads them."""
    result: dict[str, Any] = json.loads(_engine.documents())
    return result


def error_table() -> dict[str, Any]:
    """Return the table of refusals, tunnel ends and drops: ``{"refusals": […], "ends": […], "drops": […]}``."""
    result: dict[str, Any] = json.loads(_engine.error_table())
    return result


def limits_table() -> list[dict[str, Any]]:
    """Return every limit: ``[{"name": …, "unit": …, "default": …, "min": …, "max": …, "doc": …}, …]``."""
    result: list[dict[str, Any]] = json.loads(_engine.limits_table())
    return result


def toml_positions(text: str) -> list[tuple[list[str | int], int, int]]:
    """Return path, line and column (from 1) of each key and element of a TOML text; none if it is not TOML."""
    result: list[tuple[list[str | int], int, int]] = json.loads(_engine.toml_positions(text))
    return result


def check_policy(policy: Mapping[str, Any]) -> list[dict[str, str]]:
    """Compile a policy document and return all that is wrong with it: ``[{"path": …, "reason": …}, …]``."""
    result: list[dict[str, str]] = json.loads(_engine.check_policy(_encode(policy)))
    return result


def explain(policy: Mapping[str, Any], question: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the matcher what a policy says about a target, with every step.

    question: ``protocol``, ``host``, ``port`` and perhaps ``answers``, the addresses that the name resolves to.
    Raises ValueError for a policy that does not compile or a question of another form.
    """
    result: dict[str, Any] = json.loads(_engine.explain(_encode(policy), _encode(question)))
    return result


def classify_address(address: str) -> dict[str, Any]:
    """Return the tier of an address and the special prefix that it is in."""
    result: dict[str, Any] = json.loads(_engine.classify_address(address))
    return result


def _decode(events: list[bytes]) -> list[Event]:
    # As one document: a third of the cost of one for each.
    decoded: list[Event] = json.loads(b"[%b]" % b",".join(events))
    return decoded


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
