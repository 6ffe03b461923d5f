"""`moretta init`: everything that a first gateway needs, in files that are never overwritten."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moretta.cli import output
from moretta.config import json_schema, load, snapshot
from moretta.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_ADDRESS = "127.0.0.1:4433"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_CONFIGURATION = """\
#:schema ./moretta.schema.json
# `moretta check` explains this file, `moretta schema` lists every key.
version = 1

[listen.main]
address = [{addresses}]
certificate = "server.pem"
key = "server.key"
{danger}
# Nothing is allowed until a rule allows it. Any matching deny wins, then any matching allow.
#
# [[policy.rule]]
# id = "public-dns"
# action = "allow"
# protocol = "udp"
# destination = ["9.9.9.9", "149.112.112.112"]
# ports = [53, 853]
"""

_DANGER = """\
# Nobody is asked who they are; keep the policy narrow.
danger_allow_anonymous = true
"""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    meaning: str
    content: bytes
    secret: bool = False


def run(
    directory: Path, *, names: tuple[str, ...], addresses: tuple[str, ...], danger_allow_anonymous: bool, as_json: bool
) -> None:
    """Write the files and print what they are. Raises ConfigurationError where one exists or an argument is wrong."""
    from moretta.pki import write_new

    addresses = addresses or (DEFAULT_ADDRESS,)
    _check_arguments(names, addresses, danger_allow_anonymous=danger_allow_anonymous)
    files = _make(names or LOOPBACK_NAMES, addresses, danger_allow_anonymous=danger_allow_anonymous)
    directory.mkdir(parents=True, exist_ok=True)
    if existing := [file.name for file in files if (directory / file.name).exists()]:
        problem = Problem(
            "", f"already there: {', '.join(existing)}", "choose another directory, or move them away", str(directory)
        )
        raise ConfigurationError(problem)
    written: list[Path] = []
    try:
        for file in files:
            write_new(directory / file.name, file.content, secret=file.secret)
            written.append(directory / file.name)
        # What `check` would say, before anybody asks.
        snapshot.build(load(directory / "moretta.toml", environment={}), 1)
    except BaseException:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    config = directory / "moretta.toml"
    if as_json:
        output.document({"directory": str(directory), "files": {file.name: file.meaning for file in files}})
        return
    output.table(*((str(directory / file.name), file.meaning) for file in files))
    output.say(f"next: allow something in {config}, then run: moretta serve -c {config}")


def _check_arguments(names: tuple[str, ...], addresses: tuple[str, ...], *, danger_allow_anonymous: bool) -> None:
    listen = {
        "address": list(addresses),
        "certificate": "server.pem",
        "key": "server.key",
        "danger_allow_anonymous": danger_allow_anonymous,
    }
    try:
        load({"version": 1, "listen": {"main": listen}})
    except ConfigurationError as error:
        reason = error.problems[0].reason
        reason = reason.replace("write danger_allow_anonymous = true", "add --danger-allow-anonymous")
        raise ConfigurationError(Problem("", reason, source="argument --address")) from None
    for name in names:
        if not _is_name(name):
            problem = Problem("", f"{name!r} is neither a DNS name nor an address", source="argument --name")
            raise ConfigurationError(problem)


def _is_name(name: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    labels = name.removeprefix("*.").split(".")
    return len(name) <= 253 and all(
        label.isascii() and 0 < len(label) <= 63 and label.replace("-", "a").isalnum() and label[0] != "-" != label[-1]
        for label in labels
    )


def _make(names: tuple[str, ...], addresses: tuple[str, ...], *, danger_allow_anonymous: bool) -> list[_File]:
    from moretta.pki import Authority

    authority = Authority()
    server = authority.issue(names)
    text = _CONFIGURATION.format(
        addresses=", ".join(f'"{address}"' for address in addresses),
        danger=_DANGER if danger_allow_anonymous else "",
    )
    return [
        _File("ca.pem", "certificate of your authority: clients trust it", authority.pair.certificate_pem),
        _File("ca.key", "its private key: keep it off the gateway", authority.pair.key_pem, secret=True),
        _File("server.pem", f"certificate of the gateway, for {', '.join(names)}", server.certificate_pem),
        _File("server.key", "its private key", server.key_pem, secret=True),
        _File("moretta.schema.json", "for editors", (json.dumps(json_schema(), indent=2) + "\n").encode()),
        _File("moretta.toml", "the configuration", text.encode()),
    ]
