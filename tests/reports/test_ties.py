"""A tie is no victory, and neither is a lead that the intervals do not settle."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.explain import _winner
from metrics.explain import CellColumns, strata
from reports import headline
from reports.cells import strata as strata_of
from tests.reports.test_numbers import cell, said


def gap(value: float, adjusted: float | None) -> dict:
    return {"value": value, "lo": value - 0.01, "hi": value + 0.01, "p": 0.0001, "p_adjusted": adjusted}


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (
            gap(0.1, 0.001),
            "(good) Above downsample, a smaller image at the same budget: +10.0 points [+9.0 to +11.0], p = 0.001, ",
        ),
        (gap(0.1, 0.2), "(open) It could not be told from downsample, a smaller image at the same budget: +10.0 points"),
        (
            gap(-0.1, 0.001),
            "(bad) Below downsample, a smaller image at the same budget: −10.0 points [−11.0 to −9.0], p = 0.001,",
        ),
        (gap(0.1, None), "(open) It was not tested against downsample, a smaller image at the same budget (50.0 %)."),
        (None, "(open) It was not tested against downsample, a smaller image at the same budget (50.0 %)."),
    ],
)
def test_downsample_is_beaten_by_its_corrected_test_alone(difference, expected):
    text = said(cell("downsample", 0.5, reference=True), cell("a", 0.9, difference_downsample=difference))
    assert expected in text
    assert ("(good)" in text) == expected.startswith("(good)") and ("(bad)" in text) == expected.startswith("(bad)")


def test_controls_of_others_that_score_no_lower_are_listed_without_a_claim():
    like = gap(0.05, 0.001)
    text = said(cell("a", 0.5, difference_like=like), cell("random[like=a]", 0.7), cell("random[like=b]", 0.9), cell("b", 0.4))
    assert "(open) random[like=b] (90.0 %) scores no lower at this budget, which is read off and no test." in text
    assert "random[like=a] (" not in text and "(bad)" not in text


def test_of_two_equal_methods_none_is_ahead():
    rival = gap(0.0, 1.0)
    text = said(cell("a", 0.6), cell("b", 0.6, difference_winner=rival), cell("c", 0.1, difference_winner=gap(-0.5, 0.001)))
    assert "(open) First place is shared: a and b are level at 60.0 %." in text
    level = said(cell("a", 0.1 + 0.2), cell("random", 0.3))
    assert "(open) random reaches 30.0 % [28.0 to 32.0]: the method is level with it" in level
    (group,) = strata_of([cell("a", 0.6), cell("b", 0.6), cell("c", 0.5)])
    (head,) = headline.headlines(group)
    assert (head.best, head.level) == ("a", ("b",))


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
    assert _winner({"winner": "a", "families": {"a": 1, "b": 1}, "winner_minus_runner_up": {"p_adjusted": 0.01}}) == "a"
    assert _winner({"winner": None, "families": {}, "winner_minus_runner_up": None}) == "-"
