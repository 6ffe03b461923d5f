"""Every entry of the lists of hostile input is provoked here, tested elsewhere, or says why not."""

from __future__ import annotations

import ast
import json
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
NOT_HERE: dict[str, dict[str, list[str] | str]] = json.loads((FOLDER / "not_here.json").read_text())
MARKERS = {"bypass", "known", "exhaustion"}
LISTS = {
    *(f"S-{letter}" for letter in "abcde"),
    *(f"D-{number}" for number in (*range(1, 12), 14)),
    *(f"K-{number}" for number in (1, 2, *range(4, 13), *range(30, 37))),
    *(f"X-{number}" for number in (*range(1, 6), *range(9, 13))),
    *(f"AU-{number}" for number in (12, 14, 17)),
}


def marked_here() -> set[str]:
    marked: set[str] = set()
    for path in FOLDER.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MARKERS:
                marked |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return marked


def test_every_entry_is_tried_or_says_why_not() -> None:
    assert LISTS - marked_here() - set(NOT_HERE) == set()
    assert (marked_here() | set(NOT_HERE)) - LISTS == set(), "an id that is in no list"


def test_what_is_not_here_names_tests_or_a_reason() -> None:
    silent = [entry for entry, said in NOT_HERE.items() if not set(said) & {"elsewhere", "why"}]
    assert silent == []


def test_every_test_named_elsewhere_exists() -> None:
    missing = []
    for entry, said in NOT_HERE.items():
        for named in said.get("elsewhere", []):
            path, _, name = named.partition("::")
            file = ROOT / path
            if not file.is_file() or (f"fn {name}(" not in file.read_text() and f"def {name}(" not in file.read_text()):
                missing.append((entry, named))
    assert missing == []
