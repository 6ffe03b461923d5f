"""The whole demo: builds the scene, runs the steps one after the other, reports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from moretta import testing
from moretta.client import connect
from moretta.demo import others, steps
from moretta.demo.process import others as far_side
from moretta.demo.report import Report, Step
from moretta.errors import MorettaError
from moretta.pki import Authority, write_new
from moretta.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moretta.client import Gateway

BODY_BYTES = 64 << 20
INTERRUPTED = 130


def main(*, keep: bool, as_json: bool, body_bytes: int = BODY_BYTES) -> int:
    """Run everything; the exit status is 0 only if all steps held."""
    demo = Demo(keep=keep, as_json=as_json, body_bytes=body_bytes)
    try:
        return asyncio.run(demo.run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


@dataclass(frozen=True, slots=True)
class Scene:
    """What is running while the steps are shown."""

    facts: others.Facts
    server: Server
    gateway: Gateway
    ca_file: Path


class Demo:
    """One run."""

    def __init__(self, *, keep: bool, as_json: bool, body_bytes: int) -> None:
        self.report = Report()
        self._keep = keep
        self._as_json = as_json
        self._body_bytes = body_bytes
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=as_json,
        )

    async def run(self) -> int:
        """Build the scene, run the steps, report, and clean up whatever happened."""
        running = asyncio.current_task()
        assert running is not None  # noqa: S101 a coroutine runs in a task
        loop = asyncio.get_running_loop()
        # As an interruption, so that processes and files go in this case too.
        loop.add_signal_handler(signal.SIGTERM, running.cancel)
        async with contextlib.AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moretta-demo-")))
            scene = None
            with self._progress:
                try:
                    scene = await self._build(stack, directory)
                except (MorettaError, OSError, TimeoutError) as error:
                    self._add(steps.broken("scene", "gateway, client and far side on loopback", error))
                else:
                    await self._run_steps(scene)
            self._print_report(scene)
            if self._keep and scene is not None:
                await self._stay(scene)
        return 0 if self.report.held else 1

    async def _build(self, stack: contextlib.AsyncExitStack, directory: Path) -> Scene:
        certificates = await asyncio.to_thread(make_certificates, directory)
        facts = await stack.enter_async_context(far_side(directory, self._body_bytes))
        server = await stack.enter_async_context(Server(testing.configuration(certificates, policy=policy())))
        gateway = await stack.enter_async_context(connect(server.origin, ca_file=certificates.ca_file))
        return Scene(facts, server, gateway, certificates.ca_file)

    async def _run_steps(self, scene: Scene) -> None:
        gateway, facts = scene.gateway, scene.facts

        def moves_seen() -> int:
            count: int = scene.server.stats()["core"]["connections_migrated"]
            return count

        async def download(progress: steps.OnProgress) -> tuple[Step, ...]:
            return await steps.http3_download(gateway, facts, scene.ca_file, moves_seen, progress)

        async def resolve(progress: steps.OnProgress) -> tuple[Step, ...]:
            return (await steps.resolve_names(gateway, facts, progress),)

        async def ask_refused(progress: steps.OnProgress) -> tuple[Step, ...]:
            found = []
            for done, (host, port) in enumerate(steps.REFUSED_TARGETS, 1):
                found.append(await steps.refused_target(gateway, host, port))
                progress(done)
            return tuple(found)

        await self._attempt("http3", f"HTTP/3, {facts.body_bytes // steps.MIB} MiB", facts.body_bytes, download)
        await self._attempt("dns", f"DNS, {others.NAMES} names", others.NAMES, resolve)
        await self._attempt("refusal", "targets that are not allowed", len(steps.REFUSED_TARGETS), ask_refused)

    async def _attempt(
        self, name: str, what: str, total: int, step: Callable[[steps.OnProgress], Awaitable[tuple[Step, ...]]]
    ) -> None:
        """Carry out one step; whatever goes wrong in it is its result, and the next one is still worth seeing."""
        bar = self._progress.add_task(what, total=total)
        try:
            self._add(*await step(lambda amount: self._progress.update(bar, completed=amount)))
        except Exception as error:  # noqa: BLE001 the report names it
            self._add(steps.broken(name, what, error))

    def _add(self, *found: Step) -> None:
        self.report.steps.extend(found)

    def _print_report(self, scene: Scene | None) -> None:
        self.report.seconds = time.monotonic() - self._started
        if self._as_json:
            document = self.report.document()
            if self._keep and scene is not None:
                document["gateway"] = {"origin": scene.server.origin, "ca_file": str(scene.ca_file)}
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
            sys.stdout.flush()
            return
        console = Console()
        console.print(self.report.table())
        verdict = "Everything held" if self.report.held else "Not everything held"
        console.print(f"{verdict}, {self.report.seconds:.1f} s.")

    async def _stay(self, scene: Scene) -> None:
        """Leave everything running until interrupted, which then is the ordinary end."""
        if not self._as_json:
            options = f"{scene.server.origin} --ca {scene.ca_file}"
            console = Console(soft_wrap=True, highlight=False)
            console.print(f"The gateway stays up at {scene.server.origin} until Ctrl-C. In another terminal:")
            console.print(f"  moretta ping {options}")
            console.print(f"  moretta forward {options} -L 5353:{steps.LOOPBACK}:{scene.facts.dns_port}/udp")
            console.print(f"  dig @{steps.LOOPBACK} -p 5353 host-007.{others.ZONE}")
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        await ended.wait()


def policy() -> dict[str, Any]:
    """Loopback is allowed, one port of it is denied, and deny wins."""
    rule = {"action": "deny", "protocol": "udp", "destination": ["127.0.0.0/8"], "ports": [steps.DENIED_PORT]}
    rules = [*testing.LOOPBACK_POLICY["rule"], {"id": "no-ssh", **rule}]
    return {**testing.LOOPBACK_POLICY, "rule": rules}


def make_certificates(directory: Path) -> testing.Certificates:
    """A throwaway authority with a certificate for the gateway and one for the origin."""
    authority = Authority("moretta demo authority")
    files = testing.Certificates(directory / "ca.pem", directory / "gateway.pem", directory / "gateway.key")
    write_new(files.ca_file, authority.pair.certificate_pem)
    for names, certificate, key in (
        (testing.LOOPBACK_NAMES, files.certificate, files.key),
        ((steps.ORIGIN_NAME,), directory / "origin.pem", directory / "origin.key"),
    ):
        pair = authority.issue(names)
        write_new(certificate, pair.certificate_pem)
        write_new(key, pair.key_pem, secret=True)
    return files
