"""More than a gateway can take: how much of its peak is left, and whether a tunnel is lost.

The load comes from the target, in trains to every tunnel, since a client's own congestion control would hold back what a
client offers. The peak is what passes when so much is on its way as fits and no more. Then a multiple of it is offered
without asking, in growing steps, until the generator's core is full: beyond that the generator would be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MULTIPLES = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
#: The generator's core may be so busy.
GENERATOR_PCT = 95.0
#: The load asks for this; a step that falls short of it by more than a twentieth was not offered.
OFFERED_PART = 0.95

#: Runs the generator at a rate (0: as much as passes); None: a tunnel or its connection was lost.
Measure = Callable[[int], dict[str, Any] | None]


def sweep(measure: Measure) -> dict[str, Any] | None:
    """One sample of an overload case."""
    peak = measure(0)
    if peak is None:
        return None
    points: list[dict[str, Any]] = []
    for multiple in MULTIPLES:
        found = measure(round(multiple * peak["delivered_ps"]))
        if found is None:
            points.append({"multiple": multiple, "lost_tunnels": True})
            break
        point = {
            "multiple": round(found["offered_ps"] / peak["delivered_ps"], 2),
            "asked": multiple,
            "goodput_pct": round(100 * found["delivered_ps"] / peak["delivered_ps"], 1),
            "core1_busy_pct": found["core1_busy_pct"],
            "sample": found,
        }
        points.append(point)
        if not reached(point):
            break
    return summary(peak, points)


def reached(point: dict[str, Any]) -> bool:
    """Whether the generator offered what it was asked for, and had core to spare."""
    if point.get("lost_tunnels"):
        return True
    enough: bool = point["multiple"] >= OFFERED_PART * point["asked"]
    return enough and point["core1_busy_pct"] <= GENERATOR_PCT


def summary(peak: dict[str, Any], points: list[dict[str, Any]]) -> dict[str, Any]:
    """The highest multiple that was reached, and what was left of the peak there: nothing, if a tunnel was lost."""
    result: dict[str, Any] = {"mode": "overload", "peak_ps": peak["delivered_ps"], "peak": peak, "points": points}
    valid = [point for point in points if reached(point)]
    # Where none was reached the first says at least what is left when the generator has no core to spare.
    last = valid[-1] if valid else points[0]
    lost = bool(last.get("lost_tunnels"))
    shown = f"{last['multiple']:g} times {peak['delivered_ps'] / 1000:,.0f}k/s"
    note = f"tunnels lost at {shown}" if lost else f"at {shown}"
    if not valid:
        note += f", the generator's core {last['core1_busy_pct']:.0f} % busy"
    goodput = 0.0 if lost else last["goodput_pct"]
    return result | {"goodput_pct": goodput, "multiple": last["multiple"], "lost_tunnels": lost, "note": note}
