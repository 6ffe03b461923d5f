"""The ledger of a benchmark: what was offered is what was delivered and what a counter says was dropped."""

from typing import Any

import pytest
from benches import ledger
from benches.ledger import Ledger, Step

SOCKETS = {"dropped_by_kernel": 0, "dropped_truncated": 0}


def load(**more: Any) -> ledger.Load:
    """moretta-load that sent 100 datagrams up, and another 50 down."""
    counted = {
        "client_offered": 100,
        "client_received": 50,
        "client_core": {"datagrams_to_peer": 100, "datagrams_from_peer": 50, "datagrams_to_flows": 50},
        "client_sockets": {"send_dropped": 0, **SOCKETS},
        "target_socket": {"datagrams_received": 100, "datagrams_sent": 50, "send_dropped": 0, **SOCKETS},
    }
    for path, value in more.items():
        branch, _, leaf = path.partition("__")
        if leaf:
            counted[branch] = {**counted[branch], leaf: value}  # type: ignore[dict-item]
        else:
            counted[branch] = value
    return ledger.Load(counted)


def gateway(**more: int) -> dict[str, Any]:
    """Our gateway that carried all of it."""
    core = {
        "datagrams_from_peer": 100, "datagrams_to_flows": 100, "datagrams_from_flows": 50, "datagrams_to_peer": 50,
        "datagrams_to_peer_in_capsules": 0, "datagrams_to_peer_lost_mtu_shrank": 0, "stale_flow_inputs": 0,
        "dropped_inbox_full": 0, "up_dropped_no_tunnel": 0, "down_dropped_queue_full": 0,
    }  # fmt: skip
    targets = {"datagrams_sent": 100, "datagrams_received": 50, "discarded_before_connect": 0}
    targets |= {"send_dropped": {"no_buffers": 0}, **SOCKETS}  # type: ignore[dict-item]
    links = {"send_dropped": {"no_buffers": 0}, **SOCKETS}
    branches: dict[str, dict[str, Any]] = {"core": core, "targets": targets, "links": links}
    for path, value in more.items():
        where, _, name = path.partition("__")
        branches[where][name] = value
    return {"core": core, "shell": {"datagrams_without_flow": 0}, "sockets": {"links": links, "targets": targets}}


def test_a_run_that_lost_nothing_adds_up_both_ways() -> None:
    for close in (ledger.up, ledger.down):
        books = close(load(), gateway(), 1200)

        assert books.complaint() == ""
        assert books.document()["offered"] == books.document()["delivered"]


def test_a_drop_that_a_counter_names_is_explained_and_shown() -> None:
    books = ledger.down(load(target_socket__datagrams_sent=60), gateway(
        targets__datagrams_received=60, core__datagrams_from_flows=60, core__down_dropped_queue_full=10,
    ), 1200)  # fmt: skip

    assert books.complaint() == ""
    assert {"where": "the gateway's queues", "in": 60, "out": 50, "dropped": {"down_dropped_queue_full": 10}} in (
        books.document()["steps"]
    )


def test_one_datagram_that_no_counter_names_fails_the_case_and_says_where() -> None:
    books = ledger.up(load(target_socket__datagrams_received=99), gateway(), 1200)

    assert "+1 datagrams unexplained" in books.complaint()
    assert "the target's socket" in books.complaint()
    assert books.document()["unexplained"] == {"the target's socket": 1}


def test_a_datagram_too_many_is_no_better_than_one_too_few() -> None:
    books = ledger.up(load(target_socket__datagrams_received=101), gateway(), 1200)

    assert "-1 datagrams unexplained" in books.complaint()


@pytest.mark.parametrize(
    ("received", "explained"),
    [(99, True), (36, True), (35, False), (101, False)],
    ids=["one of a train", "a full train", "more than a train holds", "more than were sent"],
)
def test_a_merged_train_that_the_kernel_dropped_explains_up_to_a_full_train(received: int, explained: bool) -> None:
    books = ledger.up(
        load(target_socket__datagrams_received=received, target_socket__dropped_by_kernel=1), gateway(), 1200
    )

    assert (books.complaint() == "") is explained


def test_a_lost_packet_explains_as_many_small_datagrams_as_it_holds() -> None:
    lost = load(client_core={"datagrams_to_peer": 100 + 21 * 64}, client_offered=100 + 21 * 64)

    assert ledger.up(lost, gateway(links__dropped_by_kernel=1), 64).complaint() == ""
    assert ledger.up(lost, gateway(links__dropped_by_kernel=1), 1200).complaint() != ""


def test_what_the_clients_own_queue_dropped_is_not_the_gateways() -> None:
    books = ledger.up(load(
        client_offered=103, client_core={"datagrams_to_peer": 100, "down_dropped_queue_full": 3},
    ), gateway(), 1200)  # fmt: skip

    assert books.complaint() == ""
    assert books.document()["steps"][0]["dropped"] == {"down_dropped_queue_full": 3}


def test_a_gateway_without_counters_is_a_gap_with_a_name_but_cannot_invent_datagrams() -> None:
    silent = ledger.up(load(target_socket__datagrams_received=40), None, 1200)
    inventing = ledger.up(load(target_socket__datagrams_received=140), None, 1200)

    assert silent.complaint() == ""
    assert silent.document()["steps"][-1]["not_counted_here"] == 60
    assert inventing.complaint() != ""


def test_masque_gos_client_drops_silently_only_behind_its_frames() -> None:
    counted = {
        "written": 100, "frames_sent": 100, "frames_received": 50, "socket_drops": 0, "packets_dropped": 0,
        "payloads": 48, "target_received": 100, "target_sent": 50, "target_send_dropped": 0,
    }  # fmt: skip

    assert ledger.down(ledger.Driver(counted, 0), gateway(), 1200).complaint() == ""
    assert ledger.down(ledger.Driver({**counted, "frames_received": 49}, 0), gateway(), 1200).complaint() != ""
    assert ledger.up(ledger.Driver(counted, 0), gateway(), 1200).complaint() == ""


def test_a_python_clients_two_queues_are_part_of_the_way() -> None:
    client = {
        "core": {"datagrams_to_peer": 100, "datagrams_from_peer": 50, "datagrams_to_flows": 50},
        "sockets": {"links": {"send_dropped": {"no_buffers": 0}, **SOCKETS}},
    }
    counted = {
        "offered": 107, "sent": 100, "send_dropped": 7, "receive_dropped": 5, "taken": 45, "client": client,
        "target_received": 100, "target_sent": 50, "target_send_dropped": 0,
    }  # fmt: skip
    ends = ledger.PythonClient(counted, 0)

    assert ledger.up(ends, gateway(), 1200).complaint() == ""
    assert ledger.down(ends, gateway(), 1200).complaint() == ""
    assert ledger.up(ends, gateway(), 1200).document()["steps"][0]["dropped"] == {"send_dropped": 7}


def test_the_difference_of_two_readings_goes_branch_by_branch() -> None:
    after = {"core": {"turns": 9, "new": 2}, "closed": False, "workers": [], "tunnels": 3}

    assert ledger.difference(after, {"core": {"turns": 4}, "tunnels": 3}) == {
        "core": {"turns": 5, "new": 2},
        "tunnels": 0,
    }


def test_a_ledger_begins_with_what_was_offered_and_ends_with_what_was_delivered() -> None:
    books = Ledger([Step("one", 10, 9, {"full": 1}), Step("two", 9, 7, {"late": 2})])

    assert (books.document()["offered"], books.document()["delivered"]) == (10, 7)
    assert books.unexplained == []
