"""Which exception a refused tunnel becomes."""

from __future__ import annotations

from typing import Any

import pytest

from moretta import engine
from moretta.errors import (
    REFUSALS,
    CredentialsRefused,
    GatewayOverloaded,
    LimitReached,
    PolicyRefused,
    RequestRejected,
    TargetUnreachable,
    TargetUnresolvable,
    TunnelRefused,
)
from moretta.refusal import refusal_of


def event(reason: str, status: int | None = None, proxy_status: str | None = None) -> dict[str, Any]:
    return {
        "event": "tunnel_refused",
        "tunnel": 1,
        "reason": reason,
        "status": status,
        "proxy_status": proxy_status,
        "error": "",
    }


@pytest.mark.parametrize("row", engine.error_table()["refusals"], ids=lambda row: row["code"])
def test_a_reason_of_the_table_becomes_its_class_with_its_advice(row: dict[str, Any]) -> None:
    refusal = refusal_of(event(row["code"], row["status"]))
    if row["code"] == "request_timeout":
        assert isinstance(refusal, TimeoutError)
        return
    assert isinstance(refusal, TunnelRefused)
    assert refusal.status == row["status"]
    if row["code"] != "unexpected_status":
        assert type(refusal) is REFUSALS[row["python"]]
        assert (refusal.code, refusal.retry) == (row["code"], row["retry"])


@pytest.mark.parametrize(
    ("status", "proxy_status", "kind"),
    [
        (400, None, RequestRejected),
        (401, None, CredentialsRefused),
        (407, "p; error=http_request_denied", CredentialsRefused),
        (403, None, PolicyRefused),
        (404, None, RequestRejected),
        (429, "p; error=connection_limit_reached", LimitReached),
        (502, None, TargetUnreachable),
        (502, "p; error=dns_error; rcode=NXDOMAIN", TargetUnresolvable),
        (502, 'p; error=destination_ip_prohibited; details="x"', PolicyRefused),
        (504, "p; error=dns_timeout", TargetUnresolvable),
        (504, "p;error=connection_timeout", TargetUnreachable),
        (503, None, GatewayOverloaded),
        (500, None, TunnelRefused),
        (301, None, TunnelRefused),
        (502, "p; error=something_new", TargetUnreachable),
    ],
)
def test_the_answer_of_a_foreign_gateway_is_told_by_status_and_proxy_status(
    status: int, proxy_status: str | None, kind: type[TunnelRefused]
) -> None:
    refusal = refusal_of(event("unexpected_status", status, proxy_status))
    assert type(refusal) is kind
    assert isinstance(refusal, TunnelRefused)
    assert (refusal.code, refusal.status, refusal.proxy_status) == (f"http_{status}", status, proxy_status)


def test_a_word_that_this_version_does_not_know_is_still_a_refusal() -> None:
    refusal = refusal_of(event("word_of_a_later_version", 418))
    assert type(refusal) is TunnelRefused
    assert "word of a later version" in str(refusal)
