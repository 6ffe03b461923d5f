"""What the demo found: steps, the table for people and the document for programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Step:
    """One promise and whether it held.

    what, through, result, throughput: cells of the table. facts: numbers for `--json`.
    """

    name: str
    held: bool
    what: str
    through: str
    result: str
    throughput: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """All steps of one run."""

    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether there were steps and every one of them held."""
        return bool(self.steps) and all(step.held for step in self.steps)

    def document(self) -> dict[str, Any]:
        """The report as plain data, version 1."""
        return {
            "version": 1,
            "held": self.held,
            "seconds": round(self.seconds, 3),
            "steps": [
                {"step": step.name, "held": step.held, "what": step.what, "result": step.result, **step.facts}
                for step in self.steps
            ],
        }

    def table(self) -> Table:
        """The report for a terminal."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("")
        for heading in ("what", "through", "result"):
            table.add_column(heading, overflow="fold")
        table.add_column("throughput", justify="right", no_wrap=True)
        for step in self.steps:
            mark = Text("held", style="green") if step.held else Text("FAILED", style="bold red")
            table.add_row(mark, step.what, step.through, step.result, step.throughput)
        return table
