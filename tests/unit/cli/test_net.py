"""What `-L` means."""

from __future__ import annotations

import pytest

from moretta.cli.net import ForwardSpecification


@pytest.mark.parametrize(
    ("text", "bind", "host", "port"),
    [
        ("5353:9.9.9.9:53/udp", "127.0.0.1:5353", "9.9.9.9", 53),
        ("127.0.0.2:5353:dns.example:53/udp", "127.0.0.2:5353", "dns.example", 53),
        ("[::1]:0:[2001:db8::1]:65535/udp", "[::1]:0", "2001:db8::1", 65535),
    ],
)
def test_a_forward_is_written_as_in_ssh(text: str, bind: str, host: str, port: int) -> None:
    parsed = ForwardSpecification.parse(text)
    assert (str(parsed.bind), parsed.host, parsed.port) == (bind, host, port)
