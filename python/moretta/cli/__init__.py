"""The command line. `main` is the entry point; everything else is imported when a verb needs it.

Facts go to stdout (one JSON document with ``--json``), everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage,
3 configuration, 4 denied, 5 unreachable, 6 privilege missing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    from moretta.cli.app import app

    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="moretta", standalone_mode=True)
    except SystemExit as end:
        code = end.code
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes.
        sys.stderr.close()
        return 1
    return code if isinstance(code, int) else 0 if code is None else 1
