"""What `moretta demo` says before it starts anything, and how it reports."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from moretta import demo
from moretta.demo.report import Report, Step
from moretta.errors import MorettaError


def step(name: str, *, held: bool) -> Step:
    return Step(name, held, "what it was", "through a tunnel", "what came of it", "1 MiB/s", {"seconds": 1.5})


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "dns" else object())

    with pytest.raises(MorettaError) as raised:
        demo.run()

    assert "dnspython" in str(raised.value)
    assert "aioquic" not in str(raised.value)
    assert "pip install 'moretta[demo]'" in str(raised.value)


def test_a_report_holds_only_if_every_step_did() -> None:
    assert Report([step("http3", held=True), step("dns", held=True)]).held
    assert not Report([step("http3", held=True), step("dns", held=False)]).held


def test_a_report_without_steps_does_not_hold() -> None:
    assert not Report().held


def test_the_document_says_what_the_table_says() -> None:
    report = Report([step("http3", held=True), step("dns", held=False)], seconds=2.0)

    document = json.loads(json.dumps(report.document()))

    assert document["version"] == 1
    assert document["held"] is False
    assert [(found["step"], found["held"]) for found in document["steps"]] == [("http3", True), ("dns", False)]
    assert document["steps"][0]["seconds"] == 1.5


def test_a_failed_step_is_told_without_colour_too() -> None:
    console = Console(width=120, no_color=True, record=True, file=None)
    with console.capture() as capture:
        console.print(Report([step("dns", held=False)]).table())

    assert "FAILED" in capture.get()
    assert "what came of it" in capture.get()
