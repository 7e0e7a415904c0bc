"""Cells that keep the same tokens and give the same answers: which they are, that they count once, and that the page says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import pytest
import torch

from harness.cli.app import main
from harness.results.report import page
from harness.results.same_cells import same_cells
from harness.results.summary import as_json
from harness.run.comparison import compare
from harness.store.runs import RunFolder
from methods.registration import REGISTERED, register
from methods.types import Budget, Method, ModelShape, Selection, Signals, Step, decoder
from reports.cells import strata
from reports.findings import findings
from reports.headline import headlines
from reports.losses import losses
from reports.markdown import table as markdown
from reports.method_notes import same_notes

FIRST, DOUBLE = "sts", "sts[depth=0.4]"
_TABLES = ("samples", "analysis", "timings")
_OF_TIME = ("latency", "memory")
"""What is measured of each cell apart."""


def doubled(run: RunFolder, method: str = FIRST, keep: int = 64, name: str = DOUBLE, **facts: object) -> int:
    """Add a cell that answers as another does, and keeps what it keeps; return its id."""
    ident, key, known = next(cell for cell in run.cells() if (cell[2]["method"], cell[2]["keep"]) == (method, keep))
    own = f"{key} {name}"
    new = run.add_cells([(own, {**known, "method": name, **facts})])[own]
    with run.connection:
        for table in _TABLES:
            names = [row[1] for row in run.connection.execute(f"PRAGMA table_info({table})")]
            chosen = ", ".join("?" if one == "cell" else f'"{one}"' for one in names)
            run.connection.execute(f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE cell = ?", (new, ident))
    return new


def change(run: RunFolder, cell: int, what: str) -> None:
    """Change one sample of a cell."""
    with run.connection:
        last = run.connection.execute("SELECT max(question) FROM samples WHERE cell = ?", (cell,)).fetchone()[0]
        run.connection.execute(f"UPDATE samples SET {what} WHERE cell = ? AND question = ?", (cell, last))


@pytest.fixture
def run(make_run) -> RunFolder:
    return make_run()


def test_of_made_up_runs_no_two_cells_are_the_same(run):
    assert same_cells(run) == {}


def test_a_double_is_named_after_the_first_in_the_order_of_the_request(run):
    second, third = doubled(run), doubled(run, name="sts[depth=0.3]")
    assert same_cells(run) == {second: FIRST, third: FIRST}
    assert same_cells(RunFolder(run.folder, read_only=True)) == {second: FIRST, third: FIRST}


@pytest.mark.parametrize(
    "what",
    ["kept = x'00'", "kept = NULL", "kept_count = kept_count - 1", "prediction = 'another'", "score = 0.5", "failed = 'why'",
     "kl = 1.002 * kl", "kl = NULL", "kl = 9e999", "recall = 0.5 * recall", "recall_before = 0.4321"],
)  # fmt: skip
def test_one_sample_that_differs_parts_two_cells(run, what):
    double = doubled(run)
    change(run, double, what)
    assert same_cells(run) == {}


def test_a_sample_that_failed_under_both_parts_them_not(run):
    double = doubled(run)
    first = next(ident for ident, _, facts in run.cells() if (facts["method"], facts["keep"]) == (FIRST, 64))
    for cell in (first, double):
        change(run, cell, "failed = 'why', kept = NULL, kept_count = NULL, score = NULL, prediction = ''")
    assert same_cells(run) == {double: FIRST}


@pytest.mark.parametrize("what", ["kl = 1.0005 * kl", "kl = kl + 9e-7"])
def test_rounding_parts_no_two_cells(run, what):
    double = doubled(run)
    change(run, double, what)
    assert same_cells(run) == {double: FIRST}


@dataclass(frozen=True)
class TwoSteps(Method):
    """Many tokens from one end of the image, then those in its middle, whichever end it was."""

    end: Literal["first", "last"] = "first"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        half, few = shape.visual_tokens // 2, 40
        early = half + few // 2  # so that both ends hold the middle
        begin = 0 if self.end == "first" else shape.visual_tokens - early

        def one_end(signals: Signals, keep: int) -> Selection:
            return Selection(torch.arange(begin, begin + keep).expand(len(signals.hidden_states), -1))

        def middle(signals: Signals, keep: int) -> Selection:
            skip = 0 if begin else early - keep
            return Selection(torch.arange(skip, skip + keep).expand(len(signals.hidden_states), -1))

        needs = frozenset({"hidden_states"})
        return Step(decoder(2), one_end, early, early, needs), Step(decoder(shape.layers - 1), middle, few, few, needs)


def test_methods_that_part_on_the_way_and_meet_in_the_last_layer_are_two(tmp_path):
    """Both end with the same tokens and say the same; what they dropped before is not stored, but shows."""
    register("twosteps", needs={"hidden_states"})(TwoSteps)
    methods = ["twosteps", "twosteps[end=last]"]
    small = {"samples": 2, "latency": False, "analyse": 0, "seeds": 1, "workers": 1}
    try:
        run = compare(out=tmp_path / "run", methods=methods, keep=[64], **small).store
    finally:
        REGISTERED.pop("twosteps", None)
    cells = {facts["method"]: ident for ident, _, facts in run.cells()}
    said = "SELECT question, kept, kept_count, prediction, score FROM samples WHERE cell = ? ORDER BY question"
    first, last = (run.connection.execute(said, (cells[name],)).fetchall() for name in methods)
    assert len(first) == 18
    with run.connection:  # where they do not say the same, let them
        run.connection.execute(
            "UPDATE samples SET prediction = 'blue', score = 0, recall_before = NULL WHERE cell IN (?, ?)",
            [cells[name] for name in methods],
        )
    assert [row[1:3] for row in first] == [row[1:3] for row in last] and first[0][2] == 40
    assert same_cells(run) == {}
    with run.connection:
        run.connection.execute("UPDATE samples SET kl = 0.5")
    assert same_cells(run) == {cells[methods[1]]: methods[0]}, "the test could fail"


def test_a_question_that_one_of_them_lacks_parts_them(run):
    double = doubled(run)
    with run.connection:
        run.connection.execute("DELETE FROM samples WHERE cell = ? AND question = 'i0-0'", (double,))
    assert same_cells(run) == {}


def test_cells_whose_tokens_are_not_known_are_the_same_as_none(run):
    double = doubled(run)
    first = next(ident for ident, _, facts in run.cells() if (facts["method"], facts["keep"]) == (FIRST, 64))
    with run.connection:
        run.connection.execute("UPDATE samples SET kept = NULL WHERE cell IN (?, ?)", (first, double))
    assert same_cells(run) == {}


@pytest.mark.parametrize(
    "facts",
    [
        {"schedule": [144, 43, 43, 43]}, {"positions": "contiguous"}, {"budget": "final"}, {"keep": 63, "keep_label": "63"},
        {"prunes": False}, {"reference": True}, {"removes_nothing": True}, {"skipped": "why"},
    ],
    ids=lambda facts: next(iter(facts)),
)  # fmt: skip
def test_cells_that_are_something_else_are_the_same_as_none(run, facts):
    double = doubled(run)
    run.set_facts(double, **facts)
    assert same_cells(run) == {}


def test_random_tokens_and_merged_ones_are_the_same_as_none(run):
    doubled(run, "random", name="random[seed=1]")
    doubled(run, "tome", name="tome[again=true]")
    assert same_cells(run) == {}


def test_measured_counts_of_adaptive_cells_that_are_equal_make_no_difference(run, edit_facts):
    double = doubled(run, adaptive=True, schedule=[64.25] * 4)
    assert same_cells(run) == {}
    edit_facts(run, FIRST, 64, adaptive=True, schedule=[64.25] * 4)
    assert same_cells(run) == {double: FIRST}


@pytest.mark.parametrize(("method", "keep"), [("sts", 64), ("fastv", 64), ("fastv", 24)])
def test_everything_told_of_the_others_is_that_of_a_run_without_the_double(make_run, method, keep):
    alone, twice = make_run(), make_run()
    doubled(twice, method, keep, "double")
    without, with_it = as_json(alone), as_json(twice)
    assert with_it["winners"] == without["winners"] and with_it["explained"] == without["explained"]
    for name in ("families", "correlation", "needed_images"):
        assert with_it["checks"][name] == without["checks"][name], name
    others = [cell for cell in with_it["cells"] if cell["method"] != "double"]
    assert len(others) == len(without["cells"]) == len(with_it["cells"]) - 1
    tested = 0
    for cell, before in zip(others, without["cells"], strict=True):
        assert cell["same_as"] is None
        assert {k: v for k, v in cell.items() if k not in _OF_TIME} == {k: v for k, v in before.items() if k not in _OF_TIME}
        tested += (before["difference_none"] or {}).get("p_adjusted") is not None
        tested += (before["non_inferior"] or {}).get("p_best") is not None
    assert tested >= 10, "there is something that a double would have changed"
    (double,) = [cell for cell in with_it["cells"] if cell["method"] == "double"]
    assert double["same_as"] == method and double["difference_none"]["p_adjusted"] is None
    assert double["non_inferior"]["p_best"] is double["non_inferior"]["p_adjusted"] is None
    first = next(cell for cell in with_it["cells"] if (cell["method"], cell["keep"]) == (method, keep))
    assert double["pareto"] == first["pareto"] and first["pareto"]["flops"] and first["pareto"]["latency"]
    for name in ("accuracy", "difference_none", "difference_like"):
        for end in ("value", "lo", "hi"):
            assert (double[name] or {}).get(end) == (first[name] or {}).get(end), (name, end)


def test_were_it_counted_it_would_change_what_is_told(make_run, monkeypatch):
    """What the test above could not miss: corrections by the number of methods rest on who is counted."""
    alone, twice = make_run(), make_run()
    doubled(twice, name="double")
    monkeypatch.setattr("harness.results.summary.same_cells", lambda run: {})
    without, counted = as_json(alone), as_json(twice)
    before = {(c["method"], c["keep"]): c for c in without["cells"]}
    changed = [
        c for c in counted["cells"]
        if (was := before.get((c["method"], c["keep"]))) and was["non_inferior"] and c["non_inferior"] != was["non_inferior"]
    ]  # fmt: skip
    assert changed and counted["checks"]["families"] != without["checks"]["families"]


def test_a_double_of_the_best_is_not_held_against_it(make_run):
    run = make_run()
    best = as_json(run)["winners"]["64"]
    doubled(run, best, name="double")
    found = as_json(run)
    (double,) = [cell for cell in found["cells"] if cell["method"] == "double"]
    assert found["winners"]["64"] == best and double["difference_winner"] is None


def test_measured_times_count_each(make_run):
    alone, twice = make_run(), make_run()
    doubled(twice, name="double")
    adjusted = [
        sum((cell["latency"] or {"ratio": {}})["ratio"].get("p_adjusted") is not None for cell in as_json(run)["cells"])
        for run in (alone, twice)
    ]
    assert adjusted[1] == adjusted[0] + 1


def test_a_double_that_was_timed_faster_takes_no_place_on_the_front(make_run):
    alone, twice = make_run(), make_run()
    before = {(cell["method"], cell["keep"]): cell["pareto"] for cell in as_json(alone)["cells"]}
    fronts = [key for key, pareto in before.items() if key[1] is not None and (pareto["latency"] or {}).get("on")]
    best = next(key for key in fronts if key[0] in ("sts", "fastv", "divprune"))
    new = doubled(twice, *best, name="double")
    with twice.connection:
        twice.connection.execute("UPDATE timings SET seconds = 0.9 * seconds WHERE cell = ?", (new,))
    found = {(cell["method"], cell["keep"]): cell["pareto"] for cell in as_json(twice)["cells"]}
    assert found.pop(("double", best[1])) == before[best] and found == before


def test_the_page_says_what_is_the_same_and_ranks_it_once(make_run):
    run = make_run()
    best = as_json(run)["winners"]["64"]
    before = as_json(run)
    doubled(run, best, name="double")
    summary = as_json(run)
    (group,) = strata(summary["cells"])
    (was,) = strata(before["cells"])
    for head, old in zip(headlines(group), headlines(was), strict=True):
        assert (head.best, head.of, head.sentences, head.level) == (old.best, old.of, old.sentences, old.level)
        assert head.same == (("double",) if head.keep.value == 64 else ())
    told, before_told = ([one for one in findings(there) if one.kind != "speed"] for there in (group, was))
    assert told == before_told and losses(group) == losses(was)
    said = f"double at 64 is the same as {best}: it keeps the same tokens of every image and gives the same answers."
    assert [note for note in same_notes(summary["cells"]) if note.startswith(said)]
    html = page(run, summary, 1)
    assert said in html and f'<span class="tag">same as <span class="name">{best}</span></span>' in html
    assert '; the same as <span class="name">double</span>' in html
    assert said in markdown(summary["cells"]) and 'class="tag">same as' not in page(make_run(), before, 1)


def test_pairs_of_runs_and_lists_of_samples_take_it_as_any_other(make_run, capsys):
    runs = make_run(machine=1), make_run(machine=2)
    for run in runs:
        doubled(run, name="double")
        summary = json.loads((run.folder / "summary.json").read_text())
        first = next(cell for cell in summary["cells"] if (cell["method"], cell["keep"]) == (FIRST, 64))
        run.write_json("summary.json", {**summary, "cells": [*summary["cells"], {**first, "method": "double"}]})

    def told(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert not ended.value.code
        return capsys.readouterr().out

    verdicts = json.loads(told("regress", runs[0].folder, runs[1].folder, "--json"))["verdicts"]
    by_cell = {
        name: {one["rule"]: (one["status"], one["text"]) for one in verdicts if one["cell"] == f"{name} at 64"}
        for name in (FIRST, "double")
    }
    assert by_cell["double"] == by_cell[FIRST] and {"accuracy", "drift", "latency", "diversity"} <= set(by_cell[FIRST])
    rows = [json.loads(line) for line in told("samples", runs[0].folder, "--jsonl").splitlines()]
    mine, theirs = ([{**row, "method": ""} for row in rows if (row["method"], row["keep"]) == (name, 64)] for name in by_cell)
    assert len(mine) == 144 and mine == theirs
