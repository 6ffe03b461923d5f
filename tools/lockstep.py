"""Compare what has to be written in more than one place, and look at the lock files.

- Cargo.lock and uv.lock, and go.sum where there is one, name no host but the public default registries;
- both lock files agree with their manifests;
- the pinned uv, the least Python and the least Rust are the same wherever they are named;
- every crate takes version, licence and lints from the workspace.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {
    "Cargo.lock": {"github.com"},  # the address of the crates.io index is fixed inside cargo
    "fuzz/Cargo.lock": {"github.com"},
    "uv.lock": {"pypi.org", "files.pythonhosted.org"},
}


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def lock_hosts() -> Iterator[str]:
    for lock, allowed in HOSTS.items():
        for host in sorted({urlsplit(url).hostname or "" for url in re.findall(r"https?://[^\s\"')]+", text(lock))}):
            if host not in allowed:
                yield f"{lock} names the host {host}; only {', '.join(sorted(allowed))} may appear"
    for lock in ("Cargo.lock", "fuzz/Cargo.lock"):
        for line in text(lock).splitlines():
            if line.startswith("source = ") and "registry+https://github.com/rust-lang/crates.io-index" not in line:
                yield f"{lock}: {line} is not crates.io"
    for module in ROOT.glob("**/go.mod"):
        if "target" not in module.parts and "replace " in module.read_text(encoding="utf-8"):
            yield f"{module.relative_to(ROOT)} replaces a module; take the published one"


def locks_are_current() -> Iterator[str]:
    cargo = ["cargo", "metadata", "--locked", "--format-version", "1"]
    for lock, command in (
        ("uv.lock", ["uv", "lock", "--check", "--quiet"]),
        ("Cargo.lock", cargo),
        ("fuzz/Cargo.lock", [*cargo, "--manifest-path", "fuzz/Cargo.toml"]),
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"{lock} is not current, run `make lock`: {done.stderr.strip().splitlines()[-1]}"


def versions() -> Iterator[str]:
    makefile = text("Makefile")
    uv_version = re.search(r"^UV_VERSION := (.+)$", makefile, re.MULTILINE)
    if not uv_version or f"\nuv=={uv_version[1]} " not in text("tools/uv.txt"):
        yield "Makefile and tools/uv.txt pin different versions of uv"

    python = tomllib.loads(text("pyproject.toml"))["project"]["requires-python"]
    least = python.removeprefix(">=")
    cargo = tomllib.loads(text("Cargo.toml"))
    for path, wanted in {
        "Makefile": f"({least.replace('.', ', ')})",
        "tools/require.sh": f"({least.replace('.', ', ')})",
        "README.md": f"Python ≥ {least}",
        "Cargo.toml": f"abi3-py{least.replace('.', '')}",
    }.items():
        if wanted not in text(path):
            yield f"{path} does not say {wanted!r}, but pyproject.toml requires Python {python}"

    rust = cargo["workspace"]["package"]["rust-version"]
    for path in ("tools/require.sh", "README.md"):
        if rust not in text(path):
            yield f"{path} does not name Rust {rust}, the rust-version of Cargo.toml"


def crates() -> Iterator[str]:
    for manifest in sorted(ROOT.glob("crates/*/Cargo.toml")):
        document = tomllib.loads(manifest.read_text(encoding="utf-8"))
        name = manifest.parent.name
        if document["package"]["name"] != name:
            yield f"{manifest.parent} holds a crate of another name"
        for key in ("version", "edition", "license", "rust-version"):
            if document["package"].get(key) != {"workspace": True}:
                yield f"{name}: package.{key} does not come from the workspace"
        if document.get("lints") != {"workspace": True} and name != "moretta-io":
            yield f"{name}: lints do not come from the workspace"


def main() -> int:
    problems = [*lock_hosts(), *locks_are_current(), *versions(), *crates()]
    for problem in problems:
        print(problem)
    print(f"lock step: {len(problems)} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
