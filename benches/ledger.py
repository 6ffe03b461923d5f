"""Where every datagram of a run went: what was offered is what was delivered and what a counter says was dropped.

A ledger is a chain of steps from sender to receiver. Each step has what entered, what left, and drops by reason. What is
missing without a reason makes the case fail, with one allowance: the kernel counts a merged train that it drops as one
(`SO_RXQ_OVFL`), so that for n trains anything from one datagram to n full trains is explained.

Only our gateway and its client have counters for every step; through another gateway the chain has a gap, which is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Packets in one train at most, as the kernel cuts and merges them.
TRAIN_PACKETS = 64
#: Bytes of one QUIC packet, and the least that a datagram takes in it beside its payload.
PACKET_BYTES, DATAGRAM_OVERHEAD = 1452, 3

Counts = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One place that datagrams pass."""

    name: str
    entered: int
    left: int
    drops: dict[str, int] = field(default_factory=dict)
    #: Trains or packets that were dropped here and counted as such.
    trains: int = 0
    #: Datagrams in one packet at most.
    in_packet: int = 1
    #: This place drops without counting, and is not ours.
    silent: bool = False

    @property
    def missing(self) -> int:
        """What entered and neither left nor has a reason of its own."""
        return self.entered - self.left - sum(self.drops.values())

    @property
    def unexplained(self) -> int:
        if 0 < self.missing <= self.trains * TRAIN_PACKETS * self.in_packet or (self.silent and self.missing > 0):
            return 0
        return self.missing

    def document(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"where": self.name, "in": self.entered, "out": self.left}
        if drops := {reason: count for reason, count in self.drops.items() if count}:
            shown["dropped"] = drops
        if self.trains:
            shown["trains_dropped"] = self.trains
        if self.missing:
            shown["in_them" if self.trains else "not_counted_here" if self.silent else "missing"] = self.missing
        return shown


@dataclass(frozen=True)
class Ledger:
    """The steps from the sender to the receiver of one direction."""

    steps: list[Step]

    @property
    def unexplained(self) -> list[Step]:
        return [step for step in self.steps if step.unexplained]

    def document(self) -> dict[str, Any]:
        return {
            "offered": self.steps[0].entered,
            "delivered": self.steps[-1].left,
            "steps": [step.document() for step in self.steps],
            "unexplained": {step.name: step.unexplained for step in self.unexplained},
        }

    def complaint(self) -> str:
        """One line about what nothing explains; empty if there is nothing."""
        return "; ".join(
            f"{step.unexplained:+d} datagrams unexplained between what entered ({step.entered}) and left ({step.left}) "
            f"{step.name}"
            for step in self.unexplained
        )


def difference(after: Counts, before: Counts) -> Counts:
    """What two readings of the same counters differ by, branch by branch; what is no number stays away."""
    return {
        key: difference(value, before.get(key, {})) if isinstance(value, dict) else value - before.get(key, 0)
        for key, value in after.items()
        if isinstance(value, dict | int) and not isinstance(value, bool)
    }


def up(ends: Ends, gateway: Counts | None, size: int) -> Ledger:
    """From the client to the target. gateway: what its counters rose by; None: it has none that are known."""
    steps = [*ends.sending_client()]
    entered = steps[-1].left
    if gateway is None:
        steps.append(Step("the gateway and the sockets around it", entered, ends.at_target, silent=True))
        return Ledger(steps)
    core, sockets = gateway["core"], gateway["sockets"]
    sent = sockets["targets"]["datagrams_sent"]
    refused = {f"send_{reason}": count for reason, count in sockets["targets"]["send_dropped"].items()}
    refused["datagrams_without_flow"] = gateway["shell"]["datagrams_without_flow"]
    return Ledger([
        *steps,
        Step(
            "QUIC from client to gateway", entered, core["datagrams_from_peer"], ends.client_lost(),
            trains=ends.client_unsent + arrival_drops(core, sockets["links"]), in_packet=in_packet(size),
        ),
        Step(
            "the gateway's tunnels", core["datagrams_from_peer"], core["datagrams_to_flows"],
            starting(core, "up_dropped_"),
        ),
        Step("the gateway's target sockets, sending", core["datagrams_to_flows"], sent, refused),
        Step("the target's socket", sent, ends.at_target, trains=ends.target_drops),
    ])  # fmt: skip


