"""`moretta check`: what a configuration means, or what is wrong with it."""

from __future__ import annotations

import datetime as dt
import stat
from typing import TYPE_CHECKING, Any

from moretta.cli import output
from moretta.config import Loaded, load, snapshot
from moretta.errors import ConfigurationError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

#: From here on `check` says that a certificate ends soon.
SOON = dt.timedelta(days=14)


def run(path: Path, overrides: Mapping[str, str], *, as_json: bool) -> int:
    """Print facts and warnings about a configuration; return 0, or 3 when it is refused."""
    try:
        loaded = load(path, overrides=overrides)
        snapshot.build(loaded, 1)
        facts = describe(loaded, dt.datetime.now(dt.UTC))
    except ConfigurationError as error:
        if as_json:
            problems = [
                {
                    "source": problem.source,
                    "line": problem.line,
                    "key": problem.key,
                    "reason": problem.reason,
                    "remedy": problem.remedy,
                }
                for problem in error.problems
            ]
            output.document({"ok": False, "file": str(path), "problems": problems})
        return output.report(error)
    if as_json:
        output.document({"ok": True, "file": str(path), **facts})
        return 0
    output.say(f"{path} is valid: profile {facts['profile']}, {output.counted(facts['rules'], 'policy rule')}")
    for listener in facts["listeners"]:
        output.say(f"listener {listener['name']}")
        output.table(
            ("  addresses", ", ".join(listener["addresses"])),
            ("  certificate", f"for {', '.join(listener['certificate_names'])}"),
            ("  valid until", listener["certificate_not_after"][:10]),
            ("  pin", f"sha256//{listener['pin_sha256']}"),
        )
    for warning in facts["warnings"]:
        output.note(f"warning: {warning}")
    return 0


def describe(loaded: Loaded, now: dt.datetime) -> dict[str, Any]:
    """Return what a valid configuration says, with warnings. Raises ConfigurationError for unusable certificates."""
    from moretta import pki

    config = loaded.config
    listeners, warnings = [], []
    for name, listen in config.listen.items():
        try:
            facts = pki.facts_of(listen.certificate.read_bytes())
        except ValueError as error:
            problem = loaded.problem(("listen", name, "certificate"), f"no certificate can be read from it: {error}")
            raise ConfigurationError(problem) from None
        listeners.append(
            {
                "name": name,
                "addresses": [str(address) for address in listen.address],
                "certificate": str(listen.certificate),
                "certificate_names": list(facts.names),
                "certificate_not_after": facts.not_after.isoformat(),
                "pin_sha256": facts.pin_sha256,
                "templates": list(listen.templates),
                "danger_allow_anonymous": listen.danger_allow_anonymous,
            }
        )
        if not pki.belongs_together(listen.certificate.read_bytes(), listen.key.read_bytes()):
            problem = loaded.problem(
                ("listen", name, "key"),
                f"{listen.key} is not the key of {listen.certificate}",
                "name the key that the certificate was made with",
            )
            raise ConfigurationError(problem)
        if facts.not_after <= now:
            warnings.append(f"the certificate of listener {name} ended on {facts.not_after:%Y-%m-%d}")
        elif facts.not_after <= now + SOON:
            warnings.append(f"the certificate of listener {name} ends on {facts.not_after:%Y-%m-%d}")
        if _is_exposed(listen.key.stat()):
            warnings.append(f"{listen.key} can be read by others: chmod 600 {listen.key}")
    if not any(rule.action == "allow" for rule in config.policy.rule):
        warnings.append("no rule allows anything: every tunnel will be refused")
    return {
        "profile": config.profile,
        "rules": len(config.policy.rule),
        "listeners": listeners,
        "warnings": warnings,
    }


def _is_exposed(key: os.stat_result) -> bool:
    """Whether more than its owner can use a private key.

    A key of root's may be read by a group: so services without a user of their own share it.
    """
    others = key.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return bool(others) and not (key.st_uid == 0 and others == stat.S_IRGRP)
