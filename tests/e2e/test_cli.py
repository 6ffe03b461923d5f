"""The verbs as processes: what they print, how they end, what signals do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import moretta
from moretta import testing

from .conftest import EchoProtocol
from .test_server import ALLOW, written


class Process:
    """A verb that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []

    async def facts(self) -> dict[str, Any]:
        """Return the one document on stdout."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise AssertionError((await self.rest())[1])
        document: dict[str, Any] = json.loads(line)
        return document

    async def log(self, event: str) -> dict[str, Any]:
        """Return the next log line of this kind."""
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        msg = f"no {event} in {self.lines}"
        raise AssertionError(msg)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def write(self, data: bytes, *, end: bool = False) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        if end:
            self._process.stdin.write_eof()

    async def read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        return await self._process.stdout.readexactly(count)

    async def rest(self) -> tuple[int, str]:
        """Wait for the end; return exit code and what was left on stderr."""
        _, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, err.decode()


@contextlib.asynccontextmanager
async def verb(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "moretta",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def file(tmp_path: Path, certificates: testing.Certificates) -> Path:
    return written(tmp_path / "moretta.toml", certificates, "", ALLOW)


def origin(facts: dict[str, Any]) -> str:
    return f"https://{facts['listeners'][0]['addresses'][0]}"


async def test_serve_says_where_it_is_and_logs_every_tunnel(
    file: Path, certificates: testing.Certificates, echo: EchoProtocol
) -> None:
    async with verb("serve", "-c", str(file), "--json", "--workers", "1") as process:
        facts = await process.facts()
        assert (facts["event"], facts["workers"]) == ("serving", 1)
        assert facts["listeners"][0]["certificate"] == str(certificates.certificate)
        async with moretta.connect(origin(facts), ca_file=certificates.ca_file) as gateway:
            async with gateway.open_udp(*echo.address) as tunnel:
                tunnel.send(b"x")
                await tunnel.recv()
            opened = await process.log("tunnel.open")
            closed = await process.log("tunnel.close")
            with pytest.raises(moretta.PolicyRefused):
                await gateway.open_udp("192.0.2.1", 53)
            refused = await process.log("tunnel.refused")
        assert (opened["target_host"], opened["target_port"], opened["rule"]) == (*echo.address, "all")
        assert (closed["tunnel_id"], closed["bytes_to_target"]) == (opened["tunnel_id"], 1)
        assert (refused["status"], refused["target_host"]) == (403, "192.0.2.1")
        process.send(signal.SIGTERM)
        code, _ = await process.rest()
        assert code == 0


async def test_sighup_reloads_and_a_refused_file_changes_nothing(
    file: Path, certificates: testing.Certificates, echo: EchoProtocol
) -> None:
    async with verb("serve", "-c", str(file), "--json") as process:
        facts = await process.facts()
        async with (
            moretta.connect(origin(facts), ca_file=certificates.ca_file) as gateway,
            gateway.open_udp(*echo.address) as tunnel,
        ):
            written(file, certificates, "", ALLOW.replace("id =", "di ="))
            process.send(signal.SIGHUP)
            refused = await process.log("configuration.refused")
            assert "did you mean id?" in str(refused["problems"])
            assert refused["in_force"] == 1
            tunnel.send(b"x")
            assert await tunnel.recv() == b"x"
            written(file, certificates, "", ALLOW.replace('"all"', '"changed"'))
            process.send(signal.SIGHUP)
            applied = await process.log("configuration.applied")
            assert applied["generation"] == 2
            tunnel.send(b"y")
            assert await tunnel.recv() == b"y"
            async with gateway.open_udp(*echo.address):
                assert (await process.log("tunnel.open"))["rule"] == "changed"


async def test_sigterm_waits_for_open_tunnels_and_a_second_one_does_not(
    file: Path, certificates: testing.Certificates, echo: EchoProtocol
) -> None:
    async with verb("serve", "-c", str(file), "--json") as process:
        facts = await process.facts()
        async with moretta.connect(origin(facts), ca_file=certificates.ca_file) as gateway:
            tunnel = await gateway.open_udp(*echo.address)
            process.send(signal.SIGTERM)
            await process.log("gateway.drain")
            tunnel.send(b"x")
            assert await tunnel.recv() == b"x"
            async with verb("ping", origin(facts), "--ca", str(certificates.ca_file)) as late:
                code, err = await late.rest()
                assert code == 5
                assert "takes no new connections now" in err and "check the address" not in err
            process.send(signal.SIGTERM)
            await process.log("gateway.close")
            await tunnel.wait_closed()
        code, _ = await process.rest()
        assert code == 0


async def test_a_drained_gateway_ends_by_itself(
    file: Path, certificates: testing.Certificates, echo: EchoProtocol
) -> None:
    async with verb("serve", "-c", str(file), "--json") as process:
        facts = await process.facts()
        async with moretta.connect(origin(facts), ca_file=certificates.ca_file) as gateway:
            async with gateway.open_udp(*echo.address):
                process.send(signal.SIGINT)
                await process.log("gateway.drain")
            code, _ = await process.rest()
            assert code == 0


async def test_a_second_gateway_on_the_same_port_says_what_to_do(
    file: Path, certificates: testing.Certificates
) -> None:
    async with verb("serve", "-c", str(file), "--json") as process:
        address = (await process.facts())["listeners"][0]["addresses"][0]
        async with verb("serve", "-c", str(file), "--set", f'listen.main.address=["{address}"]') as second:
            code, err = await second.rest()
        assert code == 1
        assert "in use" in err
        assert len(err.splitlines()) == 1


async def test_netcat_carries_stdin_and_stdout(proxy: testing.RunningGateway, echo: EchoProtocol) -> None:
    host, port = echo.address
    ca = str(proxy.certificates.ca_file)
    async with verb("nc", "-u", host, str(port), "-w", "0.2", "-g", proxy.server.origin, "--ca", ca) as process:
        process.write(b"hello")
        assert await process.read(5) == b"hello"
        process.write(b" world", end=True)
        assert await process.read(6) == b" world"
        code, err = await process.rest()
        assert (code, "connected to" in err) == (0, True)


async def test_netcat_to_a_refused_target_is_denied(proxy: testing.RunningGateway) -> None:
    environment = {"MORETTA_GATEWAY": proxy.server.origin, "MORETTA_CA": str(proxy.certificates.ca_file)}
    async with verb("nc", "-u", "192.0.2.1", "53", **environment) as process:
        code, err = await process.rest()
    assert code == 4
    assert "its log has the reason" in err


async def test_ping_prints_round_trips(proxy: testing.RunningGateway) -> None:
    ca = str(proxy.certificates.ca_file)
    async with verb("ping", proxy.server.origin, "--ca", ca, "-n", "2", "--json") as process:
        facts = await process.facts()
        code, _ = await process.rest()
    assert code == 0
    assert len(facts["round_trip_seconds"]) == 2
    assert facts["handshake_seconds"] > 0


async def test_ping_of_an_untrusted_gateway_is_unreachable_and_says_how_to_trust(proxy: testing.RunningGateway) -> None:
    async with verb("ping", proxy.server.origin) as process:
        code, err = await process.rest()
    assert code == 5
    assert "--ca" in err


async def test_the_health_check_of_the_image_follows_the_gateway(proxy: testing.RunningGateway) -> None:
    image = (Path(__file__).parents[2] / "deploy/Containerfile").read_text()
    arguments = json.loads(image.split("HEALTHCHECK")[1].split("CMD", 1)[1].split("\n")[0])
    settings = {"MORETTA_GATEWAY": proxy.server.origin, "MORETTA_CA": str(proxy.certificates.ca_file)}
    assert arguments[0] == "moretta"
    assert all(f" {name}=" in image for name in settings)
    for healthy in (True, False):
        async with verb(*arguments[1:], **settings) as process:
            code, _ = await process.rest()
        assert (code == 0) == healthy
        await proxy.server.close()


async def test_forward_listens_until_it_is_interrupted(proxy: testing.RunningGateway, echo: EchoProtocol) -> None:
    host, port = echo.address
    ca = str(proxy.certificates.ca_file)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    class Peer(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- asyncio's shape
            answer.set_result(data)

    specification = f"127.0.0.1:0:{host}:{port}/udp"
    async with verb("forward", "-L", specification, proxy.server.origin, "--ca", ca, "--json") as process:
        facts = await process.facts()
        local, _, number = facts["forwards"][0]["address"].rpartition(":")
        transport, _ = await loop.create_datagram_endpoint(Peer, remote_addr=(local, int(number)))
        transport.sendto(b"x")
        assert await answer == b"x"
        transport.close()
        process.send(signal.SIGINT)
        code, _ = await process.rest()
        assert code == 0
