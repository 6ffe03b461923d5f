"""RFC 9001 at a running gateway and a running client: key updates (section 6), resumption without early data (4.5, 4.6)."""

from __future__ import annotations

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import Epoch, SessionTicket

import moretta
from rig.fixtures import Authority, Gateway, Target
from rig.peer import RawPeer, raw_server

pytestmark = pytest.mark.asyncio

#: quinn-proto updates its keys first after 10 to 1,000 packets, then shortly before the AEAD's limit.
FIRST_UPDATE_PACKETS = 1000


def key_phase(peer: RawPeer) -> int:
    """The key phase bit of what this peer sends and reads; aioquic keeps one for both directions."""
    phase: int = peer._quic._cryptos[Epoch.ONE_RTT].key_phase
    return phase


async def there_and_back(peer: RawPeer, stream_id: int, target: Target, payload: bytes) -> None:
    """Datagrams may be lost on the way, so each is tried until it is back."""

    async def answered() -> bool:
        peer.send_http_datagram(stream_id, payload)
        try:
            while await peer.http_datagram(stream_id, 1.0) != b"\x00" + payload:
                pass
        except AssertionError:
            assert peer.closed is None, peer.closed
            return False
        return True

    for _ in range(10):
        if await answered():
            return
    raise AssertionError(f"nothing came back; {len(target.received)} reached the target")


async def test_a_tunnel_outlives_key_updates_of_the_client(gateway: Gateway, echo_target: Target) -> None:
    """Section 6.1: the gateway answers under the new keys; under the old ones aioquic could not read it any more."""
    async with gateway.client() as peer:
        stream_id = await gateway.open(peer, echo_target.address)
        await there_and_back(peer, stream_id, echo_target, b"before")
        for number in range(8):
            before = key_phase(peer)
            peer._quic.request_key_update()
            await there_and_back(peer, stream_id, echo_target, b"under new keys %d" % number)
            assert key_phase(peer) != before
            # Section 6.2: the next update waits until this one is acknowledged.
            await peer.settled()
        assert peer.closed is None


async def test_a_tunnel_outlives_a_key_update_of_the_gateway(gateway: Gateway, echo_target: Target) -> None:
    async with gateway.client() as peer:
        stream_id = await gateway.open(peer, echo_target.address)
        assert key_phase(peer) == 0
        # One packet for each: two such payloads do not fit.
        for number in range(FIRST_UPDATE_PACKETS + 50):
            await there_and_back(peer, stream_id, echo_target, number.to_bytes(4, "big") * 200)
            if key_phase(peer):
                break
        assert key_phase(peer) == 1, "the gateway has kept its first keys"
        await there_and_back(peer, stream_id, echo_target, b"afterwards")


async def test_a_second_connection_of_the_client_resumes_and_sends_no_early_data(authority: Authority) -> None:
    """The mock proxy's tickets allow early data. A tunnel opened by it could be replayed (C-17), so none is sent."""
    async with raw_server(authority.certificate, authority.key, tickets=True) as proxy:
        for number in range(3):
            async with moretta.connect(f"https://127.0.0.1:{proxy.address[1]}", ca_file=authority.ca_file):
                # What the server sent before, its tickets too, has been read then.
                await proxy.connections[number].settled()
        handshakes = [peer.handshake for peer in proxy.connections if peer.handshake is not None]
    assert [handshake.session_resumed for handshake in handshakes] == [False, True, True]
    # aioquic accepts whatever early data is announced.
    assert not any(handshake.early_data_accepted for handshake in handshakes)


async def test_the_gateway_resumes_a_session_and_never_with_early_data(gateway: Gateway, target: Target) -> None:
    tickets: list[SessionTicket] = []
    async with gateway.client(session_ticket_handler=tickets.append) as peer:
        await peer.until(lambda: tickets, "a session ticket")
        assert peer.handshake is not None
        assert not peer.handshake.session_resumed

    def resume(configuration: QuicConfiguration) -> None:
        configuration.session_ticket = tickets[-1]

    assert not tickets[-1].max_early_data_size
    async with gateway.client(prepare=resume) as peer:
        stream_id = await gateway.open(peer, target.address)
        peer.send_http_datagram(stream_id, b"resumed")
        assert await target.take() == b"resumed"
        assert peer.handshake is not None
        assert peer.handshake.session_resumed
        assert not peer.handshake.early_data_accepted
