"""What the page says of times: value and interval always, what is wide, and how times were taken."""

from __future__ import annotations

import dataclasses

import pytest

from reports import markdown
from reports.cells import strata
from reports.figures.cost import accuracy_by_ttft
from reports.page import render
from reports.style import looks
from reports.timing import alerts, how_timed, why_wide
from reports.view import RunView


def timed_as(run: RunView, **fields) -> list[dict]:
    """The run's cells with other facts of their times; those of `none` stay as they are where they tell of a ratio."""
    return [c | {"latency": c["latency"] and {**c["latency"], **fields}} for c in run.cells]


def test_wide_speed_ups_are_counted_and_what_wide_means_is_said(run: RunView, page: str):
    """One is named; of many the first methods, since all cells bear the mark in the table."""
    assert "1 speed-up is wide, known less closely than to 5 %: tome at 64. There the truth may lie anywhere in the" in page
    assert page.count('<span class="tag">wide</span><small>') == 1 and 'title="wide: the truth may be 18 % off"' in page
    assert '<span class="tag">wide</span>: the speed-up is known less closely than to 5 %, so read its interval.' in page
    timed = [c for c in run.cells if c["latency"]]
    (said,) = alerts(timed_as(run, wide=True))
    assert said.startswith(f"{len(timed)} speed-ups are wide") and f" and {len(timed) - 6} more. There the truth" in said
    named = said.partition("%: ")[2].partition(" and ")[0].split(", ")
    assert len(named) == 6 and all(name.partition(" at ")[0] in ("sts", "fastv", "sparsevlm", "tome") for name in named), named
    assert alerts(timed_as(run, wide=False)) == []
    (said,) = alerts(timed_as(run, wide=True, ratio={"value": 2.0, "lo": None, "hi": None}))
    assert said.endswith(f" {len(timed)} of them have no interval yet, of too few rounds.")
    (said,) = alerts([*(one := timed_as(run, wide=True, ratio={"value": 2.0, "lo": None, "hi": None})), *one])
    assert said.endswith(f" {len(timed)} of them have no interval yet, of too few rounds."), "no more than there are names of"


@pytest.mark.parametrize(("end", "off"), [(2.6, "30"), (2.12, "6.0"), (2.102, "5.10"), (2.1002, "5.01"), (2.2, "10")])
def test_what_is_wide_by_little_does_not_read_as_if_it_were_known(end, off):
    cell = {"method": "a", "latency": {"wide": True, "ratio": {"value": 2.0, "lo": 1.99, "hi": end}}}
    assert why_wide(cell).startswith(f"wide: the truth may be {off}"), why_wide(cell)


def test_how_times_were_taken_is_told_and_that_older_runs_sum_them_from_stages(run: RunView, page: str):
    timing = {"time_limit": 15.0, "used": 14.2, "decode_tokens": 16, "ttft_rounds": 24, "known": 30, "of": 31}
    judged = [c for c in run.cells if c["latency"] and c["method"] != "none"]
    told = how_timed({"timing": timing}, run.cells)
    assert told is not None and alerts(run.cells) == alerts(run.cells)[:1] and "summed from stages" not in page
    for said in (
        "Time to first token is taken in one piece", "model, each in 24 rounds, until",
        f"{len(judged) - 1} of {len(judged)} speed-ups are known",
        "The pass took 14.2 s; its limit (--time-limit) is 15.0 s.", "Stages come from 3 rounds of their own, with 16 tokens of",
        "their sum lies +5.0 to +5.0 % from the time in one piece",
    ):  # fmt: skip
        assert said in told, said
    assert f'<p id="times"><b>Times.</b> {how_timed(run.manifest, run.cells)}</p>' in page, "a run that does not say how long"
    gone = dict.fromkeys(("preprocess", "layout", "sum_gap")) | {"in_one_piece": False, "stage_rounds": 24}
    older = timed_as(run, **gone)
    seen = render(dataclasses.replace(run, cells=[c for c in older if c["keep"] in (None, 64)], gallery=[]))
    assert seen.count("is summed from stages (vision, projector, selection, prefill), as older versions did") == 1
    assert "in one piece, from" not in seen and "sum</button>" not in seen and 'id="times"' not in seen
    assert "preprocess" in page and "preprocess" not in seen.partition("<svg")[2], "no stage that was not timed has a key"
    (group,) = strata(run.cells)
    drawn = {
        key: accuracy_by_ttft(dataclasses.replace(group, cells=tuple(cells)), looks(group.methods)).caption
        for key, cells in (("now", run.cells), ("then", older), ("both", [*run.cells[:4], *older[4:]]))
    }
    assert "in one piece" in drawn["now"] and "sum of its stages" not in drawn["now"] and "One cell is wide" in drawn["now"]
    assert "in one piece" not in drawn["then"] and "the sum of its stages" in drawn["then"]
    assert "of some cells the sum of its stages" in drawn["both"] and "of others in one piece" in drawn["both"]
    tables = [markdown.table(cells) for cells in (run.cells, older, timed_as(run, wide=False))]
    assert ["Time to first token is summed from stages" in one for one in tables] == [False, True, False]
    meaning = "A speed-up marked wide is known less closely than to 5 %: read its interval."
    assert [meaning in one for one in tables] == [True, True, False]
    mixed = [older[i] if i % 2 else c for i, c in enumerate(run.cells)]
    some, every = (sum(bool(c["latency"]) for c in cells) for cells in (mixed[1::2], mixed))
    assert f"Time to first token of {some} of {every} cells is summed from stages" in alerts(mixed)[-1]
