"""Count the instructions of the gateway's work under callgrind and compare them with the committed baseline.

A trace that costs more than 1 % more than the baseline is a failure, to be repaired or accepted on purpose. What a
trace is, crates/moretta-trace says. Counts repeat where clocks do not (within 0.02 %), so that this works on a machine
that is busy with other things. They are not time: valgrind's processor is an older one than yours, and never waits for
memory.

    make instructions                           all traces against the baseline
    make instructions ARGS="up-1200 tunnel"     only these
    make instructions ARGS=--accept             write the counts into the baseline: commit it together with the reason
    make instructions ARGS="--profile up-1200"  also where they are spent, by function
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/instructions.json"
PROGRAM = ROOT / "target/release/moretta-trace"
WORK = ROOT / ".bench/instructions"
UNPACKED = ROOT / ".tools/valgrind"
# The one function that the gateway's work passes through: crates/moretta-trace/src/meter.rs.
COUNTED = "moretta_trace::meter::counted*"
ALLOWED_RISE = 0.01
PROFILE_LINES = 25


@dataclass(frozen=True)
class Count:
    """What one trace cost."""

    name: str
    item: str
    items: int
    instructions: int
    cpu: tuple[str, ...] = ()

    @property
    def each(self) -> float:
        return self.instructions / self.items


@dataclass(frozen=True)
class Valgrind:
    """The program, and where its parts are if it was not installed."""

    path: str
    environment: Mapping[str, str]

    @property
    def version(self) -> str:
        return run([self.path, "--version"]).strip()


def run(command: Sequence[str], **options: Any) -> str:
    return str(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout)


def find_valgrind() -> Valgrind | None:
    """On PATH, or unpacked into .tools from Debian's package, which needs no root."""
    if found := shutil.which("valgrind"):
        return Valgrind(found, {})
    unpacked = Valgrind(
        str(UNPACKED / "usr/bin/valgrind.bin"), {"VALGRIND_LIB": str(UNPACKED / "usr/libexec/valgrind")}
    )
    if Path(unpacked.path).exists():
        return unpacked
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    print("fetching valgrind from Debian into .tools", flush=True)
    UNPACKED.mkdir(parents=True, exist_ok=True)
    if not unpack(["apt-get", "download", "valgrind"]) and os.geteuid() == 0:
        unpack(["apt-get", "update"])
        unpack(["apt-get", "download", "valgrind"])
    for package in UNPACKED.glob("valgrind*.deb"):
        unpack(["dpkg-deb", "--extract", package.name, "."])
    return unpacked if Path(unpacked.path).exists() else None


