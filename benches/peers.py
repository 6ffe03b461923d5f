"""The gateways that are measured: how each is started and stopped, and what its clients must know."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.machine import GATEWAY_CORE
from benches.programs import HERE, ROOT, Programs

from moretta import testing

PATIENCE_SECONDS = 20.0
#: How often counters are asked for until they stand still; an overloaded gateway works off what waits at its sockets.
STILL_READINGS = 60
#: Those that stand still when nothing is under way. Turns and packets go on: idle connections talk too.
MOVING = ("datagrams_from_peer", "datagrams_to_flows", "datagrams_from_flows", "datagrams_to_peer")
TEMPLATE = "/.well-known/masque/udp/{target_host}/{target_port}/"


class PeerFailed(Exception):
    """A gateway did not start or ended by itself; the text says what it said."""


@dataclass
class Peer:
    """A gateway to measure. `running` starts a process of it."""

    name: str
    command: list[str]
    port: int
    #: What its clients trust; ours says so itself when it has started.
    authority: Path | None = None
    #: Where moretta-load finds it: Envoy has one listener for each target.
    load_port: int = 0
    #: It prints its counters when asked by SIGUSR1.
    counts: bool = False
    #: Cases that it did not survive.
    lost: set[str] = field(default_factory=set)


class Process:
    """A running gateway."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
        self.peer = peer
        self.pid = process.pid
        self.authority = peer.authority
        self._process = process
        self._log = log

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def said(self) -> list[str]:
        return self._log.read_text(encoding="utf-8", errors="replace").splitlines()

    def counters(self) -> dict[str, Any]:
        """What our gateway counted, once no datagram moves any more: what is under way arrives first.

        A worker that is too busy to answer is shown as it last did; a question that it takes costs it a turn.
        """
        reading = self._ask()
        for _ in range(STILL_READINGS):
            time.sleep(0.05)
            before, reading = reading, self._ask()
            is_new = reading["core"]["turns"] > before["core"]["turns"]
            if is_new and all(before["core"][name] == reading["core"][name] for name in MOVING):
                return reading
        raise PeerFailed(f"the counters of {self.peer.name} do not come to rest")

    def _ask(self) -> dict[str, Any]:
        before = len(self._answers())
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self.alive:
            if len(answers := self._answers()) > before:
                counters: dict[str, Any] = json.loads(answers[-1])["counters"]
                return counters
            time.sleep(0.01)
        raise PeerFailed(f"{self.peer.name} does not tell its counters")

    def _answers(self) -> list[str]:
        return [line for line in self.said() if line.startswith('{"counters"') and line.endswith("}")]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def all_peers(folder: Path, programs: Programs, *, target: int, load_target: int) -> list[Peer]:
    """Ours, and those others that there are. target, load_target: ports of the two generators' targets."""
    port = free_port()
    ours = [sys.executable, str(ROOT / "tools/gateway.py"), "--json", "--port", str(port), "--workers", "1"]
    peers = [Peer("moretta", ours, port, counts=True)]
    files = testing.make_certificates(folder)
    values = {"certificate": str(files.certificate), "key": str(files.key), "folder": str(folder)}
    if programs.masque_go is not None:
        port = free_port()
        command = [str(programs.masque_go), "-t", f"https://127.0.0.1:{port}{TEMPLATE}", "-b", f"127.0.0.1:{port}"]
        command += ["-c", str(files.certificate), "-k", str(files.key)]
        peers.append(Peer("masque-go", command, port, files.ca_file))
    if programs.envoy is not None:
        port, load_port = free_port(), free_port()
        listeners = {"port": port, "target": target, "load_port": load_port, "load_target": load_target}
        configuration = _written(folder / "envoy.json", "envoy.json", values | listeners)
        command = [str(programs.envoy), "--concurrency", "1", "--log-level", "error", "-c", str(configuration)]
        command += ["--use-dynamic-base-id", "--drain-time-s", "1"]
        peers.append(Peer("envoy", command, port, files.ca_file, load_port=load_port))
    if programs.h2o is not None:
        port = free_port()
        configuration = _written(folder / "h2o.conf", "h2o.conf", values | {"port": port})
        peers.append(Peer("h2o", [str(programs.h2o), "-c", str(configuration)], port, files.ca_file))
    if programs.masque_server is not None:
        port = free_port()
        configuration = _written(folder / "masque-server.toml", "masque-server.toml", values | {"port": port})
        command = [str(programs.masque_server), "-c", str(configuration)]
        peers.append(Peer("masque-server", command, port, files.ca_file))
    return peers


def _written(path: Path, template: str, values: dict[str, Any]) -> Path:
    text = (HERE / "configurations" / template).read_text(encoding="utf-8")
    path.write_text(string.Template(text).substitute(values), encoding="utf-8")
    return path


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[Process]:
    """A process of this gateway on its core, ready to be asked. Raises PeerFailed."""
    with tempfile.NamedTemporaryFile() as log:
        started = subprocess.Popen(
            ["taskset", "-c", GATEWAY_CORE, *peer.command], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
        )
        # Read by a descriptor of its own: one that both shared would move under the writer.
        process = Process(peer, started, Path(log.name))
        try:
            _wait_for_port(process, peer.port)
            if process.authority is None:
                process.authority = _told_authority(process)
            yield process
        finally:
            started.send_signal(signal.SIGINT)
            try:
                started.wait(5)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _told_authority(process: Process) -> Path:
    """Our gateway prints a line of JSON once it serves."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.alive:
        for line in process.said():
            if line.startswith('{"pid"'):
                return Path(json.loads(line)["ca"])
        time.sleep(0.05)
    raise PeerFailed(f"{process.peer.name} did not say where its certificate is")


def _wait_for_port(process: Process, port: int) -> None:
    """Until somebody is bound to the port; /proc/net/udp says so without disturbing anybody."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    wanted = re.compile(rf":{port:04X} ")
    while time.monotonic() < deadline:
        if not process.alive:
            said = " ".join(process.said())[-500:]
            raise PeerFailed(f"{process.peer.name} ended at once: {said}")
        if any(wanted.search(Path(table).read_text()) for table in ("/proc/net/udp", "/proc/net/udp6")):
            return
        time.sleep(0.05)
    raise PeerFailed(f"{process.peer.name} did not listen on port {port} within {PATIENCE_SECONDS:g} s")
