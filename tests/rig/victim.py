"""A gateway in a process of its own, so that its memory, descriptors and log are its own too.

Run as a program it serves the configuration of its first argument, logs as `moretta serve` does at level debug, and
answers each line on stdin with its statistics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import moretta
from moretta.observability import TunnelLog, make_logger

if TYPE_CHECKING:
    from rig.fixtures import Authority
    from rig.peer import RawPeer


@dataclass
class Victim:
    """A gateway process from outside."""

    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    authority: Authority
    log: Path

    @property
    def host(self) -> str:
        return f"localhost:{self.address[1]}"

    def client(self, **arguments: Any) -> contextlib.AbstractAsyncContextManager[RawPeer]:
        from rig.peer import raw_client

        return raw_client(self.address, self.authority.ca_file, **arguments)

    async def open(self, peer: RawPeer, target: tuple[str, int], **arguments: Any) -> int:
        from rig.peer import connect_udp_fields

        stream_id = peer.request(connect_udp_fields(self.host, target[0], target[1], **arguments))
        response = await peer.response(stream_id)
        assert response.status == 200, response
        return stream_id

    def stats(self) -> dict[str, Any]:
        """All counters; blocks for the moment of an answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the gateway has died: {self.log.read_text()[-2000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def counter(self, name: str) -> int:
        """One counter by its dotted path, 0 where it has not moved."""
        value: Any = self.stats()
        for part in name.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        return value if isinstance(value, int) else 0

    async def until(self, condition: Callable[[dict[str, Any]], object], what: str, seconds: float = 20.0) -> None:
        """Waits until the statistics say so. They are asked for, not announced: the pauses let the gateway work."""
        last: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while not condition(last := self.stats()):  # noqa: ASYNC110 -- another process is what is asked
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}: {last['gauges']}, {last['core']}") from None

    async def record(self, event: str, target: tuple[str, int], seconds: float = 20.0) -> dict[str, Any]:
        """Waits for the log to tell this of a tunnel to `target`: records are written together, a little later."""
        async with asyncio.timeout(seconds):
            while True:
                for line in reversed(self.log.read_text().splitlines()):
                    if event in line and (record := json.loads(line))["target_port"] == target[1]:
                        return dict(record)
                await asyncio.sleep(0.005)

    def memory(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS")

    def peak_memory(self) -> int:
        """The most resident bytes there ever were."""
        return self._status("VmHWM")

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far; to the nanosecond, unlike that of `stat`."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def _status(self, key: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(key)

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())


def configuration(authority: Authority, **sections: Any) -> dict[str, Any]:
    """Serves any target on loopback; `sections` replace those of the same name."""
    return {
        "version": 1,
        "listen": {
            "main": {
                "address": ["127.0.0.1:0"],
                "certificate": str(authority.certificate),
                "key": str(authority.key),
            }
        },
        "policy": {
            "danger_allow_prefixes": ["127.0.0.0/8", "::1/128"],
            "danger_allow_own_addresses": True,
            "rule": [
                {
                    "id": "loopback",
                    "action": "allow",
                    "protocol": "udp",
                    "destination": ["127.0.0.0/8", "::1/128"],
                    "ports": "*",
                }
            ],
        },
        **sections,
    }


@contextlib.contextmanager
def running(authority: Authority, log: Path, **sections: Any) -> Iterator[Victim]:
    """Starts a gateway process; it must be alive, and end well, when the test is done with it."""
    command = [sys.executable, str(Path(__file__)), json.dumps(configuration(authority, **sections))]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out) as process,
    ):
        assert process.stdout is not None and process.stdin is not None
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            host, port = json.loads(line)
            yield Victim(process, (host, port), authority, log)
        finally:
            process.stdin.close()
            code = process.wait(20)
    assert code == 0, log.read_text()[-4000:]


async def serve(document: dict[str, Any]) -> None:
    _, records = make_logger(sys.stderr, "json", "debug", colors=False)
    log = TunnelLog(records)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with moretta.Server(document, on_record=log) as server:
        sys.stdout.write(json.dumps(server.addresses[0][:2]) + "\n")
        sys.stdout.flush()
        while await lines.readline():
            sys.stdout.write(json.dumps(server.stats()) + "\n")
            sys.stdout.flush()
    log.flush()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
