"""Write the figures of the last `make bench` into README.md, between the two markers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench/bench.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def table(document: dict[str, Any]) -> str:
    """Every row of the report: ours first, the peers beside it, and the bar that ours is held to."""
    settings, peers = document["settings"], document["peers"]
    where = f"{settings['cpu']}, {settings['cores']} cores, Linux {settings['kernel']}, commit {settings['commit']}"
    how = f"medians of {settings['repetitions']} runs of {settings['seconds']:g} s, A B B A"
    lines = [
        f"{settings['time'][:10]}, {where}; {settings['arena']}; {how}.",
        "",
        f"| case | {' | '.join(peers)} | unit | bar |",
        "|---|" + "---:|" * len(peers) + "---|---|",
    ]
    for row in document["rows"]:
        cells = [row["cells"].get(peer, "-") for peer in peers]
        bar = row["bar"] + (", missed" if row["kept"] is False else "")
        lines.append(f"| {row['case']} | {' | '.join(cells)} | {row['unit']} | {bar} |")
    if settings["unrest"]:
        lines += ["", f"{settings['unrest'].capitalize()}."]
    return "\n".join(lines)


def main() -> int:
    if not BENCH.exists():
        print("there are no figures yet: run `make bench` first")
        return 1
    document = json.loads(BENCH.read_text(encoding="utf-8"))
    if document["settings"]["quick"]:
        print("the last `make bench` was a quick one, whose figures are worth nothing")
        return 1
    text = README.read_text(encoding="utf-8")
    changed = re.sub(f"{BEGIN}\n.*?{END}", lambda _: f"{BEGIN}\n{table(document)}\n{END}", text, flags=re.DOTALL)
    README.write_text(changed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
