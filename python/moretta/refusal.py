"""Which exception a refused tunnel becomes.

The engine's error table names the class of each reason. A gateway that is not ours answers with a status and perhaps a
Proxy-Status field (RFC 9209) only; then these two decide.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from moretta import engine
from moretta.errors import (
    REFUSALS,
    CredentialsRefused,
    GatewayOverloaded,
    LimitReached,
    MorettaError,
    PolicyRefused,
    RequestRejected,
    Retry,
    TargetUnreachable,
    TargetUnresolvable,
    TunnelRefused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The engine says this when all it has is a status that opens no tunnel.
UNEXPECTED_STATUS = "unexpected_status"

_OF_STATUS: Mapping[int, tuple[type[TunnelRefused], Retry]] = {
    400: (RequestRejected, "fix_request"),
    401: (CredentialsRefused, "fix_request"),
    403: (PolicyRefused, "other_target"),
    404: (RequestRejected, "fix_request"),
    405: (RequestRejected, "fix_request"),
    407: (CredentialsRefused, "fix_request"),
    421: (RequestRejected, "never"),
    425: (RequestRejected, "later"),
    429: (LimitReached, "later"),
    431: (RequestRejected, "fix_request"),
    501: (RequestRejected, "never"),
    502: (TargetUnreachable, "other_target"),
    503: (GatewayOverloaded, "later"),
    504: (TargetUnreachable, "later"),
}

#: RFC 9209 section 2.3: what the gateway says went wrong is more precise than the status.
_OF_PROXY_ERROR: Mapping[str, tuple[type[TunnelRefused], Retry]] = {
    "dns_timeout": (TargetUnresolvable, "later"),
    "dns_error": (TargetUnresolvable, "other_target"),
    "destination_not_found": (TargetUnreachable, "other_target"),
    "destination_unavailable": (TargetUnreachable, "later"),
    "destination_ip_prohibited": (PolicyRefused, "other_target"),
    "destination_ip_unroutable": (TargetUnreachable, "other_target"),
    "connection_refused": (TargetUnreachable, "other_target"),
    "connection_timeout": (TargetUnreachable, "later"),
    "connection_limit_reached": (GatewayOverloaded, "later"),
    "http_request_denied": (PolicyRefused, "other_target"),
}


def refusal_of(event: engine.Event) -> MorettaError | TimeoutError:
    """Return the exception for a ``tunnel_refused`` event, or for a tunnel that ended before it was used."""
    code: str = event["reason"]
    if code == "request_timeout":
        return TimeoutError("the gateway did not answer in time")
    status: int | None = event.get("status")
    proxy_status: str | None = event.get("proxy_status")
    message: str = event.get("error") or f"the tunnel was not opened: {code.replace('_', ' ')}"
    row = _rows().get(code)
    kind, retry = (REFUSALS[row[0]], row[1]) if row is not None else (TunnelRefused, _NEVER)
    if code == UNEXPECTED_STATUS and status is not None:
        code = f"http_{status}"
        kind, retry = of_response(status, proxy_status)
    return kind(message, code, status, proxy_status, retry)


def of_response(status: int, proxy_status: str | None) -> tuple[type[TunnelRefused], Retry]:
    """Return class and retry advice for a response of a gateway whose reasons we do not know."""
    for token in re.findall(r";\s*error=([a-z_]+)", proxy_status or ""):
        if token in _OF_PROXY_ERROR and status not in (401, 407, 429):
            return _OF_PROXY_ERROR[token]
    return _OF_STATUS.get(status, (TunnelRefused, _NEVER))


_NEVER: Retry = "never"


@functools.cache
def _rows() -> dict[str, tuple[str, Retry]]:
    return {row["code"]: (row["python"], row["retry"]) for row in engine.error_table()["refusals"]}
