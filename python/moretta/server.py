"""The gateway, embeddable: ``async with moretta.Server(config) as server``."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from moretta import config as configuration
from moretta import engine
from moretta._waiting import Answer
from moretta.address import SocketAddress
from moretta.config import snapshot
from moretta.errors import (
    ConfigurationError,
    EngineClosed,
    EngineFault,
    ListenError,
    ListenNotPermitted,
    MorettaError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from moretta.config import Config, Loaded

_LISTEN_ERRORS = {"port_in_use": ListenError, "permission_denied": ListenNotPermitted, "system_error": ListenError}


class Server:
    """A gateway.

    config: a file, a mapping of the same form, a `Config`, or what `moretta.config.load` returned.
    on_record: called with one mapping per tunnel opened, refused and closed (``record_opened`` …); opened and closed
        ones are never lost, refused ones are sampled under load. ``worker_restarted`` tells that a worker met a bug of
        moretta's and began anew; its tunnels were closed before. It runs in the event loop and must not block.

    Entering starts it and raises ConfigurationError or ListenError; then nothing runs. Leaving closes all tunnels at
    once; `drain` before that lets them end.
    """

    def __init__(
        self,
        config: Loaded | Config | Mapping[str, Any] | str | Path,
        *,
        on_record: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._source = config
        self._on_record = on_record
        self._loaded: Loaded | None = None
        self._engine: engine.Engine | None = None
        self._generation = 0
        self._submitted = 0
        self._listening: dict[str, tuple[SocketAddress, ...]] = {}
        self._reloading = asyncio.Lock()
        self._draining = False
        self._drained = asyncio.Event()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else ", ".join(map(str, self.addresses))
        return f"<Server {state}>"

    @property
    def config(self) -> Config:
        """The configuration in force."""
        if self._loaded is None:
            msg = "the server was not started"
            raise EngineClosed(msg)
        return self._loaded.config

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """Every address that the gateway listens on, with real ports, in the order of the configuration."""
        return tuple(address for addresses in self.listeners.values() for address in addresses)

    @property
    def listeners(self) -> Mapping[str, tuple[SocketAddress, ...]]:
        """The addresses of each listener by name."""
        names = self._loaded.config.listen if self._loaded is not None else ()
        return {name: self._listening[name] for name in names if name in self._listening}

    @property
    def origin(self) -> str:
        """``https://address:port`` of the first address, as `moretta.connect` takes it."""
        return f"https://{self.addresses[0]}"

    @property
    def workers(self) -> int:
        """How many worker threads serve."""
        return self.config.engine.workers or len(os.sched_getaffinity(0))

    @property
    def generation(self) -> int:
        """Number of the configuration in force: 1 after the start, a higher one after each reload."""
        return self._generation

    async def start(self) -> None:
        """Start listening; ``async with`` does it. Raises ConfigurationError, ListenError."""
        if self._engine is not None:
            msg = "the server runs already"
            raise RuntimeError(msg)
        loaded = await asyncio.to_thread(_load, self._source)
        self._submitted = 0
        built = await asyncio.to_thread(snapshot.build, loaded, self._next_generation())
        self._engine = attached = engine.Engine(workers=loaded.config.engine.workers)
        attached.handle("listener", 0, self._on_listening)
        attached.handle("record", 0, self._on_record_event)
        self._draining = False
        self._drained.clear()
        attached.handle("drain", 0, lambda _: self._drained.set())
        try:
            await self._apply(loaded, built)
        except BaseException:
            await self.close()
            raise

    async def reload(self, config: Loaded | Config | Mapping[str, Any] | str | Path | None = None) -> None:
        """Put a new configuration in force, whole or not at all; tunnels live on unless the new policy ends them.

        config: as for the constructor; None reads the same source again.
        Certificates, policy, templates, limits and listeners change. Raises ConfigurationError or ListenError, and then
        everything is as it was.
        """
        async with self._reloading:
            self._running()
            if config is None:
                loaded = await asyncio.to_thread(_load_again, self._source)
            else:
                loaded = await asyncio.to_thread(_load, config)
            built = await asyncio.to_thread(snapshot.build, loaded, self._next_generation())
            await self._apply(loaded, built)
            if config is not None:
                self._source = config

    async def drain(self, deadline_seconds: float | None = None) -> None:
        """Open no more tunnels, wait until those there are have ended, at most until the deadline, and close the rest.

        deadline_seconds: None takes ``engine.drain_timeout_seconds`` of the configuration. Clients are told at once
        (GOAWAY). Cancelling it does not undo it. A later call waits for the same end; its deadline does not count.
        """
        attached = self._running()
        seconds = self.config.engine.drain_timeout_seconds if deadline_seconds is None else deadline_seconds
        if not self._draining:
            attached.command("drain", deadline_seconds=float(seconds))
            self._draining = True
        await self._drained.wait()

    def stats(self) -> dict[str, Any]:
        """Return all counters by reason and all gauges; counters never go back."""
        return self._running().stats()

    async def close(self) -> None:
        """Close everything at once; idempotent."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None
            self._listening.clear()

    async def __aenter__(self) -> Server:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _running(self) -> engine.Engine:
        if self._engine is None:
            msg = "the server does not run"
            raise EngineClosed(msg)
        return self._engine

    def _next_generation(self) -> int:
        # Never one that was used, not even by a reload that was cancelled while the engine went on with it.
        self._submitted += 1
        return self._submitted

    async def _apply(self, loaded: Loaded, built: snapshot.Snapshot) -> None:
        attached = self._running()
        generation: int = built.document["generation"]
        answer: Answer[engine.Event] = Answer()

        def on_answer(event: engine.Event) -> None:
            # Here and not after the wait below, which may be cancelled while the engine goes on.
            attached.forget("snapshot", generation)
            if event["event"] == "snapshot_applied":
                self._loaded = loaded
                self._generation = generation
            answer(event)

        for name, secret in built.secrets.items():
            attached.put_secret(name, secret)
        attached.handle("snapshot", generation, on_answer)
        try:
            attached.apply(built.document)
        except BaseException as error:
            attached.forget("snapshot", generation)
            if isinstance(error, EngineFault):
                raise _refused(loaded, error.path, error.message, error.code) from None
            raise
        event = await answer
        if event["event"] == "snapshot_refused":
            raise _refused(loaded, event["path"], event["error"], event["code"])

    def _on_listening(self, event: engine.Event) -> None:
        self._listening[event["listener"]] = tuple(map(SocketAddress.parse, event["addresses"]))

    def _on_record_event(self, event: engine.Event) -> None:
        if self._on_record is not None:
            self._on_record(event)


def _load(source: Loaded | Config | Mapping[str, Any] | str | Path) -> Loaded:
    return source if isinstance(source, configuration.Loaded) else configuration.load(source)


def _load_again(source: Loaded | Config | Mapping[str, Any] | str | Path) -> Loaded:
    return source.again() if isinstance(source, configuration.Loaded) else configuration.load(source)


def _refused(loaded: Loaded, path: str, message: str, code: str) -> MorettaError:
    """Return the error for a snapshot that the engine refused, with the place in the configuration."""
    if code == "engine_closed":
        return EngineClosed(message)
    message = message.removeprefix(f"{path}: ")
    problem = loaded.problem(snapshot.key_of(loaded, path), message)
    kind = _LISTEN_ERRORS.get(code)
    return kind(str(problem), code) if kind is not None else ConfigurationError(problem)
