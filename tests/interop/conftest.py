"""The foreign peers: masque-go built once per checkout, a curl that CURL_BIN names, an origin on aioquic.

What a machine does not have is skipped, with the reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from rig.fixtures import Authority

SOURCE = Path(__file__).parent / "go"
BUILT = Path(__file__).parents[2] / ".interop"


@pytest.fixture(scope="session")
def go_peers() -> Path:
    """The folder with `interop` (our harness on masque-go's library), `client` and `proxy` (masque-go's own programs)."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("masque-go needs a Go toolchain (1.25 or later), and none is on PATH")
    BUILT.mkdir(exist_ok=True)
    with (BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, package in (
            ("interop", "."),
            ("client", "github.com/quic-go/masque-go/cmd/client"),
            ("proxy", "github.com/quic-go/masque-go/cmd/proxy"),
        ):
            built = subprocess.run(
                [go, "build", "-trimpath", "-o", str(BUILT / name), package],
                cwd=SOURCE,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            if built.returncode != 0:
                pytest.fail(f"go build {package} failed:\n{built.stderr}")
    return BUILT


@pytest.fixture(scope="session")
def curl() -> Path:
    """A curl that can take an HTTP/3 proxy: 8.21 or later, and built for it, which distributions do not do."""
    named = os.environ.get("CURL_BIN")
    if not named:
        pytest.skip("CURL_BIN names no curl built with HTTP/3 proxy support (--enable-proxy-http3, ngtcp2)")
    version = subprocess.run([named, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    if "proxy-HTTP3" not in version.split():
        pytest.skip(f"{named} was built without HTTP/3 proxy support: {version.splitlines()[0]}")
    return Path(named)


@pytest.fixture
async def http3_origin(authority: Authority) -> AsyncIterator[int]:
    """An HTTP/3 origin on aioquic that answers a greeting and, for as many bytes as it got, as many bytes; yields its port."""

    class Origin(QuicConnectionProtocol):
        http: H3Connection | None = None

        def quic_event_received(self, event: events.QuicEvent) -> None:
            if isinstance(event, events.ProtocolNegotiated):
                self.http = H3Connection(self._quic)
            for found in self.http.handle_event(event) if self.http else []:
                assert self.http is not None
                if isinstance(found, HeadersReceived):
                    self.http.send_headers(found.stream_id, [(b":status", b"200")])
                    self.http.send_data(found.stream_id, b"hello from the origin", end_stream=found.stream_ended)
                elif isinstance(found, DataReceived):
                    self.http.send_data(found.stream_id, found.data, end_stream=found.stream_ended)
                self.transmit()

    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.load_cert_chain(str(authority.certificate), str(authority.key))
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Origin)
    assert server._transport is not None
    yield server._transport.get_extra_info("sockname")[1]
    server.close()
