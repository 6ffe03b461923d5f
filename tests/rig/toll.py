"""What an attack costs the gateway, and what somebody else notices of it.

The bystander is a process of his own, so that an attack made by the test does not slow him down: run as a program, this
module opens a tunnel, sends a payload there and back every twenty milliseconds, and answers each line on stdin with what
came of those since the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rig.fixtures import udp_target
from rig.peer import RawPeer, connect_udp_fields, raw_client

if TYPE_CHECKING:
    from rig.victim import Victim

EVERY_SECONDS = 0.02
#: How long he waits for what is still under way.
STRAGGLERS_SECONDS = 2.0
#: P-3: of what a bystander sends, so much arrives.
LEAST_ANSWERED = 0.95


@dataclass
class Attack:
    """Counted by whoever makes it."""

    name: str
    unit: str
    made: int = 0


@dataclass(frozen=True)
class Noticed:
    sent: int
    answered: int
    #: The median and the longest round trip.
    usual_seconds: float
    longest_seconds: float


class Bystander:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def report(self) -> Noticed:
        """Since the last report; blocks until nothing is under way."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the bystander's connection has ended"
        return Noticed(**json.loads(line))


@contextlib.contextmanager
def bystander(victim: Victim) -> Iterator[Bystander]:
    command = [sys.executable, "-m", "rig.toll", json.dumps([victim.address, str(victim.authority.ca_file)])]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield Bystander(process)
        finally:
            process.stdin.close()
            process.wait(20)


@contextlib.contextmanager
def toll(
    victim: Victim, watching: Bystander, attack: Attack, *, memory_bytes: int, cpu_microseconds: float
) -> Iterator[Attack]:
    """Asserts what the attack inside may cost: memory in all, processor time for each of its units, bystanders nothing."""
    watching.report()
    memory, cpu = victim.memory(), victim.cpu_seconds()
    yield attack
    grown = victim.memory() - memory
    each = (victim.cpu_seconds() - cpu) / attack.made * 1e6
    noticed = watching.report()
    print(  # noqa: T201 -- the figures are what the test is for: pytest -rP shows them
        f"{attack.name}: {attack.made:,} {attack.unit}; memory {grown / 2**20:+.1f} MiB; {each:.1f} µs of CPU each; "
        f"a bystander got {noticed.answered} of {noticed.sent} answers, "
        f"usually after {noticed.usual_seconds * 1e3:.1f} ms, at most {noticed.longest_seconds * 1e3:.0f} ms"
    )
    assert grown <= memory_bytes
    assert each <= cpu_microseconds
    # One may always be lost.
    assert noticed.sent - noticed.answered <= max(1, (1 - LEAST_ANSWERED) * noticed.sent)


async def watch(address: tuple[str, int], ca_file: Path) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with udp_target(echo=True) as target, raw_client(address, ca_file) as peer:
        stream_id = peer.request(connect_udp_fields(f"localhost:{address[1]}", *target.address))
        assert (await peer.response(stream_id)).status == 200
        under_way: dict[bytes, float] = {}
        trips: list[float] = []
        tasks = [
            asyncio.create_task(_send(peer, stream_id, under_way)),
            asyncio.create_task(_receive(peer, stream_id, under_way, trips)),
        ]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while await lines.readline():
            deadline = time.monotonic() + STRAGGLERS_SECONDS
            asked = dict(under_way)
            while time.monotonic() < deadline and asked.keys() & under_way.keys():  # noqa: ASYNC110 -- at his own pace
                await asyncio.sleep(EVERY_SECONDS)
            lost = asked.keys() & under_way.keys()
            for payload in lost:
                del under_way[payload]
            answered = len(trips)
            noticed = {
                "sent": answered + len(lost),
                "answered": answered,
                "usual_seconds": statistics.median(trips or [0.0]),
                "longest_seconds": max(trips, default=0.0),
            }
            trips.clear()
            sys.stdout.write(json.dumps(noticed) + "\n")
            sys.stdout.flush()
        for task in tasks:
            task.cancel()


async def _send(peer: RawPeer, stream_id: int, under_way: dict[bytes, float]) -> None:
    number = 0
    while True:
        number += 1
        payload = f"still here {number}".encode()
        under_way[payload] = time.monotonic()
        peer.send_http_datagram(stream_id, payload)
        await asyncio.sleep(EVERY_SECONDS)


async def _receive(peer: RawPeer, stream_id: int, under_way: dict[bytes, float], trips: list[float]) -> None:
    while True:
        payload = (await peer.http_datagram(stream_id, 3600.0))[1:]
        since = under_way.pop(payload, None)
        if since is not None:
            trips.append(time.monotonic() - since)


if __name__ == "__main__":
    where, trusted = json.loads(sys.argv[1])
    asyncio.run(watch((where[0], where[1]), Path(trusted)))
