"""Both sides of the border have the same list of documents, and each side refuses what is not in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from moretta import _engine, engine
from moretta.errors import EngineFault


@pytest.fixture
def native() -> Iterator[_engine.Engine]:
    started = _engine.Engine(b'{"version": 1, "workers": 1}')
    yield started
    started.close()


def test_every_event_of_the_engine_has_its_handler_and_no_other() -> None:
    described = engine.documents()["events"]
    assert set(described) == set(engine.EVENTS)
    for name, (_, key) in engine.EVENTS.items():
        assert key is None or key in described[name], name


def test_every_command_has_the_arguments_that_we_give_it() -> None:
    described = engine.documents()["commands"]
    ours = {name: {"version", "command", *arguments} for name, arguments in engine.COMMANDS.items()}
    assert ours == {name: set(fields) for name, fields in described.items()}


def test_the_engine_starts_with_the_configuration_that_we_give_it() -> None:
    assert set(engine.documents()["documents"]["config"]) == {"version", "workers"}


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"version": 1, "command": "open_tcp"}, "command"),
        ({"version": 1, "command": "drain", "deadline_seconds": 1.0, "now": True}, "now"),
        ({"version": 2, "command": "drain", "deadline_seconds": 1.0}, "version"),
        ({"version": 1, "generation": 1, "listener": []}, "listener"),
        ({"version": 1, "generation": "one"}, "generation"),
    ],
)
def test_a_document_of_another_shape_is_refused_with_its_path(
    native: _engine.Engine, document: dict[str, Any], path: str
) -> None:
    with pytest.raises(EngineFault) as raised:
        native.submit(json.dumps(document).encode())
    assert raised.value.code == "invalid_document"
    assert raised.value.path == path


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'{"version": 1', b"\xff", b'{"version": 1}' + b" " * 10 + b"x"]
)
def test_what_is_no_document_is_refused(native: _engine.Engine, raw: bytes) -> None:
    with pytest.raises(EngineFault):
        native.submit(raw)


def test_a_wrong_configuration_starts_nothing() -> None:
    for raw in (b"", b'{"version": 1, "workers": 0}', b'{"version": 1, "workers": 33}', b'{"version": 1, "x": 1}'):
        with pytest.raises(EngineFault):
            _engine.Engine(raw)
