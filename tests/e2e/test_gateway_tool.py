"""`make gateway`: the door for captures, foreign clients and load generators."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import moretta

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOL = Path(__file__).resolve().parents[2] / "tools/gateway.py"


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(TOOL), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            # In order, so that it cleans up after itself.
            process.terminate()


def facts_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr.read() if process.stderr else ""
    facts: dict[str, Any] = json.loads(line)
    return facts


async def test_it_says_how_to_reach_it_and_can_be_reached() -> None:
    with running("--port", "0", "--workers", "1", "--json") as process:
        facts = facts_of(process)

        async with moretta.connect(f"https://127.0.0.1:{facts['port']}", ca_file=facts["ca"]) as gateway:
            assert await gateway.ping() < 5
        assert facts["pid"] == process.pid
        assert facts["workers"] == 1


async def test_it_tells_its_counters_when_it_is_asked_by_a_signal() -> None:
    with running("--port", "0", "--json") as process:
        facts = facts_of(process)
        async with moretta.connect(f"https://127.0.0.1:{facts['port']}", ca_file=facts["ca"]):
            process.send_signal(signal.SIGUSR1)
            counters = facts_of(process)["counters"]

    assert counters["core"]["connections_accepted"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_certificate_goes_when_it_ends(number: signal.Signals) -> None:
    with running("--port", "0", "--json") as process:
        certificate = Path(facts_of(process)["certificate"])
        assert certificate.exists()

        process.send_signal(number)

        assert process.wait(10) == 0
        assert not certificate.exists()


def test_a_port_in_use_is_one_sentence() -> None:
    with running("--port", "0", "--json") as first:
        port = facts_of(first)["port"]

        with running("--port", str(port)) as second:
            _, said = second.communicate(timeout=10)

        assert second.returncode == 1
        assert str(port) in said
        assert said.count("\n") == 1
        assert "Traceback" not in said
