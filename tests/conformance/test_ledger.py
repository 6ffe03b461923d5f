"""Every row of the conformance matrix that concerns CONNECT-UDP is a test, a named test elsewhere, or says why not yet."""

from __future__ import annotations

import ast
import json
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
ROWS: dict[str, dict[str, str]] = json.loads((FOLDER / "rows.json").read_text())


def rows_marked_here() -> set[str]:
    marked: set[str] = set()
    for path in FOLDER.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "row":
                marked |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return marked


def test_every_marked_row_exists() -> None:
    assert rows_marked_here() - set(ROWS) == set()


def test_every_row_is_tested_or_says_why_not_yet() -> None:
    marked = rows_marked_here()
    silent = [
        row for row, entry in ROWS.items() if row not in marked and "elsewhere" not in entry and "not_yet" not in entry
    ]
    assert silent == []


def test_no_row_claims_two_things() -> None:
    marked = rows_marked_here()
    both = [row for row, entry in ROWS.items() if (row in marked) + ("elsewhere" in entry) + ("not_yet" in entry) > 1]
    assert both == []


def test_every_test_named_elsewhere_exists() -> None:
    missing = []
    for row, entry in ROWS.items():
        if "elsewhere" in entry:
            path, _, name = entry["elsewhere"].partition("::")
            file = ROOT / path
            if not file.is_file() or (f"fn {name}(" not in file.read_text() and f"def {name}(" not in file.read_text()):
                missing.append((row, entry["elsewhere"]))
    assert missing == []
