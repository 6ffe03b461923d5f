"""What a newcomer is told when something is missing that moretta cannot install by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with nothing on it but what the script itself uses and pretended tools that are good enough."""
    for name in ("cut", "uname"):
        found = shutil.which(name)
        assert found, name
        (tmp_path / name).symlink_to(found)
    for name, says in (("cargo", "cargo 1.88.0"), ("rustc", "rustc 1.88.0 (0000000 2026-01-01)"), ("cc", "cc")):
        pretend(tmp_path / name, says)
    return tmp_path


def pretend(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    path.chmod(0o755)


def require(tools: Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    shell = shutil.which("sh")
    assert shell
    command = [shell, str(ROOT / "tools/require.sh"), python]
    environment = {"PATH": str(tools), "HOME": str(tools)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_nothing_is_said_when_everything_is_there(tools: Path) -> None:
    done = require(tools)

    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("absent", "advice"),
    [("cargo", "https://rustup.rs"), ("cc", "apt-get install gcc libc6-dev")],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(tools: Path, absent: str, advice: str) -> None:
    (tools / absent).unlink()

    done = require(tools)

    assert done.returncode == 1
    assert absent in done.stderr
    assert advice in done.stderr


def test_a_rust_that_is_too_old_is_refused(tools: Path) -> None:
    pretend(tools / "rustc", "rustc 1.87.0 (0000000 2025-05-01)")

    done = require(tools)

    assert done.returncode == 1
    assert "rustup update stable" in done.stderr


def test_a_python_that_is_too_old_is_refused(tools: Path) -> None:
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)

    done = require(tools, str(old))

    assert done.returncode == 1
    assert "Python 3.11 or newer" in done.stderr


def test_a_python_without_ensurepip_is_told_which_package_has_it(tools: Path) -> None:
    """As on Debian, where the module is a package of its own."""
    python = tools / "python3"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n', encoding="utf-8")
    python.chmod(0o755)

    done = require(tools, str(python))

    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_no_python_at_all_is_one_sentence_and_one_remedy(tools: Path) -> None:
    done = require(tools, "")

    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr
