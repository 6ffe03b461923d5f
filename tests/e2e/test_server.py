"""The gateway as a program embeds it."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import moretta
from moretta import testing

from .conftest import EchoProtocol

NOBODY = 65534


def written(path: Path, certificates: testing.Certificates, *more: str) -> Path:
    lines = [
        "version = 1",
        *more[:1],
        "[listen.main]",
        'address = ["127.0.0.1:0"]',
        f'certificate = "{certificates.certificate.name}"',
        f'key = "{certificates.key.name}"',
        "[policy]",
        'danger_allow_prefixes = ["127.0.0.0/8"]',
        "danger_allow_own_addresses = true",
        *more[1:],
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


ALLOW = '[[policy.rule]]\nid = "all"\naction = "allow"\nprotocol = "udp"\ndestination = ["127.0.0.0/8"]\nports = "*"'


class Records(list[Mapping[str, Any]]):
    """What a server says about its tunnels."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Event()

    def __call__(self, record: Mapping[str, Any]) -> None:
        self.append(record)
        self.changed.set()

    async def until(self, event: str, count: int = 1) -> list[Mapping[str, Any]]:
        while len(found := [record for record in self if record["event"] == event]) < count:
            self.changed.clear()
            await self.changed.wait()
        return found


async def test_addresses_have_the_real_ports_in_the_order_of_the_configuration(
    certificates: testing.Certificates,
) -> None:
    configuration = testing.configuration(certificates)
    main = configuration["listen"]["main"]
    configuration["listen"] = {"main": {**main, "address": ["127.0.0.1:0", "127.0.0.2:0"]}, "second": main}
    async with moretta.Server(configuration) as server:
        assert [address.host for address in server.addresses] == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        assert all(address.port for address in server.addresses)
        assert list(server.listeners) == ["main", "second"]
        assert server.origin == f"https://{server.addresses[0]}"


async def test_every_tunnel_has_a_record_when_it_opens_and_when_it_closes(echo: EchoProtocol) -> None:
    records = Records()
    async with testing.gateway(on_record=records) as proxy, proxy.connect() as gateway:
        async with gateway.open_udp(*echo.address) as tunnel:
            tunnel.send(b"12345")
            await tunnel.recv()
            (opened,) = await records.until("record_opened")
        (closed,) = await records.until("record_closed")
    assert (opened["target_host"], opened["target_port"], opened["rule"]) == (*echo.address, "loopback")
    assert opened["listener"] == "main"
    assert closed["tunnel_id"] == opened["tunnel_id"]
    assert closed["reason"] == "client_finished"
    counters = closed["counters"]
    assert (counters["datagrams_to_target"], counters["bytes_to_target"]) == (1, 5)
    assert (counters["datagrams_from_target"], counters["bytes_from_target"]) == (1, 5)


async def test_a_refused_tunnel_has_a_record_with_its_reason() -> None:
    records = Records()
    async with testing.gateway(on_record=records) as proxy, proxy.connect() as gateway:
        with pytest.raises(moretta.PolicyRefused):
            await gateway.open_udp("192.0.2.1", 53)
        (refused,) = await records.until("record_refused")
    assert (refused["status"], refused["target_host"], refused["target_port"]) == (403, "192.0.2.1", 53)


async def test_a_reload_keeps_open_tunnels_and_changes_what_new_ones_may(
    certificates: testing.Certificates, tmp_path: Path, echo: EchoProtocol
) -> None:
    file = written(tmp_path / "moretta.toml", certificates, "", ALLOW)
    other = ALLOW.replace('"127.0.0.0/8"', '"127.0.0.0/8", "192.0.2.0/24"')
    async with (
        moretta.Server(file) as server,
        moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway,
        gateway.open_udp(*echo.address) as tunnel,
    ):
        with pytest.raises(moretta.PolicyRefused):
            await gateway.open_udp("192.0.2.1", 53)
        addresses = server.addresses
        written(file, certificates, "", other)
        await server.reload()
        assert (server.generation, server.addresses) == (2, addresses)
        tunnel.send(b"still here")
        assert await tunnel.recv() == b"still here"
        try:
            async with gateway.open_udp("192.0.2.1", 53):
                pass
        except moretta.PolicyRefused:
            pytest.fail("the new rule is not in force")
        except moretta.TargetUnreachable:
            pass  # this machine has no route there, and the policy did not stand in the way


