"""Somebody with an ordinary tunnel, whom an attack on the gateway must not concern."""

from __future__ import annotations

from dataclasses import dataclass

from rig.fixtures import Target
from rig.peer import RawPeer


@dataclass
class Neighbour:
    peer: RawPeer
    stream_id: int
    target: Target
    _said: int = 0

    async def works(self, *, tries: int = 20) -> None:
        """One payload there and back. Datagrams may be lost under a flood, so several are tried, a second each."""
        for _ in range(tries):
            self._said += 1
            payload = f"still here {self._said}".encode()
            self.peer.send_http_datagram(self.stream_id, payload)
            try:
                while await self.peer.http_datagram(self.stream_id, 1.0) != b"\x00" + payload:
                    pass
            except AssertionError:
                assert self.peer.closed is None, self.peer.closed
            else:
                return
        raise AssertionError("the neighbour's tunnel carries nothing any more")
