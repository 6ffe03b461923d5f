"""Openings, signals and answers."""

from __future__ import annotations

import asyncio

import pytest

from moretta._waiting import Answer, Opening, Signal


class Thing:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


async def make() -> Thing:
    return Thing()


async def test_an_opening_can_be_awaited_and_then_nothing_closes_it() -> None:
    thing = await Opening(make)
    assert not thing.closed


async def test_an_opening_closes_what_it_opened_also_when_the_body_fails() -> None:
    opened = None
    with pytest.raises(ZeroDivisionError):
        async with Opening(make) as opened:
            raise ZeroDivisionError
    assert opened is not None
    assert opened.closed


async def test_an_opening_opens_once() -> None:
    opening = Opening(make)
    await opening
    with pytest.raises(RuntimeError, match="opened already"):
        await opening


async def test_an_opening_that_nobody_uses_does_nothing_and_warns_of_nothing() -> None:
    opening = Opening(make)
    del opening


async def test_a_signal_wakes_all_who_wait_and_forgets_who_was_cancelled() -> None:
    signal = Signal()
    first, second, gone = (asyncio.create_task(signal.wait()) for _ in range(3))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    signal.wake()
    await asyncio.gather(first, second)
    assert not signal


async def test_what_follows_an_answer_is_kept_for_who_takes_over() -> None:
    answer: Answer[str] = Answer()
    for event in ("opened", "closed"):
        answer(event)
    assert await answer == "opened"
    heard: list[str] = []
    answer.hand_over(heard.append)
    answer.hand_over(heard.append)
    assert heard == ["closed"]


async def test_an_answer_after_cancellation_is_no_error() -> None:
    answer: Answer[str] = Answer()

    async def wait() -> str:
        return await answer

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    answer("late")
