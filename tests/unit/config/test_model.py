"""What a configuration may say, its documentation, and its agreement with the engine."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from moretta import engine
from moretta.config import Config, Limits, json_schema
from moretta.config.explain import all_models


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.__name__)
def test_every_setting_says_what_it_means_and_what_a_reload_does(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, info in model.model_fields.items():
        assert info.description, name
        assert info.description.endswith("."), name
        extra = info.json_schema_extra
        assert isinstance(extra, dict), name
        assert "x-reload" in extra, name
        unit = name.rpartition("_")[2]
        if unit in {"seconds", "milliseconds", "bytes"}:
            assert extra["x-unit"] == unit, name


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.__name__)
def test_every_section_is_frozen_strict_and_closed(model: type[BaseModel]) -> None:
    assert model.model_config.get("frozen")
    assert model.model_config.get("strict")
    assert model.model_config.get("extra") == "forbid"


def test_the_limits_are_the_engines() -> None:
    ours = {}
    for name, info in Limits.model_fields.items():
        bounds: dict[str, Any] = {}
        for constraint in info.metadata:
            bounds |= {key: getattr(constraint, key) for key in ("ge", "le") if hasattr(constraint, key)}
        unit = info.json_schema_extra.get("x-unit", "count") if isinstance(info.json_schema_extra, dict) else None
        ours[name] = (unit, info.default, bounds["ge"], bounds["le"], info.description)
    theirs = {
        row["name"]: (row["unit"], row["default"], row["min"], row["max"], row["doc"]) for row in engine.limits_table()
    }
    assert ours == theirs


def test_the_schema_knows_every_key_and_closes_every_table() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["required"] == ["version", "listen"]
    for definition in (schema, *schema["$defs"].values()):
        assert definition["additionalProperties"] is False


def test_a_configuration_cannot_be_changed() -> None:
    config = Config.model_validate(
        {"version": 1, "listen": {"main": {"address": ["127.0.0.1:0"], "certificate": "a", "key": "b"}}}
    )
    with pytest.raises(ValidationError, match="frozen"):
        config.profile = "interop"  # type: ignore[misc]  # what is tested


def test_what_is_written_out_is_read_back() -> None:
    config = Config.model_validate(
        {
            "version": 1,
            "listen": {"main": {"address": ["127.0.0.1:0", "[::1]:0"], "certificate": "a", "key": "b"}},
            "policy": {
                "rule": [{"id": "x", "action": "deny", "protocol": "udp", "destination": ["*"], "ports": [1, "2-3"]}]
            },
            "resolver": {"hosts": {"a.test": ["192.0.2.1"]}},
            "profile_overrides": {"unknown_context": {"abort_after": 5}},
        }
    )
    assert Config.model_validate(config.model_dump(mode="json")) == config
