"""Verbs as they are typed."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moretta.cli import main
from moretta.testing import make_certificates

RULE = '[{id = "dns", action = "allow", protocol = "udp", destination = ["9.9.9.9"], ports = [53]}]'


class Typed:
    """Runs verbs in this process and keeps what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        code = main(arguments)
        self.out, self.err = self._capsys.readouterr()
        return code

    def document(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.out)
        assert content["version"] == 1
        return content


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    for name in [name for name in os.environ if name.startswith("MORETTA_")]:
        monkeypatch.delenv(name)
    return Typed(capsys)


@pytest.mark.parametrize(
    ("verb", "nearest"), [("serv", "serve"), ("chekc", "check"), ("forwrad", "forward"), ("shema", "schema")]
)
def test_an_unknown_verb_is_answered_with_the_nearest_one(typed: Typed, verb: str, nearest: str) -> None:
    assert typed(verb) == 2
    assert f"'{nearest}'" in typed.err
    assert not typed.out


def test_a_wrong_option_is_a_usage_error(typed: Typed) -> None:
    assert typed("check", "--confg", "x") == 2
    assert "--config" in typed.err
    assert typed("check", "--set", "nothing") == 2
    assert "KEY=VALUE" in typed.err


def test_help_is_there_for_every_verb(typed: Typed) -> None:
    assert typed("--help") == 0
    for verb in ("demo", "init", "serve", "check", "schema", "forward", "nc", "ping", "version"):
        assert f"  {verb} " in typed.out
    for verb in ("demo", "init", "serve", "check", "schema", "forward", "nc", "ping", "version"):
        assert typed(verb, "-h") == 0


