"""Measures the gateway beside its peers: ratios within one run on one machine, CPU per datagram before wall time.

The gateway under test is pinned to core 0, generator and target to core 1. Repetitions go A B B A, so that a drift of the
machine hits both alike. What is reported per case is CPU of the gateway process per delivered datagram (from schedstat),
its ratio to masque-go's proxy, loss and latency. Nothing here is asserted: `make test` never depends on a speed.

There are two arenas. "Wire-like": the client is masque-go's, which sends one packet per system call, so that most of the CPU
it provokes is the kernel's. "Aggregated": client and target are crates/moretta-load, whose trains the kernel keeps whole over
loopback, so that what is left is the gateway's own. The first flatters nobody, the second shows what the code costs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILT = ROOT / ".bench"
TARGET_PORT = 9000
MASQUE_GO = BUILT / "masque-go-proxy"
GATEWAY_CORE, LOAD_CORE = "0", "1"
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Case:
    """What a generator is asked for; `rate` counts all tunnels together, per second; 0: as many as pass."""

    name: str
    mode: str
    size: int
    rate: int
    tunnels: int = 8
    connections: int = 1
    seconds: float = 4.0
    aggregated: bool = False
    once: bool = False


CASES = [
    # Once and first: a process that has freed memory grows less for the next two hundred connections.
    Case("idle connection and tunnel", "idle", 64, 0, tunnels=200, connections=200, once=True),
    Case("up 1200 B, 50,000/s", "up", 1200, 50_000),
    Case("down 1200 B, 50,000/s", "down", 1200, 50_000),
    Case("up 64 B, 50,000/s", "up", 64, 50_000),
    Case("down 64 B, 50,000/s", "down", 64, 50_000),
    Case("round trip 64 B, 2,000/s", "rtt", 64, 2_000),
    Case("new connection and tunnel", "setup", 64, 0, tunnels=300),
    Case("aggregated up 1200 B", "up", 1200, 0, aggregated=True),
    Case("aggregated down 1200 B", "down", 1200, 0, aggregated=True),
    Case("aggregated up 64 B", "up", 64, 0, aggregated=True),
    Case("aggregated down 64 B", "down", 64, 0, aggregated=True),
]


@dataclass
class Peer:
    """A gateway to measure: how it is started, and what its clients trust (ours says so itself when it has started)."""

    name: str
    command: list[str]
    port: int
    authority: Path | None = None
    pid: int = 0
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Tools:
    """What could be built here, and why the rest could not."""

    target: Path
    load: Path
    driver: Path | None = None
    missing: list[str] = field(default_factory=list)

    def generator(self, case: Case) -> Path | None:
        return self.load if case.aggregated else self.driver


def build_tools() -> Tools:
    BUILT.mkdir(exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("make bench needs a C compiler for the target program (Debian: apt-get install gcc)")
    tools = Tools(BUILT / "target", ROOT / "target/release/moretta-load")
    subprocess.run([compiler, "-O2", "-o", str(tools.target), str(HERE / "target.c")], check=True)
    subprocess.run(["cargo", "build", "--locked", "--release", "--quiet", "-p", "moretta-load"], cwd=ROOT, check=True)
    go = shutil.which("go")
    if go is None:
        tools.missing.append(
            "masque-go and the wire-like cases need Go (https://go.dev/dl/): its client library is their generator, "
            "its proxy the peer"
        )
        return tools
    tools.driver = BUILT / "driver"
    for path, package in ((tools.driver, "."), (MASQUE_GO, "github.com/quic-go/masque-go/cmd/proxy")):
        subprocess.run([go, "build", "-trimpath", "-o", str(path), package], cwd=HERE / "driver", check=True)
    return tools


def gateways(folder: Path, tools: Tools) -> list[Peer]:
    """Ours, and masque-go's where there is Go."""
    from moretta import testing

    port, other = free_port(), free_port()
    ours = [sys.executable, str(ROOT / "tools/gateway.py"), "--json", "--port", str(port), "--workers", "1"]
    peers = [Peer("moretta", ours, port)]
    if tools.driver is not None:
        files = testing.make_certificates(folder)
        template = f"https://127.0.0.1:{other}/.well-known/masque/udp/{{target_host}}/{{target_port}}/"
        theirs = [str(MASQUE_GO), "-t", template, "-b", f"127.0.0.1:{other}"]
        theirs += ["-c", str(files.certificate), "-k", str(files.key)]
        peers.append(Peer("masque-go", theirs, other, files.ca_file))
    return peers


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["taskset", "-c", GATEWAY_CORE, *peer.command], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
        )
        try:
            wait_for_udp_port(peer, process, log)
            peer.pid = process.pid
            if peer.authority is None:
                peer.authority = told_authority(process, log)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def told_authority(process: subprocess.Popen[bytes], log: Any) -> Path:
    """Our gateway prints a line of JSON once it serves."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        log.seek(0)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.startswith("{")]
        if lines:
            return Path(json.loads(lines[0])["ca"])
        time.sleep(0.05)
    sys.exit("the gateway did not say where its certificate is")


def wait_for_udp_port(peer: Peer, process: subprocess.Popen[bytes], log: Any) -> None:
    """Until somebody is bound to the port; /proc/net/udp says so without disturbing anybody."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    wanted = re.compile(rf":{peer.port:04X} ")
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            sys.exit(f"{peer.name} ended at once:\n{log.read().decode(errors='replace')[-2000:]}")
        if any(wanted.search(Path(table).read_text()) for table in ("/proc/net/udp", "/proc/net/udp6")):
            return
        time.sleep(0.05)
    sys.exit(f"{peer.name} did not listen on port {peer.port} within {PATIENCE_SECONDS:g} s")


