"""Turns a configuration into the engine's snapshot document, and the engine's paths back into places of the file.

The document holds everything that a reload replaces. Private keys travel beside it as secrets and are named in it only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moretta import engine
from moretta.config.loading import unreadable
from moretta.errors import ConfigurationError, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from moretta.config.explain import KeyPath
    from moretta.config.loading import Loaded
    from moretta.config.model import Listen


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the engine is given. `secrets` are never logged: the type prints their names only."""

    document: dict[str, Any]
    secrets: Secrets


class Secrets(dict[str, bytes]):
    """Secret bytes by name."""

    def __repr__(self) -> str:
        return f"<secrets {', '.join(self)}>"


def build(loaded: Loaded, generation: int) -> Snapshot:
    """Read the files that a configuration names and return its snapshot.

    Raises ConfigurationError for files that cannot be read or hold something else, templates and rules that the engine
    does not accept; with every problem there is.
    """
    config = loaded.config
    problems: list[Problem] = []
    secrets = Secrets()
    listeners = [_listener(loaded, name, listen, secrets, problems) for name, listen in config.listen.items()]
    document: dict[str, Any] = {
        "version": engine.VERSION,
        "generation": generation,
        "profile": config.profile,
        "overrides": config.profile_overrides.model_dump(mode="json", exclude_none=True),
        "proxy_name": config.proxy_name,
        "listeners": listeners,
        "policy": {
            "rules": [rule.document() for rule in config.policy.rule],
            "danger_allow_prefixes": list(config.policy.danger_allow_prefixes),
            "danger_allow_own_addresses": config.policy.danger_allow_own_addresses,
            "danger_allow_local_names": config.policy.danger_allow_local_names,
        },
        "resolver": {
            "nameservers": [str(address) for address in config.resolver.nameservers],
            "timeout_seconds": config.resolver.timeout_seconds,
            "hosts": {name: list(addresses) for name, addresses in config.resolver.hosts.items()},
        },
        "limits": config.limits.model_dump(mode="json", exclude_none=True),
    }
    problems += [
        loaded.problem(key_of(loaded, f"policy.{row['path']}"), row["reason"])
        for row in engine.check_policy(document["policy"])
    ]
    if problems:
        raise ConfigurationError(tuple(problems))
    return Snapshot(document, secrets)


def key_of(loaded: Loaded, path: str) -> KeyPath:
    """Return the configuration key of a path in the snapshot: ``listeners[0].key_secret`` is ``listen.main.key``."""
    parts: list[str | int] = [
        int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)
    ]
    names = list(loaded.config.listen)
    match parts:
        case ["listeners", int(index), *rest] if index < len(names):
            renamed = {"addresses": "address", "certificate_pem": "certificate", "key_secret": "key"}
            return (
                "listen",
                names[index],
                *(renamed.get(part, part) if isinstance(part, str) else part for part in rest),
            )
        case ["policy", "rules", *rest]:
            return ("policy", "rule", *rest)
        case ["overrides", *rest]:
            return ("profile_overrides", *rest)
        case _:
            return tuple(parts)


def _listener(loaded: Loaded, name: str, listen: Listen, secrets: Secrets, problems: list[Problem]) -> dict[str, Any]:
    certificate = _pem(loaded, listen.certificate, ("listen", name, "certificate"), "CERTIFICATE", problems)
    key = _pem(loaded, listen.key, ("listen", name, "key"), "PRIVATE KEY", problems)
    secret = f"listener.{name}.key"
    secrets[secret] = key
    for index, template in enumerate(listen.templates):
        try:
            engine.parse_template_path(template)
        except ValueError as error:
            problems.append(loaded.problem(("listen", name, "templates", index), str(error)))
    return {
        "name": name,
        "addresses": [str(address) for address in listen.address],
        "certificate_pem": certificate.decode(errors="replace"),
        "key_secret": secret,
        "danger_allow_anonymous": listen.danger_allow_anonymous,
        "templates": list(listen.templates),
    }


def _pem(loaded: Loaded, path: Path, key: KeyPath, label: str, problems: list[Problem]) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        found = unreadable(str(path), error, "moretta init makes a certificate and its key")
        problems.append(loaded.problem(key, found.reason, found.remedy))
        return b""
    # "PRIVATE KEY" ends the label of PKCS#8, PKCS#1 and SEC1 files alike.
    if f"{label}-----".encode() not in data:
        other = (
            "a private key" if b"PRIVATE KEY-----" in data else "a certificate" if b"CERTIFICATE-----" in data else None
        )
        wanted = "certificate" if label == "CERTIFICATE" else "private key"
        remedy = f"it holds {other}: certificate and key may be exchanged" if other else "convert it to PEM"
        problems.append(loaded.problem(key, f"{path} holds no PEM {wanted}", remedy))
        return b""
    return data
