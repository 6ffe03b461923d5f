"""The two searches of a benchmark: the highest multiple of a peak, and the highest rate that loses nothing."""

from typing import Any

from benches import overload, python_case

PEAK = 100_000


def generator(*, core_full_at: float, lost_at: float = 99.0, goodput: float = 0.95) -> overload.Measure:
    """A generator whose core fills up linearly, in front of a gateway that keeps a part of its peak."""

    def measure(rate: int) -> dict[str, Any] | None:
        multiple = rate / PEAK
        if multiple >= lost_at:
            return None
        passed = 1.0 if multiple <= 1 else goodput
        return {
            "offered_ps": rate or PEAK,
            "delivered_ps": PEAK * passed,
            "core1_busy_pct": 100.0 * multiple / core_full_at,
        }

    return measure


def test_the_highest_multiple_is_the_last_at_which_the_generator_has_core_to_spare() -> None:
    found = overload.sweep(generator(core_full_at=3.3))

    assert found is not None
    assert (found["multiple"], found["goodput_pct"], found["lost_tunnels"]) == (3.0, 95.0, False)
    assert found["points"][-1]["multiple"] == 4.0, "the step that was too much is kept in the samples"


def test_all_steps_are_made_where_the_generator_can() -> None:
    found = overload.sweep(generator(core_full_at=20))

    assert found is not None
    assert found["multiple"] == 8.0


def test_a_lost_tunnel_ends_the_search_and_leaves_nothing() -> None:
    found = overload.sweep(generator(core_full_at=20, lost_at=4))

    assert found is not None
    assert (found["goodput_pct"], found["lost_tunnels"], found["multiple"]) == (0.0, True, 4.0)
    assert "lost" in found["note"]


def test_a_generator_that_is_full_at_the_peak_says_so() -> None:
    found = overload.sweep(generator(core_full_at=0.9))

    assert found is not None
    assert "core 111 % busy" in found["note"]


def test_a_gateway_through_which_nothing_passes_has_no_sample() -> None:
    assert overload.sweep(lambda _: None) is None


def client(*, most: int, fails_once_at: int = 0) -> python_case.Measure:
    failed: set[int] = set()

    def measure(rate: int) -> dict[str, Any]:
        unlucky = rate == fails_once_at and rate not in failed
        failed.add(rate)
        loss = 5.0 if rate > most or unlucky else 0.0
        return {
            "rate": rate, "offered_ps": rate, "loss_pct": loss, "delivered_ps": rate * (1 - loss / 100),
            "client_us_per_dgram": 2.0,
        }  # fmt: skip

    return measure


def test_the_highest_rate_without_loss_is_the_figure_and_every_run_is_kept() -> None:
    found = python_case.highest(client(most=160_000))

    assert found["delivered_ps"] == 160_000
    assert len(found["runs"]) == 2 + python_case.TRIES, "two rates passed, the third was tried twice"


def test_a_rate_that_fails_once_is_tried_again() -> None:
    assert python_case.highest(client(most=160_000, fails_once_at=100_000))["delivered_ps"] == 160_000


def test_a_client_that_keeps_no_rate_gets_none() -> None:
    found = python_case.highest(client(most=0))

    assert found["delivered_ps"] == 0
    assert "lowest" in found["note"]