def measure(peer: Peer, case: Case, generator: Path, target_pid: int) -> dict[str, Any] | None:
    # Both understand flags with two dashes.
    command = ["taskset", "-c", LOAD_CORE, str(generator), "--proxy", f"127.0.0.1:{peer.port}"]
    command += ["--mode", case.mode, "--size", str(case.size), "--rate", str(case.rate), "--dur", str(case.seconds)]
    command += ["--tunnels", str(case.tunnels), "--conns", str(case.connections), "--pid", str(peer.pid)]
    if case.aggregated:
        command += ["--ca", str(peer.authority)]
    else:
        command += ["--target", f"127.0.0.1:{TARGET_PORT}", "--tpid", str(target_pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=case.seconds + 120, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        print(f"  {peer.name}, {case.name}: {generator.name} failed: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    sample: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    peer.samples.setdefault(case.name, []).append(sample)
    return sample


def figure(case: Case, sample: dict[str, Any]) -> float:
    """What a case is about: microseconds per datagram, per setup, of latency, or KiB per tunnel."""
    key = {"rtt": "p50_us", "setup": "proxy_us_per_setup", "idle": "rss_kib_per_tunnel"}.get(
        case.mode, "proxy_us_per_dgram"
    )
    return float(sample.get(key, 0.0))


def unit(case: Case) -> str:
    return {"rtt": "µs p50", "setup": "µs CPU", "idle": "KiB RSS"}.get(case.mode, "µs CPU")


def ratio(case: Case, ours: Peer, theirs: Peer) -> tuple[float, float, float] | None:
    """Geometric mean, least and greatest of the ratios of neighbouring samples."""
    pairs = zip(ours.samples.get(case.name, []), theirs.samples.get(case.name, []), strict=False)
    ratios = [figure(case, a) / figure(case, b) for a, b in pairs if figure(case, a) > 0 and figure(case, b) > 0]
    if not ratios:
        return None
    return math.exp(statistics.fmean(map(math.log, ratios))), min(ratios), max(ratios)


def report(peers: list[Peer], cases: list[Case]) -> None:
    base = next((p for p in peers if p.name == "masque-go"), None)
    print(f"\n{'case':<28}{'gateway':<12}{'median':>10}  {'unit':<8}{'loss %':>8}  ratio to masque-go (least…greatest)")
    for case in cases:
        for peer in peers:
            samples = peer.samples.get(case.name)
            if not samples:
                continue
            middle = statistics.median(figure(case, s) for s in samples)
            loss = statistics.median(s.get("loss_pct", 0.0) for s in samples)
            found = ratio(case, peer, base) if base is not None and peer is not base else None
            beside = f"{found[0]:.2f} ({found[1]:.2f}…{found[2]:.2f})" if found else ""
            print(f"{case.name:<28}{peer.name:<12}{middle:>10.2f}  {unit(case):<8}{loss:>8.2f}  {beside}")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "kernel": ".".join(platform.release().split(".")[:2]),
        "cpu": model,
        "cores": os.cpu_count(),
        "repetitions": arguments.repetitions,
        "arena": "over loopback; cases called aggregated: moretta-load, whole trains; all others: masque-go's client, one "
        "packet per system call",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="samples of each gateway and case")
    parser.add_argument("--cases", default="", help="part of the name of the cases to run")
    parser.add_argument("--json", type=Path, default=BUILT / "bench.json")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("make bench needs two cores: one for the gateway, one for the load")
    tools = build_tools()
    for reason in tools.missing:
        print(f"not measured: {reason}")
    cases = [case for case in CASES if arguments.cases in case.name and tools.generator(case) is not None]
    if not cases:
        sys.exit(f"no case that can be measured here has {arguments.cases!r} in its name")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        peers = gateways(Path(folder), tools)
        sink = subprocess.Popen(
            ["taskset", "-c", LOAD_CORE, str(tools.target), str(TARGET_PORT)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(sink.wait)
        stack.callback(sink.terminate)
        for peer in peers:
            stack.enter_context(running(peer))
        for case in cases:
            generator = tools.generator(case)
            assert generator is not None
            for repetition in range(1 if case.once else arguments.repetitions):
                for peer in peers if repetition % 2 == 0 else reversed(peers):
                    sample = measure(peer, case, generator, sink.pid)
                    if sample is not None:
                        print(f"{case.name:<28}{peer.name:<12}{figure(case, sample):>10.2f} {unit(case)}", flush=True)
        report(peers, cases)
        document = {"settings": settings(arguments), "samples": {peer.name: peer.samples for peer in peers}}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
        print(f"\nraw samples: {arguments.json}")


if __name__ == "__main__":
    main()
