"""Count the instructions of the gateway's work under callgrind and compare them with the committed baseline.

`make instructions` compares: a trace that costs more than 1 % more than the baseline is a failure, to be repaired or
accepted on purpose. What one trace is, crates/moretta-trace says. Counts repeat where clocks do not, so that this works on
a machine that is busy with other things; they are not time, and valgrind's processor is an older one than yours.

    make instructions                          all traces against the baseline
    make instructions ARGS="up-1200 tunnel"    only these
    make instructions ARGS=--accept            the same, then write the counts into the baseline: commit it with the reason
    make instructions ARGS="up-1200 --profile" where they are spent: callgrind's files stay in .bench/instructions
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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches/instructions.json"
PROGRAM = ROOT / "target/release/moretta-trace"
WORK = ROOT / ".bench/instructions"
# The one function that the gateway's work passes through: crates/moretta-trace/src/meter.rs.
COUNTED = "moretta_trace::meter::counted*"
ALLOWED_RISE = 0.01


@dataclass(frozen=True)
class Count:
    """What one trace cost."""

    name: str
    item: str
    items: int
    instructions: int
    cpu: tuple[str, ...]

    @property
    def each(self) -> float:
        return self.instructions / self.items


def run(command: list[str], **options: Any) -> str:
    said: str = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options).stdout
    return said


def valgrind() -> str:
    """Its path; installed from Debian where that can be done."""
    found = shutil.which("valgrind")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing valgrind (apt-get)", flush=True)
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "valgrind"], check=False, stdout=subprocess.DEVNULL)
        found = shutil.which("valgrind")
    if found is None:
        sys.exit("instructions are counted by valgrind, which is not here (Debian, Ubuntu: apt-get install valgrind)")
    return found


def build() -> None:
    subprocess.run(["cargo", "build", "--locked", "--release", "--quiet", "-p", "moretta-trace"], cwd=ROOT, check=True)


def count(tool: str, name: str, *, profile: bool) -> Count:
    """One trace under callgrind, in an environment of nothing: what is in it moves the stack, and so alignments."""
    out = WORK / f"{name}.callgrind"
    command = ["setarch", "--addr-no-randomize", tool, "--quiet", "--tool=callgrind", "--collect-atstart=no"]
    command += [f"--toggle-collect={COUNTED}", f"--callgrind-out-file={out}"]
    command += ["--dump-instr=no", "--compress-strings=yes"]
    told: dict[str, Any] = json.loads(run([*command, str(PROGRAM), name], env={}).splitlines()[-1])
    summary = re.search(r"^(?:summary|totals): (\d+)", out.read_text(errors="replace"), re.MULTILINE)
    if summary is None:
        sys.exit(f"{name}: callgrind counted nothing: is {COUNTED!r} still the name of the function?")
    if not profile:
        out.unlink()
    return Count(name, told["item"], told["items"], int(summary[1]), tuple(told["cpu"]))


def environment(tool: str, counts: list[Count]) -> dict[str, Any]:
    """What else decides the counts, besides our code: where one of these differs, so may every count."""
    rustc = run(["rustc", "--version", "--verbose"])
    return {
        "rustc": rustc.splitlines()[0],
        "host": next(line.split(": ")[1] for line in rustc.splitlines() if line.startswith("host: ")),
        "profile": "release",
        "valgrind": run([tool, "--version"]).strip(),
        "libc": " ".join(platform.libc_ver()),
        "compiler": run([os.environ.get("CC", "cc"), "--version"]).splitlines()[0],
        "cpu": list(counts[0].cpu),
    }


def compare(counts: list[Count], baseline: dict[str, float]) -> list[str]:
    """Prints the table; returns the traces that rose too far, or that the baseline does not know."""
    worse = []
    print(f"{'trace':<22}{'baseline':>14}{'now':>14}{'ratio':>8}  per")
    for one in counts:
        old = baseline.get(one.name)
        if old is None:
            print(f"{one.name:<22}{'-':>14}{one.each:>14,.1f}{'':>8}  {one.item}  (new)")
            worse.append(one.name)
            continue
        ratio = one.each / old
        verdict = ""
        if ratio > 1 + ALLOWED_RISE:
            verdict = "  WORSE"
            worse.append(one.name)
        elif ratio < 1 - ALLOWED_RISE:
            verdict = "  better"
        print(f"{one.name:<22}{old:>14,.1f}{one.each:>14,.1f}{ratio:>8.4f}  {one.item}{verdict}")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", help="which; default: all")
    parser.add_argument("--accept", action="store_true", help="write the counts into the baseline")
    parser.add_argument("--profile", action="store_true", help="keep callgrind's files, for callgrind_annotate")
    arguments = parser.parse_args()
    tool = valgrind()
    build()
    known = [spec["name"] for spec in json.loads(run([str(PROGRAM)]))]
    if unknown := sorted(set(arguments.traces) - set(known)):
        sys.exit(f"there is no trace called {', '.join(unknown)}; there are {', '.join(known)}")
    WORK.mkdir(parents=True, exist_ok=True)
    names = arguments.traces or known
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(lambda name: count(tool, name, profile=arguments.profile), names))
    here = environment(tool, counts)
    document = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"environment": here, "instructions": {}}
    worse = compare(counts, document["instructions"])
    if arguments.profile:
        print(f"\nwhere they are spent: callgrind_annotate {WORK.relative_to(ROOT)}/{names[0]}.callgrind")
    if arguments.accept:
        accepted = {one.name: round(one.each, 1) for one in counts}
        if not arguments.traces:
            document = {"environment": here, "instructions": {}}
        document["environment"] = here
        document["instructions"] |= accepted
        BASELINE.write_text(json.dumps(document, indent=2) + "\n")
        print(f"\nwritten to {BASELINE.relative_to(ROOT)}: commit it together with its reason")
        return 0
    differing = [key for key, value in here.items() if document["environment"].get(key) != value]
    if differing:
        print("\nThe baseline is of another environment, so that the ratios prove nothing:")
        for key in differing:
            print(f"    {key}: {document['environment'].get(key)} there, {here[key]} here")
        return 0
    if worse:
        print(
            f"\nmore than {ALLOWED_RISE:.0%} above the baseline, or not in it: {', '.join(worse)}\n"
            "Where the rise is wanted: make instructions ARGS=--accept, and say why in the commit."
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
