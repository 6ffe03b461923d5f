"""Arrows between the layers point down only."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# What each crate may stand on in the product; development dependencies are tests' business.
BELOW = {
    "moretta-wire": set(),
    "moretta-h3": {"moretta-wire"},
    "moretta-proto": {"moretta-wire"},
    "moretta-core": {"moretta-wire", "moretta-h3", "moretta-proto"},
    "moretta-io": set(),
    "moretta-engine": {"moretta-wire", "moretta-h3", "moretta-proto", "moretta-core", "moretta-io"},
    "moretta-py": {"moretta-wire", "moretta-proto", "moretta-engine"},
    "moretta-sim": {"moretta-wire", "moretta-h3", "moretta-proto", "moretta-core", "moretta-io"},
    "moretta-fuzz": {"moretta-wire", "moretta-h3", "moretta-proto", "moretta-core", "moretta-sim"},
    "moretta-trace": {"moretta-wire", "moretta-h3", "moretta-proto", "moretta-core", "moretta-sim"},
    "moretta-load": {"moretta-wire", "moretta-proto", "moretta-core", "moretta-io"},
}

# Libraries that would bring a clock, a socket or a runtime into a crate that has none.
IMPURE = {"tokio", "mio", "libc", "rand", "socket2", "hickory-resolver", "pyo3"}
PURE_CRATES = {"moretta-wire", "moretta-h3", "moretta-proto", "moretta-core"}


def dependencies(crate: str) -> set[str]:
    manifest = tomllib.loads((ROOT / "crates" / crate / "Cargo.toml").read_text(encoding="utf-8"))
    targets = manifest.get("target", {}).values()
    return {name for table in (manifest, *targets) for name in table.get("dependencies", {})}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
    return found


def test_every_crate_is_a_layer() -> None:
    assert {path.parent.name for path in ROOT.glob("crates/*/Cargo.toml")} == set(BELOW)


def test_no_crate_depends_on_one_above_it() -> None:
    for crate, below in BELOW.items():
        ours = {name for name in dependencies(crate) if name.startswith("moretta-")}
        assert ours <= below, f"{crate} depends on {sorted(ours - below)}"


def test_pure_crates_have_no_library_with_a_clock_or_a_socket() -> None:
    for crate in sorted(PURE_CRATES):
        found = dependencies(crate) & IMPURE
        assert not found, f"{crate} depends on {sorted(found)}"


def test_one_python_module_imports_the_native_one() -> None:
    importers = {
        path.relative_to(ROOT / "python/moretta").as_posix()
        for path in (ROOT / "python/moretta").rglob("*.py")
        if any(name.startswith("moretta._engine") for name in imports(path))
    }

    assert importers <= {"engine.py"}


def test_the_demos_far_side_imports_nothing_of_ours() -> None:
    """It stands for software that other people wrote."""
    far_side = ROOT / "python/moretta/demo/others.py"

    assert not [name for name in imports(far_side) if name.startswith("moretta")]