def unpack(command: Sequence[str]) -> bool:
    """Run one step of it; whether it worked."""
    done = subprocess.run(command, cwd=UNPACKED, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def count(valgrind: Valgrind, name: str, *, profile: bool) -> Count:
    """One trace under callgrind. Environment, path and addresses are the same everywhere: they move alignments."""
    out = WORK / f"{name}.callgrind"
    command = ["setarch", "--addr-no-randomize", valgrind.path, "--quiet", "--tool=callgrind", "--collect-atstart=no"]
    command += [f"--toggle-collect={COUNTED}", f"--callgrind-out-file={out}", f"./{PROGRAM.name}", name]
    told = run(command, cwd=PROGRAM.parent, env=valgrind.environment).splitlines()[-1]
    facts: dict[str, Any] = json.loads(told)
    summary = re.search(r"^summary: (\d+)", out.read_text(errors="replace"), re.MULTILINE)
    if summary is None or int(summary[1]) == 0:
        sys.exit(f"{name}: callgrind counted nothing: is {COUNTED!r} still the name of the function?")
    if not profile:
        out.unlink()
    return Count(name, facts["item"], facts["items"], int(summary[1]), tuple(facts["cpu"]))


def environment() -> dict[str, Any]:
    """What decides the counts besides our code and its lock file: where one of these differs, so may every count.

    Valgrind and what its processor can do come to it once they are known.
    """
    rustc = run(["rustc", "--version", "--verbose"], cwd=ROOT)
    return {
        "rustc": rustc.splitlines()[0],
        "host": next(line.split(": ")[1] for line in rustc.splitlines() if line.startswith("host: ")),
        "profile": "release",
        "compiler": run([os.environ.get("CC", "cc"), "--version"]).splitlines()[0],
        "libc": " ".join(platform.libc_ver()),
    }


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """In words, where the baseline was made in another environment."""
    return [f"{key}: {there.get(key)} in the baseline, {here[key]} here" for key in here if there.get(key) != here[key]]


def compare(counts: Sequence[Count], baseline: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The lines of a table, and the traces that rose too far or are not in the baseline."""
    lines = [f"{'trace':<22}{'baseline':>14}{'now':>14}{'ratio':>9}  per"]
    failing = []
    for one in counts:
        old = baseline.get(one.name)
        if old is None:
            lines.append(f"{one.name:<22}{'-':>14}{one.each:>14,.1f}{'':>9}  {one.item}: NEW")
            failing.append(one.name)
            continue
        ratio = one.each / old
        verdict = ": WORSE" if ratio > 1 + ALLOWED_RISE else ": better" if ratio < 1 - ALLOWED_RISE else ""
        lines.append(f"{one.name:<22}{old:>14,.1f}{one.each:>14,.1f}{ratio:>9.4f}  {one.item}{verdict}")
        if ratio > 1 + ALLOWED_RISE:
            failing.append(one.name)
    return lines, failing


def spent(profile: str) -> list[tuple[int, str]]:
    """Instructions of each function itself, most first, from a file of callgrind's."""
    names: dict[str, str] = {}
    totals: dict[str, int] = {}
    function, inclusive = "", False
    for line in profile.splitlines():
        if named := re.match(r"c?fn=(\(\d+\))(?: (.+))?$", line):
            names.setdefault(named[1], named[2] or "")
            if line.startswith("fn="):
                function = names[named[1]]
        elif line.startswith("calls="):
            inclusive = True  # The next line is what the callee cost.
        elif cost := re.match(r"[-+*\d]\S* (\d+)$", line):
            if not inclusive:
                totals[function] = totals.get(function, 0) + int(cost[1])
            inclusive = False
    return sorted(((cost, name) for name, cost in totals.items()), reverse=True)


def print_profile(one: Count) -> None:
    text = (WORK / f"{one.name}.callgrind").read_text(errors="replace")
    print(f"\n{one.name}: instructions per {one.item}, by function, without what it calls")
    for cost, name in spent(text)[:PROFILE_LINES]:
        print(f"{cost / one.items:>14,.1f} {cost / one.instructions:>7.1%}  {name[:110]}")
    print(f"    all of it: callgrind_annotate {WORK.relative_to(ROOT)}/{one.name}.callgrind")


def measure(valgrind: Valgrind, names: Sequence[str], *, profile: bool) -> list[Count]:
    """Builds the program and counts these traces, or all."""
    build = ["cargo", "build", "--locked", "--release", "--quiet", "-p", "moretta-trace"]
    subprocess.run(build, cwd=ROOT, check=True)
    known = [trace["name"] for trace in json.loads(run([str(PROGRAM)]))]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"there is no trace called {', '.join(unknown)}; there are {', '.join(known)}")
    WORK.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda name: count(valgrind, name, profile=profile), names or known))


def say_not_comparable(reasons: Sequence[str]) -> int:
    print("instructions: NOT COMPARED, the baseline is of another environment:", *reasons, sep="\n    ")
    print("To compare here: count and accept the commit that you began with, then count again.")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", help="which; default: all")
    parser.add_argument("--accept", action="store_true", help="write the counts into the baseline")
    parser.add_argument("--profile", action="store_true", help="print where the instructions are spent")
    parser.add_argument(
        "--if-comparable", action="store_true", help="count nothing where the baseline is of another environment"
    )
    arguments = parser.parse_args()
    here = environment()
    document = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"environment": here, "instructions": {}}
    there = document["environment"]
    if arguments.if_comparable and (reasons := differences(here, there)):
        return say_not_comparable(reasons)
    valgrind = find_valgrind()
    if valgrind is None:
        print("instructions: NOT COUNTED: valgrind counts them and is not here (Debian: apt-get install valgrind)")
        return 0 if arguments.if_comparable else 1
    here["valgrind"] = valgrind.version
    if arguments.if_comparable and (reasons := differences(here, there)):
        return say_not_comparable(reasons)
    counts = measure(valgrind, arguments.traces, profile=arguments.profile)
    here["cpu"] = list(counts[0].cpu)
    lines, failing = compare(counts, document["instructions"])
    print(*lines, sep="\n")
    if arguments.profile:
        for one in counts:
            print_profile(one)
    if arguments.accept:
        kept = document["instructions"] if arguments.traces else {}
        accepted = kept | {one.name: round(one.each, 1) for one in counts}
        BASELINE.write_text(json.dumps({"environment": here, "instructions": accepted}, indent=2) + "\n")
        print(f"\nwritten to {BASELINE.relative_to(ROOT)}: commit it together with the reason")
        return 0
    if reasons := differences(here, there):
        return say_not_comparable(reasons)
    if failing:
        print(f"\nmore than {ALLOWED_RISE:.0%} above the baseline, or not in it: {', '.join(failing)}")
        print("Where the rise is wanted: make instructions ARGS=--accept, and say why in the commit.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
