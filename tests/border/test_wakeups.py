"""No wake-up is lost, however small the batches and however stalled the loop."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import moretta
from moretta import engine, testing

from .conftest import Echo, until


@pytest.mark.parametrize("batch", [1, 2, 3])
async def test_nothing_is_slept_over_when_batches_are_small(
    proxy: testing.RunningGateway, echo: Echo, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short list must never be read as an empty one: with a batch of one every list is full."""
    monkeypatch.setattr(engine, "BATCH", batch)
    async with proxy.connect() as gateway:
        tunnels = await asyncio.gather(*(gateway.open_udp(echo.host, echo.port) for _ in range(20)))
        for number, tunnel in enumerate(tunnels):
            tunnel.send(str(number).encode())
        received = await asyncio.gather(*(tunnel.recv() for tunnel in tunnels))
        assert received == [str(number).encode() for number in range(20)]
        await asyncio.gather(*(tunnel.close() for tunnel in tunnels))


async def test_one_datagram_at_a_time_always_wakes(gateway: moretta.Gateway, echo: Echo) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        for number in range(1000):
            tunnel.send(number.to_bytes(2, "big"))
            assert await tunnel.recv() == number.to_bytes(2, "big")


async def test_an_empty_datagram_is_a_datagram(gateway: moretta.Gateway, echo: Echo) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        tunnel.send_many([b"1", b"", b"2"])
        assert [await tunnel.recv() for _ in range(3)] == [b"1", b"", b"2"]


async def test_the_descriptor_is_quiet_when_nothing_waits(gateway: moretta.Gateway, echo: Echo) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        tunnel.send(b"x")
        await tunnel.recv()
        await gateway.ping()
        poller = select.poll()
        poller.register(gateway._engine.native.fileno(), select.POLLIN)
        await until(lambda: not poller.poll(0))


async def test_a_stalled_loop_delays_no_datagram_of_a_forward(gateway: moretta.Gateway, echo: Echo) -> None:
    """The loop itself does the asking, with blocking sockets: were it needed for an answer, none would come."""
    async with gateway.forward("127.0.0.1:0", echo.host, echo.port) as forward:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
            local.settimeout(10)
            local.connect(forward.address)
            for number in range(50):
                local.send(str(number).encode())
                assert local.recv(100) == str(number).encode()


async def test_after_a_stall_everything_that_was_kept_is_there(gateway: moretta.Gateway, echo: Echo) -> None:
    async with gateway.open_udp(echo.host, echo.port) as tunnel:
        sent = [str(number).encode() for number in range(200)]
        tunnel.send_many(sent)
        # The loop does not run until everything is back, or was lost in a full socket buffer.
        deadline = time.monotonic() + 5
        while tunnel.counters.received < len(sent) and time.monotonic() < deadline:
            pass
        kept = tunnel.counters.received
        assert kept
        received: list[bytes] = []
        while len(received) < kept:
            received += await tunnel.recv_many()
        assert received == [datagram for datagram in sent if datagram in received]


ECHO = """
import socket
target = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
target.bind(("127.0.0.1", 0))
print(target.getsockname()[1], flush=True)
while True:
    target.sendto(*target.recvfrom(2048))
"""


@pytest.fixture
def echo_process() -> Iterator[int]:
    """The port of a target that needs nothing of this process."""
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


PINGER = """
import os, socket, sys
local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
local.settimeout(10)
local.connect(("127.0.0.1", int(sys.argv[1])))
try:
    for number in range(500):
        local.send(b"%d" % number)
        assert local.recv(100) == b"%d" % number
    os.write(int(sys.argv[2]), b"+")
except BaseException:
    os.write(int(sys.argv[2]), b"-")
    raise
"""


async def test_a_held_interpreter_lock_delays_no_datagram(gateway: moretta.Gateway, echo_process: int) -> None:
    """Gateway, client and forward are in this process, whose interpreter waits in C with its lock held until somebody
    outside has had 500 answers: no thread of ours that wants the lock could have given one."""
    holding_the_lock = ctypes.PyDLL(None)
    reader, writer = os.pipe()
    async with gateway.forward("127.0.0.1:0", "127.0.0.1", echo_process) as forward:
        command = [sys.executable, "-c", PINGER, str(forward.address.port), str(writer)]
        with subprocess.Popen(command, pass_fds=[writer]) as pinger:  # noqa: ASYNC220 -- the loop is to stand still
            said = ctypes.create_string_buffer(1)
            holding_the_lock.read(reader, said, 1)
        os.close(reader)
        os.close(writer)
    assert (said.value, pinger.returncode) == (b"+", 0)
