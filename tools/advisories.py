"""Look for published vulnerabilities in the locked dependencies, where their databases can be reached.

Python: `uv audit` asks osv.dev. Rust: cargo-deny reads the RustSec database, a git repository; it is built into .tools
the first time the database answers. A database that cannot be reached is said plainly and is not a failure: the build
machine may have no way out. A finding is.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "https://github.com/RustSec/advisory-db"
CARGO_DENY = "0.20.2"
SECONDS = 15


def answers(command: list[str]) -> str | None:
    """Run a short probe; None when it worked, else the reason in one line."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"exit status {done.returncode}")


def rust() -> int:
    if reason := answers(["git", "ls-remote", "--quiet", DATABASE, "HEAD"]):
        print(f"advisories (Rust): NOT CHECKED, {DATABASE} cannot be reached: {reason}")
        return 0
    tool = shutil.which("cargo-deny") or str(ROOT / f".tools/cargo-deny-{CARGO_DENY}/bin/cargo-deny")
    if not Path(tool).exists():
        print(f"building cargo-deny {CARGO_DENY} into .tools, once")
        root = str(Path(tool).parent.parent)
        subprocess.run(
            ["cargo", "install", "--quiet", "--locked", "--root", root, "cargo-deny", "--version", CARGO_DENY],
            check=True,
        )
    return subprocess.run([tool, "check", "advisories", "bans", "sources"], cwd=ROOT, check=False).returncode


def python() -> int:
    try:
        done = subprocess.run(
            ["uv", "audit", "--locked", "--preview-features", "audit-command"],
            cwd=ROOT, capture_output=True, text=True, timeout=4 * SECONDS, check=False,
            env={**os.environ, "UV_HTTP_TIMEOUT": str(SECONDS), "UV_HTTP_RETRIES": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"advisories (Python): NOT CHECKED, no answer from osv.dev within {4 * SECONDS} s")
        return 0
    if done.returncode == 0:
        print("advisories (Python): none known")
        return 0
    if done.returncode == 1 and done.stdout.strip():
        print(done.stdout, done.stderr, sep="")
        return 1
    reason = done.stderr.strip().splitlines()[-1].strip()
    print(f"advisories (Python): NOT CHECKED, osv.dev cannot be reached: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(max(rust(), python()))
