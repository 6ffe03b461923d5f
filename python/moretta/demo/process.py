"""Starts and ends the process of `moretta.demo.others`."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from moretta.demo.others import Facts
from moretta.errors import MorettaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_SECONDS = 20.0
END_SECONDS = 5.0


class OthersError(MorettaError):
    """The HTTP/3 origin and the name server did not start."""


@asynccontextmanager
async def others(directory: Path, body_bytes: int) -> AsyncIterator[Facts]:
    """The far side, running; `directory` holds its certificate and gets its messages."""
    log = directory / "others.log"
    with log.open("wb") as messages:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "moretta.demo.others", str(directory), str(body_bytes),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=messages,
            start_new_session=True,  # Ctrl-C is ours; it ends when its standard input is closed
        )  # fmt: skip
    assert process.stdin is not None  # noqa: S101 asked for above
    assert process.stdout is not None  # noqa: S101
    try:
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await process.stdout.readline()
        except TimeoutError:
            raise OthersError(f"the origin was not ready within {START_SECONDS:.0f} s") from None
        if not line:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise OthersError(f"the origin did not start: {said[-1] if said else 'it said nothing'}")
        yield Facts(**json.loads(line))
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
