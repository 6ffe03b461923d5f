"""Names whose owner is hostile: the address that was checked is the one connected, after one lookup, whatever is answered.

Same network as for the literals: every address answers, so that a wrong one is heard.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from rig.fixtures import Gateway, OpenGateway
from rig.names import NameServer
from rig.namespace import Everywhere, marked
from rig.peer import RawPeer, connect_udp_fields

pytestmark = pytest.mark.asyncio

ANY_PUBLIC = [{"id": "public", "action": "allow", "protocol": "udp", "destination": ["*"], "ports": "*"}]
NAME = "target.example"
PUBLIC = "11.0.0.7"


@pytest.fixture
async def gateway(open_gateway: OpenGateway, names: NameServer, network: Everywhere) -> AsyncIterator[Gateway]:
    async with open_gateway(
        rules=ANY_PUBLIC,
        danger=[],
        resolver={"nameservers": [f"{names.address[0]}:{names.address[1]}"], "timeout_seconds": 2.0},
    ) as opened:
        network.heard()
        yield opened


async def ask(gateway: Gateway, peer: RawPeer, network: Everywhere, name: str = NAME) -> tuple[int, int]:
    """The stream of a request whose tunnel was used before its answer, and the status."""
    stream_id = peer.request(connect_udp_fields(gateway.host, name, network.port))
    peer.send_http_datagram(stream_id, marked("early"))
    return stream_id, (await peer.response(stream_id)).status


async def where(network: Everywhere, gateway: Gateway, peer: RawPeer, stream_id: int, label: str) -> str:
    """The address at which a datagram of an open tunnel arrives."""
    peer.send_http_datagram(stream_id, marked(label))
    assert network.wait_for({label}) == set()
    return network.arrived_at[label]


def asked(names: NameServer, name: str = NAME) -> list[str]:
    return sorted(kind for asked_name, kind in names.questions if asked_name == name)


@pytest.mark.bypass("D-1", "D-14")
async def test_a_record_that_changes_moves_no_tunnel_and_is_asked_once(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere
) -> None:
    """The record turns to loopback as soon as it was asked for, with a time to live of zero."""
    names.zone[NAME] = f"{NAME}. 0 IN A {PUBLIC}"

    def turn(_name: str) -> None:
        names.zone[NAME] = f"{NAME}. 0 IN A 127.0.0.1"

    # The question for AAAA may come first: only that for A is answered with an address.
    names.after = lambda name: turn(name) if "A" in asked(names) else None
    stream_id, status = await ask(gateway, peer, network)
    assert status == 200
    assert asked(names) == ["A", "AAAA"], "one lookup: one question of each kind"
    assert await where(network, gateway, peer, stream_id, "first") == PUBLIC
    assert await where(network, gateway, peer, stream_id, "later") == PUBLIC
    assert asked(names) == ["A", "AAAA"], "an open tunnel asks nothing"
    _, status = await ask(gateway, peer, network)
    assert status == 403, "the next tunnel is for the new address"


REFUSED = {
    "D-2 public and private": f"{NAME}. 0 IN A {PUBLIC}\n{NAME}. 0 IN A 10.0.0.1",
    "D-2 private and public": f"{NAME}. 0 IN A 192.168.0.1\n{NAME}. 0 IN A {PUBLIC}",
    "D-3 public A and loopback AAAA": f"{NAME}. 0 IN A {PUBLIC}\n{NAME}. 0 IN AAAA ::1",
    "D-4 mapped": f"{NAME}. 0 IN AAAA ::ffff:a00:1",
    "D-4 mapped public beside mapped loopback": f"{NAME}. 0 IN AAAA ::ffff:b00:7\n{NAME}. 0 IN AAAA ::ffff:7f00:1",
    "D-4 NAT64": f"{NAME}. 0 IN AAAA 64:ff9b::a00:1",
    "D-4 local NAT64": f"{NAME}. 0 IN AAAA 64:ff9b:1::a00:1",
    "D-4 6to4": f"{NAME}. 0 IN AAAA 2002:a00:1::1",
    "D-4 Teredo": f"{NAME}. 0 IN AAAA 2001:0:7f00:1::",
    "D-5 alias of localhost": f"{NAME}. 0 IN CNAME localhost.\nlocalhost. 0 IN A 127.0.0.1\nlocalhost. 0 IN AAAA ::1",
    "D-5 alias of an internal name": f"{NAME}. 0 IN CNAME metadata.google.internal.\nmetadata.google.internal. 0 IN A 169.254.169.254",
    "D-10 unspecified": f"{NAME}. 0 IN A 0.0.0.0",
    "D-10 unspecified v6": f"{NAME}. 0 IN AAAA ::",
    "D-10 this network": f"{NAME}. 0 IN A 0.0.0.1",
}


@pytest.mark.bypass("D-2", "D-3", "D-4", "D-5", "D-10")
async def test_an_answer_with_any_internal_address_is_refused(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere
) -> None:
    answers: dict[str, object] = {}
    for number, (label, lines) in enumerate(REFUSED.items()):
        name = f"target{number}.example"
        names.zone[name] = lines.replace(NAME, name)
        _, answers[label] = await ask(gateway, peer, network, name)
    await peer.settled()
    assert {label: answer for label, answer in answers.items() if answer != 403} == {}
    assert network.heard() == []


@pytest.mark.bypass("D-5")
async def test_an_alias_of_localhost_that_nobody_resolves_is_not_loopback(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere
) -> None:
    """RFC 6761 section 6.3 lets a resolver answer `localhost` by itself: it must not do so behind an alias."""
    names.zone[NAME] = f"{NAME}. 0 IN CNAME localhost."
    _, status = await ask(gateway, peer, network)
    await peer.settled()
    assert status in {403, 502}
    assert network.heard() == []


@pytest.mark.bypass("D-6")
@pytest.mark.parametrize("shape", ["chain", "loop", "chain asked link by link", "loop asked link by link"])
async def test_chains_and_loops_of_aliases_end(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere, shape: str
) -> None:
    links = [NAME, *(f"link{number}.example" for number in range(20))]
    last = f"{links[-1]}. 0 IN CNAME {NAME}." if "loop" in shape else f"{links[-1]}. 0 IN A {PUBLIC}"
    lines = [f"{one}. 0 IN CNAME {two}." for one, two in itertools.pairwise(links)] + [last]
    if "link by link" in shape:
        names.zone = dict(zip(links, lines, strict=True))
    else:
        names.zone = {NAME: "\n".join(lines)}
    stream_id, status = await ask(gateway, peer, network)
    if status == 200:
        assert "loop" not in shape
        assert await where(network, gateway, peer, stream_id, "chain") == PUBLIC
    else:
        assert status in {502, 504}
    assert len(names.questions) <= 64
    assert max(asked(names, name).count("A") for name in links) <= 16, "a loop is not walked again and again"


@pytest.mark.bypass("D-7")
async def test_an_answer_about_another_name_is_not_believed(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere
) -> None:
    names.zone[NAME] = f"other.example. 3600 IN A {PUBLIC}"
    _, status = await ask(gateway, peer, network)
    assert status == 502
    names.zone["other.example"] = "other.example. 0 IN A 10.0.0.1"
    _, status = await ask(gateway, peer, network, "other.example")
    assert status == 403, "nor kept for the other"
    await peer.settled()
    assert network.heard() == []


@pytest.mark.bypass("D-8")
@pytest.mark.parametrize("last", [PUBLIC, "10.0.0.1"])
async def test_four_thousand_addresses_are_bounded(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere, last: str
) -> None:
    """However many are left out, what is connected was checked."""
    addresses = [f"11.1.{number >> 8}.{number & 255}" for number in range(3999)] + [last]
    names.zone[NAME] = "\n".join(f"{NAME}. 0 IN A {address}" for address in addresses)
    stream_id, status = await ask(gateway, peer, network)
    assert status in {200, 403, 502}
    if status == 200:
        assert (await where(network, gateway, peer, stream_id, "many")).startswith("11.")
    assert len(asked(names)) <= 12, (
        "one lookup over UDP and over TCP, and what is asked again when the answer takes long"
    )


@pytest.mark.bypass("D-9")
@pytest.mark.parametrize(("address", "expected"), [("11.2.0.{}", 200), ("10.2.0.{}", 403)])
async def test_a_cut_answer_is_asked_for_over_tcp_and_judged_alike(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere, address: str, expected: int
) -> None:
    names.zone[NAME] = "\n".join(f"{NAME}. 0 IN A {address.format(number)}" for number in range(1, 200))
    _, status = await ask(gateway, peer, network)
    assert status == expected
    assert NAME in names.asked_over_tcp


@pytest.mark.bypass("D-11")
async def test_only_the_name_as_it_stands_is_asked_for(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere
) -> None:
    for name in ("nowhere.example", "nowhere.example.", "a.nowhere.example"):
        _, status = await ask(gateway, peer, network, name)
        assert status == 502
    assert {name for name, _ in names.questions} == {"nowhere.example", "a.nowhere.example"}


@pytest.mark.bypass("D-14")
async def test_a_new_policy_judges_a_live_tunnel_by_the_address_it_has(
    gateway: Gateway, peer: RawPeer, names: NameServer, network: Everywhere
) -> None:
    """The record has changed meanwhile; what counts is the socket."""
    names.zone[NAME] = f"{NAME}. 0 IN A {PUBLIC}"
    stream_id, status = await ask(gateway, peer, network)
    assert status == 200
    names.zone[NAME] = f"{NAME}. 0 IN A 11.0.0.8"
    configuration = gateway.configuration
    configuration["policy"]["rule"].append(
        {"id": "not there", "action": "deny", "protocol": "udp", "destination": [f"{PUBLIC}/32"], "ports": "*"}
    )
    asked_before = len(names.questions)
    await gateway.server.reload(configuration)
    await peer.until(lambda: peer.stream(stream_id).ended, "the end of the tunnel")
    assert len(names.questions) == asked_before
