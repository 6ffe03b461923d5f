"""The steps of the demo. Each shows one promise over a gateway that is already connected."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from moretta.demo import http3, names, others
from moretta.demo.report import Step
from moretta.errors import TunnelRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeVar

    P = TypeVar("P", bound=asyncio.DatagramProtocol)

    class Gateway(Protocol):
        """The part of a connected `moretta.Gateway` that the steps need."""

        def open_udp(self, host: str, port: int, /) -> Awaitable[names.Tunnel]: ...
        async def create_datagram_endpoint(
            self, protocol_factory: Callable[[], P], host: str, port: int, /
        ) -> tuple[asyncio.DatagramTransport, P]: ...
        def rebind(self, bind: str, /) -> None: ...

    OnProgress = Callable[[int], None]

LOOPBACK = "127.0.0.1"
# Where the client continues: also loopback, and another address for everybody who looks at packets.
OTHER_LOOPBACK = "127.0.0.2"
ORIGIN_NAME = "origin.test"
MIB = 1 << 20
OK, FORBIDDEN = 200, 403

# What the demo's policy (`scenario`) does not open: a port that one of its rules denies, and the link-local address
# where clouds keep credentials, which no rule alone can open.
DENIED_PORT = 22
REFUSED_TARGETS = ((LOOPBACK, DENIED_PORT), ("169.254.169.254", 80))

# Nothing here takes this long; it bounds a run in which something is broken.
STEP_SECONDS = 45.0


async def http3_download(
    gateway: Gateway, facts: others.Facts, ca_file: Path, moves_seen: Callable[[], int], on_progress: OnProgress
) -> tuple[Step, Step]:
    """Download by HTTP/3 through one tunnel; halfway the client moves to another local address.

    moves_seen: how many changes of a client's address the gateway has counted; it must see this one.
    """
    moves_before = moves_seen()
    halfway = asyncio.Event()

    def progress(received: int) -> None:
        on_progress(received)
        if received >= facts.body_bytes // 2:
            halfway.set()

    async def move() -> None:
        await halfway.wait()
        gateway.rebind(OTHER_LOOPBACK)

    target = (LOOPBACK, facts.origin_port)
    transport, client = await gateway.create_datagram_endpoint(
        lambda: http3.client(ORIGIN_NAME, ca_file, progress), *target
    )
    try:
        async with asyncio.timeout(STEP_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(move())
            fetching = group.create_task(http3.download(client, target, ORIGIN_NAME))
    finally:
        transport.close()
    download = fetching.result()
    moved = moves_seen() > moves_before

    same = (download.status, download.body_bytes, download.sha256) == (OK, facts.body_bytes, facts.body_sha256)
    rate = download.body_bytes / download.seconds
    first = Step(
        name="http3",
        held=same,
        what=f"{facts.body_bytes // MIB} MiB, HTTP/3 (aioquic)",
        through="one tunnel",
        result=f"SHA-256 {download.sha256[:6]}… equal" if same else _difference(download, facts),
        throughput=f"{rate / MIB:.1f} MiB/s",
        facts={
            "bytes": download.body_bytes,
            "sha256": download.sha256,
            "seconds": round(download.seconds, 3),
            "bytes_per_second": round(rate),
        },
    )
    second = Step(
        name="address_change",
        held=same and moved,
        what=f"client to {OTHER_LOOPBACK}",
        through="same tunnel",
        result=_went_on(download, same=same, moved=moved),
        facts={"address": OTHER_LOOPBACK, "longest_pause_seconds": round(download.longest_pause_seconds, 4)},
    )
    return first, second


def _difference(download: http3.Download, facts: others.Facts) -> str:
    if download.status != OK:
        return f"the origin answered {download.status}"
    if download.body_bytes != facts.body_bytes:
        return f"{download.body_bytes} bytes arrived, {facts.body_bytes} were sent"
    return f"SHA-256 {download.sha256[:12]}…, the origin has {facts.body_sha256[:12]}…"


def _went_on(download: http3.Download, *, same: bool, moved: bool) -> str:
    if not moved:
        return "gateway saw no change of address"
    return f"went on after {download.longest_pause_seconds * 1000:.0f} ms" if same else "did not survive"


async def resolve_names(gateway: Gateway, facts: others.Facts, on_progress: OnProgress) -> Step:
    """Resolve every name of the zone; each query has a tunnel of its own."""
    expected = others.zone()
    started = time.monotonic()
    async with asyncio.timeout(STEP_SECONDS):
        backend = names.TunnelBackend(gateway.open_udp)
        wrong = await names.resolve_all(expected, (LOOPBACK, facts.dns_port), backend, on_progress)
    seconds = time.monotonic() - started
    return Step(
        name="dns",
        held=not wrong,
        what=f"{len(expected)} names (dnspython)",
        through=f"{len(expected)} tunnels",
        result="as in the zone" if not wrong else f"{len(wrong)} differ: {wrong[0]}",
        throughput=f"{len(expected) / seconds:.0f} names/s",
        facts={"names": len(expected), "wrong": len(wrong), "seconds": round(seconds, 3)},
    )


async def refused_target(gateway: Gateway, host: str, port: int) -> Step:
    """Ask for a target that the policy does not allow; held means refused, with a reason."""
    what = f"reach {host}:{port}"
    through = "policy"
    try:
        async with asyncio.timeout(STEP_SECONDS):
            tunnel = await gateway.open_udp(host, port)
    except TunnelRefused as refusal:
        return Step(
            name="refusal",
            held=refusal.status == FORBIDDEN,
            what=what,
            through=through,
            result=f"{refusal.status} {refusal.code.replace('_', ' ')}",
            facts={
                "target": f"{host}:{port}",
                "status": refusal.status,
                "code": refusal.code,
                "proxy_status": refusal.proxy_status,
            },
        )
    await tunnel.close()
    return Step(name="refusal", held=False, what=what, through=through, result="was opened and should not have been")


def broken(name: str, what: str, error: BaseException) -> Step:
    """The step that stands for one that could not be carried out."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    sentence = "nothing came of it in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
    return Step(name=name, held=False, what=what, through="", result=sentence)
