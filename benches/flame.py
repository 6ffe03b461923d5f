"""Where a gateway under load spends its time: a flame graph and the functions that cost most themselves.

Runs a case of `make bench` against our gateway, built as it is shipped but with its symbols, samples the gateway by perf,
and draws the stacks by inferno. Time of the kernel that the gateway asked for is in it where perf may see it (root, or a
low kernel.perf_event_paranoid).

    make flame                                         all of the first case below
    make flame ARGS='"new connection and tunnel"'      another case: make bench ARGS=--list names them
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benches.cases import Case, chosen
from benches.measure import Bench, SampleFailed, sample
from benches.peers import PeerFailed, Process, all_peers, free_port, running
from benches.programs import BUILT, ROOT, prepare
from benches.run import OURS, targets

DEFAULT = "aggregated up 1200 B"
SECONDS = 4.0
#: No multiple of the timers that the gateway itself runs by.
SAMPLES_PER_SECOND = 997
#: Of the stack, copied with each sample and unwound afterwards: the gateway is built without frame pointers.
STACK_BYTES = 16_384
TOP = 15
INFERNO = "0.12.8"
TOOLS = ROOT / f".tools/inferno-{INFERNO}/bin"


class NoProfile(Exception):
    """It cannot be drawn here; the text says why, and what to do."""


def need_perf() -> str:
    found = shutil.which("perf")
    if found is None:
        raise NoProfile("perf takes the samples and is not here (Debian: apt-get install linux-perf)")
    probe = subprocess.run(
        [found, "record", "--quiet", "--output", "/dev/null", "--", "true"], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        paranoid = Path("/proc/sys/kernel/perf_event_paranoid").read_text().strip()
        raise NoProfile(
            f"perf may not take samples here (kernel.perf_event_paranoid is {paranoid}): run as root, "
            f"or sysctl kernel.perf_event_paranoid=1. It said: {probe.stderr.strip()[-200:]}"
        )
    return found


def need_inferno() -> None:
    """A tool, never linked or shipped: its licence (CDDL) is not one that a dependency may have."""
    if not (TOOLS / "inferno-flamegraph").exists():
        print(f"building inferno {INFERNO} into .tools, once", flush=True)
        command = ["cargo", "install", "--quiet", "--locked", "--root", str(TOOLS.parent), "--version", INFERNO]
        if subprocess.run([*command, "inferno"], check=False).returncode != 0:
            raise NoProfile("inferno, which draws the stacks, could not be built from the crates registry")


def record(perf: str, bench: Bench, case: Case, gateway: Process, data: Path) -> None:
    """Samples of the gateway's process while the case runs."""
    # By the clock: a virtual machine seldom has counters, and its unit is nanoseconds everywhere.
    command = [perf, "record", "--quiet", "--pid", str(gateway.pid), "--event", "cpu-clock"]
    command += ["--freq", str(SAMPLES_PER_SECOND)]
    command += ["--call-graph", f"dwarf,{STACK_BYTES}", "--output", str(data)]
    recorder = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        sample(bench, case, gateway)
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(60)


def collapsed(perf: str, data: Path) -> str:
    """One line for each stack: frames from the root, semicolons between them, and nanoseconds."""
    # Inlined functions would have to be looked up for every address of every stack: minutes.
    stacks = subprocess.run(
        [perf, "script", "--no-inline", "--input", str(data)],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout
    folded = subprocess.run(
        [str(TOOLS / "inferno-collapse-perf")],
        input=stacks,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout.decode(errors="replace")
    if not folded.strip():
        raise NoProfile("perf took no samples of the gateway")
    # The hash at the end of a Rust symbol tells nobody anything.
    return re.sub(r"::h[0-9a-f]{16}\b", "", folded)


def own_time(folded: str) -> Counter[str]:
    """Nanoseconds in which each function was the innermost."""
    own: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, nanoseconds = line.rpartition(" ")
        own[stack.rpartition(";")[2]] += int(nanoseconds)
    return own


def draw(folded: str, case: Case, path: Path) -> None:
    command = [str(TOOLS / "inferno-flamegraph"), "--title", f"gateway: {case.name}", "--countname", "ns"]
    path.write_bytes(
        subprocess.run([*command, "--hash"], input=folded.encode(), check=True, stdout=subprocess.PIPE).stdout
    )


def flame(case: Case) -> None:
    perf = need_perf()
    need_inferno()
    programs = prepare(set())
    with tempfile.TemporaryDirectory() as folder, targets(programs) as (target, near_target):
        load_target = free_port()
        bench = Bench(programs, SECONDS, target, near_target, load_target)
        peers = all_peers(Path(folder), programs, target=target[0], load_target=load_target)
        ours = next(peer for peer in peers if peer.name == OURS)
        data = Path(folder) / "perf.data"
        with running(ours) as gateway:
            record(perf, bench, case, gateway, data)
        folded = collapsed(perf, data)
    path = BUILT / f"flame-{re.sub(r'[^a-z0-9]+', '-', case.name.lower()).strip('-')}.svg"
    draw(folded, case, path)
    own = own_time(folded)
    print(f"\n{case.name}: {own.total() / 1e9:.2f} s of CPU; functions by their own share")
    for function, nanoseconds in own.most_common(TOP):
        print(f"{nanoseconds / own.total():>7.1%}  {function[:110]}")
    print(f"\n{path.relative_to(ROOT)}: open it in a browser")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", default=DEFAULT, help="name of a case of make bench, or part of it")
    found = chosen([parser.parse_args().case])
    if not found:
        print("there is no such case; make bench ARGS=--list names them", file=sys.stderr)
        return 2
    try:
        flame(found[0])
    except (NoProfile, PeerFailed, SampleFailed) as reason:
        print(f"no flame graph: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
