"""The interpreter may end at any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import asyncio, os, sys
import moretta
from moretta import testing

async def main():
    running = testing.gateway()
    proxy = await running.__aenter__()
    gateway = await proxy.connect()
    tunnels = await asyncio.gather(*(gateway.open_udp("127.0.0.1", 9) for _ in range(100)))
    for tunnel in tunnels:
        tunnel.send_many([b"on its way"] * 50)
    globals().update(locals())
    print("open", flush=True)
    ENDING

ASYNC
print("end")
"""

ENDINGS = {
    "the loop ends": ("return", "asyncio.run(main())", "open\nend\n"),
    "sys.exit in the loop": ("sys.exit(0)", "asyncio.run(main())", "open\n"),
    "the loop is never closed": (
        "return",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main())",
        "open\nend\n",
    ),
    "the loop is closed first": (
        "return",
        "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
        "open\nend\n",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_interpreter_with_a_hundred_live_tunnels_ends_at_once(name: str, tmp_path: Path) -> None:
    ending, run, output = ENDINGS[name]
    script = SCRIPT.replace("ENDING", ending).replace("ASYNC", run)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")
