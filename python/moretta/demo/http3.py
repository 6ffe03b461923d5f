"""An HTTP/3 download with aioquic over any asyncio datagram transport."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aioquic.quic.events import QuicEvent

# aioquic raises its flow control window slowly from 1 MiB; a window of the size of the body leaves the congestion
# controller alone in charge.
WINDOW_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Download:
    """What arrived. `longest_pause_seconds` is the longest time between two pieces of the body."""

    status: int
    body_bytes: int
    sha256: str
    seconds: float
    longest_pause_seconds: float


class DownloadError(Exception):
    """The inner QUIC connection ended before the body was complete."""


class Client(QuicConnectionProtocol):
    """One connection, one request."""

    def __init__(self, quic: QuicConnection, on_progress: Callable[[int], None]) -> None:
        super().__init__(quic)
        self._http = H3Connection(quic)
        self._on_progress = on_progress
        self._hash = hashlib.sha256()
        self._received = 0
        self._status = 0
        self._started = self._last = time.monotonic()
        self._longest_pause = 0.0
        self._done: asyncio.Future[Download] = asyncio.get_running_loop().create_future()

    def get(self, authority: str, path: str) -> asyncio.Future[Download]:
        """Send the request; the future gets what came back."""
        stream_id = self._quic.get_next_available_stream_id()
        headers = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._http.send_headers(stream_id, fields, end_stream=True)
        self._started = self._last = time.monotonic()
        self.transmit()
        return self._done

    def quic_event_received(self, event: QuicEvent) -> None:
        """Called by aioquic for everything that happens on the connection."""
        if isinstance(event, ConnectionTerminated) and not self._done.done():
            reason = event.reason_phrase or f"error {event.error_code:#x}"
            self._done.set_exception(DownloadError(f"the inner connection ended: {reason}"))
        for http_event in self._http.handle_event(event):
            self._take(http_event)

    def _take(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self._status = int(dict(event.headers)[b":status"])
        elif isinstance(event, DataReceived):
            now = time.monotonic()
            self._longest_pause = max(self._longest_pause, now - self._last)
            self._last = now
            self._hash.update(event.data)
            self._received += len(event.data)
            self._on_progress(self._received)
            if event.stream_ended and not self._done.done():
                self._done.set_result(
                    Download(
                        self._status, self._received, self._hash.hexdigest(), now - self._started, self._longest_pause
                    )
                )


def client(server_name: str, ca_file: Path, on_progress: Callable[[int], None]) -> Client:
    """A protocol to be put on a datagram transport. `on_progress` is told the number of bytes so far."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        server_name=server_name,
        max_data=WINDOW_BYTES,
        max_stream_data=WINDOW_BYTES,
    )
    configuration.load_verify_locations(str(ca_file))
    return Client(QuicConnection(configuration=configuration), on_progress)


async def download(protocol: Client, address: tuple[str, int], authority: str) -> Download:
    """Connect to `address` over the protocol's transport, fetch the one resource and close."""
    protocol.connect(address)
    try:
        await protocol.wait_connected()
        return await protocol.get(authority, "/")
    finally:
        protocol.close()
