"""Doubles for tests: a throwaway authority and a gateway on a free loopback port.

::

    async def test_my_client():
        async with moretta.testing.gateway() as fixture:
            async with fixture.connect() as gateway:
                ...

The gateway allows loopback targets, which no gateway does unless it is told so.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moretta.client import connect
from moretta.pki import Authority, write_new
from moretta.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from moretta._waiting import Opening
    from moretta.client import Gateway

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

#: A policy that allows every UDP target on loopback.
LOOPBACK_POLICY: Mapping[str, Any] = {
    "danger_allow_prefixes": ["127.0.0.0/8", "::1/128"],
    "danger_allow_own_addresses": True,
    "rule": [
        {
            "id": "loopback",
            "action": "allow",
            "protocol": "udp",
            "destination": ["127.0.0.0/8", "::1/128"],
            "ports": "*",
        }
    ],
}


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a throwaway authority and a server certificate that it issued; the key has mode 0600."""

    ca_file: Path
    certificate: Path
    key: Path


def make_certificates(directory: Path, names: Iterable[str] = LOOPBACK_NAMES) -> Certificates:
    """Make an authority and a server certificate in `directory`. Raises FileExistsError rather than overwrite."""
    authority = Authority("moretta testing authority")
    server = authority.issue(names)
    files = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    write_new(files.ca_file, authority.pair.certificate_pem)
    write_new(files.certificate, server.certificate_pem)
    write_new(files.key, server.key_pem, secret=True)
    return files


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """A gateway that runs until the end of the ``async with``."""

    server: Server
    certificates: Certificates

    def connect(self, **arguments: Any) -> Opening[Gateway]:
        """Return `moretta.connect` to this gateway, trusting its authority."""
        return connect(self.server.origin, **{"ca_file": self.certificates.ca_file, **arguments})


def configuration(certificates: Certificates, **sections: Any) -> dict[str, Any]:
    """Return a configuration for one loopback listener on a free port; `sections` replace whole sections of it."""
    return {
        "version": 1,
        "engine": {"workers": 1},
        "listen": {
            "main": {
                "address": ["127.0.0.1:0"],
                "certificate": str(certificates.certificate),
                "key": str(certificates.key),
            }
        },
        "policy": LOOPBACK_POLICY,
        **sections,
    }


@contextlib.asynccontextmanager
async def gateway(
    *,
    directory: Path | None = None,
    on_record: Callable[[Mapping[str, Any]], None] | None = None,
    **sections: Any,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway on a free loopback port with a throwaway certificate, allowing loopback targets.

    directory: where its certificate goes; None makes a temporary one and removes it.
    sections: replace whole sections of the configuration, e.g. ``policy={…}``, ``profile="interop"``.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moretta-")))
        certificates = make_certificates(directory)
        async with Server(configuration(certificates, **sections), on_record=on_record) as server:
            yield RunningGateway(server, certificates)
