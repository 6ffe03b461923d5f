"""The client's rows of RFC 9297, 9220 and 9298, against a mock proxy on aioquic that says what no proxy should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import moretta
from rig import wire
from rig.fixtures import Authority
from rig.peer import Fields, RawPeer, RawServer, raw_server

pytestmark = pytest.mark.asyncio

ACCEPTED: Fields = [(b":status", b"200"), (b"capsule-protocol", b"?1")]


@pytest.fixture
async def proxy(authority: Authority) -> AsyncIterator[RawServer]:
    async with raw_server(authority.certificate, authority.key) as server:
        yield server


def origin(proxy: RawServer) -> str:
    return f"https://127.0.0.1:{proxy.address[1]}"


async def opening(gateway: moretta.Gateway, proxy: RawServer) -> tuple[asyncio.Task[moretta.UdpTunnel], RawPeer, int]:
    """Starts `open_udp` and waits until its request has arrived at the mock proxy."""

    async def open_tunnel() -> moretta.UdpTunnel:
        return await gateway.open_udp("192.0.2.6", 443)

    task = asyncio.create_task(open_tunnel())
    peer = await proxy.accept()
    stream_id = await peer.until(
        lambda: next((s + 1 for s in peer.streams if s % 4 == 0 and peer.frames(s)), None), "a request"
    )
    return task, peer, stream_id - 1


async def test_the_request_is_what_rfc_9298_section_3_4_says(proxy: RawServer, authority: Authority) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        head = await peer.request_head(stream_id)
        assert head[b":method"] == b"CONNECT"
        assert head[b":protocol"] == b"connect-udp"
        assert head[b":scheme"] == b"https"
        assert head[b":authority"] == f"127.0.0.1:{proxy.address[1]}".encode()
        assert head[b":path"] == b"/.well-known/masque/udp/192.0.2.6/443/"
        assert head[b"capsule-protocol"] == b"?1"
        peer.send_headers(stream_id, ACCEPTED)
        tunnel = await task
        tunnel.send(b"hello")
        assert await peer.http_datagram(stream_id) == b"\x00hello"
        peer.send_http_datagram(stream_id, b"hello back")
        assert await tunnel.recv() == b"hello back"
        await tunnel.close()
        await peer.until(lambda: peer.stream(stream_id).ended, "the end of the client's stream")


@pytest.mark.row("UDP-16", "UDP-17", "UDP-18")
@pytest.mark.parametrize(
    "template",
    [
        "https://127.0.0.1:1/{#target_host}/{target_port}",
        "https://127.0.0.1:1/{+target_host}/{target_port}",
        "https://127.0.0.1:1/{target_host:3}/{target_port}",
        "https://127.0.0.1:1/{target_host*}/{target_port}",
        "https://127.0.0.1:1/{target_host}/",
        "https://127.0.0.1:1/{target_port}/",
        "/masque/{target_host}/{target_port}/",
        "https://127.0.0.1:1/mäsque/{target_host}/{target_port}/",
        "https://{target_host}:1/{target_port}",
        "https://127.0.0.1:1/{;target_host,target_port}",
        "https://127.0.0.1:1{/target_host,target_port}",
        "https://127.0.0.1:1/{.target_host}/{target_port}",
    ],
)
async def test_a_template_that_breaks_rfc_9298_section_2_is_refused_before_anything_is_sent(template: str) -> None:
    with pytest.raises(moretta.MorettaError):
        async with moretta.connect(template):
            pass


@pytest.mark.row("XC-5")
async def test_a_proxy_without_extended_connect_gets_no_protocol_request(authority: Authority) -> None:
    async with raw_server(authority.certificate, authority.key, settings=[(wire.SETTING_H3_DATAGRAM, 1)]) as proxy:
        with pytest.raises(moretta.MorettaError):
            async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
                await gateway.open_udp("192.0.2.6", 443)
        peer = await proxy.accept()
        assert [s for s in peer.streams if s % 4 == 0 and peer.frames(s)] == []


@pytest.mark.row("UDP-29")
@pytest.mark.parametrize("status", [b"301", b"302", b"400", b"403", b"404", b"429", b"500", b"502", b"503"])
async def test_any_other_final_status_is_a_refusal_and_no_redirect_is_followed(
    proxy: RawServer, authority: Authority, status: bytes
) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        fields: Fields = [
            (b":status", status),
            (b"proxy-status", b"mock; error=http_request_denied"),
            (b"location", b"https://127.0.0.1:1/"),
        ]
        peer.send_headers(stream_id, fields, fin=True)
        with pytest.raises(moretta.TunnelRefused) as refused:
            await task
        assert refused.value.status == int(status)
        assert refused.value.proxy_status is not None and "http_request_denied" in refused.value.proxy_status
        await peer.settled()
        assert len([s for s in peer.streams if s % 4 == 0]) == 1


@pytest.mark.row("CAP-18")
@pytest.mark.parametrize("status", [b"204", b"205", b"206"])
async def test_an_acceptance_without_content_is_malformed(
    proxy: RawServer, authority: Authority, status: bytes
) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        peer.send_headers(stream_id, [(b":status", status)])
        with pytest.raises(moretta.MorettaError):
            await task
        await peer.until(
            lambda: peer.stream(stream_id).reset_code is not None or peer.stream(stream_id).stop_code is not None,
            "an abort",
        )


@pytest.mark.row("XC-27")
@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"200"), (b":status", b"200")],
        [(b"capsule-protocol", b"?1")],
        [(b":status", b"2x0")],
        [(b":status", b"200"), (b"Upper", b"1")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":path", b"/"), (b":status", b"200")],
    ],
    ids=["status twice", "no status", "status not a number", "upper case", "connection field", "request pseudo-header"],
)
async def test_a_malformed_response_fails_the_tunnel(proxy: RawServer, authority: Authority, fields: Fields) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        peer.send_headers(stream_id, fields)
        with pytest.raises(moretta.MorettaError):
            await task
        await peer.until(
            lambda: peer.stream(stream_id).reset_code is not None or peer.stream(stream_id).stop_code is not None,
            "an abort",
        )


@pytest.mark.row("UDP-29")
async def test_an_interim_response_is_no_answer_yet(proxy: RawServer, authority: Authority) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        peer.send_headers(stream_id, [(b":status", b"103"), (b"x-hint", b"1")])
        await peer.settled()
        assert not task.done()
        peer.send_headers(stream_id, ACCEPTED)
        await (await task).close()


@pytest.mark.row("UDP-73")
async def test_the_proxys_status_reaches_the_application(proxy: RawServer, authority: Authority) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        peer.send_headers(stream_id, [*ACCEPTED, (b"proxy-status", b'mock; next-hop="192.0.2.6:443"')])
        tunnel = await task
        assert tunnel.proxy_status is not None and "192.0.2.6:443" in tunnel.proxy_status
        await tunnel.close()


async def test_a_proxy_without_datagrams_is_spoken_to_in_capsules(authority: Authority) -> None:
    async with (
        raw_server(
            authority.certificate,
            authority.key,
            settings=[(wire.SETTING_ENABLE_CONNECT_PROTOCOL, 1)],
            max_datagram_frame_size=None,
        ) as proxy,
        moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway,
    ):
        task, peer, stream_id = await opening(gateway, proxy)
        peer.send_headers(stream_id, ACCEPTED)
        tunnel = await task
        tunnel.send(b"in a capsule")
        await peer.until(lambda: peer.capsules(stream_id), "a capsule")
        assert peer.capsules(stream_id) == [wire.Capsule(0, b"\x00in a capsule")]
        peer.send_data(stream_id, wire.datagram_capsule(b"and back"))
        assert await tunnel.recv() == b"and back"
        await tunnel.close()


async def test_the_proxys_reset_ends_the_tunnel_with_its_reason(proxy: RawServer, authority: Authority) -> None:
    async with moretta.connect(origin(proxy), ca_file=authority.ca_file) as gateway:
        task, peer, stream_id = await opening(gateway, proxy)
        peer.send_headers(stream_id, ACCEPTED)
        tunnel = await task
        peer.reset(stream_id, wire.H3_CONNECT_ERROR)
        with pytest.raises(moretta.TunnelClosed):
            await tunnel.recv()
