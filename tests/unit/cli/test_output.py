"""Errors as sentences, and their exit codes."""

from __future__ import annotations

import pytest

from moretta import errors
from moretta.cli import output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.ConfigurationError(errors.Problem("a", "b", "c")), 3, "moretta: a: b; c"),
        (errors.GatewayUnreachable("no answer from 192.0.2.1:443"), 5, "check the address"),
        (errors.GatewayUnreachable("no answer: check address, port and firewall"), 5, "firewall\n"),
        (errors.GatewayClosed("the gateway lost its state: connect again"), 5, "connect again\n"),
        (errors.GatewayClosed("the connection ended"), 5, "; try again; the gateway's log"),
        (errors.ConfigurationError(errors.Problem("ca_file", "no PEM")), 3, "moretta: argument --ca: no PEM"),
        (errors.ListenError("cannot bind 192.0.2.1:1", "system_error"), 1, "an address of this machine"),
        (errors.GatewayUntrusted("the certificate is of an unknown authority"), 5, "--ca"),
        (errors.PolicyRefused("no rule allows this target", "policy_refused", 403), 4, "its log has the reason"),
        (errors.CredentialsRefused("x"), 4, "for access"),
        (errors.TargetUnresolvable("x"), 5, "target's name"),
        (errors.ListenNotPermitted("x"), 6, "1024"),
        (errors.ListenError("127.0.0.1:1 is in use: stop the other program or choose another port"), 1, "another port"),
        (errors.TunnelClosed("proxy_reset"), 1, "proxy reset"),
        (TimeoutError(), 5, "--timeout"),
        (PermissionError(13, "Permission denied", "x"), 6, "no permission: x"),
        (OSError("strange"), 1, "strange"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_is_a_sentence_with_its_next_step_and_code(
    error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert output.report(error) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.startswith("moretta: ")
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not output.colors()
