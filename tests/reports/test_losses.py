"""Why a method loses: each sentence stands on its own interval or test, and is absent without it."""

from __future__ import annotations

import pytest

from reports import headline
from reports.cells import strata
from reports.losses import losses

WHOLE = {"model": "m", "task": "t", "method": "none", "keep": None, "accuracy": {"value": 0.9, "lo": 0.88, "hi": 0.92},
         "families": {"a.b": {"value": 0.9}, "easy": {"value": 0.95}, "digit": {"value": 0.8}},
         "latency": {"ttft": {"value": 100.0, "lo": 98.0, "hi": 102.0}}, "flops": {"total": 4e12}}  # fmt: skip


def span(value: float, half: float, **more) -> dict:
    return {"value": value, "lo": value - half, "hi": value + half, **more}


def loser(**more) -> dict:
    cell = {"model": "m", "task": "t", "method": "x", "keep": 64, "accuracy": span(0.6, 0.03),
            "difference_none": span(-0.3, 0.04, p=0.0002, p_holm=0.001)}  # fmt: skip
    return {**cell, **more}


def why(cell: dict, *others: dict) -> str:
    (group,) = strata([WHOLE, cell, *others])
    return " ".join(losses(group)[0].rows[0].why)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"evidence": {"swap_gain": span(0.25, 0.05), "swap_share": span(0.8, 0.1)}}, "80 % of its loss is evidence thrown away"),
        ({"evidence": {"swap_gain": span(0.25, 0.05)}}, "Part of its loss is evidence thrown away"),
        ({"evidence": {"swap_gain": span(0.02, 0.05)}}, "gains nothing that could be shown"),
        ({"difference_like": span(0.01, 0.03, p=0.4)}, "Its ranking could not be told from random tokens"),
        ({"difference_like": span(-0.1, 0.03, p=0.001)}, "Its ranking does worse than random tokens"),
        ({"collapse": {"z": {"effective_rank": span(-4, 1), "cells": span(-3, 1)}}}, "are more alike and crowd in fewer places"),
        ({"bias": {"lower_half": span(0.8, 0.05)}}, "80 % of its tokens lie in the lower half"),
        ({"bias": {"lower_half": span(0.2, 0.05)}}, "80 % of its tokens lie in the upper half"),
    ],
)
def test_a_reason_stands_on_its_interval(more, said):
    assert said in why(loser(**more))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"difference_like": span(0.1, 0.03, p=0.001)},
        {"collapse": {"z": {"effective_rank": span(-0.5, 1), "cells": span(0.2, 1)}}},
        {"bias": {"lower_half": span(0.55, 0.1)}},
        {"evidence": {"recall": span(0.3, 0.05)}},
    ],
)
def test_nothing_is_said_without_one(more):
    assert why(loser(**more)) == "This run does not show why."


def test_evidence_is_held_against_random_tokens_on_the_same_schedule():
    control = {**loser(), "method": "random[like=x]", "evidence": {"recall": span(0.4, 0.05)}}
    assert "holds less of the evidence than random" in why(loser(evidence={"recall": span(0.1, 0.05)}), control)
    bent = {"evidence": {"recall": span(0.8, 0.05)}, "collapse": {"z": {"effective_rank": span(-4, 1)}}}
    text = why(loser(**bent), control)
    assert "still holds more of the evidence" in text and "alike" not in text, (
        "tokens of the evidence alone are alike, and no fault"
    )
    assert why(loser(difference_none=span(-0.01, 0.04, p=0.3))) == "No loss could be shown."


def test_the_families_that_fall_most_are_named():
    cell = loser(families={"a.b": {"value": 0.5}, "easy": {"value": 0.93}, "digit": {"value": 0.2}, "new": {"value": 0.1}})
    (group,) = strata([WHOLE, cell])
    (row,) = losses(group)[0].rows
    assert row.where == "digit −60.0, a.b −40.0"
    assert losses(strata([cell])[0]) == [], "without the unpruned model nothing is lost to it"


def against_none(**more) -> tuple[str, str]:
    (group,) = strata([WHOLE, loser(**more)])
    (head,) = headline.headlines(group)
    return head.sentences[0].verdict, head.sentences[0].text


def test_non_inferiority_is_said_at_its_margin():
    holds, fails = ({"margin": 0.02, "holds": verdict, "smallest_detectable": 0.03} for verdict in (True, False))
    verdict, text = against_none(difference_none=span(-0.001, 0.01, p=0.8), non_inferior=holds)
    assert verdict == "good" and text.startswith(
        "Non-inferior to the unpruned model at a margin of 2 points, and no loss could be"
    )
    verdict, text = against_none(difference_none=span(-0.012, 0.006, p=0.01), non_inferior=holds)
    assert verdict == "good" and "its loss is real but small: −1.2 points" in text
    verdict, text = against_none(difference_none=span(-0.03, 0.04, p=0.3), non_inferior=fails)
    assert verdict == "open" and "not shown to be non-inferior at 2 points" in text
    verdict, text = against_none(difference_none=span(-0.003, 0.01, p=0.3), non_inferior=fails)
    assert verdict == "open" and "up to 1.3 points fits these data. So few images do not show it to be non-inferior" in text
    verdict, text = against_none(non_inferior=fails)
    assert verdict == "bad" and text.endswith("Non-inferiority at a margin of 2 points is not shown.")
    verdict, text = against_none(difference_none=span(-0.03, 0.02, p=0.02, p_holm=0.2))
    assert verdict == "open" and "though the interval of this test alone leaves out 0" in text


def test_the_cost_is_said_in_milliseconds_or_else_in_compute():
    (group,) = strata([WHOLE, loser()])
    times = {"ttft": span(48.2, 1), "ratio": span(2.07, 0.05)}
    said = "48.2 ms to the first token [47.2 to 49.2]; unpruned 100 ms. Speed-up 2.07 times [2.02 to 2.12]."
    assert headline.cost(group, loser(latency=times)) == said
    said = "47.2 to 49.2 ms to the first token, too noisy in this run for one number."
    assert headline.cost(group, loser(latency={**times, "noisy": True})) == said
    assert headline.cost(group, loser(flops={"total": 1e12})) == "1.00 TFLOPs, 25 % of the unpruned model's; nothing was timed."
    assert headline.cost(group, loser()) == ""


def test_a_lead_is_real_where_every_paired_test_says_so():
    rivals = [{**loser(difference_winner=span(-gap, 0.05, p=p)), "method": name, "accuracy": span(0.6 - gap, 0.01)}
              for name, gap, p in (("y", 0.08, 0.002), ("z", 0.2, 0.001))]  # fmt: skip

    def last(*cells: dict) -> str:
        (group,) = strata([WHOLE, loser(), *cells])
        return headline.headlines(group)[0].sentences[-1].text

    assert last(*rivals) == "Ahead of every other method; of the next, y, by 8 points [+3.0 to +13.0], p = 0.002."
    rivals[1]["difference_winner"]["p_holm"] = 0.2
    assert last(*rivals) == "First place is not settled: no difference could be shown from z (40.0 %)."
    (group,) = strata([WHOLE, loser(difference_winner=span(-0.01, 0.02, p=0.5)), *rivals])
    assert "Ahead of every" not in str(headline.headlines(group)[0].sentences), "those tests are against a control that won"
