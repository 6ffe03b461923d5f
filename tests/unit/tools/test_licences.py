"""The evaluation of licence expressions by `tools/licences.py`."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools/licences.py"
specification = importlib.util.spec_from_file_location("licences", TOOL)
assert specification is not None
assert specification.loader is not None
licences = importlib.util.module_from_spec(specification)
specification.loader.exec_module(licences)

ALLOWED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"}


@pytest.mark.parametrize(
    ("expression", "permitted"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("ISC AND (Apache-2.0 OR ISC)", True),
        ("ISC AND (GPL-2.0-only OR LGPL-3.0-only)", False),
        ("MIT/Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT WITH LLVM-exception", False),
        ("none given", False),
        ("", False),
        ("MIT ISC", False),
    ],
)
def test_an_expression_is_permitted_only_when_the_list_covers_it(expression: str, *, permitted: bool) -> None:
    assert licences.permitted(expression, ALLOWED) is permitted
