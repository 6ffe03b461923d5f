"""One sample: the generator on its core, the gateway on the other, and the ledger between them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches import ledger
from benches.cases import Case
from benches.machine import LOAD_CORE
from benches.peers import Process
from benches.programs import HERE, Programs

#: A generator that offers less than this part of its rate is named for it.
OFFERED_PART = 0.95


class SampleFailed(Exception):
    """The generator gave no figures: a tunnel or a connection was refused or lost."""


@dataclass(frozen=True)
class Bench:
    """What all samples share."""

    programs: Programs
    #: Seconds of traffic, unless a case says otherwise.
    seconds: float
    #: Port and process of benches/target.c beside the generator, and of another one beside the gateway.
    target: tuple[int, int]
    near_target: tuple[int, int]
    #: Port of moretta-load's own target.
    load_target: int


def sample(bench: Bench, case: Case, gateway: Process, rate: int | None = None) -> dict[str, Any]:
    """Runs the case's generator once. rate: another one than the case's. Raises SampleFailed."""
    if case.mode.startswith("python-"):
        return _python(bench, case, gateway, rate or 0)
    before = gateway.counters() if gateway.peer.counts else None
    drops = socket_drops(bench.target[0])
    command = _load(bench, case, gateway) if case.aggregated else _driver(bench, case, gateway)
    command += ["--rate", str(case.rate if rate is None else rate)]
    seconds = case.seconds or bench.seconds
    found = _run(command, seconds + 60)
    if case.rate and found["offered_ps"] < OFFERED_PART * case.rate:
        found["note"] = f"the generator reached {found['offered_ps']:,.0f}/s"
    if "ledger" in found:
        ends: ledger.Ends
        if case.aggregated:
            ends = ledger.Load(found["ledger"])
        else:
            ends = ledger.Driver(found["ledger"], socket_drops(bench.target[0]) - drops)
        counted = ledger.difference(gateway.counters(), before) if before is not None else None
        _close(found, ends, counted, case.size)
    return found


def _close(found: dict[str, Any], ends: ledger.Ends, gateway: dict[str, Any] | None, size: int) -> None:
    """Replaces what one side counted by the ledger of both, way by way."""
    ways = [("up", ledger.up)] if ends.at_target else []
    ways += [("down", ledger.down)] if ends.from_target else []
    books = {way: close(ends, gateway, size) for way, close in ways}
    found["counted"] = found.pop("ledger")
    found["ledger"] = {way: book.document() for way, book in books.items()}
    if complaints := [f"{way}: {complaint}" for way, book in books.items() if (complaint := book.complaint())]:
        found["ledger_failed"] = complaints


def _driver(bench: Bench, case: Case, gateway: Process) -> list[str]:
    if bench.programs.driver is None:
        raise SampleFailed(bench.programs.missing["wire-like cases"])
    port, pid = bench.target
    command = ["taskset", "-c", LOAD_CORE, str(bench.programs.driver), *_common(bench, case, gateway)]
    command += ["--proxy", f"127.0.0.1:{gateway.peer.port}", "--target", f"127.0.0.1:{port}", "--tpid", str(pid)]
    if case.active:
        command += ["--active", str(case.active), *(["--oneconn"] if case.active_on_one else [])]
    if case.mode in ("up", "down"):
        command += ["--count"]
    return command


def _load(bench: Bench, case: Case, gateway: Process) -> list[str]:
    mode = "down" if case.mode == "overload" else case.mode
    command = ["taskset", "-c", LOAD_CORE, str(bench.programs.load), *_common(bench, case, gateway, mode)]
    command += ["--proxy", f"127.0.0.1:{gateway.peer.load_port or gateway.peer.port}"]
    command += ["--ca", str(gateway.authority), "--target-port", str(bench.load_target)]
    # A gateway that is held back stands still for milliseconds, and has lost nothing.
    return [*command, "--write-off", "0.05"] if case.mode == "overload" else command


def _common(bench: Bench, case: Case, gateway: Process, mode: str = "") -> list[str]:
    # Both generators understand flags with two dashes.
    return [
        "--mode", mode or case.mode, "--size", str(case.size), "--dur", str(case.seconds or bench.seconds),
        "--tunnels", str(case.tunnels), "--conns", str(case.connections), "--pid", str(gateway.pid),
    ]  # fmt: skip


def _python(bench: Bench, case: Case, gateway: Process, rate: int) -> dict[str, Any]:
    before = gateway.counters()
    port = bench.near_target[0]
    drops = socket_drops(port)
    command = ["taskset", "-c", LOAD_CORE, sys.executable, str(HERE / "python_client.py")]
    command += ["--port", str(gateway.peer.port), "--ca", str(gateway.authority), "--target-port", str(port)]
    command += ["--mode", case.mode.removeprefix("python-"), "--size", str(case.size), "--rate", str(rate)]
    seconds = case.seconds or bench.seconds
    found = _run([*command, "--dur", str(seconds)], seconds + 60)
    ends = ledger.PythonClient(found["ledger"], socket_drops(port) - drops)
    _close(found, ends, ledger.difference(gateway.counters(), before), case.size)
    return found


def _run(command: list[str], patience: float) -> dict[str, Any]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise SampleFailed(f"the generator did not end within {patience:g} s") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        said = done.stderr.strip().splitlines()
        raise SampleFailed(said[-1][:300] if said else f"the generator ended with {done.returncode}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def socket_drops(port: int) -> int:
    """What the kernel dropped at sockets with this port because nobody read them."""
    rows = Path("/proc/net/udp").read_text().splitlines()[1:]
    fields = [row.split() for row in rows]
    return sum(int(row[12]) for row in fields if int(row[1].rsplit(":", 1)[1], 16) == port)