def test_what_init_makes_check_accepts(typed: Typed, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "gateway"
    assert typed("init", str(directory), "--json") == 0
    files = typed.document()["files"]
    assert set(files) == {path.name for path in directory.iterdir()}
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
    assert typed("check", "-c", str(directory / "moretta.toml"), "--json") == 0
    facts = typed.document()
    assert facts["ok"]
    assert facts["listeners"][0]["certificate_names"] == ["localhost", "127.0.0.1", "::1"]
    assert facts["warnings"] == ["no rule allows anything: every tunnel will be refused"]
    schema = json.loads((directory / "moretta.schema.json").read_text())
    assert schema["properties"]["version"]["const"] == 1


def test_what_init_and_check_say_fits_a_terminal_of_80_columns(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed("init") == 0
    made = typed.out.splitlines()
    assert len({re.split(r"  +", line)[0] for line in made[:6]}) == 6
    assert len({line.index(re.split(r"  +", line)[1]) for line in made[:6]}) == 1, "the meanings stand in one column"
    assert typed("check", "--set", f"policy.rule={RULE}") == 0
    assert "profile hardened, 1 policy rule\n" in typed.out
    assert max(map(len, [*made, *typed.out.splitlines()])) <= 80


def test_help_names_what_an_option_takes_and_not_its_type(typed: Typed) -> None:
    for verb in ("init", "serve", "check", "forward", "nc", "ping"):
        assert typed(verb, "-h") == 0
        assert "<" not in typed.out.split("Options:")[1].replace("<=", ""), verb


def test_init_overwrites_nothing(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "server.key").write_text("precious")
    assert typed("init", str(tmp_path)) == 3
    assert "already there: server.key" in typed.err
    assert "choose another directory" in typed.err
    assert [path.name for path in tmp_path.iterdir()] == ["server.key"]
    assert (tmp_path / "server.key").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--address", "0.0.0.0:443"), "add --danger-allow-anonymous"),
        (("--address", "localhost:443"), "write an address such as 127.0.0.1"),
        (("--name", "no name"), "neither a DNS name nor an address"),
        (("--name", "-a.example"), "neither a DNS name nor an address"),
        (("--name", "x" * 64), "neither a DNS name nor an address"),
    ],
)
def test_init_refuses_what_check_would_refuse(
    typed: Typed, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert typed("init", str(tmp_path), *arguments) == 3
    assert words in typed.err
    assert not list(tmp_path.iterdir())


def test_a_public_gateway_needs_the_words(typed: Typed, tmp_path: Path) -> None:
    arguments = ("--address", "192.0.2.1:443", "--danger-allow-anonymous", "--name", "gateway.example")
    assert typed("init", str(tmp_path), *arguments) == 0
    assert typed("check", "-c", str(tmp_path / "moretta.toml"), "--json") == 0
    assert typed.document()["listeners"][0]["danger_allow_anonymous"] is True


def test_check_names_file_line_key_and_the_nearest_key(typed: Typed, tmp_path: Path) -> None:
    typed("init", str(tmp_path))
    file = tmp_path / "moretta.toml"
    file.write_text(file.read_text() + "[limits]\nmax_tunnel = 3\n")
    line = file.read_text().splitlines().index("max_tunnel = 3") + 1
    assert typed("check", "-c", str(file)) == 3
    assert typed.err == f"moretta: {file}:{line}: limits.max_tunnel: unknown key; did you mean max_tunnels?\n"
    assert typed("check", "-c", str(file), "--json") == 3
    (problem,) = typed.document()["problems"]
    assert (problem["line"], problem["key"]) == (line, "limits.max_tunnel")


def test_check_finds_a_key_that_is_not_the_certificates(typed: Typed, tmp_path: Path) -> None:
    typed("init", str(tmp_path))
    (tmp_path / "server.key").write_bytes((tmp_path / "ca.key").read_bytes())
    assert typed("check", "-c", str(tmp_path / "moretta.toml")) == 3
    assert "is not the key of" in typed.err
    assert "moretta.toml:8: listen.main.key" in typed.err


def test_check_finds_a_rule_that_does_not_compile_with_its_line(typed: Typed, tmp_path: Path) -> None:
    typed("init", str(tmp_path))
    file = tmp_path / "moretta.toml"
    rule = '[[policy.rule]]\nid = "a"\naction = "allow"\nprotocol = "udp"\ndestination = ["9.9.9.9", "300.1.2.3"]\nports = "*"\n'
    file.write_text(file.read_text() + rule)
    line = file.read_text().splitlines().index('destination = ["9.9.9.9", "300.1.2.3"]') + 1
    assert typed("check", "-c", str(file)) == 3
    assert f"moretta.toml:{line}: policy.rule[0].destination[1]" in typed.err


def test_check_warns_of_a_key_that_others_can_read(typed: Typed, tmp_path: Path) -> None:
    typed("init", str(tmp_path))
    (tmp_path / "server.key").chmod(0o644)
    assert typed("check", "-c", str(tmp_path / "moretta.toml")) == 0
    assert "chmod 600" in typed.err


@pytest.mark.parametrize(
    ("mode", "owner", "warns"),
    [(0o600, 0, False), (0o640, 0, False), (0o660, 0, True), (0o644, 0, True), (0o640, 12345, True)],
    ids=["owner only", "root's, read by a group", "written by a group", "read by all", "a user's, read by a group"],
)
def test_a_key_may_be_shared_with_a_group_only_by_root(
    typed: Typed, tmp_path: Path, mode: int, owner: int, *, warns: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files to other users needs root")
    typed("init", str(tmp_path))
    os.chown(tmp_path / "server.key", owner, 0)
    (tmp_path / "server.key").chmod(mode)
    assert typed("check", "-c", str(tmp_path / "moretta.toml")) == 0
    assert ("chmod 600" in typed.err) == warns


def test_the_configuration_is_found_by_flag_then_variable_then_in_place(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        typed("init", str(tmp_path / name))
    monkeypatch.chdir(tmp_path / "a")
    assert typed("check") == 0
    monkeypatch.setenv("MORETTA_CONFIG", str(tmp_path / "b" / "moretta.toml"))
    assert typed("check", "--json") == 0
    assert typed.document()["file"] == str(tmp_path / "b" / "moretta.toml")
    monkeypatch.setenv("MORETTA_CONFIG", str(tmp_path / "nowhere.toml"))
    assert typed("check") == 3
    assert "there is no file" in typed.err
    assert "moretta init makes one" in typed.err


def test_the_schema_is_printed_as_json(typed: Typed) -> None:
    assert typed("schema") == 0
    assert "limits" in json.loads(typed.out)["properties"]


def test_the_version_is_printed_for_people_and_programs(typed: Typed) -> None:
    assert typed("version") == 0
    assert typed.out.startswith("moretta ")
    assert typed("version", "--json") == 0
    assert typed.document()["protocols"] == ["connect-udp"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ping",), "add URL, as in https://HOST:PORT"),
        (("forward", "-L", "53:9.9.9.9:53/udp"), "add URL, as in https://HOST:PORT"),
        (("nc", "-u", "9.9.9.9", "53"), "add --gateway URL"),
        (("ping", "ftp://127.0.0.1:1"), "URL of the gateway: the scheme"),
        (("ping", "https://127.0.0.1:1", "--ca", "nowhere.pem"), "cannot read nowhere.pem"),
        (("ping", "https://127.0.0.1:1", "--pin", "abc"), "base64 of a SHA-256"),
        (("forward", "-L", "53:9.9.9.9:53"), "write 53:9.9.9.9:53/udp"),
        (("forward", "-L", "53:9.9.9.9:53/tcp"), "only UDP"),
        (("forward", "-L", "9.9.9.9:53/udp"), "5353:9.9.9.9:53/udp"),
        (("forward", "-L", "1:2:3:4:5:6/udp"), "5353:9.9.9.9:53/udp"),
        (("forward", "-L", "53:9.9.9.9:0/udp"), "a target's at least 1"),
        (("forward", "-L", "name:53:9.9.9.9:53/udp"), "names are not looked up"),
    ],
)
def test_a_wrong_argument_is_a_sentence_with_the_next_step(
    typed: Typed, arguments: tuple[str, ...], words: str
) -> None:
    assert typed(*arguments) == 3
    assert words in typed.err


def test_netcat_without_u_says_that_there_is_only_udp(typed: Typed) -> None:
    assert typed("nc", "a.test", "53") == 2
    assert "add -u" in typed.err


def test_python_m_moretta_is_moretta() -> None:
    done = subprocess.run([sys.executable, "-m", "moretta", "version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("moretta ")


def test_help_costs_at_most_150_milliseconds() -> None:
    """Of processor time, which a busy machine does not stretch; the best of five."""
    assert min(_processor_seconds_of_help() for _ in range(5)) <= 0.15


def _processor_seconds_of_help() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "moretta", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("kind", ["missing", "exchanged", "directory"])
def test_serve_does_not_start_with_unusable_files(typed: Typed, tmp_path: Path, kind: str) -> None:
    files = make_certificates(tmp_path)
    key = {"missing": "nowhere.key", "exchanged": files.certificate.name, "directory": "."}[kind]
    file = tmp_path / "moretta.toml"
    file.write_text(
        f'version = 1\n[listen.main]\naddress = ["127.0.0.1:0"]\ncertificate = "server.pem"\nkey = "{key}"\n'
    )
    assert typed("serve", "-c", str(file)) == 3
    assert f"{file}:5: listen.main.key: " in typed.err
    assert "; " in typed.err