def down(ends: Ends, gateway: Counts | None, size: int) -> Ledger:
    """From the target to the client."""
    offered, sent = ends.from_target + ends.target_unsent, ends.from_target
    steps = [Step("the target's socket, sending", offered, sent, {"not_taken_by_kernel": ends.target_unsent})]
    if gateway is None:
        gap = Step("the gateway and the sockets around it", sent, ends.at_client, silent=True)
        return Ledger([*steps, gap, *ends.receiving_client()])
    core, sockets = gateway["core"], gateway["sockets"]
    targets = sockets["targets"]
    to_peer = core["datagrams_to_peer"] + core["datagrams_to_peer_in_capsules"]
    unsent = sum(sockets["links"]["send_dropped"].values())
    return Ledger([
        *steps,
        Step(
            "the gateway's target sockets", sent, targets["datagrams_received"],
            {"discarded_before_connect": targets["discarded_before_connect"]},
            trains=targets["dropped_by_kernel"] + targets["dropped_truncated"],
        ),
        Step(
            "the way to the gateway's queues", targets["datagrams_received"], core["datagrams_from_flows"],
            trains=core["stale_flow_inputs"],
        ),
        Step("the gateway's queues", core["datagrams_from_flows"], to_peer, starting(core, "down_dropped_")),
        Step(
            "QUIC from gateway to client", to_peer, ends.at_client, starting(core, "datagrams_to_peer_lost_"),
            trains=unsent + ends.client_drops, in_packet=in_packet(size),
        ),
        *ends.receiving_client(),
    ])  # fmt: skip


class Ends:
    """What client and target counted, whoever they are."""

    #: Datagrams that arrived at the client's QUIC, and what its sockets and inboxes dropped before.
    at_client: int
    client_drops: int
    #: Packets that the client's kernel did not take.
    client_unsent: int
    #: The target's socket: received, dropped by the kernel, sent, not taken by the kernel.
    at_target: int
    target_drops: int
    from_target: int
    target_unsent: int

    def sending_client(self) -> list[Step]:
        """From the application to the DATAGRAM frames that left."""
        raise NotImplementedError

    def receiving_client(self) -> list[Step]:
        """From the DATAGRAM frames that came to the application."""
        raise NotImplementedError

    def client_lost(self) -> dict[str, int]:
        """Frames that the client's QUIC lost by itself."""
        return {}


class OurCore(Ends):
    """A client on our core: `core` are its counters."""

    def __init__(self, core: Counts) -> None:
        self.core = {**dict.fromkeys(CORE_COUNTERS, 0), **core}
        self.at_client = self.core["datagrams_from_peer"]

    def client_lost(self) -> dict[str, int]:
        return starting(self.core, "datagrams_to_peer_lost_")

    def through_core(self, offered: int) -> Step:
        left = self.core["datagrams_to_peer"] + self.core["datagrams_to_peer_in_capsules"]
        return Step("the client's queues", offered, left, starting(self.core, "down_dropped_"))

    def out_of_core(self) -> Step:
        return Step(
            "the client's tunnels", self.at_client, self.core["datagrams_to_flows"], starting(self.core, "up_dropped_")
        )


