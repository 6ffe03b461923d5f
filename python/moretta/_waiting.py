"""Small pieces of asyncio that client and server share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType


class Closable(Protocol):
    """What `Opening` opens."""

    async def close(self) -> None:
        """Close it and wait until it is closed."""


A = TypeVar("A")
T = TypeVar("T", bound=Closable)


class Opening(Generic[T]):
    """Something that is being opened: await it to have it, or use it with ``async with`` to have it closed as well.

    Nothing happens before either; it can be used once.
    """

    def __init__(self, open_it: Callable[[], Awaitable[T]]) -> None:
        self._open = open_it
        self._opened: T | None = None
        self._used = False

    def __await__(self) -> Generator[None, None, T]:
        return self._start().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._start()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _start(self) -> T:
        if self._used:
            msg = "this was opened already: call the method again for another one"
            raise RuntimeError(msg)
        self._used = True
        return await self._open()


class Signal:
    """Wakes everybody who waits. Who wakes must look for himself whether there is something for him."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    async def wait(self) -> None:
        """Wait for the next `wake`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        """Wake all who wait now."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def __bool__(self) -> bool:
        return bool(self._waiters)


class Answer(Generic[A]):
    """Waits for the first event about something that was asked for, and keeps what comes after it.

    Several events may come in one batch, before the task that waits for the first one runs again: an accepted tunnel
    may have ended by then. Whoever takes over gets those with `hand_over`.
    """

    def __init__(self) -> None:
        self._first: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._later: list[A] = []

    def __call__(self, event: A) -> None:
        if self._first.done():
            self._later.append(event)
        else:
            self._first.set_result(event)

    def __await__(self) -> Generator[None, None, A]:
        return self._first.__await__()

    def hand_over(self, handler: Callable[[A], None]) -> None:
        """Give `handler` what came after the first event."""
        for event in self._later:
            handler(event)
        self._later.clear()
