"""`moretta demo` as a process: what it shows, how it ends, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import moretta

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("aioquic", reason="the extra demo is not installed")

SMALL = 4 << 20
# Prints a line when the first step begins, so that a test need not guess.
# Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
PROGRAM = """
import signal, sys
from moretta.demo import scenario, steps
signal.signal(signal.SIGINT, signal.default_int_handler)
download = steps.http3_download
def announce(*arguments):
    print("begins", flush=True)
    return download(*arguments)
steps.http3_download = announce
sys.exit(scenario.main(keep={keep}, as_json=True, body_bytes={size}))
"""


@pytest.fixture
def scratch(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary directory only the demo uses."""
    return {"PATH": os.defpath, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}


@contextlib.contextmanager
def demo(scratch: dict[str, str], *, keep: bool = False, size: int = SMALL) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM.format(keep=keep, size=size)]
    with subprocess.Popen(command, env=scratch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    """Processes that the process has started and that still run."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in listed.split()]


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return False


def assert_nothing_is_left(scratch: dict[str, str], far_side: list[int]) -> None:
    left = [path.name for path in Path(scratch["TMPDIR"]).iterdir() if path.name.startswith("moretta")]
    assert not left
    assert not [pid for pid in far_side if is_running(pid)]


def read_document(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The report of a demo that stays: one JSON document, of which the closing brace begins a line."""
    wait_for_begin(process)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            break
    document: dict[str, Any] = json.loads("".join(lines))
    return document


@pytest.mark.timeout(120)
def test_the_whole_demo_holds_and_leaves_nothing_behind(scratch: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "moretta", "demo", "--json"],
        env=scratch, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    steps = {found["step"]: found for found in document["steps"]}
    assert set(steps) == {"http3", "address_change", "dns", "refusal"}
    assert steps["http3"]["bytes"] == 64 << 20
    assert steps["dns"]["names"] == 200
    assert steps["refusal"]["status"] == 403
    assert_nothing_is_left(scratch, [])


@pytest.mark.timeout(90)
async def test_a_demo_that_stays_can_be_used_until_it_is_interrupted(scratch: dict[str, str]) -> None:
    with demo(scratch, keep=True) as process:
        document = read_document(process)
        assert document["held"], document
        far_side = children(process.pid)
        facts = document["gateway"]
        async with moretta.connect(facts["origin"], ca_file=facts["ca_file"]) as gateway:
            assert await gateway.ping() < 5

        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 0
        assert far_side
        assert_nothing_is_left(scratch, far_side)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_with_130_and_leaves_nothing_behind(
    scratch: dict[str, str], number: signal.Signals
) -> None:
    # Far too large to finish before the signal.
    with demo(scratch, size=1 << 30) as process:
        wait_for_begin(process)
        far_side = children(process.pid)
        assert far_side

        process.send_signal(number)

        assert process.wait(30) == 130
        assert_nothing_is_left(scratch, far_side)


def wait_for_begin(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "begins\n", process.stderr.read() if process.stderr else line
