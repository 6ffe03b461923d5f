"""`tools/lockstep.py`: a lock file that names a mirror does not pass."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools/lockstep.py"
specification = importlib.util.spec_from_file_location("lockstep", TOOL)
assert specification is not None
assert specification.loader is not None
lockstep = importlib.util.module_from_spec(specification)
specification.loader.exec_module(lockstep)

CRATES = 'source = "registry+https://github.com/rust-lang/crates.io-index"\n'
CLEAN = {
    "Cargo.lock": CRATES,
    "fuzz/Cargo.lock": CRATES,
    "uv.lock": 'source = { registry = "https://pypi.org/simple" }\nurl = "https://files.pythonhosted.org/a.whl"\n',
}


def problems(monkeypatch: pytest.MonkeyPatch, **changed: str) -> list[str]:
    files = {**CLEAN, **{name.replace("_", "."): text for name, text in changed.items()}}
    monkeypatch.setattr(lockstep, "text", files.__getitem__)
    return list(lockstep.lock_hosts())


def test_the_default_registries_are_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"uv_lock": 'url = "https://mirror.test/a.whl"'},
        {"uv_lock": 'source = { registry = "http://127.0.0.1:3141/simple" }'},
        {"Cargo_lock": 'source = "sparse+https://mirror.test/index/"'},
        {"Cargo_lock": 'source = "git+https://github.com/someone/something#0123"'},
    ],
    ids=["wheel from a mirror", "local index", "crate from a mirror", "crate from a repository"],
)
def test_another_host_is_named(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]) -> None:
    assert problems(monkeypatch, **changed)
