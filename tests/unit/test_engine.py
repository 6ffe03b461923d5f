"""Questions that need no running engine."""

from __future__ import annotations

from typing import Any

import pytest

from moretta import engine

POLICY: dict[str, Any] = {
    "rules": [
        {"id": "dns", "action": "allow", "protocol": "udp", "destination": ["9.9.9.9", "*.example"], "ports": [53]},
        {"id": "no-metadata", "action": "deny", "protocol": "udp", "destination": ["secret.example"], "ports": "*"},
    ]
}


@pytest.mark.parametrize(
    ("host", "port", "answers", "verdict", "why", "rule"),
    [
        ("9.9.9.9", 53, [], "allowed", "allowed_by_rule", "dns"),
        ("9.9.9.9", 54, [], "refused", "nothing_matched", None),
        ("a.example", 53, ["192.0.43.8"], "allowed", "allowed_by_rule", "dns"),
        ("a.example", 53, ["192.0.43.8", "10.0.0.1"], "refused", "prefix_not_named", None),
        ("a.example", 53, ["127.0.0.1"], "refused", "never", None),
        ("a.example", 53, [], "depends_on_answers", None, None),
        ("secret.example", 53, [], "refused", "denied_by_rule", "no-metadata"),
        ("localhost", 53, [], "refused", "local_name", None),
    ],
)
def test_the_matcher_explains_itself(
    host: str, port: int, answers: list[str], verdict: str, why: str | None, rule: str | None
) -> None:
    question = {"protocol": "udp", "host": host, "port": port, "answers": answers}
    answer = engine.explain(POLICY, question)
    assert (answer["verdict"], answer.get("why"), answer.get("rule")) == (verdict, why, rule)
    assert answer["sentence"]
    assert answer["steps"]


def test_a_question_of_another_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown field"):
        engine.explain({}, {"protocol": "udp", "host": "a", "port": 1, "tenant": "x"})
    with pytest.raises(ValueError, match="danger_allow_prefixes"):
        engine.explain({"danger_allow_prefixes": ["x"]}, {"protocol": "udp", "host": "a", "port": 1})


def test_everything_that_is_wrong_with_a_policy_has_its_path() -> None:
    rule = {"id": "a", "action": "allow", "protocol": "udp", "destination": ["9.9.9.9", "1.2.3.4/33"], "ports": ["9-1"]}
    policy = {"rules": [rule, {**rule, "destination": ["*"], "ports": "*"}], "danger_allow_prefixes": []}
    paths = [row["path"] for row in engine.check_policy(policy)]
    assert "rules[0].destination[1]" in paths
    assert any(path.startswith("rules[0].ports") for path in paths)
    assert "rules[1].id" in paths
    assert engine.check_policy(POLICY) == []
    assert all(row["reason"] for row in engine.check_policy({"rules": {}}))


def test_what_is_no_address_is_not_judged() -> None:
    with pytest.raises(ValueError, match="no IP address"):
        engine.classify_address("localhost")


def test_keys_of_a_file_have_their_places() -> None:
    found = {
        tuple(path): (line, column) for path, line, column in engine.toml_positions("a = 1\n[b]\n  c = [2,\n 3]\n")
    }
    assert found[("a",)] == (1, 1)
    assert found[("b", "c")] == (3, 3)
    assert found[("b", "c", 1)] == (4, 2)
    assert engine.toml_positions("a = [") == []
