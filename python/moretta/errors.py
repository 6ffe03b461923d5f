"""Every error that moretta raises, as one tree.

::

    MorettaError
    ├── ConfigurationError          a file, an environment variable or an argument is wrong
    ├── ListenError                 a listener cannot be opened
    │   └── ListenNotPermitted      this user may not
    ├── EngineFault                 the engine broke; never your doing
    ├── EngineClosed                a handle is used after close() or after fork()
    ├── GatewayUnreachable          no connection to the gateway
    │   └── GatewayUntrusted        it answered, and its certificate or key is not the expected one
    ├── GatewayClosed               the connection to the gateway ended under an open handle
    ├── TunnelRefused               the gateway did not open this tunnel: `status`, `proxy_status`, `code`, `retry`
    │   ├── RequestRejected         it does not accept the request as such
    │   ├── CredentialsRefused      it asks for an identity, or does not accept this one
    │   ├── PolicyRefused           its policy does not allow the target
    │   ├── LimitReached            a quota or a limit of the gateway
    │   ├── GatewayOverloaded       it sheds load or drains
    │   ├── TargetUnresolvable      the target's name has no usable answer
    │   └── TargetUnreachable       the target's address cannot be reached from the gateway
    ├── TunnelClosed                the tunnel ended: `reason`
    └── DatagramTooLarge            larger than `max_datagram_size`; the tunnel lives on

A time that ran out is the built-in :class:`TimeoutError`. Which reason becomes which class stands in the engine's error
table, whose names are compared with these classes by a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: ``never``: the answer will not change. ``later``: the same request may succeed. ``other_target``: this target cannot
#: be had. ``fix_request``: the request is wrong as it stands.
Retry = Literal["never", "later", "other_target", "fix_request"]


class MorettaError(Exception):
    """Base of all errors of this package.

    `exit_code` is what the command line ends with: 1 failed, 3 configuration, 4 denied, 5 unreachable, 6 privilege.
    """

    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    key: dotted path of the setting, e.g. ``limits.idle_timeout_seconds``; empty for the document as a whole.
    reason: what was expected and what came.
    remedy: what to do about it; empty if the reason says it.
    source: file, ``environment variable NAME`` or ``argument NAME``; empty for a dict that Python handed over.
    line: 1-based line in `source`, where that is a file.
    """

    key: str
    reason: str
    remedy: str = ""
    source: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line is not None else self.source
        text = ": ".join(part for part in (place, self.key, self.reason) if part)
        return f"{text}; {self.remedy}" if self.remedy else text


class ConfigurationError(MorettaError):
    """A configuration is wrong; nothing was started or changed.

    `problems` holds every problem that was found, in the order of the file.
    """

    exit_code = 3

    def __init__(self, problems: Problem | tuple[Problem, ...]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else problems
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class ListenError(MorettaError):
    """A listener cannot be opened: `code` is ``port_in_use``, ``permission_denied`` or ``system_error``."""

    def __init__(self, message: str, code: str = "system_error") -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class ListenNotPermitted(ListenError):
    """The system does not let this user open the listener; the command line exits with 6."""

    exit_code = 6


class EngineFault(MorettaError):
    """The engine refused what it was told, or broke; except for ``engine_busy``, please report it.

    code: a stable word, e.g. ``invalid_document``, ``panic``, or ``engine_busy``: more is on its way than it can hold.
    path: of the offending value in its document, e.g. ``listeners[0].name``; may be empty.
    """

    def __init__(self, message: str, code: str = "internal_error", path: str = "") -> None:
        super().__init__(message, code, path)
        self.message = message
        self.code = code
        self.path = path

    def __str__(self) -> str:
        return self.message


class EngineClosed(MorettaError):
    """A handle was used after it was closed, or in a process that was forked from the one that made it."""


class GatewayUnreachable(MorettaError):
    """There is no connection to the gateway.

    `code` is a stable word (``handshake_timeout``, ``resolve_failed`` …).
    """

    exit_code = 5

    def __init__(self, message: str, code: str = "gateway_unreachable") -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class GatewayUntrusted(GatewayUnreachable):
    """The gateway answered, but its certificate or public key is not what was asked for; nothing was sent to it."""


class GatewayClosed(MorettaError):
    """The connection to the gateway ended. `code` is a stable word (``client_closed``, ``idle_timeout`` …)."""

    exit_code = 5

    def __init__(self, message: str, code: str = "gateway_closed") -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class TunnelRefused(MorettaError):
    """The gateway did not open the tunnel.

    message: one sentence.
    code: a stable word of the error table, e.g. ``policy_refused``; ``http_<status>`` from a gateway that sends none
        that we know.
    status: of the response (RFC 9110); None when the stream was reset without one.
    proxy_status: the gateway's Proxy-Status field (RFC 9209) as it came, or None.
    retry: whether to try again, and how.
    """

    def __init__(
        self,
        message: str,
        code: str = "refused",
        status: int | None = None,
        proxy_status: str | None = None,
        retry: Retry = "never",
    ) -> None:
        super().__init__(message, code, status, proxy_status, retry)
        self.message = message
        self.code = code
        self.status = status
        self.proxy_status = proxy_status
        self.retry = retry

    def __str__(self) -> str:
        return self.message


class RequestRejected(TunnelRefused):
    """The gateway does not accept the request as such: malformed, or no such template or protocol there."""


class CredentialsRefused(TunnelRefused):
    """The gateway asks for an identity, or does not accept the one it was given (401, 407)."""

    exit_code = 4


class PolicyRefused(TunnelRefused):
    """The gateway's policy does not allow this target (403).

    Which rule says so stands in the operator's record only.
    """

    exit_code = 4


class LimitReached(TunnelRefused):
    """A quota or a limit of the gateway is used up (429)."""

    exit_code = 4


class GatewayOverloaded(TunnelRefused):
    """The gateway sheds load or drains (503); another one, or this one later, may serve."""

    exit_code = 5


class TargetUnresolvable(TunnelRefused):
    """The target's name has no usable answer; `proxy_status` tells the kind of DNS error."""

    exit_code = 5


class TargetUnreachable(TunnelRefused):
    """The gateway has no way to the target's address."""

    exit_code = 5


class TunnelClosed(MorettaError):
    """The tunnel ended. `reason` is a stable word of the error table, e.g. ``idle_timeout`` or ``client_finished``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the tunnel is closed: {self.reason.replace('_', ' ')}"


class DatagramTooLarge(MorettaError):
    """A datagram does not fit into the tunnel's path and was not sent; the tunnel lives on.

    max: largest payload in bytes that fits now; the path MTU may change it.
    size: of the datagram, in bytes.
    """

    def __init__(self, max: int, size: int) -> None:  # noqa: A002 -- the word that the documentation promises
        super().__init__(max, size)
        self.max = max
        self.size = size

    def __str__(self) -> str:
        return f"a datagram of {self.size} bytes does not fit: at most {self.max} bytes do at present"


class NarrowPathWarning(RuntimeWarning):
    """A tunnel was opened on a path that carries less than the 1200 bytes which a QUIC handshake inside it needs.

    Smaller datagrams travel all the same, and the path MTU may grow; see `UdpTunnel.max_datagram_size`.
    """


#: The kinds of refusal by name, as the engine's error table names them.
REFUSALS: Mapping[str, type[TunnelRefused]] = {
    kind.__name__: kind
    for kind in (
        TunnelRefused,
        RequestRejected,
        CredentialsRefused,
        PolicyRefused,
        LimitReached,
        GatewayOverloaded,
        TargetUnresolvable,
        TargetUnreachable,
    )
}
