"""Why a method loses: each sentence stands on its own corrected test, and is absent without it."""

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
            "difference_none": span(-0.3, 0.04, p=0.0002, p_adjusted=0.001)}  # fmt: skip
    return {**cell, **more}


def why(cell: dict, *others: dict) -> str:
    (group,) = strata([WHOLE, cell, *others])
    return " ".join(losses(group)[0].rows[0].why)


def corrected(value: float, half: float, adjusted: float | None = 0.01, **more) -> dict:
    return {**span(value, half), "p": 0.001, "p_adjusted": adjusted, **more}


def chance(percentile: float, adjusted: float | None = 0.01) -> dict:
    """A figure whose interval of z leaves out 0 whatever its test says."""
    return {**span(-4, 1), "percentile": span(percentile, 0.02), "share_below_chance": 0.9, "p": 0.001, "p_adjusted": adjusted}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"evidence": {"swap_gain": corrected(0.25, 0.05), "swap_share": span(0.8, 0.1)}},
         "80 % of its loss [70 to 90] is evidence thrown away"),
        ({"evidence": {"swap_gain": corrected(0.25, 0.05)}}, "Part of its loss is evidence thrown away"),
        ({"evidence": {"swap_gain": corrected(0.25, 0.05, 0.2)}}, "gains nothing that could be shown"),
        ({"difference_like": corrected(0.1, 0.03, 0.4)}, "Its ranking could not be told from random tokens"),
        ({"difference_like": corrected(-0.1, 0.03)}, "Its ranking does worse than random tokens"),
        ({"collapse": {"z": {"effective_rank": chance(0.1), "cells": chance(0.1)}}}, "are more alike and crowd in fewer places"),
        ({"bias": {"lower_half": corrected(0.8, 0.05)}}, "80 % of its tokens lie in the lower half"),
        ({"bias": {"lower_half": corrected(0.2, 0.05)}}, "80 % of its tokens lie in the upper half"),
        ({"evidence": {"recall_over_control": corrected(-0.3, 0.05)}}, "It holds less of the evidence than random tokens"),
    ],
)  # fmt: skip
def test_a_reason_stands_on_its_test(more, said):
    assert said in why(loser(**more))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"difference_like": corrected(0.1, 0.03)},
        {"difference_like": {**span(-0.1, 0.03), "p": 0.001}},
        {"collapse": {"z": {"effective_rank": chance(0.1, 0.2), "cells": chance(0.1, None)}}},
        {"collapse": {"z": {"effective_rank": chance(0.9)}}},
        {"collapse": {"z": {"effective_rank": {**span(-4, 1), "share_below_chance": 0.9, "p": 0.0001}}}},
        {"bias": {"lower_half": corrected(0.55, 0.01)}},
        {"bias": {"lower_half": corrected(0.9, 0.01, 0.2)}},
        {"bias": {"lower_half": span(0.9, 0.01)}},
        {"evidence": {"recall": span(0.3, 0.05), "recall_over_control": corrected(-0.3, 0.05, 0.2)}},
        {"evidence": {"swap_gain": span(0.3, 0.05)}},
    ],
)
def test_nothing_is_said_without_one(more):
    assert why(loser(**more)) == "This run does not show why."


def test_intervals_of_evidence_that_lie_apart_are_no_test():
    control = {**loser(), "method": "random[like=x]", "evidence": {"recall": span(0.8, 0.01)}}
    assert why(loser(evidence={"recall": span(0.1, 0.01)}), control) == "This run does not show why."


def test_tokens_of_the_evidence_alone_are_alike_and_no_fault():
    bent = {"evidence": {"recall_over_control": corrected(0.4, 0.05)}, "collapse": {"z": {"effective_rank": chance(0.1)}}}
    text = why(loser(**bent))
    assert "still holds more of the evidence" in text and "alike" not in text


