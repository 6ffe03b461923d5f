"""What examples/ shows, run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dnslib.server import DNSLogger, DNSServer
from dnslib.zoneresolver import ZoneResolver

from moretta import config, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def name_server() -> Iterator[int]:
    """A name server on loopback; yields its port."""
    zone = ZoneResolver("www.example.test. 60 IN A 198.51.100.7\n")
    logger = DNSLogger(logf=lambda _line: None)
    server = DNSServer(zone, address="127.0.0.1", port=0, logger=logger)
    server.start_thread()
    yield server.server.server_address[1]
    server.stop()
    server.server.server_close()


async def run(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_resolve_prints_the_answer_that_came_through_the_tunnel(name_server: int) -> None:
    async with testing.gateway() as running:
        code, out, err = await run(
            str(EXAMPLES / "resolve.py"),
            running.server.origin,
            str(running.certificates.ca_file),
            "127.0.0.1",
            str(name_server),
            "www.example.test",
        )

    assert code == 0, err
    assert out.strip() == "www.example.test. 60 IN A 198.51.100.7"


async def test_resolve_says_in_one_line_that_a_target_is_refused() -> None:
    async with testing.gateway() as running:
        code, _, err = await run(
            str(EXAMPLES / "resolve.py"),
            running.server.origin,
            str(running.certificates.ca_file),
            "192.0.2.53",
            "53",
            "www.example.test",
        )

    assert code == 1
    assert err.startswith("PolicyRefused: ")
    assert err.count("\n") == 1


def test_the_loopback_gateway_is_a_configuration_that_loads(tmp_path: Path) -> None:
    testing.make_certificates(tmp_path)
    file = tmp_path / "loopback-gateway.toml"
    file.write_text((EXAMPLES / file.name).read_text(encoding="utf-8"), encoding="utf-8")

    loaded = config.load(file)

    assert [str(address) for address in loaded.config.listen["main"].address] == ["127.0.0.1:4433", "[::1]:4433"]
    assert loaded.config.policy.danger_allow_prefixes == ("127.0.0.0/8", "::1/128")