async def test_a_reload_that_no_longer_allows_a_tunnel_ends_it(
    certificates: testing.Certificates, tmp_path: Path, echo: EchoProtocol
) -> None:
    file = written(tmp_path / "moretta.toml", certificates, "", ALLOW)
    async with (
        moretta.Server(file) as server,
        moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway,
    ):
        tunnel = await gateway.open_udp(*echo.address)
        written(file, certificates, "")
        await server.reload()
        await tunnel.wait_closed()
        with pytest.raises(moretta.PolicyRefused):
            await gateway.open_udp(*echo.address)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("profil = 'interop'", ALLOW), "moretta.toml:2: profil"),
        (("", ALLOW.replace("127.0.0.0/8", "127.0.0.0/99")), "policy.rule[0].destination[0]"),
    ],
)
async def test_a_refused_reload_changes_nothing(
    certificates: testing.Certificates, tmp_path: Path, echo: EchoProtocol, change: tuple[str, str], words: str
) -> None:
    file = written(tmp_path / "moretta.toml", certificates, "", ALLOW)
    async with (
        moretta.Server(file) as server,
        moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway,
        gateway.open_udp(*echo.address) as tunnel,
    ):
        before = server.config, server.addresses
        written(file, certificates, *change)
        with pytest.raises(moretta.ConfigurationError) as raised:
            await server.reload()
        assert words in str(raised.value)
        assert (server.config, server.addresses, server.generation) == (*before, 1)
        tunnel.send(b"x")
        assert await tunnel.recv() == b"x"
        async with gateway.open_udp(*echo.address):
            pass


