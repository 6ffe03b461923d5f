"""Who may reach any public address reaches no other, however it is spelt.

The gateway and the test are in a network in which every address answers, so that whatever passes is heard. Each request
is followed at once by a datagram and a capsule: had the tunnel opened for a moment only, they would have come through.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from rig import wire
from rig.fixtures import Gateway, OpenGateway
from rig.names import NameServer
from rig.namespace import OWN_IPV4, OWN_IPV6, Everywhere, marked
from rig.peer import RawPeer, connect_udp_fields

pytestmark = pytest.mark.asyncio

LISTS: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "bypass.json").read_text())
ANY_PUBLIC = [{"id": "public", "action": "allow", "protocol": "udp", "destination": ["*"], "ports": "*"}]
PATH = "/.well-known/masque/udp/"
QUERY = "/q?h={target_host}&p={target_port}"
TEMPLATES = [PATH + "{target_host}/{target_port}/", QUERY]
#: What may stand in a path besides letters, digits and percent escapes: sent as it is written in the table.
AS_IT_IS = "%[]@,+.-_&=#"
#: A head that is none in HTTP/3 is answered by a reset of its stream (RFC 9114 section 4.1.2).
MALFORMED = "malformed"
ANSWERED_BY_DNS = "11.0.0.7"


@contextlib.asynccontextmanager
async def public_gateway(open_gateway: OpenGateway, names: NameServer) -> AsyncIterator[Gateway]:
    """Serves tunnels to any public address and name; listens on loopback and on an address of its own network."""
    async with open_gateway(
        rules=ANY_PUBLIC,
        danger=[],
        templates=TEMPLATES,
        resolver={"nameservers": [f"{names.address[0]}:{names.address[1]}"]},
        listener={
            "address": ["127.0.0.1:0", f"{OWN_IPV4.ip}:0", f"[{OWN_IPV6.ip}]:0"],
            "danger_allow_anonymous": True,
        },
    ) as gateway:
        yield gateway


async def ask(gateway: Gateway, peer: RawPeer, path: str, label: str) -> int | str:
    """The status of a request for `path`, whose tunnel was used before its answer; or how the stream ended."""
    fields = connect_udp_fields(gateway.host, "", 0, path=path)
    stream_id = peer.request(fields)
    said = marked(label)
    peer.send_data(stream_id, wire.datagram_capsule(said))
    peer.send_http_datagram(stream_id, said)
    await peer.until(
        lambda: peer.frames(stream_id) or peer.stream(stream_id).ended or peer.closed, f"an answer for {label!r}"
    )
    if not peer.frames(stream_id):
        return (
            MALFORMED
            if peer.stream(stream_id).reset_code == wire.H3_MESSAGE_ERROR
            else f"{peer.stream(stream_id)}, closed={peer.closed}"
        )
    response = await peer.response(stream_id)
    peer.stop(stream_id)
    peer.reset(stream_id)
    return response.status


async def ask_all(
    gateway: Gateway, network: Everywhere, paths: dict[str, str]
) -> tuple[dict[str, int | str], list[str]]:
    """Every answer, and what was heard of all of them."""
    async with gateway.client() as peer:
        network.heard()
        answers = await asyncio.gather(*(ask(gateway, peer, path, label) for label, path in paths.items()))
        await peer.settled()
    return dict(zip(paths, answers, strict=True)), network.heard()


def path_of(host: str, port: int | str) -> str:
    return f"{PATH}{quote(host.replace(':', '%3A'), safe=AS_IT_IS)}/{port}/"


def not_refused(answers: dict[str, int | str]) -> dict[str, int | str]:
    return {label: answer for label, answer in answers.items() if answer not in {400, 403, MALFORMED}}


@pytest.mark.bypass("S-a", "S-c")
@pytest.mark.parametrize("name", ["S-a", "S-c"])
async def test_whoever_answers_at_an_internal_address_would_be_heard(network: Everywhere, name: str) -> None:
    """What the tests below prove by silence is worth as much as these ears."""
    hosts: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    for spelling in LISTS[name]["refused"]:
        with contextlib.suppress(ValueError):
            hosts += [] if "%" in spelling else [ipaddress.ip_address(spelling)]
    # The IPv4 addresses behind these are heard by the first list; as they stand the kernel routes them nowhere.
    unroutable = {str(host) for host in hosts if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped}
    unroutable |= {"::", "fe80::1", "fe80::5efe:7f00:1"}
    network.heard()
    for host in hosts:
        if str(host) in unroutable:
            continue
        family = socket.AF_INET if host.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            if host.version == 4:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.sendto(marked(str(host)), (str(host), network.port))
    assert network.wait_for({str(host) for host in hosts} - unroutable) == set()


@pytest.mark.bypass("S-a", "S-b", "S-c")
@pytest.mark.parametrize("name", ["S-a", "S-b", "S-c"])
async def test_no_spelling_of_an_internal_address_is_reached(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere, name: str
) -> None:
    names.otherwise = f"@ 0 IN A {ANSWERED_BY_DNS}"
    paths = {host: path_of(host, network.port) for host in LISTS[name]["refused"]}
    async with public_gateway(open_gateway, names) as gateway:
        answers, heard = await ask_all(gateway, network, paths)
    assert not_refused(answers) == {}
    assert heard == []
    assert names.questions == [], "an address is no question"


@pytest.mark.bypass("S-b", "S-c", "S-d")
@pytest.mark.parametrize("name", ["S-b", "S-c", "S-d"])
async def test_no_unescaped_spelling_is_reached_either(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere, name: str
) -> None:
    """The same as bytes of the path: colons, and UTF-8 where there is any."""
    paths = {host: f"{PATH}{host}/{network.port}/" for host in LISTS[name]["refused"] if quote(host, safe="%.") != host}
    assert paths
    async with public_gateway(open_gateway, names) as gateway:
        answers, heard = await ask_all(gateway, network, paths)
    assert not_refused(answers) == {}
    assert heard == []
    assert names.questions == []


@pytest.mark.bypass("S-d")
async def test_no_name_of_the_machine_or_of_a_network_is_reached(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere
) -> None:
    """Also when DNS has a public address for it: it may mean another there."""
    names.otherwise = f"@ 0 IN A {ANSWERED_BY_DNS}"
    paths = {host: path_of(host, network.port) for host in LISTS["S-d"]["refused"]}
    async with public_gateway(open_gateway, names) as gateway:
        answers, heard = await ask_all(gateway, network, paths)
    assert not_refused(answers) == {}
    assert heard == []
    assert names.questions == []


@pytest.mark.bypass("S-e")
async def test_no_spelling_of_a_port_but_its_number_is_taken(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere
) -> None:
    ports = LISTS["S-e"]["refused"]
    paths = {f"/{port}/": f"{PATH}11.0.0.1/{quote(port, safe=AS_IT_IS)}/" for port in ports}
    paths |= {f"p={port}": f"/q?h=11.0.0.1&p={quote(port, safe=AS_IT_IS)}" for port in ports}
    paths |= {query: f"/q?{query}" for query in LISTS["S-e"]["queries"]}
    paths["53/udp"] = f"{PATH}11.0.0.1/53/udp/"
    async with public_gateway(open_gateway, names) as gateway:
        answers, heard = await ask_all(gateway, network, paths)
    assert answers.pop("53/udp") == 404, "the path of no template"
    assert not_refused(answers) == {}
    assert heard == []
    assert names.questions == []


@pytest.mark.bypass("S-a", "S-c", "S-d", "S-e")
async def test_what_lies_beside_the_lists_is_reached(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere
) -> None:
    """Without this, the tests above would hold of a gateway that refuses everything and of ears that hear nothing."""
    names.otherwise = f"@ 0 IN A {ANSWERED_BY_DNS}"
    paths = {host: path_of(host, network.port) for name in LISTS for host in LISTS[name].get("pass", [])}
    paths["by query"] = f"/q?h=11.0.0.2&p={network.port}"
    async with public_gateway(open_gateway, names) as gateway:
        answers, heard = await ask_all(gateway, network, paths)
    assert {label: answer for label, answer in answers.items() if answer != 200} == {}
    assert sorted(heard) == sorted(paths)


@pytest.mark.bypass("S-a")
async def test_the_gateways_own_listeners_are_not_reached(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere
) -> None:
    async with public_gateway(open_gateway, names) as gateway:
        paths = {
            f"{host} {port}": path_of(host, port)
            for address in gateway.server.addresses
            for host, port in [(str(address[0]), int(address[1]))]
        }
        assert len(paths) == 3
        answers, heard = await ask_all(gateway, network, paths)
    assert not_refused(answers) == {}
    assert heard == []


@pytest.mark.bypass("S-d")
async def test_a_look_alike_of_an_allowed_name_is_another_name(
    open_gateway: OpenGateway, names: NameServer, network: Everywhere
) -> None:
    """Only `allowed.example` is allowed; its Cyrillic twin is a name that can be asked for, and refused by policy."""
    rules = [{**ANY_PUBLIC[0], "destination": ["allowed.example"]}]
    names.otherwise = f"@ 0 IN A {ANSWERED_BY_DNS}"
    twins = ["xn--llowed-2fg.example", "xn--allowed-.example", "allowed.example.evil.example", "allowed-example"]
    async with open_gateway(
        rules=rules, danger=[], resolver={"nameservers": [f"{names.address[0]}:{names.address[1]}"]}
    ) as gateway:
        paths = {host: path_of(host, network.port) for host in [*twins, "allowed.example"]}
        answers, heard = await ask_all(gateway, network, paths)
    assert answers.pop("allowed.example") == 200
    assert not_refused(answers) == {}
    assert heard == ["allowed.example"]
    assert {name for name, _ in names.questions} == {"allowed.example"}
