"""A DNS server that answers as a test wants, also wrongly; over UDP and TCP, on the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

from dnslib import QTYPE, RCODE, RR, DNSRecord

#: An answer over UDP holds this much; a longer one is cut and says so.
UDP_BYTES = 1232


@functools.lru_cache
def _records(lines: str) -> list[RR]:
    return list(RR.fromZone(lines))


@dataclass
class NameServer(asyncio.DatagramProtocol):
    """`zone[name]` holds lines of a zone file: all of the type asked for are the answer, and aliases always.

    Owners are taken as they stand, so that an answer may be about another name. A name that is not there does not exist.
    """

    zone: dict[str, str] = field(default_factory=dict)
    #: The answer for every name that has no lines of its own.
    otherwise: str = ""
    #: Names whose questions are never answered.
    silent: set[str] = field(default_factory=set)
    questions: list[tuple[str, str]] = field(default_factory=list)
    asked_over_tcp: list[str] = field(default_factory=list)
    #: Called after each question, with its name; may change `zone`.
    after: Callable[[str], None] = lambda _name: None
    address: tuple[str, int] = ("", 0)
    _transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.address = transport.get_extra_info("sockname")[:2]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        reply = self._answer(data)
        if self.questions[-1][0] in self.silent:
            return
        packed = reply.pack()
        if len(packed) > UDP_BYTES:
            reply.rr = []
            reply.header.tc = 1
            packed = reply.pack()
        self._transport.sendto(packed, addr)

    async def serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                reply = self._answer(await reader.readexactly(length))
                self.asked_over_tcp.append(self.questions[-1][0])
                packed = reply.pack()
                writer.write(len(packed).to_bytes(2, "big") + packed)
                await writer.drain()
        writer.close()

    def _answer(self, data: bytes) -> DNSRecord:
        question = DNSRecord.parse(data)
        name, kind = str(question.q.qname).rstrip(".").lower(), QTYPE[question.q.qtype]
        self.questions.append((name, kind))
        reply = question.reply()
        lines = self.zone.get(name, self.otherwise.replace("@", name + ".") if self.otherwise else None)
        if lines is None:
            reply.header.rcode = RCODE.NXDOMAIN
        for record in _records(lines) if lines else []:
            if QTYPE[record.rtype] in {kind, "CNAME"}:
                reply.add_answer(record)
        self.after(name)
        return reply


@contextlib.asynccontextmanager
async def name_server(host: str = "127.0.0.1") -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=(host, 0))
    streams = await asyncio.start_server(server.serve_stream, host, server.address[1])
    try:
        yield server
    finally:
        transport.close()
        streams.close()
