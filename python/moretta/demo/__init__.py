"""`moretta demo`: real HTTP/3 and real DNS through CONNECT-UDP tunnels, on loopback, in one command.

A gateway and a client of this package stand between software that other people wrote: aioquic downloads from aioquic,
dnspython asks dnslib. The gateway's certificate comes from a throwaway authority, its policy allows loopback only, and
nothing is left behind. The far side runs in a process of its own (`others`).

Called by the command line (`run`). What it needs beyond the package is the extra `demo`.
"""

from __future__ import annotations

from importlib.util import find_spec

#: The modules of the extra, and the packages that bring them.
EXTRA = {"aioquic": "aioquic", "dns": "dnspython", "dnslib": "dnslib"}


def missing() -> list[str]:
    """The packages of the extra `demo` that are not installed."""
    return [package for module, package in EXTRA.items() if find_spec(module) is None]


def run(*, keep: bool = False, as_json: bool = False) -> int:
    """Run the demo and return the exit status: 0 only if everything held.

    keep: leave gateway and far side running until interrupted, and print how to use them.
    as_json: print the report as one JSON document instead of a table.
    """
    if absent := missing():
        from moretta.errors import MorettaError

        raise MorettaError(f"the demo needs {', '.join(absent)}: pip install 'moretta[demo]'")
    from moretta.demo.scenario import main

    return main(keep=keep, as_json=as_json)
