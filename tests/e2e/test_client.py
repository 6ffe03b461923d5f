"""The client as a program uses it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

import moretta
from moretta import pki, testing

from .conftest import EchoProtocol


async def test_six_lines_carry_a_datagram_there_and_back(proxy: testing.RunningGateway, echo: EchoProtocol) -> None:
    async with moretta.connect(proxy.server.origin, ca_file=proxy.certificates.ca_file) as gateway:
        async with gateway.open_udp(*echo.address) as tunnel:
            tunnel.send(b"hello")
            assert await tunnel.recv() == b"hello"
            # CF-4: an inner QUIC handshake works from its first packet.
            assert tunnel.max_datagram_size >= 1200
            tunnel.send(bytes(1200))
            assert await tunnel.recv() == bytes(1200)
        assert tunnel.end_reason == "client_finished"
        assert (tunnel.counters.sent, tunnel.counters.received) == (2, 2)


async def test_a_tunnel_can_be_awaited_and_kept(gateway: moretta.Gateway, echo: EchoProtocol) -> None:
    tunnel = await gateway.open_udp(*echo.address)
    tunnel.send_many([b"0", b"1", b"2"])
    received: list[bytes] = []
    while len(received) < 3:
        received += await tunnel.recv_many()
    assert sorted(received) == [b"0", b"1", b"2"]
    await tunnel.close()
    await tunnel.wait_closed()


async def test_many_tunnels_share_a_connection_and_never_mix(gateway: moretta.Gateway, echo: EchoProtocol) -> None:
    async def one(number: int) -> None:
        async with gateway.open_udp(*echo.address) as tunnel:
            for turn in range(10):
                tunnel.send(f"{number}.{turn}".encode())
                assert await tunnel.recv() == f"{number}.{turn}".encode()

    await asyncio.gather(*(one(number) for number in range(30)))


async def test_a_datagram_too_large_says_what_fits_and_harms_nothing(
    gateway: moretta.Gateway, echo: EchoProtocol
) -> None:
    async with gateway.open_udp(*echo.address) as tunnel:
        with pytest.raises(moretta.DatagramTooLarge) as raised:
            tunnel.send(bytes(9000))
        largest = raised.value.max
        tunnel.send(bytes(largest))
        assert len(await tunnel.recv()) == largest


async def test_a_target_that_no_rule_allows_is_refused_with_status_and_reason(gateway: moretta.Gateway) -> None:
    with pytest.raises(moretta.PolicyRefused) as raised:
        await gateway.open_udp("192.0.2.1", 53)
    refusal = raised.value
    assert refusal.status == 403
    assert refusal.proxy_status is not None
    assert "error=" in refusal.proxy_status
    # C-13: no address goes to the client.
    assert "192.0.2.1" not in refusal.proxy_status


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "a b", "[::1]", "::1%lo", "x" * 300, ""])
async def test_a_host_that_is_none_is_refused_before_dns(gateway: moretta.Gateway, host: str) -> None:
    with pytest.raises((moretta.RequestRejected, moretta.ConfigurationError)):
        await gateway.open_udp(host, 53)


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_a_port_that_is_none_is_an_error_of_the_caller(gateway: moretta.Gateway, port: int) -> None:
    with pytest.raises((moretta.RequestRejected, moretta.ConfigurationError)):
        await gateway.open_udp("127.0.0.1", port)


async def test_names_are_resolved_at_the_gateway(certificates: testing.Certificates, echo: EchoProtocol) -> None:
    host, port = echo.address
    rule = {"id": "r", "action": "allow", "protocol": "udp", "destination": ["echo.test", "127.0.0.0/8"], "ports": "*"}
    policy = {**testing.LOOPBACK_POLICY, "rule": [rule]}
    configuration = testing.configuration(
        certificates,
        policy=policy,
        resolver={"hosts": {"echo.test": [host]}, "nameservers": ["127.0.0.1:9"], "timeout_seconds": 0.5},
    )
    async with (
        moretta.Server(configuration) as server,
        moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway,
    ):
        async with gateway.open_udp("echo.test", port) as tunnel:
            tunnel.send(b"by name")
            assert await tunnel.recv() == b"by name"
        with pytest.raises(moretta.TargetUnresolvable):
            await gateway.open_udp("nowhere.test", port)


async def test_an_authority_that_did_not_sign_is_not_trusted(proxy: testing.RunningGateway, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(pki.Authority().pair.certificate_pem)
    with pytest.raises(moretta.GatewayUntrusted):
        await proxy.connect(ca_file=stranger)


async def test_the_systems_authorities_do_not_know_a_throwaway_one(proxy: testing.RunningGateway) -> None:
    with pytest.raises(moretta.GatewayUntrusted):
        await moretta.connect(proxy.server.origin)


async def test_a_name_that_is_not_in_the_certificate_is_not_trusted(proxy: testing.RunningGateway) -> None:
    with pytest.raises(moretta.GatewayUntrusted):
        await proxy.connect(server_name="other.example")


async def test_a_pinned_key_is_trusted_and_no_other(proxy: testing.RunningGateway) -> None:
    pin = pki.facts_of(proxy.certificates.certificate.read_bytes()).pin_sha256
    async with moretta.connect(proxy.server.origin, pin_sha256=f"sha256//{pin}") as gateway:
        await gateway.ping()
    other = pki.facts_of(pki.Authority().issue(["localhost"]).certificate_pem).pin_sha256
    with pytest.raises(moretta.GatewayUntrusted):
        await moretta.connect(proxy.server.origin, pin_sha256=other)


async def test_a_gateway_that_is_not_there_is_unreachable_in_time(certificates: testing.Certificates) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        origin = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(moretta.GatewayUnreachable) as raised:
            await moretta.connect(origin, ca_file=certificates.ca_file, timeout_seconds=0.3)
    assert raised.value.exit_code == 5
    assert not isinstance(raised.value, moretta.GatewayUntrusted)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "gateway.example",
        "http://gateway.example",
        "https://",
        "https://g.example/x",
        "https://g.example/{target_host}/",
    ],
)
async def test_an_origin_that_is_none_is_refused_before_anything_is_sent(origin: str) -> None:
    with pytest.raises(moretta.ConfigurationError):
        await moretta.connect(origin)


async def test_a_whole_template_is_taken(certificates: testing.Certificates, echo: EchoProtocol) -> None:
    path = "/v1/proxy?h={target_host}&p={target_port}"
    configuration = testing.configuration(certificates)
    configuration["listen"]["main"]["templates"] = [path]
    async with moretta.Server(configuration) as server:
        template = f"https://localhost:{server.addresses[0].port}{path}"
        async with (
            moretta.connect(template, ca_file=certificates.ca_file) as gateway,
            gateway.open_udp(*echo.address) as tunnel,
        ):
            tunnel.send(b"x")
            assert await tunnel.recv() == b"x"
        async with moretta.connect(server.origin, ca_file=certificates.ca_file) as gateway:
            with pytest.raises(moretta.RequestRejected) as raised:
                await gateway.open_udp(*echo.address)
            assert raised.value.status == 404


async def test_a_tunnel_lives_on_when_the_client_moves(gateway: moretta.Gateway, echo: EchoProtocol) -> None:
    async with gateway.open_udp(*echo.address) as tunnel:
        tunnel.send(b"before")
        assert await tunnel.recv() == b"before"
        gateway.rebind()
        for attempt in range(20):
            tunnel.send(b"after")
            try:
                async with asyncio.timeout(0.5):
                    assert await tunnel.recv() == b"after"
                    break
            except TimeoutError:
                assert attempt < 19
    assert len(set(echo.senders)) == 1, "the target sees the same socket of the gateway"


async def test_a_ping_measures_and_fails_when_the_gateway_has_gone(proxy: testing.RunningGateway) -> None:
    async with proxy.connect() as gateway:
        assert 0 < await gateway.ping() < 5
        assert gateway.handshake_seconds > 0
        assert gateway.remote == proxy.server.addresses[0]
        await proxy.server.close()
        await gateway.wait_closed()
        with pytest.raises(moretta.GatewayClosed):
            await gateway.ping()


async def test_a_forward_gives_each_peer_its_own_tunnel(gateway: moretta.Gateway, echo: EchoProtocol) -> None:
    loop = asyncio.get_running_loop()

    class Peer(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.answer: asyncio.Future[bytes] = loop.create_future()

        def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 -- asyncio's shape
            self.answer.set_result(data)

    async with gateway.forward("127.0.0.1:0", *echo.address) as forward:
        for number in range(3):
            transport, peer = await loop.create_datagram_endpoint(
                Peer, remote_addr=(forward.address.host, forward.address.port)
            )
            transport.sendto(str(number).encode())
            assert await peer.answer == str(number).encode()
            transport.close()
    assert len(set(echo.senders)) == 3
    assert forward.end_reason is not None


async def test_a_forward_on_a_port_in_use_says_so(gateway: moretta.Gateway, echo: EchoProtocol) -> None:
    host, port = echo.address
    with pytest.raises(moretta.ListenError) as raised:
        await gateway.forward(f"{host}:{port}", host, port)
    assert raised.value.code == "port_in_use"
    with pytest.raises(moretta.ConfigurationError):
        await gateway.forward("localhost:0", host, port)
