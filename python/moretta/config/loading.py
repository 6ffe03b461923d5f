"""Reads a configuration: flags over environment over file over defaults, with the place of every key remembered.

A wrong one raises `ConfigurationError` with every problem: source, line, key, reason and the nearest valid key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moretta import engine
from moretta import environment as env
from moretta.config.explain import KeyPath, dotted, explain
from moretta.config.model import Config
from moretta.errors import ConfigurationError, Problem

#: 16 MiB hold 100,000 rules with room to spare; a larger file is a mistake such as a device or a log.
MAX_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a file with its line, a variable, or an argument."""

    source: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid configuration and where it came from.

    path: the file, or None for a configuration made in Python.
    overrides: the arguments that were laid over it.
    """

    config: Config
    path: Path | None = None
    origins: Mapping[KeyPath, Origin] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)

    def again(self) -> Loaded:
        """Read the same sources once more; what was made in Python stays as it is."""
        return self if self.path is None else load(self.path, overrides=self.overrides)

    def problem(self, key: KeyPath, reason: str, remedy: str = "") -> Problem:
        """Return a problem of the value at `key`, with the place where it was written."""
        origin = _origin_of(self.origins, key)
        if origin is None:
            return Problem(dotted(key), reason, remedy, source=str(self.path) if self.path else "")
        return Problem(dotted(key), reason, remedy, origin.source, origin.line)


def load(
    source: Config | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Read and validate a configuration.

    source: a file, a mapping of the same form, or a finished `Config` (taken as it is).
    overrides: dotted keys with values as text, as from ``--set``; they win over everything.
    environment: variables; by default those of this process for a file, and none for a mapping.
    Relative paths in a file start at that file, in a mapping at the working directory.
    Raises ConfigurationError with all problems.
    """
    if isinstance(source, Config):
        return Loaded(source)
    layers = _Layers()
    path: Path | None = None
    if isinstance(source, Mapping):
        layers.add_mapping(source)
    else:
        path = Path(source)
        layers.add_file(path)
        environment = env.variables() if environment is None else environment
    for name, key in env.settings(environment or {}).items():
        layers.add_text(key, (environment or {})[name], f"environment variable {name}")
    for name, text in (overrides or {}).items():
        layers.add_text(tuple(name.split(".")), text, f"argument --set {name}")
    layers.check()
    base = path.absolute().parent if path is not None else Path.cwd()
    try:
        config = Config.model_validate(layers.data, context={"base": base})
    except ValidationError as error:
        raise ConfigurationError(_problems(error, layers, path)) from None
    return Loaded(config, path, layers.origins, dict(overrides or {}))


class _Layers:
    """The merged settings, and the origin of each key of each layer."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.origins: dict[KeyPath, Origin] = {}
        self._problems: list[Problem] = []

    def add_mapping(self, data: Mapping[str, Any]) -> None:
        self.data = _merged({}, data)

    def add_file(self, path: Path) -> None:
        text = _read(path)
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(_syntax_problem(path, error)) from None
        for key, line, _column in engine.toml_positions(text):
            self.origins[tuple(key)] = Origin(str(path), line)

    def add_text(self, key: KeyPath, text: str, source: str) -> None:
        if not all(key):
            self._problems.append(Problem("", "this names no key", "write SECTION.KEY", source))
            return
        layer: Any = _value(text)
        # What a layer below had in its place, element by element, is no longer there.
        for below in [one for one in self.origins if one[: len(key)] == key]:
            del self.origins[below]
        self.origins[key] = Origin(source)
        for depth, part in enumerate(reversed(key)):
            layer = {part: layer}
            # A section that exists through this layer alone has its origin here.
            self.origins.setdefault(key[: len(key) - depth - 1], Origin(source))
        self.data = _merged(self.data, layer)

    def check(self) -> None:
        if self._problems:
            raise ConfigurationError(tuple(self._problems))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the tables of `above` laid over it; anything but tables is replaced whole."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old if isinstance(old, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return result


def _value(text: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(unreadable(str(path), error, "moretta init makes one")) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(Problem("", f"larger than {MAX_FILE_BYTES} bytes: no configuration", source=str(path)))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = Problem("", "not UTF-8, as TOML must be", "save the file as UTF-8", str(path), line)
        raise ConfigurationError(problem) from None


def unreadable(path: str, error: OSError, when_missing: str, *, key: str = "", source: str = "") -> Problem:
    """Return the problem of a file that cannot be read, with its remedy."""
    match error:
        case FileNotFoundError():
            reason, remedy = f"there is no file {path}", when_missing
        case PermissionError():
            reason, remedy = f"no permission to read {path}", "let this user read it, or run as one who may"
        case IsADirectoryError():
            reason, remedy = f"{path} is a directory", "name a file in it"
        case _:
            reason, remedy = f"cannot read {path}: {error.strerror or error}", ""
    return Problem(key, reason, remedy, source)


def _syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> Problem:
    text, _, place = str(error).partition(" (at ")
    line = None
    if place.startswith("line "):
        line = int(place.removeprefix("line ").split(",")[0])
    elif place.startswith("end"):
        line = path.read_text(errors="replace").count("\n") + 1
    return Problem("", f"not TOML: {text[:1].lower()}{text[1:]}", "", str(path), line)


def _problems(error: ValidationError, layers: _Layers, path: Path | None) -> tuple[Problem, ...]:
    details = error.errors(include_url=False)
    explained = [(detail["type"], *explain(detail, layers.data)) for detail in details]
    # A misspelt key is also a missing one; one of the two sentences is enough.
    misspelt = {(*key[:-1], remedy) for kind, key, _, remedy in explained if kind == "extra_forbidden"}
    found = []
    for kind, key, reason, remedy in explained:
        if kind == "missing" and (*key[:-1], f"did you mean {key[-1]}?") in misspelt:
            continue
        origin = _origin_of(layers.origins, key) or Origin(str(path) if path else "")
        found.append(Problem(dotted(key), reason, remedy, origin.source, origin.line))
    return tuple(sorted(found, key=lambda problem: (problem.source, problem.line or 0)))


def _origin_of(origins: Mapping[KeyPath, Origin], key: KeyPath) -> Origin | None:
    """Return the place of `key`, or of the nearest section around it."""
    for length in range(len(key), 0, -1):
        if (origin := origins.get(key[:length])) is not None:
            return origin
    return None