class Load(OurCore):
    """moretta-load, which is client and target."""

    def __init__(self, ledger: Counts) -> None:
        super().__init__(ledger["client_core"])
        self.ledger = ledger
        client, target = ledger["client_sockets"], ledger["target_socket"]
        self.client_drops = client["dropped_by_kernel"] + client["dropped_truncated"] + shed(self.core)
        self.client_unsent = client["send_dropped"]
        self.at_target = target["datagrams_received"]
        self.target_drops = target["dropped_by_kernel"] + target["dropped_truncated"]
        self.from_target, self.target_unsent = target["datagrams_sent"], target["send_dropped"]

    def sending_client(self) -> list[Step]:
        return [self.through_core(self.ledger["client_offered"])]

    def receiving_client(self) -> list[Step]:
        return [
            self.out_of_core(),
            Step("the client", self.core["datagrams_to_flows"], self.ledger["client_received"]),
        ]


class Driver(Ends):
    """benches/driver on masque-go's client, and benches/target.c."""

    def __init__(self, ledger: Counts, target_drops: int) -> None:
        self.ledger = ledger
        self.at_client = ledger["frames_received"]
        self.client_drops, self.client_unsent = ledger["socket_drops"] + ledger["packets_dropped"], 0
        self.at_target, self.target_drops = ledger["target_received"], target_drops
        self.target_unsent = ledger["target_send_dropped"]
        self.from_target = ledger["target_sent"] - self.target_unsent

    def sending_client(self) -> list[Step]:
        return [Step("quic-go's send queue", self.ledger["written"], self.ledger["frames_sent"])]

    def receiving_client(self) -> list[Step]:
        # Two queues that drop what nobody reads in time: 128 datagrams of a connection, 32 of a stream.
        return [Step("quic-go's receive queues", self.at_client, self.ledger["payloads"], silent=True)]


class PythonClient(OurCore):
    """benches/python_client.py, and benches/target.c."""

    def __init__(self, ledger: Counts, target_drops: int) -> None:
        super().__init__(ledger["client"]["core"])
        self.ledger = ledger
        links = ledger["client"]["sockets"]["links"]
        self.client_drops = arrival_drops(self.core, links)
        self.client_unsent = sum(links["send_dropped"].values())
        self.at_target, self.target_drops = ledger["target_received"], target_drops
        self.target_unsent = ledger["target_send_dropped"]
        self.from_target = ledger["target_sent"] - self.target_unsent

    def sending_client(self) -> list[Step]:
        sent, dropped = self.ledger["sent"], self.ledger["send_dropped"]
        queue = Step("the tunnel's queue from Python", self.ledger["offered"], sent, {"send_dropped": dropped})
        return [queue, self.through_core(sent)]

    def receiving_client(self) -> list[Step]:
        drops = {"receive_dropped": self.ledger["receive_dropped"]}
        queue = Step("the tunnel's queue to Python", self.core["datagrams_to_flows"], self.ledger["taken"], drops)
        return [self.out_of_core(), queue]


#: Those of a core that this module names; a generator leaves out what is 0.
CORE_COUNTERS = (
    "datagrams_from_peer", "datagrams_to_flows", "datagrams_to_peer", "datagrams_to_peer_in_capsules",
    "dropped_unknown_link", "dropped_malformed_packets", "dropped_inbox_full", "dropped_inboxes_full",
    "dropped_no_connection",
)  # fmt: skip


def shed(core: Counts) -> int:
    """Packets that a core dropped unread."""
    return sum(
        count for name, count in core.items() if name.startswith("dropped_") and name != "dropped_endpoint_answers"
    )


def arrival_drops(core: Counts, links: Counts) -> int:
    """Packets and trains that arrived at a socket for QUIC and were not decrypted."""
    arrived: int = links["dropped_by_kernel"] + links["dropped_truncated"] + shed(core)
    return arrived


def starting(counts: Counts, prefix: str) -> dict[str, int]:
    return {name: count for name, count in counts.items() if name.startswith(prefix)}


def in_packet(size: int) -> int:
    return max(1, PACKET_BYTES // (size + DATAGRAM_OVERHEAD))
