"""The examples of README.md, executed as they stand there; only ports are replaced."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moretta import testing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    found = re.search(rf"<!-- run: {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no example called {name}"
    return found[1]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory as the examples expect it: moretta.toml, its certificate, ca.pem."""
    testing.make_certificates(tmp_path)
    configuration = (ROOT / "examples/loopback-gateway.toml").read_text(encoding="utf-8")
    loopback_of_version_6 = ', "[::1]:4433"'  # some machines have none
    assert loopback_of_version_6 in configuration
    configuration = configuration.replace(loopback_of_version_6, "").replace(":4433", ":0")
    (tmp_path / "moretta.toml").write_text(configuration, encoding="utf-8")
    return tmp_path


@contextlib.contextmanager
def running_server(directory: Path) -> Iterator[int]:
    command = [sys.executable, "-u", "-c", example("server")]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            listening = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", line)
            assert listening, f"the server printed {line!r}"
            yield int(listening[1])
        finally:
            process.terminate()


@contextlib.contextmanager
def echo() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(20)

        def answer_once() -> None:
            with contextlib.suppress(TimeoutError):
                payload, sender = listening.recvfrom(2048)
                listening.sendto(payload, sender)

        thread = threading.Thread(target=answer_once)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_the_client_of_the_readme_talks_through_the_server_of_the_readme(directory: Path) -> None:
    with running_server(directory) as port, echo() as target:
        program = example("client").replace(":4433", f":{port}").replace("5300", str(target))
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=directory, capture_output=True, text=True, timeout=30, check=False
        )

    assert done.stdout == "b'hello'\n", done.stderr
    assert done.returncode == 0


def test_the_examples_have_the_length_that_the_headings_promise() -> None:
    def lines(name: str) -> int:
        body = example(name).split("async def main() -> None:\n")[1].split("\nasyncio.run")[0]
        # The import, the function's first line and the call frame every program.
        return len(body.strip().splitlines()) + 2

    assert lines("server") == 5
    assert lines("client") == 6
