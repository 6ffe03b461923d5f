"""`moretta serve`: the gateway as a process.

The first line on stdout says where it listens; everything after goes to stderr as log lines. SIGHUP reloads, SIGTERM or
SIGINT drains and ends with 0, a second one ends at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from moretta.cli import output
from moretta.config import Loaded, load
from moretta.errors import ConfigurationError, MorettaError
from moretta.observability import TunnelLog, make_logger
from moretta.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def run(path: Path, overrides: Mapping[str, str], *, as_json: bool) -> int:
    """Serve until a signal ends it. Raises what a start can raise."""
    loaded = load(path, overrides=overrides)
    return asyncio.run(_Service(loaded, as_json=as_json).run())


class _Service:
    """One gateway with its signals and its log."""

    def __init__(self, loaded: Loaded, *, as_json: bool) -> None:
        self._as_json = as_json
        log = loaded.config.log
        self._logger, records = make_logger(sys.stderr, log.format, log.level, colors=output.colors())
        self._tunnels = TunnelLog(records)
        self._server = Server(loaded, on_record=self._tunnels)
        self._end = asyncio.Event()
        self._end_now = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_end, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loop.set_exception_handler(self._on_fault)
        try:
            async with self._server:
                self._announce()
                async with asyncio.TaskGroup() as group:
                    reloader = group.create_task(self._reload_forever())
                    await self._end.wait()
                    reloader.cancel()
                await self._drain()
        finally:
            self._tunnels.flush()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        self._logger.info("gateway.stop")
        return 0

    def _on_end(self, name: str) -> None:
        if self._end.is_set():
            self._logger.info("gateway.close", signal=name)
            self._end_now.set()
        self._end.set()

    def _on_fault(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._logger.error("internal.error", message=context["message"], exc_info=context.get("exception"))

    def _announce(self) -> None:
        config = self._server.config
        facts: dict[str, Any] = {
            "event": "serving",
            "pid": os.getpid(),
            "workers": self._server.workers,
            "profile": config.profile,
            "listeners": [
                {
                    "name": name,
                    "addresses": [str(address) for address in addresses],
                    "certificate": str(config.listen[name].certificate),
                    "templates": list(config.listen[name].templates),
                }
                for name, addresses in self._server.listeners.items()
            ],
        }
        if self._as_json:
            output.document(facts)
        else:
            workers = output.counted(facts["workers"], "worker")
            output.say(f"moretta serves: process {facts['pid']}, {workers}, profile {config.profile}")
            for listener in facts["listeners"]:
                output.say(
                    f"listener {listener['name']}: {', '.join(listener['addresses'])},"
                    f" certificate {listener['certificate']}"
                )

    async def _reload_forever(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            try:
                await self._server.reload()
            except (MorettaError, OSError) as error:
                problems = (
                    [str(problem) for problem in error.problems]
                    if isinstance(error, ConfigurationError)
                    else [str(error)]
                )
                self._logger.error("configuration.refused", problems=problems, in_force=self._server.generation)
            else:
                self._logger.info(
                    "configuration.applied",
                    generation=self._server.generation,
                    addresses=[str(address) for address in self._server.addresses],
                )

    async def _drain(self) -> None:
        seconds = self._server.config.engine.drain_timeout_seconds
        self._logger.info("gateway.drain", deadline_seconds=seconds)
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[Any]] = {
            loop.create_task(self._server.drain(seconds)),
            loop.create_task(self._end_now.wait()),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
