"""`tools/instructions.py`: a rise is not missed, and a foreign baseline is not taken for one."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
specification = importlib.util.spec_from_file_location("instructions", ROOT / "tools/instructions.py")
assert specification is not None
assert specification.loader is not None
instructions = importlib.util.module_from_spec(specification)
# Its data classes look their module up.
sys.modules["instructions"] = instructions
specification.loader.exec_module(instructions)

PROFILE = """\
fl=(1) a.rs
fn=(1) outer
12 5
cfn=(2) inner
calls=3 40
12 900
+1 7

fn=(2)
* 600
-3 300

summary: 912
"""


def count(name: str, each: float) -> object:
    return instructions.Count(name, "datagram", 10, round(each * 10))


@pytest.mark.parametrize(
    ("now", "failing", "word"),
    [
        pytest.param(1009.0, [], "", id="within one percent"),
        pytest.param(1011.0, ["up"], "WORSE", id="above one percent"),
        pytest.param(980.0, [], "better", id="below"),
    ],
)
def test_a_rise_above_one_percent_fails(now: float, failing: list[str], word: str) -> None:
    lines, found = instructions.compare([count("up", now)], {"up": 1000.0})

    assert found == failing
    assert word in lines[1]


def test_a_trace_without_a_baseline_fails() -> None:
    lines, found = instructions.compare([count("down", 5)], {"up": 1000.0})

    assert found == ["down"]
    assert "NEW" in lines[1]


def test_another_environment_is_told_by_its_parts() -> None:
    here = {"rustc": "rustc 2", "libc": "glibc 2.36"}

    assert instructions.differences(here, {**here, "cpu": ["avx2"]}) == []
    assert instructions.differences(here, {"rustc": "rustc 1", "libc": "glibc 2.36"}) == [
        "rustc: rustc 1 in the baseline, rustc 2 here"
    ]


def test_a_profile_leaves_out_what_a_function_calls() -> None:
    assert instructions.spent(PROFILE) == [(900, "inner"), (12, "outer")]


def test_the_function_that_is_counted_is_there_and_the_baseline_knows_every_trace() -> None:
    sources = ROOT / "crates/moretta-trace/src"
    module, function = instructions.COUNTED.removesuffix("*").split("::")[-2:]

    assert f"#[inline(never)]\nfn {function}<" in (sources / f"{module}.rs").read_text(encoding="utf-8")
    baseline = json.loads(instructions.BASELINE.read_text(encoding="utf-8"))
    specs = (sources / "lib.rs").read_text(encoding="utf-8")
    assert baseline["instructions"]
    assert [name for name in baseline["instructions"] if f'name: "{name}"' not in specs] == []
    assert len(baseline["instructions"]) == specs.count("Spec { name: ")
