"""What was found, for people: one row for each case, one column for each gateway; and against which bar."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from benches.cases import ALSO, Case, Samples

BASE = "masque-go"


@dataclass(frozen=True)
class Row:
    """A figure of every gateway. `cells` are absent for gateways that were not measured."""

    name: str
    unit: str
    cells: dict[str, str]
    #: Our figure to masque-go's: geometric mean, least and greatest of neighbouring samples.
    ratio: tuple[float, float, float] | None = None
    #: What ours is held to, and whether it is kept; empty: no bar.
    bar: str = ""
    kept: bool | None = None

    def document(self) -> dict[str, Any]:
        return {"case": self.name, "unit": self.unit, "cells": self.cells, "bar": self.bar, "kept": self.kept}


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float] | None:
    """Geometric mean, least and greatest of the ratios of neighbouring samples."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=False) if a > 0 and b > 0]
    if not ratios:
        return None
    return math.exp(statistics.fmean(map(math.log, ratios))), min(ratios), max(ratios)


def values(samples: list[dict[str, Any]], field: str) -> list[float]:
    return [float(sample[field]) for sample in samples if field in sample]


def shown(figures: list[float]) -> str:
    """The median with as many digits as are worth something."""
    median = statistics.median(figures)
    if median >= 1000:
        return f"{median:,.0f}"
    return f"{median:.0f}" if median >= 100 else f"{median:.1f}" if median >= 10 else f"{median:.2f}"


def rows(cases: list[Case], samples: Samples, lost: dict[str, set[str]]) -> list[Row]:
    """All rows in the order of the cases. lost: the cases that a gateway did not survive."""
    result = []
    for case in cases:
        fields = [(case.name, case.figure, case.unit), *ALSO.get(case.mode, [])]
        for name, field, unit in fields:
            cells = {}
            for peer in case.peers:
                found = samples.get(peer, case.name)
                if case.name in lost.get(peer, ()):
                    cells[peer] = "lost"
                elif figures := values(found, field):
                    note = found[0].get("note", "") if name == case.name else ""
                    cells[peer] = shown(figures) + (f" ({note})" if note else "")
            if cells:
                bar, kept = held(case, samples) if name == case.name else ("", None)
                ours, theirs = (values(samples.get(peer, case.name), field) for peer in ("moretta", BASE))
                # Parts of different peaks do not compare.
                beside = None if unit.startswith("%") else ratio(ours, theirs)
                result.append(Row(name, unit, cells, beside, bar, kept))
    return result


def held(case: Case, samples: Samples) -> tuple[str, bool | None]:
    """The bar of a case in words, and whether our median keeps it; None: it cannot be told."""
    ours = values(samples.get("moretta", case.name), case.figure)
    words, verdicts = [], []
    if case.bar is not None:
        words.append(f"{'≥' if case.more_is_better else '≤'} {case.bar:g}")
        if ours:
            median = statistics.median(ours)
            verdicts.append(median >= case.bar if case.more_is_better else median <= case.bar)
    if case.ratio_bar is not None:
        words.append(f"≤ {case.ratio_bar:.2f} times {BASE}")
        found = ratio(ours, values(samples.get(BASE, case.name), case.figure))
        verdicts += [found[0] <= case.ratio_bar] if found else []
    if case.against is not None:
        other, most = case.against
        words.append(f"≤ {most:g} times {other}")
        found = ratio(ours, values(samples.get("moretta", other), case.figure))
        verdicts += [found[0] <= most] if found else []
    return ", ".join(words), all(verdicts) if verdicts else None


def text(found: list[Row], remarks: list[str]) -> str:
    """The table for a terminal."""
    lines = []
    for row in found:
        lines.append(f"{row.name}  [{row.unit}]")
        for peer, cell in row.cells.items():
            beside = ""
            if peer == "moretta":
                if row.ratio is not None:
                    beside = f"{row.ratio[0]:.2f} times {BASE} ({row.ratio[1]:.2f}…{row.ratio[2]:.2f})"
                if row.bar:
                    verdict = {True: "kept", False: "MISSED", None: "cannot be told"}[row.kept]
                    beside += f"{'; ' if beside else ''}bar {row.bar}: {verdict}"
            lines.append(f"    {peer:<14}{cell:>12}  {beside}".rstrip())
    return "\n".join([*lines, *(f"! {remark}" for remark in remarks)])
