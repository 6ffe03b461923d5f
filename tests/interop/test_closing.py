"""What the record of a tunnel says when its connection ends, in the forms in which others end theirs."""

from __future__ import annotations

import pytest

from rig import wire
from rig.fixtures import Gateway, Target
from rig.peer import RawPeer

NO_ERROR = 0
PROTOCOL_VIOLATION = 0x0A
#: What a CONNECTION_CLOSE of the transport names when no frame was to blame (RFC 9000 section 19.19).
PADDING = 0


@pytest.mark.parametrize(
    ("code", "frame_type", "reason"),
    [
        (wire.H3_NO_ERROR, None, "connection_closed"),
        (NO_ERROR, PADDING, "connection_closed"),
        (PROTOCOL_VIOLATION, PADDING, "connection_lost"),
    ],
    ids=["HTTP/3 without an error: quic-go, aioquic", "QUIC without an error: curl", "QUIC with an error"],
)
async def test_a_close_without_an_error_is_a_close_in_either_form(
    gateway: Gateway, peer: RawPeer, target: Target, code: int, frame_type: int | None, reason: str
) -> None:
    """RFC 9000 section 20.1: NO_ERROR signals that the connection is closed in the absence of any error."""
    await gateway.open(peer, target.address)

    peer._quic.close(error_code=code, frame_type=frame_type)
    peer.transmit()

    await gateway.reaches("gauges.connections", 0)
    assert gateway.counter(f"gateway_tunnels.ended.{reason}") == 1
