"""The table of figures that `tools/figures.py` writes into README.md."""

import importlib.util
from pathlib import Path
from typing import Any

TOOL = Path(__file__).resolve().parents[3] / "tools/figures.py"
specification = importlib.util.spec_from_file_location("figures", TOOL)
assert specification is not None
assert specification.loader is not None
figures = importlib.util.module_from_spec(specification)
specification.loader.exec_module(figures)


def document(unrest: str = "") -> dict[str, Any]:
    settings = {
        "time": "2026-11-20T20:05:00+00:00", "cpu": "a processor", "cores": 2, "kernel": "6.18", "commit": "abc",
        "arena": "over loopback", "repetitions": 4, "seconds": 2.0, "quick": False, "unrest": unrest,
    }  # fmt: skip
    rows = [
        {"case": "up", "unit": "µs", "cells": {"moretta": "4.03", "envoy": "12.5"}, "bar": "≤ 5", "kept": True},
        {"case": "down", "unit": "µs", "cells": {"moretta": "4.20"}, "bar": "≤ 4", "kept": False},
    ]
    return {"settings": settings, "peers": ["moretta", "envoy"], "rows": rows}


def test_every_row_has_a_cell_for_every_gateway_and_says_which_bar_was_missed() -> None:
    lines = figures.table(document()).splitlines()

    assert lines[2:] == [
        "| case | moretta | envoy | unit | bar |",
        "|---|---:|---:|---|---|",
        "| up | 4.03 | 12.5 | µs | ≤ 5 |",
        "| down | 4.20 | - | µs | ≤ 4, missed |",
    ]


def test_a_run_on_a_machine_that_was_not_quiet_says_so_below_the_table() -> None:
    assert figures.table(document("the machine is not quiet: load average 9.0")).endswith(
        "The machine is not quiet: load average 9.0."
    )
