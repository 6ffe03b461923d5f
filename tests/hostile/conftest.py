"""Fixtures of the hostile: a network in which every address answers, and a name server that says what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from rig.names import NameServer, name_server
from rig.namespace import Everywhere, everywhere


@pytest.fixture(scope="module")
def network() -> Iterator[Everywhere]:
    """Every test of the module that uses it runs in one network namespace."""
    with everywhere() as entered:
        yield entered


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running
