"""The stub of the native module says what is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PYTHON = Path(__file__).resolve().parents[2] / "python"


def test_the_stub_and_the_binary_agree() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "moretta._engine"]
    done = subprocess.run(command, cwd=PYTHON, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_function_of_the_stub_is_documented_in_the_binary() -> None:
    from moretta import _engine

    for name in _engine.__all__:
        value = getattr(_engine, name)
        if callable(value):
            assert value.__doc__, name
