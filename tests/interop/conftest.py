"""Builds the foreign peers once per checkout; without Go every test here is skipped and says so."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "go"
BUILT = Path(__file__).parents[2] / ".interop"


@pytest.fixture(scope="session")
def go_peers() -> Path:
    """The folder with `interop` (our harness on masque-go's library), `client` and `proxy` (masque-go's own programs)."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("masque-go needs a Go toolchain (1.25 or later), and none is on PATH")
    BUILT.mkdir(exist_ok=True)
    with (BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, package in (
            ("interop", "."),
            ("client", "github.com/quic-go/masque-go/cmd/client"),
            ("proxy", "github.com/quic-go/masque-go/cmd/proxy"),
        ):
            built = subprocess.run(
                [go, "build", "-trimpath", "-o", str(BUILT / name), package],
                cwd=SOURCE,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            if built.returncode != 0:
                pytest.fail(f"go build {package} failed:\n{built.stderr}")
    return BUILT
