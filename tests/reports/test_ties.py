"""A tie is no victory, and neither is a lead that the intervals do not settle."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.explain import _winner
from metrics.explain import CellColumns, strata
from tests.reports.test_numbers import cell, said


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (0.6, 0.5, "(good) Above downsample, a smaller image (50.0 %)."),
        (0.6, 0.59, "(open) It is not settled that it is above downsample, a smaller image (59.0 %): the intervals overlap."),
        (0.6, 0.6, "(open) No better than simpler alternatives at this budget, so far as this run shows: downsample (60.0 %)."),
        (
            0.1 + 0.2,
            0.3,
            "(open) No better than simpler alternatives at this budget, so far as this run shows: downsample (30.0 %).",
        ),
        (0.6, 0.61, "(open) No better than simpler alternatives at this budget, so far as this run shows: downsample (61.0 %)."),
        (0.6, 0.7, "(bad) Simpler alternatives at this budget score higher: downsample (70.0 %)."),
    ],
)
def test_downsample_is_beaten_where_the_intervals_lie_apart_alone(mine, theirs, expected):
    text = said(cell("downsample", theirs, reference=True), cell("a", mine))
    assert expected in text
    assert ("(good)" in text) == expected.startswith("(good)")


def test_of_two_equal_methods_none_is_ahead():
    assert "First place is not settled" in said(cell("a", 0.6), cell("b", 0.6))
    level = said(cell("a", 0.1 + 0.2), cell("random", 0.3))
    assert "(open) random reaches 30.0 % [28.0 to 32.0]: the method is level with it" in level


def families(attention: list[float], diversity: list[float]) -> dict:
    image = np.array([f"i{place}" for place in range(len(attention))], dtype=object)
    cells = [
        CellColumns(name, 64, ranks_by, True, {
            "question": image, "image": image, "family": np.array(["f"] * len(image), dtype=object), "score": np.array(scores),
        })
        for name, ranks_by, scores in (("a", "attention", attention), ("b", "diversity", diversity))
    ]  # fmt: skip
    return strata(cells, {name: float(place) for place, name in enumerate(image)})


def test_of_two_equal_families_none_wins():
    found = families([1.0, 0.0] * 6, [0.0, 1.0] * 6)
    assert [row["winner"] for row in found["rows"]] == [None] * 3
    assert [row["winner_minus_runner_up"] for row in found["rows"]] == [None] * 3
    assert [_winner(row) for row in found["rows"]] == ["none, tied"] * 3


def test_a_lead_that_is_not_settled_is_marked():
    found = families([1.0, 1.0, 0.0, 1.0] * 3, [0.0, 1.0, 1.0, 0.0] * 3)
    assert {_winner(row) for row in found["rows"]} <= {"attention (not settled)", "none, tied"}
    assert _winner({"winner": "a", "families": {"a": 1, "b": 1}, "winner_minus_runner_up": {"p_holm": 0.01}}) == "a"
    assert _winner({"winner": None, "families": {}, "winner_minus_runner_up": None}) == "-"
