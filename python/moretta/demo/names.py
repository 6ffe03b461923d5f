"""DNS with dnspython, whose sockets are tunnels."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import dns.asyncbackend
import dns.asyncresolver
import dns.exception

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Protocol

    class Tunnel(Protocol):
        """The part of `moretta.UdpTunnel` that is used here."""

        def send(self, payload: bytes, /) -> object: ...
        async def recv(self) -> bytes: ...
        async def close(self) -> None: ...


AT_ONCE = 8


class TunnelSocket(dns.asyncbackend.DatagramSocket):
    """A tunnel in the shape in which dnspython expects a connected UDP socket."""

    def __init__(self, family: int, tunnel: Tunnel, destination: tuple[Any, ...]) -> None:
        super().__init__(family, socket.SOCK_DGRAM)
        self._tunnel = tunnel
        self._destination = destination

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        self._tunnel.send(what)
        return len(what)

    async def recvfrom(self, size: int, timeout: float | None) -> tuple[bytes, Any]:
        try:
            async with asyncio.timeout(timeout):
                return await self._tunnel.recv(), self._destination
        except TimeoutError:
            # dnspython asks again after its own error only, as a resolver should after a lost datagram.
            raise dns.exception.Timeout(timeout=timeout) from None  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._tunnel.close()

    async def getpeername(self) -> Any:
        return self._destination

    async def getsockname(self) -> Any:
        return ("0.0.0.0", 0)  # noqa: S104 a tunnel has no local address


class TunnelBackend(dns.asyncbackend.Backend):
    """Gives dnspython a new tunnel wherever it would open a UDP socket: every query has its own."""

    def __init__(self, open_udp: Callable[[str, int], Awaitable[Tunnel]]) -> None:
        self._open_udp = open_udp

    def name(self) -> str:
        return "moretta"

    def datagram_connection_required(self) -> bool:
        """A tunnel is opened towards one target."""
        return True

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> TunnelSocket:
        if socktype != socket.SOCK_DGRAM:
            raise NotImplementedError("only UDP travels through this demo's tunnels")
        return TunnelSocket(af, await self._open_udp(destination[0], destination[1]), destination)

    async def sleep(self, interval: float) -> None:
        await asyncio.sleep(interval)

    async def wait_for(self, awaitable: Awaitable[Any], timeout: float | None) -> Any:
        return await asyncio.wait_for(awaitable, timeout)


async def resolve_all(
    expected: Mapping[str, str], server: tuple[str, int], backend: TunnelBackend, on_progress: Callable[[int], None]
) -> list[str]:
    """Resolve every name of `expected` at `server`; returns one sentence for each answer that differs."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [server[0]]
    resolver.port = server[1]
    resolver.cache = None
    free = asyncio.Semaphore(AT_ONCE)
    done = 0
    wrong: list[str] = []

    async def one(name: str, address: str) -> None:
        nonlocal done
        async with free:
            answer = await resolver.resolve(name + ".", "A", backend=backend)
        found = [record.to_text() for record in answer]
        if found != [address]:
            wrong.append(f"{name} is {address} in the zone, but {', '.join(found)} arrived")
        done += 1
        on_progress(done)

    async with asyncio.TaskGroup() as group:
        for name, address in expected.items():
            group.create_task(one(name, address))
    return wrong
