"""Several runs whose answers are scored by other rules, summed up by other figures, or of a part of the benchmark."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from harness.results.several import side_by_side
from harness.results.summary import write
from harness.store.runs import RunFolder
from reports.several import render

ROOT = Path(__file__).parents[2]
MEAN = {"kind": "mean", "name": "accuracy", "scale": 100.0, "options": {}}
CIRCULAR = {"kind": "circular", "name": "circular accuracy", "scale": 100.0, "options": {}}
TOTAL = {"kind": "mean", "name": "OCRBench total", "scale": 1000.0, "options": {}}
RULES = {"ours": "harness.tasks.choice.judge", "official": "lmms_eval.x.y"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Returns a function that gives a run scored by a rule and a figure; the answers of a shift are the same."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tests/load/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home, made = tmp_path_factory.mktemp("several"), {}

    def run(
        name: str, figure: dict | None, rule: str = "official", shift: float = 0, whole: int | None = None, seed: int = 0, **more
    ) -> RunFolder:
        if name not in made:
            module.generate(home / name, samples=240, cells=4, per_image=4, analysed=0, seeds=1, shift=shift, seed=seed)
            folder = RunFolder(home / name)
            manifest = folder.manifest()
            if figure is not None:
                manifest |= {"scoring": {"rule": rule, "rules": RULES, "undecided": "", "figure": figure},
                             "whole": whole and {"images": None, "questions": whole}}  # fmt: skip
            folder.write_json("manifest.json", manifest | more)
            write(folder)
            folder.close()
            made[name] = home / name
        return RunFolder(made[name], read_only=True)

    return run


def words(page: str) -> str:
    seen = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", seen).split())


def test_runs_of_one_own_figure_are_compared_by_it(runs):
    first, worse = runs("circular", CIRCULAR), runs("worse", CIRCULAR, shift=-0.2)
    several = side_by_side([first, worse])
    for row in several.rows:
        (gap,) = row.differences
        figures = [cell.entry["score"]["value"] for cell in row.cells]
        assert 100 * gap.value == pytest.approx(figures[1] - figures[0])
        ident = next(
            i for i, _, facts in first.cells() if (facts["method"], facts["keep"]) == (row.method, row.cells[0].entry["keep"])
        )
        scores = dict(zip(first.columns(ident)["question"], first.columns(ident)["score"], strict=True))
        images = {}
        for question, score in scores.items():
            (image,) = first.connection.execute("SELECT image FROM questions WHERE id = ?", (question,)).fetchone()
            images.setdefault(image, []).append(score)
        assert figures[0] == pytest.approx(100 * np.mean([min(found) >= 1 for found in images.values()]))
    page = words(render(several))
    assert "Circular accuracy, %" in page and "worse is lower in circular accuracy than circular in" in page
    assert "p of a paired permutation test over images" in page and "Scored by the official rule (lmms_eval.x.y)." in page


def test_a_total_is_compared_in_points_of_its_scale(runs):
    several = side_by_side([runs("total", TOTAL), runs("worse-total", TOTAL, shift=-0.2)])
    page = words(render(several))
    row = next(row for row in several.rows if row.method == "downsample")
    (gap,) = row.differences
    assert f"{1000 * gap.value:+,.1f}".replace("-", "−") in page
    assert "OCRBench total, of 1,000" in page and "Minus total, points of 1,000" in page
    assert "worse-total is lower in OCRBench total than total in" in page


def test_runs_under_other_rules_are_not_compared_and_it_is_said(runs):
    several = side_by_side([runs("official", MEAN), runs("ours", MEAN, rule="ours")])
    assert all(row.differences == (None,) for row in several.rows)
    said = "ours and official are scored by our rule and by the official rule, so their figures are not compared."
    page = words(render(several))
    assert several.notes == (said,) and said in page
    assert "official: Scored by the official rule (lmms_eval.x.y)." in page
    assert "ours: Scored by our rule (harness.tasks.choice.judge)." in page


def test_runs_of_other_figures_say_their_own_and_are_not_compared(runs):
    several = side_by_side([runs("official", MEAN), runs("total", TOTAL)])
    assert all(row.differences == (None,) for row in several.rows)
    assert several.notes == (
        "total and official are summed up by OCRBench total and by accuracy, so their figures are not compared.",
    )
    page = render(several)
    none = next(row for row in several.rows if row.method == "none")
    share = none.cells[0].entry["accuracy"]["value"]
    assert f"{100 * share:.1f} %" in words(page) and f"{1000 * share:,.1f} of 1,000" in words(page)
    assert "each run&#39;s figure, % of its scale" in page or "each run's figure, % of its scale" in page


def test_a_run_of_an_older_version_beside_a_newer_one(runs):
    older = runs("older", None)
    compared = side_by_side([older, runs("ours", MEAN, rule="ours")])
    assert all(row.differences[0].value == 0 for row in compared.rows)
    assert compared.notes == (
        "older is of an older version, whose rule that scores answers may be another: what differs may be the rule's.",
    )
    apart = side_by_side([older, runs("official", MEAN)])
    assert all(row.differences == (None,) for row in apart.rows)
    assert apart.notes == (
        "official and older are scored by the official rule and by that of an older version, so their figures are not compared.",
    )


def test_a_partial_figure_is_marked_in_its_run_alone(runs):
    several = side_by_side([runs("total", TOTAL), runs("part", TOTAL, whole=1000)])
    page = words(render(several))
    assert page.count("; partial") == len(several.rows)
    assert re.search(r"part: Scored by the official rule [^:]*\. Partial: OCRBench total is of 240 of 1,000 questions", page)
    assert "That of part is partial." in page


UNANSWERED = {"scoring": None, "whole": None}
"""What the manifest of a task without answers has."""


def unscored(run: RunFolder) -> RunFolder:
    """Take the right answers, and so the scores, from a run."""
    run.close()
    own = RunFolder(run.folder)
    with own.connection as base:
        base.execute("UPDATE samples SET score = NULL")
        base.execute("UPDATE questions SET target = ''")
    write(own)
    own.close()
    return RunFolder(run.folder, read_only=True)


def test_a_task_without_answers_is_no_run_of_an_older_version(runs):
    photos = unscored(runs("photos", None, task="photos/", **UNANSWERED))
    for other in (runs("official", MEAN), runs("ours", MEAN, rule="ours")):
        several = side_by_side([other, photos])
        assert several.notes == (f"photos and {other.folder.name} share too few questions, so their figures are not compared.",)
        assert "older version" not in words(render(several))
    same = side_by_side([photos, unscored(runs("again", None, task="photos/", **UNANSWERED))])
    assert not any("older" in note for note in same.notes)
    one = side_by_side([runs("official", MEAN), runs("blank", None, **UNANSWERED)])
    assert one.notes == ("blank has no right answers to score, so their figures are not compared.",)


def test_a_run_that_was_extended_by_a_newer_version_is_still_an_older_one(runs):
    older = runs("extended", None, schema_version=4)
    assert "is of an older version" in side_by_side([older, runs("ours", MEAN, rule="ours")]).notes[0]
    assert "by that of an older version" in side_by_side([older, runs("official", MEAN)]).notes[0]


def test_where_nothing_is_compared_no_other_code_is_the_reason(runs):
    other = {**RULES, "ours": "harness.tasks.scoring.exact"}
    far = runs("far", MEAN, rule="ours", seed=5, scoring={"rule": "ours", "rules": other, "undecided": "", "figure": MEAN})
    several = side_by_side([runs("ours", MEAN, rule="ours"), far])
    assert several.notes == ("far and ours share too few questions, so their accuracies are not compared.",)
    near = runs("near", MEAN, rule="ours", scoring={"rule": "ours", "rules": other, "undecided": "", "figure": MEAN})
    assert "what differs may be the rule's" in side_by_side([runs("ours", MEAN, rule="ours"), near]).notes[0]


def test_of_other_tasks_neither_rule_nor_figure_is_the_reason(runs):
    """One rule for both would not make them compare; a run of another sample of the same task would need it."""
    first = runs("official", MEAN)
    ours = runs("science", MEAN, rule="ours", seed=5, task="scienceqa")
    total = runs("total-of-another", TOTAL, seed=5, task="ocrbench")
    for other in (ours, total):
        several = side_by_side([first, other])
        name = other.folder.name
        assert several.notes[0].startswith(f"{name} and official share too few questions, so their ")
        assert "by the official rule and" not in several.notes[0] and "summed up" not in " ".join(several.notes)
    sample = side_by_side([first, runs("sample", MEAN, rule="ours", seed=5)])
    assert "are scored by our rule and by the official rule" in sample.notes[0]
    place = {"task": "shapes[path=x]", "task_info": {"name": "shapes"}}
    there = runs("there", MEAN, rule="ours", seed=5, **{**place, "task": "shapes"})
    elsewhere = side_by_side([runs("here", MEAN, **place), there])
    assert "are scored by our rule and by the official rule" in elsewhere.notes[0]


def test_a_page_has_no_column_of_differences_that_it_cannot_have(runs):
    first, total = runs("official", MEAN), runs("total", TOTAL)
    page = render(side_by_side([first, total]))
    seen = words(page)
    assert "Minus official" not in seen and "differences" not in seen.partition("What differs between")[0].lower()
    assert page.count('<th scope="col">total</th>') == 4, "the figure, the speed-up, FLOPs and the settings"
    page = render(side_by_side([first, total, runs("worse-mean", MEAN, shift=-0.2)]))
    assert "Minus official, points" in words(page)
    assert page.count('<th scope="col">total</th>') == 4 and page.count('<th scope="col">worse-mean</th>') == 5
    heads = page[page.index('<table id="cells">') :].partition("</thead>")[0].count('scope="col"')
    assert heads == 1 + page[page.index("<tbody>") :].partition("</tr>")[0].count("<td")


def test_the_figure_of_several_runs_bears_the_mark(runs):
    for units in (("total", TOTAL), ("official", MEAN)):
        first, part = runs(*units), runs(f"part-of-{units[0]}", units[1], whole=1000)
        page = render(side_by_side([first, part]))
        axis = "OCRBench total (of 1,000, partial)" if units[1] is TOTAL else "accuracy, % (partial)"
        assert axis in page and f"part-of-{units[0]}, partial" in page
        whole = render(side_by_side([first, runs(f"again-{units[0]}", units[1])]))
        assert "partial" not in whole and axis.replace(", partial", "").replace(" (partial)", "") in whole
    mixed = render(side_by_side([runs("official", MEAN), runs("part-of-total", TOTAL, whole=1000)]))
    assert "% of its scale (partial)" in mixed
