"""A Python application with one tunnel, sending or receiving as `make bench` asks: recv_many and send_many.

It prints one line of JSON. The target is benches/target.c; both are started by benches/python_case.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import struct
import time
from typing import Any

import moretta

BATCH = 64
#: A sender that is behind by more gives it up rather than sending it at once.
MOST_BEHIND_SECONDS = 0.005
QUIET_SECONDS = 0.3
TARGET_PATIENCE_SECONDS = 5.0


class Target:
    """The control socket of benches/target.c."""

    def __init__(self, port: int, run: int) -> None:
        self.run = run
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(0.2)
        self._socket.connect(("127.0.0.1", port))

    def counts(self) -> dict[str, int]:
        question = struct.pack(">cI19x", b"Q", self.run)
        deadline = time.monotonic() + TARGET_PATIENCE_SECONDS
        while time.monotonic() < deadline:
            self._socket.send(question)
            try:
                answer = self._socket.recv(2048)
            except TimeoutError:
                continue
            if answer.startswith(question[:5]):
                counts: dict[str, int] = json.loads(answer[5:])
                return counts
        raise SystemExit("the target does not answer")


async def send(tunnel: moretta.UdpTunnel, payload: bytes, rate: int, seconds: float) -> int:
    """Offers datagrams at a rate; returns how many."""
    batch = [payload] * BATCH
    offered = given_up = 0
    most = int(rate * MOST_BEHIND_SECONDS) + BATCH
    start = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        due = int(elapsed * rate) - offered - given_up
        if due > most:
            given_up += due - most
            due = most
        if due >= BATCH:
            tunnel.send_many(batch)
            offered += BATCH
            await asyncio.sleep(0)
        else:
            await asyncio.sleep((BATCH - due) / rate)
    return offered


async def receive(tunnel: moretta.UdpTunnel, counted: list[int]) -> None:
    """Takes datagrams until the tunnel ends."""
    while True:
        counted[0] += len(await tunnel.recv_many())


async def until_quiet(count: Any) -> None:
    before = -1
    while (now := count()) != before:
        before = now
        await asyncio.sleep(QUIET_SECONDS)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    run = os.getpid()
    target = Target(arguments.target_port, run)
    at_start = target.counts()
    header = struct.pack(">cI", b"U", run)
    payload = header + bytes(arguments.size - len(header))
    taken = [0]
    async with (
        moretta.connect(f"https://127.0.0.1:{arguments.port}", ca_file=arguments.ca) as gateway,
        gateway.open_udp("127.0.0.1", arguments.target_port) as tunnel,
    ):
        reading = asyncio.get_running_loop().create_task(receive(tunnel, taken))
        # Congestion window and MTU settle.
        warm = await send(tunnel, payload, 20_000, 0.3)
        await until_quiet(lambda: target.counts()["up"])
        before = target.counts()
        wall, cpu = time.perf_counter(), time.process_time()
        if arguments.mode == "up":
            offered = await send(tunnel, payload, arguments.rate, arguments.dur)
        else:
            request = struct.pack(
                ">cIHIIBB", b"S", run, arguments.size, arguments.rate, int(arguments.dur * 1000), 1, 0
            )
            tunnel.send(request)
            warm += 1
            offered = 0
            await asyncio.sleep(arguments.dur)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        await until_quiet(lambda: (taken[0], target.counts()["up"]))
        after = target.counts()
        if arguments.mode == "down":
            offered, delivered = after["src"], taken[0]
        else:
            delivered = after["up"] - before["up"]
        counters = tunnel.counters
        client = gateway.stats()
        reading.cancel()
    return {
        "mode": f"python-{arguments.mode}",
        "size": arguments.size,
        "rate": arguments.rate,
        "offered": offered,
        "delivered": delivered,
        "offered_ps": round(offered / arguments.dur),
        "delivered_ps": round(delivered / arguments.dur),
        "loss_pct": round(100 * (offered - delivered) / max(offered, 1), 3),
        "seconds": arguments.dur,
        "client_us_per_dgram": round(cpu * 1e6 / max(delivered, 1), 3),
        "client_core_pct": round(100 * cpu / wall, 1),
        "ledger": {
            "offered": warm + (offered if arguments.mode == "up" else 0),
            "sent": counters.sent,
            "send_dropped": counters.send_dropped,
            "receive_dropped": counters.receive_dropped,
            "taken": taken[0],
            "client": {"core": client["core"], "sockets": client["sockets"]},
            "target_received": after["rx"],
            "target_sent": after["tx"],
            "target_send_dropped": after["tx_dropped"] - at_start["tx_dropped"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--target-port", type=int, required=True)
    parser.add_argument("--mode", choices=["up", "down"], required=True)
    parser.add_argument("--size", type=int, default=1200)
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--dur", type=float, default=2.0)
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