def test_a_loss_that_was_not_shown_has_no_reason():
    assert why(loser(difference_none=span(-0.01, 0.04, p=0.01, p_adjusted=0.3))) == "No loss could be shown."
    alone = "No loss could be shown, though the interval of this cell alone leaves out 0."
    assert why(loser(difference_none=span(-0.05, 0.04, p=0.01, p_adjusted=0.3))) == alone
    assert why(loser(difference_none=span(0.05, 0.04, p=0.01, p_adjusted=0.3))) == "No loss could be shown."
    assert why(loser(difference_none=span(-0.3, 0.04, p=0.001))) == "Its loss was not tested with a correction."


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


def margin(p_best: float | None, **more) -> dict:
    """What was named beforehand would hold; as the best of several it must pass the p that is corrected for the choice."""
    return {"margin": 0.02, "holds": True, "p": 0.004, "p_best": p_best, "smallest_detectable": 0.03, **more}


def test_non_inferiority_is_said_at_its_margin_of_the_best_of_its_budget():
    holds, fails = margin(0.02), margin(0.08)
    equal, small = span(-0.001, 0.01, p=0.8, p_adjusted=1.0), span(-0.012, 0.006, p=0.001, p_adjusted=0.01)
    verdict, text = against_none(difference_none=equal, non_inferior=holds)
    assert verdict == "good" and text.startswith(
        "Non-inferior to the unpruned model at a margin of 2 points, as the only method, and no loss could be"
    )
    others = [{**loser(difference_winner=span(-0.4, 0.1, p=0.5, p_adjusted=0.9)), "method": name, "accuracy": span(0.2, 0.1)}
              for name in "yz"]  # fmt: skip
    (group,) = strata([WHOLE, loser(difference_none=equal, non_inferior=holds), *others])
    assert ", as the best of 3 methods, and no loss could be shown" in headline.headlines(group)[0].sentences[0].text
    verdict, text = against_none(difference_none=small, non_inferior=holds)
    assert verdict == "good" and "its loss is real but small: −1.2 points" in text
    verdict, text = against_none(difference_none=equal, non_inferior=fails)
    assert verdict == "open" and "So few images do not show it to be non-inferior" in text
    verdict, text = against_none(difference_none=span(-0.03, 0.04, p=0.3, p_adjusted=0.9), non_inferior=fails)
    assert verdict == "open" and "not shown to be non-inferior at 2 points" in text
    verdict, text = against_none(difference_none=span(-0.003, 0.01, p=0.3, p_adjusted=0.8), non_inferior=fails)
    assert verdict == "open" and "up to 1.3 points fits these data. So few images do not show it to be non-inferior" in text
    verdict, text = against_none(non_inferior=fails)
    assert verdict == "bad" and text.endswith("Non-inferiority at a margin of 2 points is not shown.")
    verdict, text = against_none(difference_none=span(-0.03, 0.02, p=0.02, p_adjusted=0.2))
    assert verdict == "open" and "though the interval of this test alone leaves out 0" in text


def test_of_an_older_summary_no_best_is_called_non_inferior():
    verdict, text = against_none(difference_none=span(-0.001, 0.01, p=0.8, p_holm=1.0), non_inferior=margin(None))
    assert verdict == "open" and text.endswith("Non-inferiority at 2 points was not tested for the best of several.")


def test_the_cost_is_said_in_milliseconds_or_else_in_compute():
    (group,) = strata([WHOLE, loser()])
    times = {"ttft": span(48.2, 1), "ratio": span(2.07, 0.05)}
    said = "48.2 ms to the first token [47.2 to 49.2]; unpruned 100 ms. Speed-up 2.07 times [2.02 to 2.12]."
    assert headline.cost(group, loser(latency=times)) == said
    wide = headline.cost(group, loser(latency={**times, "wide": True, "ratio": span(2.0, 0.4)}))
    assert wide.endswith("Speed-up 2.00 times [1.60 to 2.40]; wide: the truth may be 25 % off."), "nothing is hidden"
    beside = headline.cost(group, loser(latency={**times, "ttft_none": 88.0}))
    assert "; unpruned 88.0 ms in the same rounds. Speed-up" in beside, "not the median of rounds that the cell did not see"
    few = {name: {"value": found["value"], "lo": None, "hi": None} for name, found in times.items()} | {"rounds": 2}
    none, vague = "2 rounds, no interval", "wide: too few rounds to tell how far off it may be"
    told = f"48.2 ms to the first token [{none}]; unpruned 100 ms. Speed-up 2.07 times [{none}]"
    assert headline.cost(group, loser(latency=few)) == f"{told}."
    assert headline.cost(group, loser(latency={**few, "wide": True})) == f"{told}; {vague}."
    assert headline.cost(group, loser(flops={"total": 1e12})) == "1.00 TFLOPs, 25 % of the unpruned model's; nothing was timed."
    assert headline.cost(group, loser()) == ""


