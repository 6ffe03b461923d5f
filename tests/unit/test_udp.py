"""A tunnel as an application holds it, over queues that the test fills."""

from __future__ import annotations

import asyncio

import pytest

from fakes import FakeTunnel
from moretta.errors import DatagramTooLarge, TunnelClosed
from moretta.udp import BATCH


@pytest.fixture
async def fake() -> FakeTunnel:
    return FakeTunnel()


async def test_sending_never_waits_and_takes_any_bytes(fake: FakeTunnel) -> None:
    for datagram in (b"a", bytearray(b"b"), memoryview(b"c"), b""):
        fake.tunnel.send(datagram)
    assert fake.native.sent == [b"a", b"b", b"c", b""]


async def test_a_full_queue_drops_and_raises_nothing(fake: FakeTunnel) -> None:
    fake.native.room = 1
    fake.tunnel.send_many([b"a", b"b"])
    fake.tunnel.send(b"c")
    assert fake.native.sent == [b"a"]


async def test_a_datagram_that_does_not_fit_says_what_would(fake: FakeTunnel) -> None:
    with pytest.raises(DatagramTooLarge) as raised:
        fake.tunnel.send(bytes(1201))
    assert (raised.value.max, raised.value.size) == (1200, 1201)
    with pytest.raises(DatagramTooLarge):
        fake.tunnel.send_many([b"before", bytes(1300), b"after"])
    assert fake.native.sent == [b"before"]
    assert not fake.tunnel.is_closed


async def test_recv_waits_for_what_arrives(fake: FakeTunnel) -> None:
    waiting = asyncio.create_task(fake.tunnel.recv())
    await asyncio.sleep(0)
    assert not waiting.done()
    fake.arrive(b"x")
    assert await waiting == b"x"


async def test_a_cancelled_recv_loses_nothing(fake: FakeTunnel) -> None:
    waiting = asyncio.create_task(fake.tunnel.recv())
    await asyncio.sleep(0)
    fake.arrive(b"x")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await fake.tunnel.recv() == b"x"


async def test_every_datagram_finds_one_of_many_receivers(fake: FakeTunnel) -> None:
    receivers = [asyncio.create_task(fake.tunnel.recv()) for _ in range(5)]
    await asyncio.sleep(0)
    fake.arrive(b"0", b"1", b"2")
    fake.arrive(b"3", b"4")
    assert sorted(await asyncio.gather(*receivers)) == [b"0", b"1", b"2", b"3", b"4"]


async def test_recv_many_returns_what_there_is_up_to_its_limit(fake: FakeTunnel) -> None:
    fake.arrive(b"0", b"1", b"2")
    assert await fake.tunnel.recv_many(2) == [b"0", b"1"]
    assert await fake.tunnel.recv_many() == [b"2"]
    with pytest.raises(ValueError, match="at least one"):
        await fake.tunnel.recv_many(0)


async def test_a_consumer_that_never_waits_lets_others_run(fake: FakeTunnel) -> None:
    fake.arrive(*(b"x" for _ in range(3 * BATCH)))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.create_task(count_turns())
    for _ in range(3 * BATCH):
        await fake.tunnel.recv()
    counter.cancel()
    assert turns >= 2


async def test_what_arrived_before_the_end_is_returned_before_the_end_is_told(fake: FakeTunnel) -> None:
    fake.arrive(b"last")
    fake.end("idle_timeout")
    assert await fake.tunnel.recv() == b"last"
    with pytest.raises(TunnelClosed) as raised:
        await fake.tunnel.recv()
    assert raised.value.reason == fake.tunnel.end_reason == "idle_timeout"
    with pytest.raises(TunnelClosed):
        fake.tunnel.send(b"x")
    with pytest.raises(TunnelClosed):
        fake.tunnel.send_many([b"x"])
    assert fake.tunnel.drops == {"stale": 1}


async def test_the_end_wakes_everybody(fake: FakeTunnel) -> None:
    receivers = [asyncio.create_task(fake.tunnel.recv()) for _ in range(3)]
    closed = asyncio.create_task(fake.tunnel.wait_closed())
    await asyncio.sleep(0)
    fake.end("proxy_reset")
    results = await asyncio.gather(*receivers, return_exceptions=True)
    assert [type(result) for result in results] == [TunnelClosed] * 3
    await closed


@pytest.mark.parametrize("reason", ["proxy_finished", "idle_timeout", "drained"])
async def test_iterating_stops_at_an_orderly_end(fake: FakeTunnel, reason: str) -> None:
    fake.arrive(b"a", b"b")
    fake.end(reason)
    assert [datagram async for datagram in fake.tunnel] == [b"a", b"b"]


async def test_iterating_raises_at_any_other_end(fake: FakeTunnel) -> None:
    fake.end("connection_lost")
    with pytest.raises(TunnelClosed, match="connection lost"):
        await anext(fake.tunnel)


async def test_closing_finishes_the_stream_once_and_waits_for_the_end(fake: FakeTunnel) -> None:
    closing = [asyncio.create_task(fake.tunnel.close()) for _ in range(2)]
    await asyncio.sleep(0)
    assert fake.engine.commands == [("finish_tunnel", {"tunnel": 7})]
    assert fake.tunnel.is_closed
    with pytest.raises(TunnelClosed):
        fake.tunnel.send(b"x")
    assert not closing[0].done()
    fake.end("client_finished")
    await asyncio.gather(*closing)
    await fake.tunnel.close()
    assert len(fake.engine.commands) == 1
    assert not fake.engine.handlers
    assert not fake.engine.ready


async def test_a_cancelled_close_resets_the_stream(fake: FakeTunnel) -> None:
    closing = asyncio.create_task(fake.tunnel.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert [command for command, _ in fake.engine.commands] == ["finish_tunnel", "reset_tunnel"]
    assert fake.tunnel.end_reason == "client_reset"
    await fake.tunnel.wait_closed()


async def test_aborting_needs_no_answer(fake: FakeTunnel) -> None:
    fake.tunnel.abort()
    fake.tunnel.abort()
    await fake.tunnel.wait_closed()
    assert [command for command, _ in fake.engine.commands] == ["reset_tunnel"]


async def test_facts_about_the_opening_are_kept(fake: FakeTunnel) -> None:
    assert (fake.tunnel.target, fake.tunnel.proxy_status) == (("192.0.2.1", 53), "p")
    assert fake.tunnel.max_datagram_size == 1200
    assert fake.tunnel.counters.sent == 0
    assert "192.0.2.1" in repr(fake.tunnel)
