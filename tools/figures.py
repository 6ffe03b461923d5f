"""Write the figures of the last `make bench` into README.md, between the two markers."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench/bench.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"

# What a case is about, by the driver's mode: field of a sample, unit.
FIGURES = {
    "up": ("proxy_us_per_dgram", "µs of the gateway's CPU per datagram"),
    "down": ("proxy_us_per_dgram", "µs of the gateway's CPU per datagram"),
    "rtt": ("p50_us", "µs, median"),
    "setup": ("proxy_us_per_setup", "µs of the gateway's CPU"),
    "idle": ("rss_kib_per_tunnel", "KiB of memory"),
}


def table(document: dict[str, Any]) -> str:
    """The medians of every case, ours beside the peer's."""
    settings, samples = document["settings"], document["samples"]
    peers = list(samples)
    where = f"{settings['cpu']}, {settings['cores']} cores, Linux {settings['kernel']}, commit {settings['commit']}"
    how = f"{settings['arena']}; medians of {settings['repetitions']} runs, lower is better"
    lines = [
        f"{settings['time'][:10]}, {where}; {how}.",
        "",
        f"| case | {' | '.join(peers)} | unit |",
        "|---|" + "---:|" * len(peers) + "---|",
    ]
    for case in samples[peers[0]]:
        field, unit = FIGURES[samples[peers[0]][case][0]["mode"]]
        medians = [shown([sample[field] for sample in samples[peer].get(case, [])]) for peer in peers]
        lines.append(f"| {case} | {' | '.join(medians)} | {unit} |")
    return "\n".join(lines)


def shown(figures: list[float]) -> str:
    """The median with as many digits as are worth something."""
    if not figures:
        return "-"
    median = statistics.median(figures)
    return f"{median:.1f}" if median >= 10 else f"{median:.2f}"


def main() -> int:
    if not BENCH.exists():
        print("there are no figures yet: run `make bench` first")
        return 1
    text = README.read_text(encoding="utf-8")
    found = table(json.loads(BENCH.read_text(encoding="utf-8")))
    changed = re.sub(f"{BEGIN}\n.*?{END}", lambda _: f"{BEGIN}\n{found}\n{END}", text, flags=re.DOTALL)
    README.write_text(changed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
