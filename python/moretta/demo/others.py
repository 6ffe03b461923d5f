"""The far side of the demo, in a process of its own: software that other people wrote.

Serves a body over HTTP/3 with aioquic and a zone over DNS with dnslib, on loopback and on ports the system chooses.
Started as `python -m moretta.demo.others DIRECTORY BYTES`; the directory holds `origin.pem` and `origin.key`, the
body has that many bytes. It prints one line of JSON (`Facts`) when it is ready and ends when its standard input does,
so that it never outlives its parent.

It is a separate process because aioquic spends a core on a fast download; the client has the other one.
Nothing here imports the rest of moretta.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from dnslib.server import DNSLogger, DNSServer
from dnslib.zoneresolver import ZoneResolver

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent

NAMES = 200
ZONE = "demo.test"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the parent needs to know; the digest travels beside the tunnel, not through it."""

    origin_port: int
    body_bytes: int
    body_sha256: str
    dns_port: int


def zone() -> dict[str, str]:
    """The names of the zone and their addresses, from a block reserved for documentation."""
    return {f"host-{index:03}.{ZONE}": f"198.51.100.{index + 1}" for index in range(NAMES)}


def body(size: int) -> bytes:
    """Bytes without a pattern, the same in every run."""
    return hashlib.shake_128(b"moretta demo").digest(size)


class Origin(QuicConnectionProtocol):
    """An HTTP/3 server with one resource: every request is answered with the body."""

    content = b""
    _http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Called by aioquic for everything that happens on the connection."""
        if self._http is None:
            self._http = H3Connection(self._quic)
        for http_event in self._http.handle_event(event):
            self._answer(self._http, http_event)

    def _answer(self, http: H3Connection, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived):
            return
        headers = [(b":status", b"200"), (b"content-length", str(len(self.content)).encode())]
        http.send_headers(event.stream_id, headers)
        http.send_data(event.stream_id, self.content, end_stream=True)
        self.transmit()


async def _serve(directory: Path, body_bytes: int) -> None:
    Origin.content = body(body_bytes)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(directory / "origin.pem", directory / "origin.key")
    origin = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Origin)

    records = "".join(f"{name}. 60 IN A {address}\n" for name, address in zone().items())
    names = DNSServer(ZoneResolver(records), address="127.0.0.1", port=0, logger=DNSLogger(logf=lambda _line: None))
    names.start_thread()

    facts = Facts(
        origin_port=origin._transport.get_extra_info("sockname")[1],  # type: ignore[union-attr]  # noqa: SLF001
        body_bytes=body_bytes,
        body_sha256=hashlib.sha256(Origin.content).hexdigest(),
        dns_port=names.server.server_address[1],
    )
    sys.stdout.write(json.dumps(asdict(facts)) + "\n")
    sys.stdout.flush()

    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    origin.close()
    names.stop()
    names.server.server_close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