def test_the_cost_of_a_loss_says_where_rounds_are_too_few():
    def timed(wide: bool | None, **ends) -> tuple[str, str, str]:
        times = {"ttft": {"value": 48.2, **ends}, "ratio": {"value": 2.07, **ends}, "rounds": 2, "wide": wide}
        (group,) = strata([WHOLE, loser(latency=times)])
        (row,) = losses(group)[0].rows
        return row.cost.text, row.cost.detail, row.timed.replace("\u00a0", " ")

    none = "2 rounds, no interval"
    few = f"2.07 times as fast [{none}]"
    vague = "wide: too few rounds to tell how far off it may be"
    assert timed(None) == ("48.2", few, f"48.2 ms to the first token, {few}.")
    assert timed(True) == ("48.2", f"{few}, wide", f"48.2 ms to the first token, {few}; {vague}.")
    assert timed(False, lo=2.0, hi=50.0)[1] == "2.00 to 50.0; 2.07 times as fast [2.00 to 50.00]"
    (group,) = strata([WHOLE, loser()])
    assert losses(group)[0].rows[0].timed == ""


def test_nothing_is_said_of_one_image_where_there_are_more():
    nothing = {"value": 0.01, "lo": None, "hi": None, "p": 1.0, "p_adjusted": 1.0}
    assert against_none(difference_none=nothing, n_images=1)[1].endswith(". One image has no interval.")
    assert against_none(difference_none=nothing, n_images=14)[1].endswith(". These answers give no interval.")


def test_a_task_without_answers_has_ties_and_no_test_of_its_lead():
    def heads(*agreements: float) -> headline.Headline:
        cells = [{"model": "m", "task": "t", "method": name, "keep": 64, "loyalty": {"agreement": span(share, 0.2)}}
                 for name, share in zip("abc", agreements)]  # fmt: skip
        (head,) = headline.headlines(strata(cells)[0])
        return head

    head = heads(0.9, 0.8, 0.9)
    assert head.sentences[-1].text == "First place is shared: a and c are level at 90.0 %." and head.level == ("c",)
    head = heads(0.9, 0.89)
    assert head.sentences[-1].text == "Whether it leads the other methods was not tested." and head.level == ()
    assert len(heads(0.9).sentences) == 1


def test_a_lead_is_real_where_every_paired_test_says_so():
    rivals = [{**loser(difference_winner=span(-gap, 0.05, p=p, p_adjusted=p)), "method": name, "accuracy": span(0.6 - gap, 0.01)}
              for name, gap, p in (("y", 0.08, 0.002), ("z", 0.2, 0.001))]  # fmt: skip

    def last(*cells: dict) -> str:
        (group,) = strata([WHOLE, loser(), *cells])
        return headline.headlines(group)[0].sentences[-1].text

    assert last(*rivals) == "Ahead of every other method; of the next, y, by 8 points [3.0 to 13.0], p = 0.002, corrected."
    rivals[1]["difference_winner"]["p_adjusted"] = 0.2
    assert last(*rivals) == "First place is not settled: no difference could be shown from z (40.0 %)."
    for rival in rivals:
        rival["difference_winner"] = span(-0.3, 0.01, p=0.0001)
    assert last(*rivals) == "Its lead over the others was not tested.", "a raw p is no test of the best of several"
    (group,) = strata([WHOLE, loser(difference_winner=span(-0.01, 0.02, p=0.5)), *rivals])
    assert "Ahead of every" not in str(headline.headlines(group)[0].sentences), "those tests are against a control that won"
