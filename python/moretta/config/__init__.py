"""The configuration: TOML in, frozen objects out.

`load` reads a file (flags over environment over file over defaults) or a mapping; `Config` and its sections say what
there is; `json_schema` is what editors want. Nothing here starts anything.
"""

from __future__ import annotations

from typing import Any

from moretta.address import SocketAddress
from moretta.config.loading import Loaded, load
from moretta.config.model import (
    Config,
    Engine,
    Limits,
    Listen,
    Log,
    Policy,
    ProfileOverrides,
    Resolver,
)
from moretta.policy import Rule

__all__ = [
    "Config",
    "Engine",
    "Limits",
    "Listen",
    "Loaded",
    "Log",
    "Policy",
    "ProfileOverrides",
    "Resolver",
    "Rule",
    "SocketAddress",
    "json_schema",
    "load",
]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file."""
    schema = Config.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "moretta configuration",
        **{key: value for key, value in schema.items() if key != "title"},
    }