async def test_a_reload_brings_a_new_certificate(certificates: testing.Certificates, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    fresh = testing.make_certificates(tmp_path / "new")
    async with moretta.Server(testing.configuration(certificates)) as server:
        await server.reload(testing.configuration(fresh))
        async with moretta.connect(server.origin, ca_file=fresh.ca_file):
            pass
        with pytest.raises(moretta.GatewayUntrusted):
            await moretta.connect(server.origin, ca_file=certificates.ca_file)


async def test_a_reload_opens_and_closes_listeners(certificates: testing.Certificates, echo: EchoProtocol) -> None:
    one = testing.configuration(certificates)
    main = one["listen"]["main"]
    two = {**one, "listen": {"main": main, "second": {**main, "address": ["127.0.0.2:0"]}}}
    async with moretta.Server(one) as server:
        first = server.addresses
        await server.reload(two)
        assert server.addresses[:1] == first
        assert [address.host for address in server.addresses] == ["127.0.0.1", "127.0.0.2"]
        second = f"https://{server.addresses[1]}"
        async with (
            moretta.connect(second, ca_file=certificates.ca_file, server_name="localhost") as gateway,
            gateway.open_udp(*echo.address) as tunnel,
        ):
            tunnel.send(b"x")
            assert await tunnel.recv() == b"x"
        await server.reload(one)
        assert server.addresses == first
        with pytest.raises(moretta.GatewayUnreachable):
            await moretta.connect(second, ca_file=certificates.ca_file, server_name="localhost", timeout_seconds=0.5)


async def test_a_reload_whose_new_listener_is_taken_changes_nothing(
    certificates: testing.Certificates, echo: EchoProtocol
) -> None:
    one = testing.configuration(certificates)
    main = one["listen"]["main"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken = {**main, "address": [f"127.0.0.1:{other.getsockname()[1]}"]}
        async with moretta.Server(one) as server:
            before = server.addresses
            with pytest.raises(moretta.ListenError, match=r"listen\.second\.address\[0\]"):
                await server.reload({**one, "policy": {}, "listen": {"main": main, "second": taken}})
            assert (server.addresses, server.generation) == (before, 1)
            await server.reload()
            assert server.addresses == before
            assert server.generation > 1
            async with (
                moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway,
                gateway.open_udp(*echo.address),
            ):
                pass


async def test_a_cancelled_reload_is_whole_or_not_at_all(
    certificates: testing.Certificates, echo: EchoProtocol
) -> None:
    configuration = testing.configuration(certificates)
    async with moretta.Server(configuration) as server:
        for turns in range(30):
            before = server.generation
            task = asyncio.create_task(server.reload())
            for _ in range(turns):
                await asyncio.to_thread(int)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.reload()
            assert server.generation > before
        async with (
            moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway,
            gateway.open_udp(*echo.address),
        ):
            pass


async def test_reloads_at_once_are_put_in_force_one_after_the_other(certificates: testing.Certificates) -> None:
    configuration = testing.configuration(certificates)
    async with moretta.Server(configuration) as server:
        await asyncio.gather(*(server.reload() for _ in range(5)))
        assert server.generation == 6


async def test_a_port_in_use_is_one_sentence_and_nothing_starts(certificates: testing.Certificates) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        configuration = testing.configuration(certificates)
        configuration["listen"]["main"]["address"] = [f"127.0.0.1:{other.getsockname()[1]}"]
        with pytest.raises(moretta.ListenError) as raised:
            await moretta.Server(configuration).start()
    assert raised.value.code == "port_in_use"
    assert "in use" in str(raised.value)
    assert "listen.main.address[0]" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture
def nobodys() -> Iterator[testing.Certificates]:
    """Certificates of a user without privileges, and for root that user's rights."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 443:
        with tempfile.TemporaryDirectory() as directory:
            if os.geteuid() == 0:
                try:
                    os.chown(directory, NOBODY, NOBODY)
                    os.seteuid(NOBODY)
                except OSError as error:
                    pytest.skip(f"this root may not become another user: {error}")
                try:
                    yield testing.make_certificates(Path(directory))
                finally:
                    os.seteuid(0)
            else:
                yield testing.make_certificates(Path(directory))
    else:
        pytest.skip("this machine lets everybody have every port")


async def test_a_port_that_this_user_may_not_have_needs_privilege(nobodys: testing.Certificates) -> None:
    configuration = testing.configuration(nobodys)
    configuration["listen"]["main"]["address"] = ["127.0.0.1:443"]
    with pytest.raises(moretta.ListenNotPermitted) as raised:
        await moretta.Server(configuration).start()
    assert raised.value.exit_code == 6
    assert "permission" in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a file that this user may not read")
async def test_a_key_that_this_user_may_not_read_is_one_sentence(nobodys: testing.Certificates) -> None:
    os.seteuid(0)
    os.chown(nobodys.key, 0, 0)
    os.seteuid(NOBODY)
    with pytest.raises(moretta.ConfigurationError, match=r"no permission to read .*server[.]key; let this user"):
        await moretta.Server(testing.configuration(nobodys)).start()


async def test_draining_refuses_new_tunnels_and_waits_for_open_ones(
    proxy: testing.RunningGateway, echo: EchoProtocol
) -> None:
    async with proxy.connect() as gateway:
        tunnel = await gateway.open_udp(*echo.address)
        draining = asyncio.create_task(proxy.server.drain(30))
        while not isinstance(error := await attempt(gateway, echo), moretta.MorettaError):  # noqa: ASYNC110 -- asked over the network
            await asyncio.sleep(0)
        assert isinstance(error, moretta.GatewayOverloaded | moretta.TunnelRefused | moretta.GatewayClosed)
        assert not draining.done()
        tunnel.send(b"until the end")
        assert await tunnel.recv() == b"until the end"
        await tunnel.close()
        await draining


async def attempt(gateway: moretta.Gateway, echo: EchoProtocol) -> moretta.MorettaError | None:
    try:
        async with gateway.open_udp(*echo.address):
            return None
    except moretta.MorettaError as error:
        return error


async def test_everybody_who_drains_is_told_when_it_is_over(proxy: testing.RunningGateway, echo: EchoProtocol) -> None:
    async with proxy.connect() as gateway:
        tunnel = await gateway.open_udp(*echo.address)
        draining = [asyncio.create_task(proxy.server.drain(30)) for _ in range(3)]
        await asyncio.sleep(0)
        await tunnel.close()
        await asyncio.gather(*draining)
        await proxy.server.drain(30)


async def test_closing_ends_a_drain(proxy: testing.RunningGateway, echo: EchoProtocol) -> None:
    async with proxy.connect() as gateway:
        await gateway.open_udp(*echo.address)
        draining = asyncio.create_task(proxy.server.drain(30))
        await asyncio.sleep(0)
        await proxy.server.close()
        await draining


async def test_the_deadline_of_a_drain_closes_what_is_left(proxy: testing.RunningGateway, echo: EchoProtocol) -> None:
    async with proxy.connect() as gateway:
        tunnel = await gateway.open_udp(*echo.address)
        await proxy.server.drain(0.05)
        await tunnel.wait_closed()


async def test_statistics_count_tunnels(
    proxy: testing.RunningGateway, gateway: moretta.Gateway, echo: EchoProtocol
) -> None:
    assert proxy.server.stats()["tunnels"]["open"] == 0
    async with gateway.open_udp(*echo.address):
        assert proxy.server.stats()["tunnels"]["open"] == 1


async def test_a_server_starts_once(proxy: testing.RunningGateway) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        await proxy.server.start()
