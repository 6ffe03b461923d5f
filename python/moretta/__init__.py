"""moretta: UDP through HTTP/3 as RFC 9298 says it, as a gateway and as a client.

A gateway in a program::

    async with moretta.Server("moretta.toml") as server:
        ...

A client::

    async with moretta.connect("https://gateway.example") as gateway:
        async with gateway.open_udp("192.0.2.1", 53) as tunnel:
            tunnel.send(query)
            answer = await tunnel.recv()

Errors are one tree under `MorettaError` (see `moretta.errors`). `moretta.testing` has a throwaway gateway for tests.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moretta.address import SocketAddress
    from moretta.client import Forward, Gateway, connect
    from moretta.config import Config
    from moretta.errors import (
        ConfigurationError,
        CredentialsRefused,
        DatagramTooLarge,
        EngineClosed,
        EngineFault,
        GatewayClosed,
        GatewayOverloaded,
        GatewayUnreachable,
        GatewayUntrusted,
        LimitReached,
        ListenError,
        ListenNotPermitted,
        MorettaError,
        NarrowPathWarning,
        PolicyRefused,
        Problem,
        RequestRejected,
        TargetUnreachable,
        TargetUnresolvable,
        TunnelClosed,
        TunnelRefused,
    )
    from moretta.policy import Rule
    from moretta.server import Server
    from moretta.transport import TunnelTransport
    from moretta.udp import TunnelCounters, UdpTunnel

# Where each public name lives. They are imported on first use, so that `moretta --help` does not wait for what it does
# not need.
_HOME = {
    "Config": "config",
    "ConfigurationError": "errors",
    "CredentialsRefused": "errors",
    "DatagramTooLarge": "errors",
    "EngineClosed": "errors",
    "EngineFault": "errors",
    "Forward": "client",
    "Gateway": "client",
    "GatewayClosed": "errors",
    "GatewayOverloaded": "errors",
    "GatewayUnreachable": "errors",
    "GatewayUntrusted": "errors",
    "LimitReached": "errors",
    "ListenError": "errors",
    "ListenNotPermitted": "errors",
    "MorettaError": "errors",
    "NarrowPathWarning": "errors",
    "PolicyRefused": "errors",
    "Problem": "errors",
    "RequestRejected": "errors",
    "Rule": "policy",
    "Server": "server",
    "SocketAddress": "address",
    "TargetUnreachable": "errors",
    "TargetUnresolvable": "errors",
    "TunnelClosed": "errors",
    "TunnelCounters": "udp",
    "TunnelRefused": "errors",
    "TunnelTransport": "transport",
    "UdpTunnel": "udp",
    "connect": "client",
}

__all__ = [
    "Config",
    "ConfigurationError",
    "CredentialsRefused",
    "DatagramTooLarge",
    "EngineClosed",
    "EngineFault",
    "Forward",
    "Gateway",
    "GatewayClosed",
    "GatewayOverloaded",
    "GatewayUnreachable",
    "GatewayUntrusted",
    "LimitReached",
    "ListenError",
    "ListenNotPermitted",
    "MorettaError",
    "NarrowPathWarning",
    "PolicyRefused",
    "Problem",
    "RequestRejected",
    "Rule",
    "Server",
    "SocketAddress",
    "TargetUnreachable",
    "TargetUnresolvable",
    "TunnelClosed",
    "TunnelCounters",
    "TunnelRefused",
    "TunnelTransport",
    "UdpTunnel",
    "connect",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
