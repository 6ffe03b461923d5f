"""quic-go's masque-go v0.4.0 as client of our gateway and as the proxy of our client (CF-7)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import moretta
from rig.fixtures import Authority, Gateway, OpenGateway, Target

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

STOCK_SIZES = [64, 65, 500, 1199, 1200]
LARGE_SIZES = [64, 1200, 1300, 1400]
PATIENCE_SECONDS = 15.0


@dataclass
class Peer:
    """A foreign program that prints one fact per line and reads one command per line."""

    process: asyncio.subprocess.Process

    async def fact(self, event: str) -> dict[str, Any]:
        """The next fact of this kind; the ones before it are passed over."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while line := await self.process.stdout.readline():
                fact: dict[str, Any] = json.loads(line)
                if fact["event"] == event:
                    return fact
        assert self.process.stderr is not None
        raise AssertionError(f"the peer ended before {event!r}: {(await self.process.stderr.read()).decode()}")

    def command(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")


@contextlib.asynccontextmanager
async def running(*arguments: str | Path, environment: dict[str, str] | None = None) -> AsyncIterator[Peer]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *map(str, arguments), stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **(environment or {})}
    )
    try:
        yield Peer(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# masque-go as client of our gateway


async def test_masque_gos_own_client_fetches_a_page_through_our_gateway(
    go_peers: Path, open_gateway: OpenGateway, authority: Authority, http3_origin: int
) -> None:
    """An inner QUIC handshake works from its first packet (CF-4)."""
    async with open_gateway() as gateway:
        template = f"https://localhost:{gateway.address[1]}/.well-known/masque/udp/{{target_host}}/{{target_port}}/"
        trust = {"SSL_CERT_FILE": str(authority.ca_file)}
        async with running(
            go_peers / "client", "-t", template, f"https://127.0.0.1:{http3_origin}/", environment=trust
        ) as peer:
            _, stderr = await asyncio.wait_for(peer.process.communicate(), PATIENCE_SECONDS)
            assert b"HTTP status: 200" in stderr, stderr.decode()
            assert b"hello from the origin" in stderr


def client_arguments(go_peers: Path, port: int, authority: Authority, target: tuple[str, int]) -> list[str | Path]:
    template = f"https://127.0.0.1:{port}/.well-known/masque/udp/{{target_host}}/{{target_port}}/"
    return [
        go_peers / "interop",
        "client",
        "-template",
        template,
        "-ca",
        authority.ca_file,
        "-target",
        f"{target[0]}:{target[1]}",
    ]


@pytest.fixture
async def their_tunnel(
    go_peers: Path, gateway: Gateway, authority: Authority, echo_target: Target
) -> AsyncIterator[Peer]:
    """A tunnel of masque-go's library through our gateway to an echo, open and tried."""
    async with running(*client_arguments(go_peers, gateway.address[1], authority, echo_target.address)) as peer:
        await peer.fact("opened")
        await echoed_by_peer(peer, 64)
        yield peer


async def test_payloads_of_64_to_1400_bytes_pass_both_ways_through_our_gateway(their_tunnel: Peer) -> None:
    for size in LARGE_SIZES:
        await echoed_by_peer(their_tunnel, size)


async def echoed_by_peer(peer: Peer, size: int) -> None:
    """Sends `size` bytes until they come back: what is larger than the path so far known is dropped, while its MTU is searched."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            peer.command(do="send", size=size, fill=size % 251)
            with contextlib.suppress(TimeoutError):
                fact = await asyncio.wait_for(peer.fact("received"), 0.25)
                if fact["size"] == size:
                    assert fact["uniform"]
                    return


async def test_a_refusal_of_ours_reaches_masque_go_with_its_proxy_status(
    go_peers: Path, open_gateway: OpenGateway, authority: Authority, target: Target
) -> None:
    async with (
        open_gateway(rules=[]) as gateway,
        running(*client_arguments(go_peers, gateway.address[1], authority, target.address)) as peer,
    ):
        fact = await peer.fact("response")
        assert fact["status"] == 403
        assert "error=destination_ip_prohibited" in fact["proxy_status"]


async def test_masque_gos_close_frees_the_tunnel_at_our_gateway(their_tunnel: Peer, gateway: Gateway) -> None:
    assert gateway.counter("gauges.tunnels") == 1
    their_tunnel.command(do="close")
    await their_tunnel.fact("ended")
    await gateway.reaches("gauges.tunnels", 0)


async def test_our_drain_ends_masque_gos_tunnel(their_tunnel: Peer, gateway: Gateway) -> None:
    await gateway.server.drain(deadline_seconds=0.2)
    await their_tunnel.fact("ended")


# masque-go as proxy of our client


@contextlib.asynccontextmanager
async def stock_proxy(go_peers: Path, authority: Authority) -> AsyncIterator[str]:
    port = free_port()
    template = f"https://127.0.0.1:{port}/masque?h={{target_host}}&p={{target_port}}"
    async with running(
        go_peers / "proxy", "-t", template, "-b", f"127.0.0.1:{port}", "-c", authority.certificate, "-k", authority.key
    ):
        await asyncio.to_thread(wait_until_bound, port)
        yield template


def wait_until_bound(port: int) -> None:
    """Wait until somebody listens: the stock program does not say when it does, the kernel's table shows it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(f":{port:04X} " in Path(table).read_text() for table in ("/proc/net/udp", "/proc/net/udp6")):
        assert time.monotonic() < deadline, f"nobody listens on port {port}"
        time.sleep(0.01)


@contextlib.asynccontextmanager
async def harness_proxy(go_peers: Path, authority: Authority, *arguments: str) -> AsyncIterator[tuple[str, Peer]]:
    port = free_port()
    template = f"https://127.0.0.1:{port}/masque?h={{target_host}}&p={{target_port}}"
    options: list[str | Path] = [
        "-template",
        template,
        "-bind",
        f"127.0.0.1:{port}",
        "-cert",
        authority.certificate,
        "-key",
        authority.key,
        *arguments,
    ]
    async with running(go_peers / "interop", "proxy", *options) as peer:
        await peer.fact("listening")
        yield template, peer


@contextlib.asynccontextmanager
async def our_client_at_the_harness(
    go_peers: Path, authority: Authority, *arguments: str
) -> AsyncIterator[tuple[moretta.Gateway, Peer]]:
    async with (
        harness_proxy(go_peers, authority, *arguments) as (template, peer),
        moretta.connect(template, ca_file=authority.ca_file) as gateway,
    ):
        yield gateway, peer


async def echoed_by_us(tunnel: moretta.UdpTunnel, size: int) -> None:
    payload = bytes([size % 251]) * size
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(moretta.DatagramTooLarge):
                tunnel.send(payload)
            with contextlib.suppress(TimeoutError):
                if await asyncio.wait_for(tunnel.recv(), 0.25) == payload:
                    return


async def test_our_client_speaks_with_masque_gos_own_proxy(
    go_peers: Path, authority: Authority, echo_target: Target
) -> None:
    async with (
        stock_proxy(go_peers, authority) as template,
        moretta.connect(template, ca_file=authority.ca_file) as gateway,
        gateway.open_udp(*echo_target.address) as tunnel,
    ):
        assert tunnel.max_datagram_size >= 1200
        for size in STOCK_SIZES:
            await echoed_by_us(tunnel, size)


async def test_our_client_passes_1400_bytes_through_a_proxy_with_larger_packets(
    go_peers: Path, authority: Authority, echo_target: Target
) -> None:
    async with (
        our_client_at_the_harness(go_peers, authority) as (gateway, _),
        gateway.open_udp(*echo_target.address) as tunnel,
    ):
        for size in LARGE_SIZES:
            await echoed_by_us(tunnel, size)


async def test_a_refusal_of_masque_go_is_raised_with_its_status(
    go_peers: Path, authority: Authority, target: Target
) -> None:
    async with our_client_at_the_harness(go_peers, authority, "-refuse", "403") as (gateway, _):
        with pytest.raises(moretta.TunnelRefused) as refused:
            await gateway.open_udp(*target.address)
        assert refused.value.status == 403


async def test_our_close_ends_masque_gos_tunnel_and_the_connection_goes_on(
    go_peers: Path, authority: Authority, echo_target: Target
) -> None:
    async with our_client_at_the_harness(go_peers, authority) as (gateway, _):
        async with gateway.open_udp(*echo_target.address) as tunnel:
            await echoed_by_us(tunnel, 64)
        async with gateway.open_udp(*echo_target.address) as tunnel:
            await echoed_by_us(tunnel, 65)


async def test_masque_gos_close_ends_our_tunnel(go_peers: Path, authority: Authority, echo_target: Target) -> None:
    async with our_client_at_the_harness(go_peers, authority) as (gateway, peer):
        tunnel = await gateway.open_udp(*echo_target.address)
        await echoed_by_us(tunnel, 64)
        peer.command(do="close")
        await asyncio.wait_for(tunnel.wait_closed(), PATIENCE_SECONDS)
