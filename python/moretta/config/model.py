"""What a configuration may say: every setting with its meaning, default, bound and what a reload does to it.

The models are frozen, strict (a string is no number) and refuse unknown keys. They read no file and no environment
(`load` does) and know no document of the engine (`snapshot` does). The JSON Schema of `moretta schema` is made from
them.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from moretta.address import SocketAddress
from moretta.policy import Rule

HIGHEST_COUNT = 2**32 - 1

#: RFC 9298 section 2: the template that clients use when they are told an origin only.
DEFAULT_TEMPLATE = "/.well-known/masque/udp/{target_host}/{target_port}/"


def _read_socket_address(value: object) -> SocketAddress:
    if isinstance(value, SocketAddress):
        return value
    if isinstance(value, str):
        return SocketAddress.parse(value)
    msg = f'{value!r} is no socket address: expected a string such as "127.0.0.1:4433"'
    raise ValueError(msg)


Address = Annotated[
    SocketAddress,
    PlainValidator(_read_socket_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:4433", "[::1]:4433"]}),
]


def _read_path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        msg = f"{value!r} is no path: expected a string"
        raise ValueError(msg)
    base: Path | None = (info.context or {}).get("base")
    return base / value if base is not None else Path(value)


#: A file; `load` makes relative ones start at the configuration file.
FilePath = Annotated[
    Path, PlainValidator(_read_path), PlainSerializer(str), WithJsonSchema({"type": "string", "minLength": 1})
]


def _read_ip_address(value: object) -> str:
    try:
        return str(ipaddress.ip_address(value)) if isinstance(value, str) else _not_an_address(value)
    except ValueError:
        return _not_an_address(value)


def _not_an_address(value: object) -> NoReturn:
    msg = f'{value!r} is no IP address: expected a string such as "192.0.2.1"'
    raise ValueError(msg)


IpAddress = Annotated[str, PlainValidator(_read_ip_address), WithJsonSchema({"type": "string"})]
ListenerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]

_RELOAD = {
    "new": "applies to new tunnels after a reload",
    "live": "applies at once after a reload, also to open tunnels",
    "restart": "applies at the next start",
}


def _setting(
    description: str,
    *,
    reload: Literal["new", "live", "restart"],
    unit: str | None = None,
    **arguments: Any,
) -> Any:
    """Declare one setting; `reload` says what a reload does to it."""
    extra: dict[str, Any] = {"x-reload": _RELOAD[reload]}
    if unit is not None:
        extra["x-unit"] = unit
    return Field(description=description, json_schema_extra=extra, **arguments)


class Section(BaseModel):
    """Base of all sections: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _lists(items: object) -> object:
    # TOML has arrays, frozen models hold tuples; strict mode alone would refuse the one for the other.
    return tuple(items) if isinstance(items, list) else items


_AsTuple = BeforeValidator(_lists)


class Listen(Section):
    """One listener: addresses that share a certificate and templates."""

    address: Annotated[tuple[Address, ...], _AsTuple] = _setting(
        "Addresses to listen on, IPv4 or IPv6 with port; port 0 takes a free one. Wildcards (0.0.0.0, [::]) only "
        "if you write them. A listener that is not on loopback "
        "needs danger_allow_anonymous until it can ask for an identity.",
        reload="live",
        min_length=1,
    )
    certificate: FilePath = _setting(
        "PEM file with the certificate chain, leaf first. A relative path starts at the configuration file.",
        reload="live",
    )
    key: FilePath = _setting(
        "PEM file with the private key of the certificate; readable by its owner only, or root's and by one group.",
        reload="live",
    )
    templates: Annotated[tuple[str, ...], _AsTuple] = _setting(
        "URI templates (RFC 9298 section 2) that are served here, as paths with {target_host} and {target_port}.",
        reload="new",
        default=(DEFAULT_TEMPLATE,),
        min_length=1,
    )
    danger_allow_anonymous: bool = _setting(
        "Serve anybody who can reach the listener. Needed where it is not on loopback; the policy still applies.",
        reload="live",
        default=False,
    )

    @model_validator(mode="after")
    def _anonymous_needs_loopback(self) -> Self:
        outside = [str(address) for address in self.address if not address.is_loopback]
        if outside and not self.danger_allow_anonymous:
            msg = (
                f"{', '.join(outside)} can be reached from other machines and nobody would be asked who they are; "
                "listen on 127.0.0.1 or [::1], or write danger_allow_anonymous = true"
            )
            raise ValueError(msg)
        return self


