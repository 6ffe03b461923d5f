"""A real gateway, a real target and a certificate authority, as fixtures; tests/conftest.py makes them known to pytest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

import moretta
from rig.peer import RawPeer, connect_udp_fields, raw_client

WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Authority:
    ca_file: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    server = ca.issue_cert("localhost", "127.0.0.1", "::1")
    files = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca.cert_pem.write_to_path(str(files.ca_file))
    with files.certificate.open("wb") as out:
        for part in server.cert_chain_pems:
            out.write(part.bytes())
    server.private_key_pem.write_to_path(str(files.key))
    files.key.chmod(0o600)
    return files


@dataclass
class Target(asyncio.DatagramProtocol):
    """A UDP target: remembers what came and from where, and sends what a test wants."""

    address: tuple[str, int] = ("", 0)
    received: list[tuple[bytes, tuple[str, int]]] = field(default_factory=list)
    echo: bool = False
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.address = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.append((data, addr[:2]))
        if self.echo:
            self.send(data, addr[:2])
        self._arrived.set()

    def send(self, data: bytes, address: tuple[str, int] | None = None) -> None:
        assert self._transport is not None
        self._transport.sendto(data, address or self.received[-1][1])

    async def take(self, seconds: float = WAIT_SECONDS) -> bytes:
        """The oldest payload not taken yet."""
        async with asyncio.timeout(seconds):
            while not self.received:
                self._arrived.clear()
                await self._arrived.wait()
        return self.received.pop(0)[0]

    async def peer(self, seconds: float = WAIT_SECONDS) -> tuple[str, int]:
        """Takes the oldest payload and returns the gateway's address behind it."""
        async with asyncio.timeout(seconds):
            while not self.received:
                self._arrived.clear()
                await self._arrived.wait()
        return self.received.pop(0)[1]


@contextlib.asynccontextmanager
async def udp_target(host: str = "127.0.0.1", *, echo: bool = False) -> AsyncIterator[Target]:
    target = Target(echo=echo)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: target, local_addr=(host, 0))
    try:
        yield target
    finally:
        transport.close()


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with udp_target() as opened:
        yield opened


@pytest.fixture
async def echo_target() -> AsyncIterator[Target]:
    async with udp_target(echo=True) as opened:
        yield opened


@dataclass
class Gateway:
    server: moretta.Server
    address: tuple[str, int]
    authority: Authority
    #: What it was started with, for a reload of something near it.
    configuration: dict[str, Any]

    @property
    def host(self) -> str:
        """The gateway's own `:authority`."""
        return f"localhost:{self.address[1]}"

    def client(self, **arguments: Any) -> contextlib.AbstractAsyncContextManager[RawPeer]:
        return raw_client(self.address, self.authority.ca_file, **arguments)

    async def open(self, peer: RawPeer, target: tuple[str, int], **arguments: Any) -> int:
        """Opens a tunnel and returns its stream, once the gateway has accepted it."""
        stream_id = peer.request(connect_udp_fields(self.host, target[0], target[1], **arguments))
        response = await peer.response(stream_id)
        assert response.status == 200, response
        return stream_id

    def counter(self, name: str) -> int:
        """One counter of `stats()` by its dotted path, 0 where it has not moved."""
        value: Any = self.server.stats()
        for part in name.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        return value if isinstance(value, int) else 0

    async def reaches(self, name: str, value: int) -> None:
        """Waits until a counter has this value."""
        async with asyncio.timeout(WAIT_SECONDS):
            while self.counter(name) != value:  # noqa: ASYNC110 -- counters are asked for, not announced
                await asyncio.sleep(0.005)


OpenGateway = Callable[..., contextlib.AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def open_gateway(authority: Authority, request: pytest.FixtureRequest) -> OpenGateway:
    profile = request.config.getoption("--profile")

    @contextlib.asynccontextmanager
    async def opened(
        *,
        rules: list[dict[str, Any]] | None = None,
        danger: list[str] | None = None,
        templates: list[str] | None = None,
        limits: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        resolver: dict[str, Any] | None = None,
        listener: dict[str, Any] | None = None,
    ) -> AsyncIterator[Gateway]:
        main: dict[str, Any] = {
            "address": ["127.0.0.1:0"],
            "certificate": str(authority.certificate),
            "key": str(authority.key),
            **(listener or {}),
        }
        if templates is not None:
            main["templates"] = templates
        configuration: dict[str, Any] = {
            "version": 1,
            "profile": profile,
            "listen": {"main": main},
            "policy": {
                "danger_allow_prefixes": ["127.0.0.0/8", "::1/128"] if danger is None else danger,
                "danger_allow_own_addresses": True,
                "rule": [
                    {
                        "id": "all",
                        "action": "allow",
                        "protocol": "udp",
                        "destination": ["*", "127.0.0.0/8", "::1/128"],
                        "ports": "*",
                    }
                ]
                if rules is None
                else rules,
            },
        }
        if danger is not None:
            configuration["policy"]["danger_allow_own_addresses"] = False
        optional = {"limits": limits, "profile_overrides": overrides, "resolver": resolver}
        configuration |= {key: value for key, value in optional.items() if value is not None}
        async with moretta.Server(configuration) as server:
            host, port = server.addresses[0][:2]
            yield Gateway(server, (host, port), authority, configuration)

    return opened


@pytest.fixture
async def gateway(open_gateway: OpenGateway) -> AsyncIterator[Gateway]:
    async with open_gateway() as opened:
        yield opened


@pytest.fixture
async def peer(gateway: Gateway) -> AsyncIterator[RawPeer]:
    async with gateway.client() as opened:
        yield opened
