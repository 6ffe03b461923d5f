"""The table of a benchmark: medians, ratios of neighbours, bars."""

import dataclasses
from typing import Any

import pytest
from benches import report
from benches.cases import CASES, Case, Samples, blocks, chosen

CASE = Case("a case", "wire", "up", "cost", "µs", bar=4.0, ratio_bar=0.5)


def samples(**figures: list[float]) -> Samples:
    found = Samples()
    for peer, values in figures.items():
        for value in values:
            found.add(peer.replace("_", "-"), CASE.name, {"cost": value})
    return found


def test_a_ratio_is_the_geometric_mean_of_neighbours_with_its_extremes() -> None:
    assert report.ratio([2.0, 8.0], [4.0, 4.0]) == pytest.approx((1.0, 0.5, 2.0))


def test_there_is_no_ratio_where_one_side_has_no_figure() -> None:
    assert report.ratio([2.0], []) is None
    assert report.ratio([0.0], [1.0]) is None


@pytest.mark.parametrize(
    ("figures", "expected"),
    [([0.123], "0.12"), ([12.34], "12.3"), ([123.4], "123"), ([1, 2, 9], "2.00"), ([1234567.0], "1,234,567")],
)
def test_a_median_is_shown_with_as_many_digits_as_are_worth_something(figures: list[float], expected: str) -> None:
    assert report.shown(figures) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "kept"),
    [([3.0], [8.0], True), ([4.5], [20.0], False), ([3.0], [5.0], False), ([3.0], [], True), ([], [5.0], None)],
    ids=["both kept", "the figure misses", "the ratio misses", "no peer to compare with", "not measured"],
)
def test_a_bar_is_kept_missed_or_cannot_be_told(ours: list[float], theirs: list[float], kept: bool | None) -> None:
    words, verdict = report.held(CASE, samples(moretta=ours, masque_go=theirs))

    assert verdict is kept
    assert words == "≤ 4, ≤ 0.50 times masque-go"


def test_where_more_is_better_the_bar_is_a_least() -> None:
    case = dataclasses.replace(CASE, more_is_better=True, ratio_bar=None)

    assert report.held(case, samples(moretta=[5.0])) == ("≥ 4", True)
    assert report.held(case, samples(moretta=[3.0])) == ("≥ 4", False)


def test_a_gateway_that_did_not_survive_is_shown_as_lost_and_one_without_figures_not_at_all() -> None:
    [row] = report.rows([CASE], samples(moretta=[3.0]), {"envoy": {CASE.name}})

    assert row.cells == {"moretta": "3.00", "envoy": "lost"}


def test_a_note_stands_beside_its_figure_and_remarks_below_the_table() -> None:
    found = Samples()
    found.add("moretta", CASE.name, {"cost": 3.0, "note": "at twice the peak"})

    text = report.text(report.rows([CASE], found, {}), ["the machine is not quiet"])

    assert "3.00 (at twice the peak)" in text
    assert text.endswith("! the machine is not quiet")


def test_every_case_has_a_name_of_its_own_and_what_it_is_compared_with_exists() -> None:
    names = [case.name for case in CASES]

    assert len(set(names)) == len(names)
    assert all(case.against[0] in names for case in CASES if case.against is not None)
    assert all("moretta" in case.peers for case in CASES)


def test_cases_that_are_compared_with_each_other_are_measured_in_one_block() -> None:
    together = [[case.name for case in block] for block in blocks(CASES) if len(block) > 1]

    assert [case for block in blocks(CASES) for case in block] == CASES
    assert all(any({case.name, case.against[0]} <= set(block) for block in together) for case in CASES if case.against)


def test_words_choose_cases_by_group_or_part_of_the_name() -> None:
    assert chosen([]) == CASES
    assert {case.group for case in chosen(["overload", "Python"])} == {"overload", "python"}
    assert [case.name for case in chosen(["down 64 B, 50,000/s"])] == ["down 64 B, 50,000/s"]
    assert chosen(["nonsense"]) == []


def test_the_document_of_a_row_has_what_the_table_of_the_readme_needs() -> None:
    [row] = report.rows([CASE], samples(moretta=[3.0], masque_go=[8.0]), {})
    document: dict[str, Any] = row.document()

    assert document == {
        "case": "a case", "unit": "µs", "cells": {"moretta": "3.00", "masque-go": "8.00"},
        "bar": "≤ 4, ≤ 0.50 times masque-go", "kept": True,
    }  # fmt: skip
