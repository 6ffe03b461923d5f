"""The tree of errors, and its agreement with the engine's table."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import get_args

import pytest

from moretta import engine, errors
from moretta.errors import (
    REFUSALS,
    ConfigurationError,
    DatagramTooLarge,
    EngineClosed,
    EngineFault,
    GatewayClosed,
    GatewayUnreachable,
    ListenError,
    MorettaError,
    PolicyRefused,
    Problem,
    TunnelClosed,
    TunnelRefused,
)

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, MorettaError)]


def test_every_refusal_of_the_engines_table_has_its_class_and_every_class_a_row() -> None:
    named = {row["python"] for row in engine.error_table()["refusals"]}
    assert named == set(REFUSALS)


def test_the_engines_retry_advice_is_the_one_that_is_documented() -> None:
    advice = {row["retry"] for row in engine.error_table()["refusals"]}
    assert advice <= set(get_args(errors.Retry))


def test_the_tree_in_the_documentation_is_the_tree_there_is() -> None:
    lines = (inspect.getdoc(errors) or "").splitlines()
    matches = (re.match(r"^ {4}((?:[│├└─ ]{4})*)([A-Z]\w+)", line) for line in lines)
    drawn = [(match[2], len(match[1]) // 4) for match in matches if match]
    real = []

    def walk(kind: type[MorettaError], depth: int) -> None:
        real.append((kind.__name__, depth))
        for below in (one for one in CLASSES if one.__base__ is kind):
            walk(below, depth + 1)

    walk(MorettaError, 0)
    assert drawn == real


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError(Problem("a", "b", "c", "d", 1)),
        ListenError("x", "port_in_use"),
        EngineFault("x", "panic", "a.b"),
        EngineClosed("x"),
        GatewayUnreachable("x", "y"),
        GatewayClosed("x", "y"),
        PolicyRefused("x", "policy_refused", 403, "p", "other_target"),
        TunnelClosed("idle_timeout"),
        DatagramTooLarge(1200, 1300),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_a_trip_to_another_process(error: MorettaError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_a_problem_is_written_as_place_key_reason_and_remedy() -> None:
    problem = Problem("limits.max_tunnels", "expected a whole number", "write 7", "moretta.toml", 12)
    assert str(problem) == "moretta.toml:12: limits.max_tunnels: expected a whole number; write 7"
    assert str(Problem("", "not TOML", source="a.toml")) == "a.toml: not TOML"
    assert str(Problem("a", "b")) == "a: b"


def test_every_error_has_an_exit_code_of_the_list() -> None:
    assert {kind.exit_code for kind in CLASSES} <= {1, 3, 4, 5, 6}
    assert TunnelRefused.exit_code == 1