class Policy(Section):
    """What may be reached: any matching deny wins, then any matching allow; nothing matched means deny."""

    rule: Annotated[tuple[Rule, ...], _AsTuple] = _setting(
        "The rules, as [[policy.rule]] tables; their order does not matter.", reload="live", default=()
    )
    danger_allow_prefixes: Annotated[tuple[str, ...], _AsTuple] = _setting(
        "Prefixes of loopback, link-local, multicast and other addresses that no rule can open otherwise, "
        'e.g. "127.0.0.0/8". A rule must allow them as well.',
        reload="live",
        default=(),
    )
    danger_allow_own_addresses: bool = _setting(
        "Let rules open the addresses of this machine itself; the gateway's own sockets stay closed.",
        reload="live",
        default=False,
    )

    danger_allow_local_names: bool = _setting(
        "Let rules open names of this machine itself, such as localhost.", reload="live", default=False
    )


class Resolver(Section):
    """How target names become addresses; each is looked up once per tunnel."""

    nameservers: Annotated[tuple[Address, ...], _AsTuple] = _setting(
        "DNS servers to ask, with port; empty means those of /etc/resolv.conf.", reload="new", default=()
    )
    timeout_seconds: float = _setting(
        "Bound of one lookup, retries included; then the client gets 504.",
        reload="new",
        unit="seconds",
        default=5.0,
        ge=0.1,
        le=60,
    )
    hosts: dict[str, Annotated[tuple[IpAddress, ...], _AsTuple]] = _setting(
        "Answers that need no question, beside /etc/hosts: name = [addresses].", reload="new", default={}
    )


class Limits(Section):
    """Bounds of the gateway as a whole. The engine has the same table; a test compares the two."""

    max_connections: int = _setting(
        "QUIC connections at once, all workers together; about 64 KiB each.",
        reload="new",
        default=10_000,
        ge=1,
        le=1_000_000,
    )
    half_open_before_retry: int = _setting(
        "Handshakes in flight per worker above which a Retry makes clients prove their address; 0: always.",
        reload="new",
        default=256,
        ge=0,
        le=1_000_000,
    )
    max_tunnels: int = _setting(
        "Tunnels at once, all workers together; beyond, 503. Each takes a descriptor, a port and about 16 KiB.",
        reload="new",
        default=20_000,
        ge=1,
        le=1_000_000,
    )
    max_tunnels_per_connection: int = _setting(
        "Tunnels of one connection at once; beyond, 429. At least 100 should be allowed (RFC 9114 6.1).",
        reload="new",
        default=1024,
        ge=1,
        le=65_536,
    )
    admission_deadline_seconds: int = _setting(
        "From a request to its answer, resolving included; beyond, 504.",
        reload="new",
        unit="seconds",
        default=10,
        ge=1,
        le=60,
    )
    idle_timeout_seconds: int = _setting(
        "A tunnel that carries nothing for this long ends. RFC 9298 3.1 advises against less than 120.",
        reload="new",
        unit="seconds",
        default=120,
        ge=30,
        le=3600,
    )
    tunnel_queue_bytes: int = _setting(
        "What may wait for one client's tunnel; when full the oldest datagrams go.",
        reload="new",
        unit="bytes",
        default=262_144,
        ge=16_384,
        le=16_777_216,
    )
    tunnel_queue_milliseconds: int = _setting(
        "How long a datagram may wait in that queue; older ones are dropped.",
        reload="new",
        unit="milliseconds",
        default=200,
        ge=5,
        le=5_000,
    )
    early_datagram_bytes: int = _setting(
        "Datagrams held per connection that came before their request.",
        reload="new",
        unit="bytes",
        default=65_536,
        ge=0,
        le=1_048_576,
    )
    early_datagram_milliseconds: int = _setting(
        "How long they are held; about one round trip is needed (RFC 9298 5).",
        reload="new",
        unit="milliseconds",
        default=500,
        ge=0,
        le=5_000,
    )
    max_field_section_bytes: int = _setting(
        "The largest header section accepted; beyond, 431.",
        reload="new",
        unit="bytes",
        default=16_384,
        ge=1_024,
        le=65_536,
    )
    capsule_assembly_bytes: int = _setting(
        "Unfinished DATAGRAM capsules held per connection; what exceeds it is skipped.",
        reload="new",
        unit="bytes",
        default=262_144,
        ge=1_500,
        le=16_777_216,
    )
    unknown_capsule_bytes: int = _setting(
        "What capsules of unknown types may carry on one tunnel before it is reset; they are skipped, never held.",
        reload="new",
        unit="bytes",
        default=2_147_483_648,
        ge=65_536,
        le=1_099_511_627_776,
    )


