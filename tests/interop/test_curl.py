"""curl as client of our gateway (CF-7): it carries everything in DATAGRAM capsules on the request stream (UDP-46).

curl 8.22 as developed in August 2026 writes `:protocol` after the fields that --proxy-user and --proxy-header add; such a
request is malformed (RFC 9114 section 4.3) and reset, here as elsewhere. Hence no test with credentials.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from rig.fixtures import Authority, Gateway, OpenGateway

pytestmark = [pytest.mark.timeout(120)]

COULD_NOT_CONNECT = 7
NOT_TRUSTED = 60
BODY_BYTES = 2_000_000


@dataclass
class Curl:
    """One curl for each transfer, without the user's own settings."""

    program: Path
    authority: Authority

    async def get(self, url: str, *arguments: str | Path) -> tuple[int, bytes, str]:
        """Returns exit code, body, and what it says about the way there."""
        words = [self.program, "-q", "-sSv", "--max-time", "60", "--http3-only", "--cacert", self.authority.ca_file]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*map(str, [*words, *arguments, url]), stdout=pipe, stderr=pipe)
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out, err.decode(errors="replace")

    async def get_through(self, gateway: Gateway, url: str, *arguments: str | Path) -> tuple[int, bytes, str]:
        proxy = ["--proxytunnel", "--proxy-http3", "--proxy", f"https://{gateway.host}"]
        return await self.get(url, *proxy, "--proxy-cacert", self.authority.ca_file, *arguments)


@pytest.fixture
def client(curl: Path, authority: Authority) -> Curl:
    return Curl(curl, authority)


async def test_curl_fetches_a_page_through_our_gateway_in_capsules(
    client: Curl, gateway: Gateway, http3_origin: int
) -> None:
    code, body, said = await client.get_through(gateway, f"https://127.0.0.1:{http3_origin}/")

    assert (code, body) == (0, b"hello from the origin"), said
    await gateway.reaches("gateway_tunnels.ended.connection_closed", 1)
    assert gateway.counter("core.datagrams_from_capsules") == gateway.counter("core.datagrams_to_flows") > 0
    assert gateway.counter("core.datagrams_to_peer_in_capsules") > 0


async def test_two_megabytes_pass_each_way_unchanged(
    client: Curl, gateway: Gateway, http3_origin: int, tmp_path: Path
) -> None:
    """Flow control of the request stream, and in it the inner connection's own."""
    sent = tmp_path / "sent"
    sent.write_bytes(random.Random(7).randbytes(BODY_BYTES))

    code, body, said = await client.get_through(
        gateway, f"https://127.0.0.1:{http3_origin}/", "--data-binary", f"@{sent}"
    )

    assert code == 0, said
    assert body == b"hello from the origin" + sent.read_bytes()


async def test_curl_is_told_why_a_target_is_refused(client: Curl, open_gateway: OpenGateway) -> None:
    async with open_gateway(rules=[]) as gateway:
        code, _, said = await client.get_through(gateway, "https://192.0.2.1/")

    assert code == COULD_NOT_CONNECT
    assert "CONNECT-UDP Response Status 403" in said
    assert "proxy-status: moretta;error=destination_ip_prohibited" in said


async def test_curl_trusts_our_gateway_only_with_its_authority(
    client: Curl, gateway: Gateway, http3_origin: int, tmp_path: Path
) -> None:
    strangers = tmp_path / "strangers.pem"
    trustme.CA().cert_pem.write_to_path(str(strangers))

    code, _, said = await client.get_through(
        gateway, f"https://127.0.0.1:{http3_origin}/", "--proxy-cacert", strangers, "--proxy-capath", tmp_path
    )

    assert code == NOT_TRUSTED, said
    assert gateway.counter("core.tunnels_opened") == 0


@pytest.mark.parametrize("path", ["/", "/robots.txt", "/.well-known/masque/udp/127.0.0.1/53/"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_an_ordinary_request_gets_an_ordinary_404(client: Curl, gateway: Gateway, method: str, path: str) -> None:
    how = ["--head"] if method == "HEAD" else ["--request", method]
    code, body, said = await client.get(f"https://{gateway.host}{path}", *how, "--include")

    assert code == 0, said
    assert body == b"HTTP/3 404 \r\n\r\n"
