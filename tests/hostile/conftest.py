"""Fixtures of the hostile: a network in which every address answers, and a name server that says what it is told."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rig.fixtures import Authority, udp_target
from rig.names import NameServer, name_server
from rig.namespace import Everywhere, everywhere
from rig.neighbour import Neighbour
from rig.toll import Bystander, bystander
from rig.victim import Victim, running


@pytest.fixture(scope="module")
def network() -> Iterator[Everywhere]:
    """Every test of the module that uses it runs in one network namespace."""
    with everywhere() as entered:
        yield entered


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running


@pytest.fixture(scope="module")
def victim(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """One gateway process for the attacks of a module: it must survive them all."""
    with running(authority, tmp_path_factory.mktemp("victim") / "log") as process:
        yield process


@pytest.fixture
async def neighbour(victim: Victim) -> AsyncIterator[Neighbour]:
    """A tunnel of somebody else, open before the attack; works at its end."""
    async with udp_target(echo=True) as target, victim.client() as peer:
        opened = Neighbour(peer, await victim.open(peer, target.address), target)
        await opened.works()
        yield opened
        await opened.works()
        core = victim.stats()["core"]
        assert core["panicked_connections"] == core["panicked_endpoints"] == core["panicked_cores"] == 0


@pytest.fixture(scope="module")
def watching(victim: Victim) -> Iterator[Bystander]:
    """Somebody else's tunnel all through the attacks of a module."""
    with bystander(victim) as process:
        yield process


@pytest.fixture
def open_victim(authority: Authority, tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[Victim]]:
    """Opens a gateway process with sections of its configuration replaced."""
    return functools.partial(running, authority, tmp_path / "log")
