"""Names at the gateway: RFC 9298 section 3.1, RFC 9209 sections 2.3.1 and 2.3.2, against a DNS server of dnslib."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSServer

from rig.fixtures import Gateway, OpenGateway, Target
from rig.peer import RawPeer, connect_udp_fields

pytestmark = pytest.mark.asyncio


@dataclass
class Zone(BaseResolver):  # type: ignore[misc]
    """Answers from `records`; a name in `silent` is never answered, one in `codes` gets that code. Remembers every question."""

    records: dict[str, list[str]] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    questions: list[tuple[str, str]] = field(default_factory=list)
    gate: threading.Event | None = None
    port: int = 0

    def resolve(self, request: DNSRecord, _handler: DNSHandler) -> DNSRecord:
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        self.questions.append((name, kind))
        if name in self.silent:
            raise TimeoutError(name)
        if self.gate is not None:
            self.gate.wait(20)
        reply = request.reply()
        if name in self.codes:
            reply.header.rcode = getattr(RCODE, self.codes[name])
        elif name not in self.records:
            reply.header.rcode = RCODE.NXDOMAIN
        for address in self.records.get(name, []):
            if kind == "A" and ":" not in address:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
            if kind == "AAAA" and ":" in address:
                reply.add_answer(RR(request.q.qname, QTYPE.AAAA, rdata=AAAA(address), ttl=0))
        return reply


class Quiet:
    """dnslib's logger prints each question to the terminal; this one prints nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@pytest.fixture
async def zone() -> AsyncIterator[Zone]:
    zone = Zone(records={"localhost-alias.test": ["127.0.0.1"]})
    server = DNSServer(zone, address="127.0.0.1", port=0, logger=Quiet())
    zone.port = server.server.server_address[1]
    server.start_thread()
    try:
        yield zone
    finally:
        if zone.gate is not None:
            zone.gate.set()
        server.stop()
        server.server.server_close()


def resolver(zone: Zone, timeout_seconds: float = 5.0) -> dict[str, object]:
    return {"nameservers": [f"127.0.0.1:{zone.port}"], "timeout_seconds": timeout_seconds}


async def ask(gateway: Gateway, peer: RawPeer, host: str, port: int, seconds: float = 10.0):  # type: ignore[no-untyped-def]
    return await peer.response(peer.request(connect_udp_fields(gateway.host, host, port)), seconds)


@pytest.mark.row("UDP-4")
async def test_a_name_is_resolved_by_the_gateway_with_at_most_one_question_of_each_kind(
    open_gateway: OpenGateway, zone: Zone, echo_target: Target
) -> None:
    async with open_gateway(resolver=resolver(zone)) as gateway, gateway.client() as peer:
        stream_id = await gateway.open(peer, ("localhost-alias.test", echo_target.address[1]))
        peer.send_http_datagram(stream_id, b"by name")
        assert await peer.http_datagram(stream_id) == b"\x00by name"
        assert sorted(zone.questions) == sorted(set(zone.questions))
        assert {name for name, _ in zone.questions} == {"localhost-alias.test"}, "no search list (D-11)"


@pytest.mark.row("UDP-31")
@pytest.mark.parametrize(
    ("name", "code"), [("nowhere.test", b"NXDOMAIN"), ("broken.test", b"SERVFAIL"), ("refused.test", b"REFUSED")]
)
async def test_a_resolver_error_is_502_with_its_code(
    open_gateway: OpenGateway, zone: Zone, name: str, code: bytes
) -> None:
    zone.codes |= {"broken.test": "SERVFAIL", "refused.test": "REFUSED"}
    async with open_gateway(resolver=resolver(zone)) as gateway, gateway.client() as peer:
        response = await ask(gateway, peer, name, 9)
        status = response.one("proxy-status")
        assert response.status == 502
        assert status is not None and b"error=dns_error" in status and b'rcode="' + code + b'"' in status


@pytest.mark.row("UDP-31")
async def test_a_name_without_addresses_is_502(open_gateway: OpenGateway, zone: Zone) -> None:
    zone.records["empty.test"] = []
    async with open_gateway(resolver=resolver(zone)) as gateway, gateway.client() as peer:
        response = await ask(gateway, peer, "empty.test", 9)
        assert response.status == 502 and b"error=dns_error" in (response.one("proxy-status") or b"")


@pytest.mark.row("UDP-32")
async def test_a_silent_resolver_is_504(open_gateway: OpenGateway, zone: Zone) -> None:
    zone.silent.add("silent.test")
    async with open_gateway(resolver=resolver(zone, timeout_seconds=1.0)) as gateway, gateway.client() as peer:
        response = await ask(gateway, peer, "silent.test", 9)
        assert response.status == 504
        assert b"error=dns_timeout" in (response.one("proxy-status") or b"")


@pytest.mark.row("UDP-33")
async def test_no_response_leaves_before_the_resolver_has_answered(
    open_gateway: OpenGateway, zone: Zone, target: Target
) -> None:
    zone.gate = threading.Event()
    async with open_gateway(resolver=resolver(zone)) as gateway, gateway.client() as peer:
        stream_id = peer.request(connect_udp_fields(gateway.host, "localhost-alias.test", target.address[1]))
        async with asyncio.timeout(5):
            while not zone.questions:
                await peer.settled()
        await peer.settled()
        assert peer.frames(stream_id) == []
        zone.gate.set()
        assert (await peer.response(stream_id)).status == 200


PUBLIC = [{"id": "public", "action": "allow", "protocol": "udp", "destination": ["*", "rebind.test"], "ports": "*"}]


@pytest.mark.row("UDP-65")
@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["0.0.0.0"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:7f00:1"],
        ["192.0.2.1", "10.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["8.8.8.8", "::1"],
    ],
    ids=[
        "loopback",
        "unspecified",
        "metadata",
        "loopback v6",
        "mapped",
        "documentation and private",
        "D-2 public and loopback",
        "D-3 public and loopback v6",
    ],
)
async def test_a_name_with_any_refused_answer_is_refused(
    open_gateway: OpenGateway, zone: Zone, answers: list[str]
) -> None:
    zone.records["rebind.test"] = answers
    async with open_gateway(resolver=resolver(zone), rules=PUBLIC, danger=[]) as gateway, gateway.client() as peer:
        response = await ask(gateway, peer, "rebind.test", 9)
        assert response.status == 403
        assert b"error=destination_ip_prohibited" in (response.one("proxy-status") or b"")


@pytest.mark.row("UDP-66")
async def test_the_address_checked_is_the_address_connected(
    open_gateway: OpenGateway, zone: Zone, target: Target
) -> None:
    """A second lookup would find another address: there is none (D-1)."""
    zone.records["rebind.test"] = ["127.0.0.1"]
    rules = [
        {
            "id": "one",
            "action": "allow",
            "protocol": "udp",
            "destination": ["rebind.test", "127.0.0.1/32"],
            "ports": "*",
        }
    ]
    async with open_gateway(resolver=resolver(zone), rules=rules) as gateway, gateway.client() as peer:
        stream_id = await gateway.open(peer, ("rebind.test", target.address[1]))
        asked = len(zone.questions)
        zone.records["rebind.test"] = ["127.0.0.9"]
        peer.send_http_datagram(stream_id, b"to the checked address")
        assert await target.take() == b"to the checked address"
        assert len(zone.questions) == asked <= 2
