"""Reading configurations: precedence, places, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.config import Config, load
from moretta.errors import ConfigurationError, Problem

LISTEN = '[listen.main]\naddress = ["127.0.0.1:0"]\ncertificate = "server.pem"\nkey = "server.key"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moretta.toml"


def problems_of(path: Path, text: str, **arguments: Any) -> list[Problem]:
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load(path, **{"environment": {}, **arguments})
    return list(raised.value.problems)


def test_flags_win_over_environment_over_file_over_defaults(file: Path) -> None:
    file.write_text(f"version = 1\n{LISTEN}[limits]\nmax_tunnels = 1\nmax_connections = 1\nearly_datagram_bytes = 1\n")
    environment = {"MORETTA_LIMITS__MAX_TUNNELS": "2", "MORETTA_LIMITS__MAX_CONNECTIONS": "2", "HOME": "/"}
    limits = load(file, environment=environment, overrides={"limits.max_tunnels": "3"}).config.limits
    assert (limits.max_tunnels, limits.max_connections, limits.early_datagram_bytes) == (3, 2, 1)
    assert limits.idle_timeout_seconds == 120


def test_a_variable_reaches_into_a_listener(file: Path) -> None:
    file.write_text(f"version = 1\n{LISTEN}")
    loaded = load(file, environment={"MORETTA_LISTEN__MAIN__ADDRESS": '["[::1]:7"]'})
    assert [str(address) for address in loaded.config.listen["main"].address] == ["[::1]:7"]


def test_the_process_environment_counts_for_a_file_and_not_for_a_mapping(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORETTA_PROFILE", "interop")
    file.write_text(f"version = 1\n{LISTEN}")
    assert load(file).config.profile == "interop"
    listen = {"main": {"address": ["127.0.0.1:0"], "certificate": "a", "key": "b"}}
    assert load({"version": 1, "listen": listen}).config.profile == "hardened"


def test_relative_paths_start_at_the_file(file: Path) -> None:
    file.write_text(f"version = 1\n{LISTEN}")
    assert load(file, environment={}).config.listen["main"].key == file.parent / "server.key"


def test_a_finished_configuration_is_taken_as_it_is(file: Path) -> None:
    file.write_text(f"version = 1\n{LISTEN}")
    config = load(file, environment={}).config
    assert load(config).config is config
    assert isinstance(config, Config)


def test_what_was_loaded_can_be_loaded_again_with_its_arguments(file: Path) -> None:
    file.write_text(f"version = 1\n{LISTEN}")
    first = load(file, overrides={"limits.max_tunnels": "3"})
    file.write_text(f"version = 1\nprofile = 'interop'\n{LISTEN}")
    again = first.again().config
    assert (again.profile, again.limits.max_tunnels) == ("interop", 3)


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        (f"version = 1\n{LISTEN}[limits]\nmax_tunnel = 5\n", 7, "limits.max_tunnel", "did you mean max_tunnels?"),
        (f"version = 1\n{LISTEN}[limit]\nmax_tunnels = 5\n", 6, "limit", "did you mean limits?"),
        (f"version = 1\nmax_tunnels = 5\n{LISTEN}", 2, "max_tunnels", "limits.max_tunnels"),
        (f"version = 1\n{LISTEN}adress = []\n", 6, "listen.main.adress", "did you mean address?"),
        (f"version = 1\n{LISTEN}[limits]\nidle_timeout = 60\n", 7, "limits.idle_timeout", "write idle_timeout_seconds"),
        (f"version = 1\n{LISTEN}[limits]\nidle_timeout_ms = 60\n", 7, "limits.idle_timeout_ms", "is in seconds"),
        (f'version = 1\n{LISTEN}[limits]\nidle_timeout_seconds = "60s"\n', 7, "limits.idle_timeout_seconds", "write idle_timeout_seconds = 60"),
        (f'version = 1\n{LISTEN}[limits]\nidle_timeout_seconds = "2m"\n', 7, "limits.idle_timeout_seconds", "plain number of seconds"),
        (f"version = 1\n{LISTEN}[limits]\nidle_timeout_seconds = 29\n", 7, "limits.idle_timeout_seconds", "greater than or equal to 30"),
        (f'version = 1\n{LISTEN}[limits]\nmax_tunnels = "7"\n', 7, "limits.max_tunnels", "write max_tunnels = 7"),
        (f"version = 1\n{LISTEN}[limits]\nmax_tunnels = true\n", 7, "limits.max_tunnels", "expected a whole number, got a boolean true"),
        (f"version = 1\n{LISTEN}[limits]\nmax_tunnels = 1.5\n", 7, "limits.max_tunnels", "whole number"),
        (f"version = 2\n{LISTEN}", 1, "version", "none of 1"),
        (LISTEN, None, "version", "write version = 1"),
        ("version = 1\n", None, "listen", "[listen.main]"),
        (f"version = 1\nprofile = 'hardend'\n{LISTEN}", 2, "profile", "did you mean 'hardened'?"),
        (f"version = 1\n{LISTEN}danger_allow_anonymous = 'yes'\n", 6, "listen.main.danger_allow_anonymous", "= true"),
        (f"version = 1\n{LISTEN}templates = '/{{target_host}}/{{target_port}}'\n", 6, "listen.main.templates", "write templates = ["),
        (f"version = 1\n{LISTEN}[resolver]\nnameservers = [\n  '192.0.2.1:53',\n  '192.0.2.2',\n]\n", 9, "resolver.nameservers[1]", "ADDRESS:PORT"),
        (f"version = 1\n{LISTEN}[[policy.rule]]\nid = 'a'\naction = 'alow'\nprotocol = 'udp'\ndestination = ['*']\nports = '*'\n", 8, "policy.rule[0].action", "did you mean 'allow'?"),
        (f"version = 1\n{LISTEN}[[policy.rule]]\nid = 'a'\nation = 'allow'\nprotocol = 'udp'\ndestination = ['*']\nports = '*'\n", 8, "policy.rule[0].ation", "did you mean action?"),
        (f"version = 1\n{LISTEN}[profile_overrides]\nunknown_context = {{ abort_after = 0 }}\n", 7, "profile_overrides.unknown_context", "abort_after = 100"),
        ("version = 1\n[listen.'a b']\naddress = ['127.0.0.1:0']\ncertificate = 'a'\nkey = 'b'\n", 2, "listen.a b", "does not fit"),
        ("version = 1\n[listen.main]\naddress = []\ncertificate = 'a'\nkey = 'b'\n", 3, "listen.main.address", "at least one"),
        ("version = 1\n[listen.main]\naddress = ['0.0.0.0:1']\ncertificate = 'a'\nkey = 'b'\n", 2, "listen.main", "danger_allow_anonymous = true"),
        ("version = 1\n[listen.main\n", 2, "", "not TOML"),
        ("version = 1\nversion = 1\n", 2, "", "not TOML"),
        ("version = [", 1, "", "not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_line_key_reason_and_remedy(
    file: Path, text: str, line: int | None, key: str, words: str
) -> None:
    (problem,) = problems_of(file, text)
    assert (problem.source, problem.line, problem.key) == (str(file), line, key)
    assert words in str(problem)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    problems = problems_of(file, f"version = 1\nprofil = 'x'\n{LISTEN}[limits]\nmax_tunnels = 0\n[lgo]\nlevel = 1\n")
    assert [(problem.line, problem.key) for problem in problems] == [
        (2, "profil"),
        (8, "limits.max_tunnels"),
        (9, "lgo"),
    ]


def test_a_wrong_variable_or_argument_is_named_as_such(file: Path) -> None:
    text = f"version = 1\n{LISTEN}"
    (problem,) = problems_of(file, text, environment={"MORETTA_LIMITS__MAX_TUNELS": "5"})
    assert (problem.source, problem.line) == ("environment variable MORETTA_LIMITS__MAX_TUNELS", None)
    assert "max_tunnels" in problem.remedy
    (problem,) = problems_of(file, text, overrides={"limits.max_tunnels": "many"})
    assert problem.source == "argument --set limits.max_tunnels"
    (problem,) = problems_of(file, text, overrides={"limits..x": "1"})
    assert "names no key" in problem.reason


def test_a_replaced_value_is_named_by_what_replaced_it(file: Path) -> None:
    text = f"version = 1\n{LISTEN}"
    (problem,) = problems_of(file, text, overrides={"resolver.nameservers": '["192.0.2.1:53", "x"]'})
    assert (problem.key, problem.source) == ("resolver.nameservers[1]", "argument --set resolver.nameservers")
    (problem,) = problems_of(
        file,
        f"{text}[resolver]\nnameservers = ['192.0.2.1:53', '192.0.2.2:53']\n",
        overrides={"resolver.nameservers": '["192.0.2.1:53", "x"]'},
    )
    assert (problem.key, problem.source) == ("resolver.nameservers[1]", "argument --set resolver.nameservers")


def test_a_value_that_smuggles_further_keys_is_a_string(file: Path) -> None:
    (problem,) = problems_of(file, f"version = 1\n{LISTEN}", overrides={"limits.max_tunnels": "1\nx = 2"})
    assert "got a string" in problem.reason


@pytest.mark.parametrize("kind", ["missing", "directory", "binary", "huge"])
def test_what_cannot_be_read_is_one_sentence(file: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match kind:
        case "directory":
            file.mkdir()
        case "binary":
            file.write_bytes(b"a = 1\n\xff\xfe")
        case "huge":
            monkeypatch.setattr("moretta.config.loading.MAX_FILE_BYTES", 10)
            file.write_text("a" * 11)
    with pytest.raises(ConfigurationError) as raised:
        load(file)
    (problem,) = raised.value.problems
    words = {"missing": "there is no file", "directory": "is a directory", "binary": "UTF-8", "huge": "larger than"}
    assert words[kind] in str(problem)
    assert problem.line == (2 if kind == "binary" else None)
