"""What is measured: the cases, what each one's figure is, and the bar that it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: All peers, for cases that say nothing else.
EVERYBODY = ("moretta", "masque-go", "envoy", "h2o", "masque-server")
OURS = ("moretta",)


@dataclass(frozen=True)
class Case:
    """What a generator is asked for; `rate` counts all tunnels together, per second; 0: as many as pass."""

    name: str
    #: How `--only` finds it, beside its name.
    group: str
    mode: str
    #: The field of a sample that the case is about, and what it counts.
    figure: str
    unit: str
    size: int = 1200
    rate: int = 0
    tunnels: int = 8
    connections: int = 1
    #: Tunnels that carry traffic; 0: all. On one connection, or else in turn on all of them.
    active: int = 0
    active_on_one: bool = False
    #: Seconds of traffic in a sample, if not those of the run.
    seconds: float | None = None
    #: The generator is moretta-load, which sends and receives whole trains; otherwise masque-go's client.
    aggregated: bool = False
    #: In a process that did nothing before: memory once freed, or a processor held back, would tell on what follows.
    fresh: bool = False
    #: The gateway gets this part of a core; None: a whole one.
    quota: float | None = None
    repetitions: int | None = None
    #: Compared with its neighbours: they go A B B A with each other.
    interleaved: bool = False
    peers: tuple[str, ...] = EVERYBODY
    #: The bar: our figure at most (or, where more is better, at least) this.
    bar: float | None = None
    more_is_better: bool = False
    #: Our figure at most so many times masque-go's of the same run.
    ratio_bar: float | None = None
    #: Our figure at most so many times our own of another case.
    against: tuple[str, float] | None = None

    @property
    def needs_go(self) -> bool:
        """Its generator is masque-go's client."""
        return not self.aggregated and not self.mode.startswith("python-")


CPU = {"figure": "proxy_us_per_dgram", "unit": "µs of CPU per datagram"}
SETUP = {"figure": "proxy_us_per_setup", "unit": "µs of CPU", "size": 64}
#: All of them on 100 connections.
MANY = "10,000 tunnels active,"
GROWTH = {
    "group": "growth",
    "mode": "up",
    "rate": 50_000,
    "tunnels": 10_000,
    "connections": 100,
    "fresh": True,
    "repetitions": 2,
    "peers": OURS,
    "interleaved": True,
} | CPU
OVERLOAD = {
    "group": "overload",
    "mode": "overload",
    "figure": "goodput_pct",
    "unit": "% of peak",
    "aggregated": True,
    "fresh": True,
    "repetitions": 1,
    "peers": ("moretta", "masque-go"),
    "bar": 90,
    "more_is_better": True,
}
PYTHON = {
    "group": "python",
    "figure": "delivered_ps",
    "unit": "datagrams/s",
    "tunnels": 1,
    "repetitions": 1,
    "peers": OURS,
    "bar": 150_000,
    "more_is_better": True,
}


def case(name: str, settings: Mapping[str, object], **more: object) -> Case:
    return Case(name, **{**settings, **more})  # type: ignore[arg-type] # the tables above are written for it


CASES = [
    case("up 1200 B, 50,000/s", CPU, group="wire", mode="up", rate=50_000, ratio_bar=1 / 1.9),
    case("down 1200 B, 50,000/s", CPU, group="wire", mode="down", rate=50_000, ratio_bar=1 / 2.6),
    case("up 64 B, 50,000/s", CPU, group="wire", mode="up", size=64, rate=50_000),
    case("down 64 B, 50,000/s", CPU, group="wire", mode="down", size=64, rate=50_000),
    Case("round trip 64 B, 2,000/s, median", "latency", "rtt", "p50_us", "µs", size=64, rate=2_000, ratio_bar=1.0),
    case("new connection and tunnel", SETUP, group="setup", mode="setup", tunnels=300, bar=430, ratio_bar=0.55),
    case("tunnel opened and closed", SETUP, group="setup", mode="tunnels", tunnels=4000, connections=16, bar=30),
    Case(
        "idle connection and tunnel", "memory", "idle", "rss_kib_per_tunnel", "KiB", size=64, tunnels=200, connections=200,
        seconds=1.0, fresh=True, repetitions=1, bar=56,
    ),
    Case(
        "a further tunnel, without its socket", "memory", "further", "rss_kib_per_tunnel", "KiB", size=64, tunnels=2000,
        connections=25, seconds=1.0, fresh=True, repetitions=1, bar=4,
    ),
    case("aggregated up 1200 B", CPU, group="aggregated", mode="up", aggregated=True, bar=0.90, ratio_bar=1 / 7),
    case("aggregated down 1200 B", CPU, group="aggregated", mode="down", aggregated=True, bar=0.90, ratio_bar=1 / 7),
    case("aggregated up 64 B", CPU, group="aggregated", mode="up", size=64, aggregated=True, bar=0.20),
    case("aggregated down 64 B", CPU, group="aggregated", mode="down", size=64, aggregated=True, bar=0.20),
    case(f"8 of {MANY} on one connection", GROWTH, active=8, active_on_one=True),
    case(
        f"100 of {MANY} on one connection", GROWTH, active=100, active_on_one=True,
        against=(f"8 of {MANY} on one connection", 1.15),
    ),
    case(f"8 of {MANY} on 8 connections", GROWTH, active=8),
    case(f"100 of {MANY} on 100 connections", GROWTH, active=100, against=(f"8 of {MANY} on 8 connections", 1.15)),
    case("overload, a whole core", OVERLOAD),
    case("overload, a tenth of a core", OVERLOAD, quota=0.1),
    case("Python client, sending", PYTHON, mode="python-up"),
    case("Python client, receiving", PYTHON, mode="python-down"),
]  # fmt: skip

#: Further figures of a case that are worth a row of their own: suffix, field, unit.
ALSO: dict[str, list[tuple[str, str, str]]] = {
    "rtt": [("round trip 64 B, 2,000/s, 99 of 100", "p99_us", "µs")],
    "tunnels": [("tunnels opened and closed on one connection", "delivered_ps", "per second")],
    "further": [("a further tunnel, the kernel's part", "slab_kib_per_tunnel", "KiB")],
}


def chosen(only: list[str]) -> list[Case]:
    """The cases of which a word of `--only` is the group or part of the name; all if there is no word."""
    words = [word.strip() for entry in only for word in entry.split(";") if word.strip()]
    if not words:
        return list(CASES)
    return [case for case in CASES if any(word == case.group or word in case.name for word in words)]


def blocks(cases: list[Case]) -> list[list[Case]]:
    """Neighbours that are interleaved together, all others alone."""
    found: list[list[Case]] = []
    for case in cases:
        if case.interleaved and found and found[-1][-1].interleaved and found[-1][-1].group == case.group:
            found[-1].append(case)
        else:
            found.append([case])
    return found


@dataclass
class Samples:
    """What was measured: by gateway and case."""

    of: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)

    def add(self, peer: str, case_name: str, sample: dict[str, Any]) -> None:
        self.of.setdefault(peer, {}).setdefault(case_name, []).append(sample)

    def get(self, peer: str, case_name: str) -> list[dict[str, Any]]:
        return self.of.get(peer, {}).get(case_name, [])
