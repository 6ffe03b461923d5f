"""The vectors that the Rust tests read, read from this side of the border: by our engine where it can be asked, and by
software of others (aioquic's buffers) where it cannot."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
from aioquic.buffer import Buffer, BufferReadError, encode_uint_var

from moretta import engine
from rig import wire

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def cases(name: str, **wanted: str) -> list[Any]:
    document = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    assert set(document) == {"about", "cases"}
    chosen = [case for case in document["cases"] if all(case.get(key) == value for key, value in wanted.items())]
    assert chosen
    return [pytest.param(case, id=case["id"]) for case in chosen]


def test_every_file_of_vectors_is_read_here_or_needs_a_parser_that_python_has_not() -> None:
    read_here = {"varint", "datagram", "capsule", "template", "host", "prefix"}
    # Structured Fields: no library for them is among the development tools.
    assert {path.stem for path in VECTORS.glob("*.json")} == read_here | {"fields"}


@pytest.mark.parametrize("case", cases("prefix"))
def test_an_address_is_judged_as_the_vector_says(case: dict[str, Any]) -> None:
    verdict = engine.classify_address(case["address"])
    said = {key: verdict[key] for key in case["expected"]}
    wanted = dict(case["expected"])
    for answer in (said, wanted):
        if answer.get("prefix") is not None:
            answer["prefix"] = ipaddress.ip_network(answer["prefix"])  # there are several ways to write one
    assert said == wanted


@pytest.mark.parametrize("case", cases("template", kind="parse"))
def test_a_template_is_accepted_or_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    parse = engine.parse_template_path if case["form"] == "path" else engine.parse_template
    if case["form"] == "absolute" and "{" not in case["template"]:
        pytest.skip("what has no variables is taken for an origin here")
    if "error" in case:
        with pytest.raises(ValueError, match=r"\w"):
            parse(case["template"])
    else:
        parse(case["template"])


@pytest.mark.parametrize("case", cases("host", kind="host"))
def test_a_host_is_accepted_or_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    answer = engine.explain({}, {"protocol": "udp", "host": case["input"], "port": 53})
    assert answer["verdict"] == "refused"
    assert (answer["reason"] == "bad_target_host") is ("error" in case)


@pytest.mark.parametrize("case", cases("varint"))
def test_others_read_and_write_our_integers(case: dict[str, Any]) -> None:
    buffer = Buffer(data=bytes.fromhex(case["hex"]))
    if "error" in case:
        with pytest.raises(BufferReadError):
            buffer.pull_uint_var()
        return
    assert (buffer.pull_uint_var(), buffer.tell()) == (case["expected"]["value"], case["expected"]["used"])
    assert encode_uint_var(case["expected"]["value"]).hex() == case["expected"]["shortest"]


@pytest.mark.parametrize("case", cases("datagram"))
def test_others_read_and_write_our_datagram_prefixes(case: dict[str, Any]) -> None:
    if case["kind"] == "prefix":
        written = encode_uint_var(case["stream_id"] // 4) + encode_uint_var(case["context_id"])
        assert written.hex() == case["expected"]["hex"]
        return
    buffer = Buffer(data=bytes.fromhex(case["hex"]))
    if case.get("error") == "truncated":
        with pytest.raises(BufferReadError):
            buffer.pull_uint_var()
        return
    value = buffer.pull_uint_var()
    if case["kind"] == "context_id":
        assert (value, buffer.tell()) == (case["expected"]["context_id"], case["expected"]["used"])
    elif "error" in case:
        assert value >= 2**60
    else:
        assert (value * 4, buffer.tell()) == (case["expected"]["stream_id"], case["expected"]["used"])


@pytest.mark.parametrize("case", cases("capsule"))
def test_the_tests_own_reader_finds_the_same_capsules(case: dict[str, Any]) -> None:
    whole = [capsule for capsule in case["expected"]["capsules"] if capsule["complete"]]
    found = wire.read_capsules(bytes.fromhex(case["hex"]))
    assert [(capsule.type, capsule.value.hex()) for capsule in found] == [(one["type"], one["value"]) for one in whole]
