"""The machine that a run is made on: what it is, whether it is quiet, and a part of one of its cores."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benches.programs import ROOT

GATEWAY_CORE, LOAD_CORE = "0", "1"
#: How long the remains of a build in the load average are waited for.
PATIENCE_SECONDS = 45.0
#: Beyond it somebody else is at work.
QUIET_LOAD = 1.0
#: A machine that does nothing uses less of its cores.
QUIET_BUSY_PCT = 3.0
#: A tenth of a core in pieces of a millisecond: the kernel has none smaller, and larger ones measure their gaps.
QUOTA_PERIOD_US = 10_000


def description() -> dict[str, object]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    kernel = ".".join(platform.release().split(".")[:2])
    return {"cpu": model, "cores": os.cpu_count(), "kernel": kernel, "commit": commit()}


def commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return git("rev-parse", "--short", "HEAD") + changed


def busy_pct(seconds: float = 2.0) -> float:
    """How much of all cores is in use."""
    before = _idle_ticks()
    time.sleep(seconds)
    available = seconds * os.sysconf("SC_CLK_TCK") * (os.cpu_count() or 1)
    return max(0.0, 100.0 * (1 - (_idle_ticks() - before) / available))


def _idle_ticks() -> int:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[4]) + int(fields[5])


def unrest() -> str:
    """Why figures of now are worth little; empty when the machine is quiet.

    The load average remembers for a minute what has ended, as a build has: it is given time to forget.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (load := os.getloadavg()[0]) > QUIET_LOAD:
        busy = busy_pct()
        if time.monotonic() > deadline:
            if busy <= QUIET_BUSY_PCT:
                return ""
            return f"the machine is not quiet: load average {load:.1f}, {busy:.0f} % of its cores in use by others"
    return ""


@contextlib.contextmanager
def part_of_a_core(pid: int, part: float) -> Iterator[None]:
    """Holds a process to this part of one core. Raises OSError where that is not allowed."""
    folder, limit = _control_group()
    folder.mkdir()
    try:
        for name, text in limit(part).items():
            (folder / name).write_text(text)
        (folder / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        # Whoever is still inside goes back up, since a group with members stays.
        with contextlib.suppress(OSError):
            for member in (folder / "cgroup.procs").read_text().split():
                (folder.parent / "cgroup.procs").write_text(member)
        folder.rmdir()


def _control_group() -> tuple[Path, Callable[[float], dict[str, str]]]:
    name = f"moretta-bench-{os.getpid()}"
    first = Path("/sys/fs/cgroup/cpu")
    if first.is_dir():
        return first / name, lambda part: {
            "cpu.cfs_period_us": str(QUOTA_PERIOD_US),
            "cpu.cfs_quota_us": str(round(part * QUOTA_PERIOD_US)),
        }
    root = Path("/sys/fs/cgroup")
    if "cpu" not in (root / "cgroup.subtree_control").read_text().split():
        (root / "cgroup.subtree_control").write_text("+cpu")
    return root / name, lambda part: {"cpu.max": f"{round(part * QUOTA_PERIOD_US)} {QUOTA_PERIOD_US}"}
