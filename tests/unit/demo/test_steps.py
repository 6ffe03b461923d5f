"""The demo's steps over a gateway that is none: plain UDP sockets, honest and dishonest.

What the demo says about a real gateway is worth as much as what it says about a broken one.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pytest

pytest.importorskip("aioquic", reason="the extra demo is not installed")

import trustme

from moretta.demo import others, steps
from moretta.demo.process import OthersError
from moretta.demo.process import others as far_side
from moretta.errors import PolicyRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BODY_BYTES = 1 << 20


class Socket(asyncio.DatagramProtocol):
    """A UDP socket with the methods of a tunnel."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        self._received: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, _addr: tuple[str, int]) -> None:
        self._received.put_nowait(self._change(data))

    def send(self, payload: bytes) -> None:
        assert self._transport is not None
        self._transport.sendto(payload)

    async def recv(self) -> bytes:
        return await self._received.get()

    async def close(self) -> None:
        assert self._transport is not None
        self._transport.close()


P = TypeVar("P", bound=asyncio.DatagramProtocol)


class Direct:
    """Opens a socket instead of a tunnel; `refuses` is its policy."""

    def __init__(self, change: Callable[[bytes], bytes] = bytes, *, refuses: bool = True) -> None:
        self._change = change
        self._refuses = refuses
        self.rebinds: list[str] = []

    async def create_datagram_endpoint(
        self, protocol_factory: Callable[[], P], host: str, port: int
    ) -> tuple[asyncio.DatagramTransport, P]:
        return await asyncio.get_running_loop().create_datagram_endpoint(protocol_factory, remote_addr=(host, port))

    async def open_udp(self, host: str, port: int) -> Socket:
        if host != steps.LOOPBACK:
            if self._refuses:
                raise PolicyRefused("no rule", "policy_refused", 403, "moretta; error=destination_ip_prohibited")
            host, port = steps.LOOPBACK, 9  # never leave the machine
        _, protocol = await self.create_datagram_endpoint(lambda: Socket(self._change), host, port)
        return protocol

    def rebind(self, bind: str) -> None:
        self.rebinds.append(bind)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    authority = trustme.CA()
    leaf = authority.issue_cert(steps.ORIGIN_NAME)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(directory / "origin.pem")
    leaf.private_key_pem.write_to_path(directory / "origin.key")
    return directory


@pytest.fixture
async def facts(certificates: Path) -> AsyncIterator[others.Facts]:
    async with far_side(certificates, BODY_BYTES) as facts:
        yield facts


async def test_a_download_that_arrives_whole_holds_and_the_address_changed_once(
    certificates: Path, facts: others.Facts
) -> None:
    gateway = Direct()
    progress: list[int] = []

    download, change = await steps.http3_download(
        gateway, facts, certificates / "ca.pem", lambda: len(gateway.rebinds), progress.append
    )

    assert download.held, download
    assert change.held, change
    assert progress[-1] == BODY_BYTES
    assert gateway.rebinds == [steps.OTHER_LOOPBACK]


async def test_a_download_with_another_digest_fails_both_promises(certificates: Path, facts: others.Facts) -> None:
    wrong = replace(facts, body_sha256="0" * 64)

    gateway = Direct()
    download, change = await steps.http3_download(
        gateway, wrong, certificates / "ca.pem", lambda: len(gateway.rebinds), lambda _bytes: None
    )

    assert not download.held
    assert not change.held
    assert "000000000000" in download.result


async def test_a_gateway_that_saw_no_change_of_address_fails_that_promise_only(
    certificates: Path, facts: others.Facts
) -> None:
    download, change = await steps.http3_download(
        Direct(), facts, certificates / "ca.pem", lambda: 7, lambda _bytes: None
    )

    assert download.held
    assert not change.held
    assert "no change of address" in change.result


async def test_every_name_of_the_zone_resolves(facts: others.Facts) -> None:
    done: list[int] = []

    step = await steps.resolve_names(Direct(), facts, done.append)

    assert step.held, step
    assert sorted(done) == list(range(1, others.NAMES + 1))


async def test_an_answer_that_differs_from_the_zone_fails(facts: others.Facts) -> None:
    def forge(answer: bytes) -> bytes:
        return answer[:-1] + bytes([answer[-1] ^ 1])

    step = await steps.resolve_names(Direct(forge), facts, lambda _names: None)

    assert not step.held
    assert step.facts["wrong"] == others.NAMES


async def test_a_refused_target_is_shown_with_its_status_and_reason() -> None:
    step = await steps.refused_target(Direct(), "192.0.2.53", 53)

    assert step.held
    assert "403" in step.result
    assert step.facts["proxy_status"] == "moretta; error=destination_ip_prohibited"


async def test_a_gateway_that_opens_a_forbidden_target_fails() -> None:
    step = await steps.refused_target(Direct(refuses=False), "192.0.2.53", 53)

    assert not step.held


async def test_a_far_side_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(OthersError, match=r"origin\.pem"):
        async with far_side(tmp_path, BODY_BYTES):
            pass


def test_a_step_that_broke_names_the_innermost_error() -> None:
    error = ExceptionGroup("several", [ExceptionGroup("inner", [OSError("no route")])])

    assert steps.broken("http3", "a download", error).result == "OSError: no route"
