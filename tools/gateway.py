"""A loopback gateway in the foreground, from examples/loopback-gateway.toml: what `make gateway` runs.

Takes a throwaway certificate, prints where it is and how to reach the gateway, and runs until interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import moretta
from moretta import testing

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/loopback-gateway.toml"


def configuration(port: int, workers: int | None, files: testing.Certificates) -> dict[str, Any]:
    """The example with this run's port, workers and certificate."""
    document = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    listener = document["listen"]["main"]
    listener["address"] = [f"{address.rsplit(':', 1)[0]}:{port}" for address in listener["address"]]
    listener["certificate"], listener["key"] = str(files.certificate), str(files.key)
    if workers is not None:
        document["engine"] = {"workers": workers}
    return document


async def serve(arguments: argparse.Namespace, directory: Path) -> None:
    files = testing.make_certificates(directory)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with moretta.Server(configuration(arguments.port, arguments.workers, files)) as server:
        workers = arguments.workers or len(os.sched_getaffinity(0))
        facts: dict[str, Any] = {
            "pid": os.getpid(),
            "workers": workers,
            "addresses": [str(address) for address in server.addresses],
            "port": server.addresses[0].port,
            "ca": str(files.ca_file),
            "certificate": str(files.certificate),
            "key": str(files.key),
        }
        if arguments.json:
            print(json.dumps(facts), flush=True)
            # For `make bench`, whose ledgers have to add up.
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGUSR1, lambda: print(json.dumps({"counters": server.stats()}), flush=True)
            )
        else:
            print(
                f"process id   {facts['pid']}\n"
                f"workers      {workers}\n"
                f"addresses    {', '.join(facts['addresses'])}\n"
                f"template     {server.origin}/.well-known/masque/udp/{{target_host}}/{{target_port}}/\n"
                f"certificate  {files.certificate}\n"
                f"authority    {files.ca_file}\n"
                f"try          moretta ping {server.origin} --ca {files.ca_file}\n"
                "Ctrl-C ends it and deletes the certificate.",
                flush=True,
            )
        await stop.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="a loopback gateway in the foreground")
    parser.add_argument("--port", type=int, default=4433, help="UDP port on 127.0.0.1 and ::1; 0 takes a free one")
    parser.add_argument("--workers", type=int, help="worker threads; default: one per core of this process")
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON instead of text, and one of counters on SIGUSR1"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moretta-gateway-") as directory:
        try:
            asyncio.run(serve(arguments, Path(directory)))
        except moretta.MorettaError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
