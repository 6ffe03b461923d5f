"""Print the targets of a Makefile with their one-line help, in the order of the file.

A target line is `name: … ## help`; a line `## heading` starts a group.
"""

import re
import sys
from pathlib import Path


def targets(makefile: str) -> list[tuple[str, str]]:
    """Pairs (target, help) in file order; a heading is a pair with an empty target."""
    found: list[tuple[str, str]] = []
    for line in makefile.splitlines():
        if heading := re.fullmatch(r"## (.+)", line):
            found.append(("", heading[1]))
        elif target := re.fullmatch(r"([a-z][a-z0-9-]*):[^=].*?## (.+)", line):
            found.append((target[1], target[2]))
    return found


def main() -> None:
    for name, text in targets(Path(sys.argv[1]).read_text(encoding="utf-8")):
        print(f"  make {name:<14} {text}" if name else f"\n{text}")


if __name__ == "__main__":
    main()
