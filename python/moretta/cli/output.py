"""How verbs print facts and report errors."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import TYPE_CHECKING, Any

from moretta import environment
from moretta.errors import (
    ConfigurationError,
    CredentialsRefused,
    GatewayClosed,
    GatewayOverloaded,
    GatewayUnreachable,
    GatewayUntrusted,
    LimitReached,
    ListenError,
    ListenNotPermitted,
    MorettaError,
    PolicyRefused,
    TargetUnreachable,
    TargetUnresolvable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILED = 1
CONFIGURATION = 3
UNREACHABLE = 5
PRIVILEGE = 6
#: What a shell gives a program that Ctrl-C ended.
INTERRUPTED = 130

#: The next step, by kind of error; the first that fits.
_NEXT_STEPS: tuple[tuple[type[BaseException], str], ...] = (
    (GatewayUntrusted, "name its authority with --ca, or its key with --pin"),
    (GatewayUnreachable, "check the address, that the gateway runs, and that UDP reaches its port"),
    (GatewayClosed, "try again; the gateway's log has the reason if it closed the connection"),
    (CredentialsRefused, "ask the gateway's operator for access"),
    (PolicyRefused, "ask the gateway's operator; its log has the reason"),
    (LimitReached, "close other tunnels, or try again later"),
    (GatewayOverloaded, "try again later"),
    (TargetUnresolvable, "check the target's name; it is resolved at the gateway"),
    (TargetUnreachable, "check the target; it is reached from the gateway"),
    (ListenNotPermitted, "take a port from 1024 on, or run as a user who may"),
    (ListenError, "stop the other program, or choose another address or port"),
)


_REMEDY = re.compile(r"[:;] (check|choose|connect|name|run|stop|take|try|use)\b")

#: What the arguments of `moretta.connect` are called here.
_OPTIONS = {
    "origin_or_template": "URL of the gateway",
    "ca_file": "argument --ca",
    "pin_sha256": "argument --pin",
    "server_name": "argument --server-name",
    "timeout_seconds": "argument --timeout",
}


def colors() -> bool:
    """Whether stderr may be coloured: it is a terminal and NO_COLOR is not set."""
    return sys.stderr.isatty() and not environment.variables().get("NO_COLOR")


def say(text: str) -> None:
    """Print a fact for people to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(*rows: tuple[str, str]) -> None:
    """Print names and what they are, in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, meaning in rows:
        say(f"{name:<{width}}  {meaning}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 rule, 2 rules."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def document(content: Mapping[str, Any]) -> None:
    """Print facts for programs: one JSON document on one line, with its version."""
    say(json.dumps({"version": 1, **content}, ensure_ascii=False))


def note(text: str) -> None:
    """Print a message for people to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def report(error: BaseException) -> int:
    """Print what went wrong, where, and the next step to stderr; return the exit code."""
    match error:
        case ConfigurationError():
            for problem in error.problems:
                if not problem.source and problem.key in _OPTIONS:
                    problem = dataclasses.replace(problem, source=_OPTIONS[problem.key], key="")  # noqa: PLW2901
                note(f"moretta: {problem}")
            return CONFIGURATION
        case TimeoutError():
            note(f"moretta: {error or 'no answer in time'}; give it longer with --timeout, or try again later")
            return UNREACHABLE
        case PermissionError():
            note(f"moretta: no permission: {error.filename or error.strerror}; run as a user who may")
            return PRIVILEGE
        case MorettaError():
            note(f"moretta: {_with_next_step(error)}")
            return error.exit_code
        case _:
            note(f"moretta: {error}")
            return FAILED


def _with_next_step(error: MorettaError) -> str:
    text = str(error).strip().rstrip(".") or type(error).__name__
    if isinstance(error, GatewayUnreachable | GatewayClosed | ListenError) and _REMEDY.search(text):
        return text  # the engine's own sentence has its next step
    if type(error) is ListenError and error.code == "system_error":
        return f"{text}; choose an address of this machine"
    step = next((step for kind, step in _NEXT_STEPS if isinstance(error, kind)), "")
    return f"{text}; {step}" if step else text
