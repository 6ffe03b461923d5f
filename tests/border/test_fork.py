"""After a fork the engine belongs to the parent alone."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys

import pytest

from moretta import testing

SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of forking beside threads
from moretta import _engine
from moretta.errors import EngineClosed

native = _engine.Engine(b'{"version": 1, "workers": 1}')
child = os.fork()
if child == 0:
    refused = 0
    calls = [lambda: native.fileno(), lambda: native.stats(), lambda: native.take_events(1), lambda: native.take_ready(1),
             lambda: native.submit(b"{}"), lambda: native.put_secret("a", b"b"), lambda: native.tunnel(1), native.close]
    for call in calls:
        try:
            call()
        except EngineClosed:
            refused += 1
    closed = native.closed
    del native, calls, call
    # The child may have an engine of its own.
    own = _engine.Engine(b'{"version": 1, "workers": 1}')
    own.stats()
    own.close()
    ENDING(0 if refused == 8 and closed else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
native.stats()
native.close()
print("parent lives")
"""


@pytest.mark.parametrize("ending", ["os._exit", "sys.exit"])
def test_handles_raise_in_the_child_and_work_in_the_parent(ending: str) -> None:
    script = SCRIPT.replace("ENDING", ending)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent lives\n", "")


BEFORE_AND_AFTER = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import moretta

async def connect():
    async with moretta.connect(sys.argv[1], ca_file=sys.argv[2]) as gateway:
        await gateway.ping()

asyncio.run(connect())
child = os.fork()
asyncio.run(connect())
if child:
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    asyncio.run(connect())
    print("parent lives")
"""


async def test_parent_and_child_connect_after_a_fork_whatever_was_kept_before(proxy: testing.RunningGateway) -> None:
    """What a process keeps of its connections, their TLS sessions, is behind a lock that a child may find taken."""
    command = [sys.executable, "-c", BEFORE_AND_AFTER, proxy.server.origin, str(proxy.certificates.ca_file)]
    run = functools.partial(subprocess.run, command, capture_output=True, text=True, check=False, timeout=30)
    done = await asyncio.to_thread(run)
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent lives\n", "")
