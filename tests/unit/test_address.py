"""Socket addresses as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.address import SocketAddress


@given(st.ip_addresses(), st.integers(0, 65535))
def test_what_is_written_is_read_back(address: object, port: int) -> None:
    written = SocketAddress(str(address), port)
    assert SocketAddress.parse(str(written)) == written


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("localhost:1", "names are not looked up"),
        ("::1:1", "brackets"),
        ("127.0.0.1", "ADDRESS:PORT"),
        ("127.0.0.1:", "ADDRESS:PORT"),
        (":443", "no IP address"),
        ("127.0.0.1:65536", "highest"),
        ("127.0.0.1:-1", "ADDRESS:PORT"),
        ("[127.0.0.1]x:1", "ADDRESS:PORT"),
        ("127.0.0.1:4433 ", "ADDRESS:PORT"),
        ("127.0.0.1:٣", "ADDRESS:PORT"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SocketAddress.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"), [("127.9.9.9:1", True), ("[::1]:1", True), ("0.0.0.0:1", False), ("192.0.2.1:1", False)]
)
def test_loopback_is_what_only_this_machine_reaches(text: str, loopback: bool) -> None:
    assert SocketAddress.parse(text).is_loopback is loopback
