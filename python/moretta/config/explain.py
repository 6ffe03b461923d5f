"""Says in one sentence what is wrong with a setting and what to write instead."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from moretta.config.model import Config

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

#: Path of a value: section names, and indices in arrays.
KeyPath = tuple[str | int, ...]

_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_TOML_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (int, "a whole number"),
    (float, "a number"),
    (str, "a string"),
    (list, "an array"),
    (tuple, "an array"),
    (Mapping, "a table"),
)
_UNITS = ("seconds", "milliseconds", "bytes")
_SYMBOLS = {
    "seconds": {"s", "sec", "secs", "second"},
    "milliseconds": {"ms", "msec", "millisecond"},
    "bytes": {"b", "byte"},
}


def dotted(key: KeyPath) -> str:
    """Write a path as people do: ``policy.rule[0].ports``."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def explain(detail: ErrorDetails, data: Mapping[str, Any]) -> tuple[KeyPath, str, str]:
    """Return key, reason and remedy of one error of the models."""
    key = tuple(part for part in detail["loc"] if part != "[key]")
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return key, "unknown key", nearest(key)
        case "missing":
            return key, "missing", _example(key, data)
        case "value_error":
            return key, str(context["error"]), ""
        case "literal_error":
            return key, f"{value!r} is none of {context['expected']}", _close(str(value), str(context["expected"]))
        case "string_pattern_mismatch":
            return key, f"{value!r} does not fit the pattern {context['pattern']}", ""
        case "too_short":
            return key, "empty, but at least one is needed", ""
        case kind if kind in _KINDS:
            return (
                key,
                f"expected {_KINDS[kind]}, got {_kind_of(value)} {_shown(value)}".rstrip(),
                _unit_remedy(key, value),
            )
        case _:
            message = detail["msg"].removeprefix("Input ")
            return key, f"{_shown(value)} {message}", ""


def nearest(key: KeyPath) -> str:
    """Return "did you mean …" for an unknown key; empty if nothing is near."""
    name = str(key[-1])
    here = _fields(key[:-1])
    stem, _, unit = name.rpartition("_")
    for candidate in here:
        wanted_stem, _, wanted_unit = candidate.rpartition("_")
        if wanted_unit in _UNITS and wanted_stem in (stem, name) and unit != wanted_unit:
            return f"the setting is in {wanted_unit}: write {candidate}"
    everywhere = {path[-1]: dotted(path) for path in _all_fields()}
    if close := difflib.get_close_matches(name, here, n=1, cutoff=0.75):
        return f"did you mean {close[0]}?"
    if name in everywhere:
        return f"it belongs elsewhere: {everywhere[name]}"
    if close := difflib.get_close_matches(name, here, n=1, cutoff=0.5):
        return f"did you mean {close[0]}?"
    if close := difflib.get_close_matches(name, everywhere, n=1, cutoff=0.75):
        return f"did you mean {everywhere[close[0]]}?"
    return f"there are {', '.join(here)}" if here else ""


def _example(key: KeyPath, data: Mapping[str, Any]) -> str:
    match key:
        case ("version",):
            return "write version = 1"
        case ("listen",):
            near = difflib.get_close_matches("listen", data, n=1, cutoff=0.5)
            return f"add a [listen.main] table{f' ({near[0]} is none)' if near else ''}"
        case _:
            return f"write {key[-1]} = …"


def _kind_of(value: object) -> str:
    return next((name for kind, name in _TOML_KINDS if isinstance(value, kind)), type(value).__name__)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value[:60])
    return str(value) if isinstance(value, int | float) else ""


def _close(value: str, expected: str) -> str:
    choices = [choice.strip("'") for choice in expected.replace(" or ", ", ").split(", ")]
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def _unit_remedy(key: KeyPath, value: object) -> str:
    unit = str(key[-1]).rpartition("_")[2]
    if isinstance(value, str) and unit in _UNITS:
        number = value.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
        suffix = value.strip()[len(number) :].strip()
        same = suffix.lower() in {"", unit, *_SYMBOLS[unit]}
        if same and number.replace(".", "", 1).isdigit():
            return f"the unit is {unit}: write {key[-1]} = {number}"
        return f"write a plain number of {unit}"
    if isinstance(value, str) and value.lower() in {"true", "false", "yes", "no", "on", "off"}:
        return f"write {key[-1]} = {'true' if value.lower() in {'true', 'yes', 'on'} else 'false'}"
    if isinstance(value, str) and value.isdigit():
        return f"write {key[-1]} = {value}"
    return f'write {key[-1]} = ["{value}"]' if isinstance(value, str) else ""


def _fields(section: KeyPath) -> list[str]:
    """Return the names that are valid in a section; empty where any name is."""
    model: type[BaseModel] | None = Config
    named = False
    for part in section:
        if named:
            named = False  # the name of a listener, or the index of a rule: the model stays
            continue
        info = model.model_fields.get(str(part)) if model is not None else None
        model = _inner(info.annotation) if info is not None else None
        named = model is not None and info is not None and info.annotation is not model
    return list(model.model_fields) if model is not None and not named else []


def _all_fields() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def walk(model: type[BaseModel], path: tuple[str, ...]) -> None:
        for name, info in model.model_fields.items():
            found.append((*path, name))
            inner = _inner(info.annotation)
            if inner is not None:
                middle = ("NAME",) if typing.get_origin(info.annotation) is dict else ()
                walk(inner, (*path, name, *middle))

    walk(Config, ())
    return found


def all_models() -> list[type[BaseModel]]:
    """Return the models of all sections."""
    found: list[type[BaseModel]] = [Config]
    for model in found:
        inner = (_inner(info.annotation) for info in model.model_fields.values())
        found += [one for one in inner if one is not None and one not in found]
    return found


def _inner(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside ``Model``, ``tuple[Model, ...]`` or ``dict[str, Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if (model := _inner(argument)) is not None:
            return model
    return None
