"""A tunnel's socket goes with its tunnel (AU-12)."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import moretta
from moretta import testing

from .conftest import Echo, until

#: C-7: how soon after its end.
BOUND_SECONDS = 0.1
#: Medians are asserted: one of many may meet a busy machine.
TRIES = 15


def connected_to(port: int) -> int:
    """How many sockets of this network namespace the kernel has connected to a port of 127.0.0.1."""
    table = Path("/proc/net/udp").read_text().splitlines()[1:]
    return sum(line.split()[2] == f"0100007F:{port:04X}" for line in table)


async def finish(tunnel: moretta.UdpTunnel) -> None:
    await tunnel.close()


async def reset(tunnel: moretta.UdpTunnel) -> None:
    tunnel.abort()


@pytest.mark.parametrize("end", [finish, reset])
async def test_a_socket_is_gone_within_100_ms_of_its_tunnels_end(
    proxy: testing.RunningGateway,
    gateway: moretta.Gateway,
    echo: Echo,
    end: Callable[[moretta.UdpTunnel], asyncio.Future[None]],
) -> None:
    took = []
    for _ in range(TRIES):
        tunnel = await gateway.open_udp(echo.host, echo.port)
        tunnel.send(b"hello")
        assert await tunnel.recv() == b"hello"
        assert connected_to(echo.port) == 1
        tunnel.send_many([b"last"] * 20)
        began = time.monotonic()
        await end(tunnel)
        await until(lambda: not connected_to(echo.port))
        took.append(time.monotonic() - began)
    median = statistics.median(took)
    said = f"{median * 1000:.1f} ms in the median of {TRIES}, at most {max(took) * 1000:.1f} ms"
    print(f"socket gone after {said}")  # noqa: T201 -- a stated bound: its measure is worth seeing
    assert median <= BOUND_SECONDS, said
    # What was sent last was carried or is counted.
    core = proxy.server.stats()["core"]
    dropped = sum(count for name, count in core.items() if name.startswith("up_dropped_"))
    assert core["datagrams_from_peer"] == core["datagrams_to_flows"] + dropped


async def test_a_socket_is_gone_with_the_gateway_that_opened_it(echo: Echo) -> None:
    async with testing.gateway() as proxy, proxy.connect() as gateway:
        for _ in range(10):
            await gateway.open_udp(echo.host, echo.port)
        assert connected_to(echo.port) == 10
        began = time.monotonic()
        await proxy.server.close()
        await until(lambda: not connected_to(echo.port))
        assert time.monotonic() - began <= 1, "closing ends within a second"
