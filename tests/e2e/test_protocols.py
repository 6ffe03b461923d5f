"""Protocols of other people over a tunnel, unchanged: aioquic and dnspython."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import dns.asyncquery
import dns.message
import dns.rdatatype
import pytest
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from dns._asyncio_backend import _DatagramProtocol, _DatagramSocket
from dnslib import QTYPE, RR, A, DNSRecord

import moretta
from moretta import testing


class Origin(asyncio.DatagramProtocol):
    """A DNS server that knows one answer, made with dnslib."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        question = DNSRecord.parse(data)
        answer = question.reply()
        answer.add_answer(RR(question.q.qname, QTYPE.A, rdata=A("192.0.2.7"), ttl=60))
        self.transport.sendto(answer.pack(), addr)


@pytest.fixture
async def nameserver() -> AsyncIterator[tuple[str, int]]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Origin, local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    yield host, port
    transport.close()


async def test_dnspython_asks_over_a_tunnel(gateway: moretta.Gateway, nameserver: tuple[str, int]) -> None:
    host, port = nameserver
    transport, protocol = await gateway.create_datagram_endpoint(_DatagramProtocol, host, port)
    async with _DatagramSocket(socket.AF_INET, transport, protocol) as sock:  # type: ignore[no-untyped-call]
        query = dns.message.make_query("name.example", dns.rdatatype.A)
        answer = await dns.asyncquery.udp(query, host, port=port, sock=sock, timeout=10)
    assert answer.answer[0][0].to_text() == "192.0.2.7"


def transport_of(server: QuicServer) -> asyncio.DatagramTransport:
    assert server._transport is not None
    return server._transport


async def test_aioquic_speaks_quic_over_a_tunnel(gateway: moretta.Gateway, certificates: testing.Certificates) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echo"])
    configuration.load_cert_chain(certificates.certificate, certificates.key)

    def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer() -> None:
            writer.write(await reader.read())
            writer.write_eof()

        tasks.append(asyncio.get_running_loop().create_task(answer()))

    tasks: list[asyncio.Task[None]] = []
    server = await serve("127.0.0.1", 0, configuration=configuration, stream_handler=echo)
    host, port = transport_of(server).get_extra_info("sockname")

    client = QuicConfiguration(is_client=True, alpn_protocols=["echo"], server_name="localhost")
    client.load_verify_locations(str(certificates.ca_file))
    transport, protocol = await gateway.create_datagram_endpoint(
        lambda: QuicConnectionProtocol(QuicConnection(configuration=client)), host, port
    )
    protocol.connect((host, port))
    await protocol.wait_connected()
    reader, writer = await protocol.create_stream()
    content = bytes(range(256)) * 1000
    writer.write(content)
    writer.write_eof()
    assert await reader.read() == content
    protocol.close()
    await protocol.wait_closed()
    transport.close()
    server.close()
    await asyncio.gather(*tasks)


async def test_a_transport_tells_its_protocol_of_the_end(
    proxy: testing.RunningGateway, nameserver: tuple[str, int]
) -> None:
    lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    class Protocol(asyncio.DatagramProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set_result(exc)

    async with proxy.connect() as gateway:
        await gateway.create_datagram_endpoint(Protocol, *nameserver)
        await proxy.server.close()
        await lost