def _read_unknown_context(value: object) -> object:
    match value:
        case None | "drop":
            return value
        case {"abort_after": int(count), **rest} if not rest and 1 <= count <= HIGHEST_COUNT and count is not True:
            return {"abort_after": count}
        case _:
            msg = f'{value!r} is neither "drop" nor {{ abort_after = 100 }}'
            raise ValueError(msg)


UnknownContext = Annotated[
    Literal["drop"] | dict[str, int] | None,
    PlainValidator(_read_unknown_context),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "drop"},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["abort_after"],
                    "properties": {"abort_after": {"type": "integer", "minimum": 1, "maximum": HIGHEST_COUNT}},
                },
            ]
        }
    ),
]


class ProfileOverrides(Section):
    """Single knobs that differ from the profile; each is a place where the RFCs and hardening advice disagree."""

    unknown_capsule: Literal["close", "abort_stream", "skip"] | None = _setting(
        "A capsule of a type that we do not know: close the connection (hardened), abort the stream, or skip it as "
        "RFC 9297 section 3.2 says (interop).",
        reload="new",
        default=None,
    )
    unknown_context: UnknownContext = _setting(
        "Datagrams of a context that nobody registered: drop and count them (both profiles), or also abort the stream "
        "after so many: { abort_after = 100 }.",
        reload="new",
        default=None,
    )
    target_error: Literal["count", "close"] | None = _setting(
        "An error of the target's socket (port unreachable …): count it (hardened), or end the tunnel as RFC 9298 "
        "section 3.1 says (interop).",
        reload="new",
        default=None,
    )
    proxy_status_next_hop: bool | None = _setting(
        "Tell the client in Proxy-Status (RFC 9209) which address was connected (interop: yes, hardened: no).",
        reload="new",
        default=None,
    )


class Engine(Section):
    """The engine and its process."""

    workers: int | None = _setting(
        "Worker threads; absent means one per core that this process may use.",
        reload="restart",
        default=None,
        ge=1,
        le=32,
    )
    drain_timeout_seconds: float = _setting(
        "After SIGTERM open tunnels may go on this long; then they are closed and the process ends.",
        reload="live",
        unit="seconds",
        default=30.0,
        ge=0,
        le=86400,
    )


class Log(Section):
    """What `moretta serve` writes to stderr: one record per tunnel opened, refused and closed, and its own life."""

    format: Literal["auto", "json", "console"] = _setting(
        "json: one object per line; console: for eyes; auto: console on a terminal, json elsewhere.",
        reload="live",
        default="auto",
    )
    level: Literal["debug", "info", "warning", "error"] = _setting(
        "Least important level that is written. Records of tunnels are info, or warning for a refused one; they are "
        "written at every level.",
        reload="live",
        default="info",
    )


class Config(Section):
    """A whole configuration (version 1)."""

    version: Literal[1] = _setting("Version of this file's form.", reload="restart")
    profile: Literal["hardened", "interop"] = _setting(
        "hardened: deny and bound more than the RFCs ask. interop: the RFCs to the letter.",
        reload="new",
        default="hardened",
    )
    proxy_name: str = _setting(
        "Name of this gateway in Proxy-Status (RFC 9209).",
        reload="new",
        default="moretta",
        pattern=r"^[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*$",
        max_length=64,
    )
    profile_overrides: ProfileOverrides = _setting(
        "Knobs that differ from the profile.", reload="new", default=ProfileOverrides()
    )
    engine: Engine = _setting("The engine and its process.", reload="restart", default=Engine())
    listen: dict[ListenerName, Listen] = _setting(
        "Listeners by name, as [listen.NAME] tables.", reload="live", min_length=1
    )
    policy: Policy = _setting("What may be reached.", reload="live", default=Policy())
    resolver: Resolver = _setting("How target names become addresses.", reload="new", default=Resolver())
    limits: Limits = _setting("Bounds of the gateway as a whole.", reload="new", default=Limits())
    log: Log = _setting("What `moretta serve` writes.", reload="live", default=Log())
