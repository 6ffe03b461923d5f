"""Socket addresses as text and back."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, Self

HIGHEST_PORT = 65535


class SocketAddress(NamedTuple):
    """An IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``192.0.2.1:443`` or ``[2001:db8::1]:443``.

        Raises ValueError with a sentence that says what was expected.
        """
        match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:([0-9]{1,5})|([^:\[\]]*):([0-9]{1,5})", text)
        if match is None:
            hint = "put an IPv6 address in brackets" if text.count(":") > 1 else "expected ADDRESS:PORT"
            msg = f"{text!r} is no socket address: {hint}, as in 127.0.0.1:4433 or [::1]:4433"
            raise ValueError(msg)
        host, port = match[1] or match[3], int(match[2] or match[4])
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            msg = f"{host!r} is no IP address; names are not looked up here: write an address such as 127.0.0.1"
            raise ValueError(msg) from None
        if port > HIGHEST_PORT:
            msg = f"{port} is no port: the highest is 65535"
            raise ValueError(msg)
        return cls(str(address), port)
