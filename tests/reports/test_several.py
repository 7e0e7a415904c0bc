"""Several runs side by side: planted differences are told, equal runs say none, and other models and tasks stand beside."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.results.several import side_by_side
from harness.results.summary import write
from harness.store.runs import RunFolder
from reports.several import Shown, _speed, render

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tests/load/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home, made = tmp_path_factory.mktemp("several"), {}
    for name, more in {
        "first": {}, "equal": {}, "worse": {"shift": -0.2}, "other-model": {"model": "other"}, "other-images": {"seed": 5},
        "fewer": {"samples": 240},
    }.items():  # fmt: skip
        module.generate(home / name, **{"samples": 360, "cells": 8, "analysed": 0, "seeds": 2, **more})
        write(RunFolder(home / name))
        made[name] = home / name
    return made


def beside(runs: dict[str, Path], *names: str):
    return side_by_side([RunFolder(runs[name]) for name in names])


def test_equal_runs_do_not_differ(runs):
    several = beside(runs, "first", "equal")
    assert len(several.rows) == 8 and not several.settings and not several.notes
    assert all(row.differences[0].value == 0 and row.differences[0].p == 1 for row in several.rows)
    page = render(several)
    assert "No difference between equal and first could be shown in 8 cells." in page
    assert "Nothing: configuration, versions, weights, code and device are the same." in page


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("NVIDIA H200", "cuda:0 NVIDIA H200", True), ("cuda:0 NVIDIA H200", "cuda:1 NVIDIA H200", True),
        ("cuda:0 NVIDIA H200", "cuda:0 NVIDIA A100", False),
        ("cuda:0 NVIDIA H200, cuda:1 NVIDIA H200", "cuda:0 NVIDIA H200", False), ("cpu, 2 threads", "cpu, 4 threads", False),
    ],
)  # fmt: skip
def test_a_device_is_what_it_is_not_where_it_is(runs, tmp_path, one, other, same):
    made = []
    for name, device in (("one", one), ("other", other)):
        made.append(RunFolder(shutil.copytree(runs["first"], tmp_path / name)))
        made[-1].write_json("manifest.json", made[-1].manifest() | {"device": device})
    assert any("different devices" in note for note in side_by_side(made).notes) != same


def test_a_planted_loss_is_told_with_its_interval(runs):
    several = beside(runs, "first", "worse")
    for row in several.rows:
        (gap,) = row.differences
        if row.keep is None:
            assert gap.p > 0.05
        else:
            assert gap.p < 0.05 and gap.lo < gap.value < gap.hi < 0
            scores = [cell.entry["accuracy"]["value"] for cell in row.cells]
            assert gap.value == pytest.approx(scores[1] - scores[0])
    page = render(several)
    assert "worse is less accurate than first in 6 of 8 cells" in page and "more accurate" not in page


def test_p_is_corrected_over_the_page_and_cells_that_do_not_change_cost_nothing(runs):
    one, more = beside(runs, "first", "worse"), beside(runs, "first", "worse", "equal")
    assert [row.differences[0].p for row in more.rows] == [row.differences[0].p for row in one.rows]
    again = beside(runs, "first", "other-model", "worse")
    for row, other in zip(one.rows, again.rows, strict=True):
        assert other.differences[1].p >= row.differences[0].p and other.differences[1].lo <= other.differences[1].value


def test_another_model_on_the_same_questions_is_paired(runs):
    several = beside(runs, "first", "other-model")
    assert all(row.differences[0] is not None for row in several.rows)
    assert "other-model and first ran other weights: what differs may be the model's." in several.notes
    told = {setting.name: setting.values for setting in several.settings}
    assert told["model"] == ("tiny", "other") and "fingerprints.weights" in told


def test_other_samples_are_not_compared(runs):
    several = beside(runs, "first", "other-images", "fewer")
    assert all(row.differences[0] is None and row.differences[1] is not None for row in several.rows)
    assert "other-images and first share too few questions, so their accuracies are not compared." in several.notes
    assert "fewer is compared with first on the 240 questions that both asked, of 240 and 360." in several.notes


def test_three_runs_have_their_columns(runs):
    page = render(beside(runs, "first", "worse", "other-model"))
    assert page.count('<th scope="col">first</th>') == 4 and page.count('<th scope="col">worse</th>') == 5
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def marked(several, **facts: dict):
    """The same runs, whose cells know more, by run and method."""
    rows = []
    for row in several.rows:
        known = [facts.get(name, {}).get(row.method, {}) for name in several.names]
        cells = [replace(cell, entry={**cell.entry, **more}) for cell, more in zip(row.cells, known, strict=True)]
        rows.append(replace(row, cells=tuple(cells)))
    return replace(several, rows=tuple(rows))


def test_what_is_the_same_and_what_nothing_proves_is_marked_and_said(runs):
    several = beside(runs, "first", "equal")
    one, two = [row.method for row in several.rows if row.keep is not None and row.method != "random"][:2]
    plain = render(several)
    assert "same as" not in plain and "nverified" not in plain
    facts = {two: {"same_as": one}, one: {"unverified": "why <so>"}}
    page = render(marked(several, first=facts, equal=facts))
    heads = [part.split("</th>")[0] for part in page.split('<th scope="row" class="first">')]
    doubles = [head for head in heads if f'<span class="tag">same as <span class="name">{one}</span></span>' in head]
    assert len(doubles) == sum(row.method == two for row in several.rows) and all("<small>" not in head for head in doubles)
    unproved = [head for head in heads if '<span class="tag">unverified</span><small>why &lt;so&gt;</small>' in head]
    assert len(unproved) == sum(row.method == one for row in several.rows)
    assert f"{two} at" in page and page.count("is the same as") == 1 and "The two count once, as" in page
    assert f"hold them against: {one} (why &lt;so&gt;)." in page
    assert f", same as {one}" in page.split("<figure>")[1], "the figure draws a row a cell and says so"


def test_what_is_the_same_in_one_run_alone_is_said_of_that_run(runs):
    several = beside(runs, "first", "equal")
    one, two = [row.method for row in several.rows if row.keep is not None and row.method != "random"][:2]
    page = render(marked(several, equal={two: {"same_as": one}}))
    assert f'same as <span class="name">{one}</span></span><small>in equal</small>' in page
    assert f'<p class="fine">equal: {two} at ' in page and f'<p class="fine">first: {two}' not in page


def test_a_run_named_twice_is_refused(runs):
    with pytest.raises(RequestError, match="named twice"):
        beside(runs, "first", "first")


def test_the_command_needs_no_torch(runs, tmp_path):
    code = (
        "import sys\n"
        "from harness.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    out = tmp_path / "page.html"
    asked = [sys.executable, "-c", code, "report", str(runs["first"]), str(runs["worse"]), "--out", str(out)]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out) and "2 runs side by side" in out.read_text()


def test_a_speed_of_few_rounds_stands_without_an_interval():
    few = {"latency": {"ratio": {"value": 1.25, "lo": None, "hi": None}, "wide": False}}
    assert (found := _speed(Shown(None, few))).text == "1.25" and found.detail == "no interval"
    few["latency"]["ratio"] |= {"lo": 1.2, "hi": 1.3}
    assert _speed(Shown(None, few)).detail == "1.20 to 1.30"
    few["latency"]["wide"] = True
    assert _speed(Shown(None, few)).text == "1.25" and _speed(Shown(None, few)).detail == "1.20 to 1.30; wide"
