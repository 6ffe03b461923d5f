"""Rules as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from moretta.policy import Rule

RULE: dict[str, Any] = {"id": "dns", "action": "allow", "protocol": "udp", "destination": ["9.9.9.9"], "ports": [53]}


@pytest.mark.parametrize("ports", ["*", [53], ["8000-8999", 53], [1, 65535], ["53"]])
def test_ports_are_all_or_a_list_of_ports_and_ranges(ports: Any) -> None:
    rule = Rule.model_validate({**RULE, "ports": ports})
    assert rule.document()["ports"] == ports


@pytest.mark.parametrize(
    ("ports", "complaint"),
    [
        (53, "write ports = \\[53\\]"),
        ("53", "write ports = \\['53'\\]"),
        ([], "matches nothing"),
        ([0], "from 1 to 65535"),
        ([65536], "from 1 to 65535"),
        (["9-8"], "backwards"),
        (["8-"], "no range"),
        (["٣"], "no range"),
        ([True], "no port"),
        ([5.0], "no port"),
        (["-5"], "no range"),
        (None, "expected a list"),
    ],
)
def test_other_ports_are_refused_with_the_reason(ports: Any, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Rule.model_validate({**RULE, "ports": ports})


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "x" * 129},
        {"action": "permit"},
        {"protocol": "tcp"},
        {"destination": []},
        {"destination": "9.9.9.9"},
        {"tenant": "later"},
    ],
    ids=str,
)
def test_a_rule_with_something_else_in_it_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({**RULE, **change})


def test_a_rule_cannot_be_changed() -> None:
    rule = Rule.model_validate(RULE)
    with pytest.raises(ValidationError, match="frozen"):
        rule.action = "deny"  # type: ignore[misc]  # what is tested
