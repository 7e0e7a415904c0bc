"""What explains accuracy: planted, absent and confounded relations; and the reading of a run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.errors import RequestError
from harness.results.explain import as_text, explain
from metrics.explain import FAMILIES, LISTS, STRATA, CellColumns, correlations, interaction, strata
from metrics.ranks import within_rank_correlation

METHODS = {"one": "attention", "two": "diversity", "three": "both", "random": "chance"}


def _cells(seed, effect=0.0, by_budget=0.0, images=60, keeps=(64, 32, 16), early=("one", "two", "random")):
    """Three questions an image; a figure whose relation to the score is ``effect`` within question and budget."""
    rng = np.random.default_rng(seed)
    image = np.repeat([f"i{i}" for i in range(images)], 3).astype(object)
    question = np.array([f"q{i}" for i in range(3 * images)], dtype=object)
    difficulty, cells = rng.normal(size=3 * images), []
    for method, ranks_by in METHODS.items():
        for place, keep in enumerate(keeps):
            figure = rng.normal(size=3 * images) - by_budget * place
            ease = difficulty + effect * (figure + by_budget * place) - by_budget * place
            columns = {
                "question": question,
                "image": image,
                "family": np.tile(np.array(["count", "colour", "place"], dtype=object), images),
                "score": (ease + rng.logistic(size=3 * images) > 0).astype(float),
                "effective_rank": figure,
                "z_effective_rank": 2 * figure + 1,
                "percentile_effective_rank": figure,
                "kept_count": np.full(3 * images, float(keep) if method in early else keep / 2 + 5 * len(method)),
                "layers": np.zeros((3 * images, 4, 6)),
                "noise": rng.normal(size=3 * images),
            }
            if method == "one":
                columns["score_entropy"] = rng.random(3 * images)
            cells.append(CellColumns(method, keep, ranks_by, method in early, columns))
    return cells


def _row(found, name, figure="effective_rank"):
    return next(row for row in found[name]["rows"] if row["figure"] == figure)


def test_a_planted_relation_is_found_in_all_lists():
    found = correlations(_cells(0, effect=1.5))
    for name in LISTS:
        row = _row(found, name)
        assert row["value"] > 0.2 and 0 < row["lo"] < row["value"] < row["hi"] and row["p_adjusted"] < 0.01, name
        assert found[name]["rows"][0]["figure"].endswith("effective_rank")
        assert _row(found, name, "noise")["p_adjusted"] > 0.05
    assert found["across_methods"]["groups"] == 180 * 3
    assert 0 < found["across_methods"]["mixed"] < 180 * 3
    assert _row(found, "across_methods")["n"] == 4 * 3 * 180 and _row(found, "across_methods")["n_images"] == 60


def test_no_relation_is_not_found():
    alarms = 0
    for seed in range(40):
        found = correlations(_cells(seed, images=30), seed, resamples=20)
        alarms += any(row["p_adjusted"] < 0.05 for name in LISTS for row in found[name]["rows"])
    assert alarms <= 40 * 0.3  # three lists at 5 % each


def test_a_budget_that_raises_figure_and_accuracy_explains_nothing():
    cells = _cells(1, by_budget=2.0)
    loose = np.concatenate([cell.columns["effective_rank"] for cell in cells])
    scores = np.concatenate([cell.columns["score"] for cell in cells])
    assert np.corrcoef(loose, scores)[0, 1] > 0.3
    for name in LISTS:
        row = _row(correlations(cells), name)
        assert abs(row["value"]) < 0.06 and row["p_adjusted"] > 0.05, name


def test_rows_are_what_plain_groups_give():
    cells = _cells(2, effect=0.7)
    cells[1].columns["effective_rank"][:20] = np.nan
    cells[2].columns["score"][5] = np.nan
    found = correlations(cells, seed=4, resamples=100)
    column = lambda name, chosen: np.concatenate([cell.columns[name] for cell in chosen])
    asked = lambda cell, i: (cell.columns["question"][i], cell.keep)
    alike = lambda cell, i: (*asked(cell, i), cell.columns["kept_count"][i])
    pooled = lambda cell, i: (cell.method, cell.keep, cell.columns["family"][i])
    early = [cell for cell in cells if cell.before_llm]
    for name, chosen, key, spanning in zip(LISTS, (cells, early, cells), (asked, alike, pooled), (False, False, True)):
        groups = [key(cell, i) for cell in chosen for i in range(180)]
        x, y, image = (column(c, chosen) for c in ("effective_rank", "score", "image"))
        expected = within_rank_correlation(x, y, groups, image, 4, 100, spanning=spanning)
        row = _row(found, name)
        assert (row["value"], row["lo"], row["hi"]) == pytest.approx((expected.value, expected.lo, expected.hi)), name
        assert row["n"] == int((~np.isnan(x) & ~np.isnan(y)).sum())


def test_what_cannot_vary_has_no_row():
    found = correlations(_cells(3))
    figures = {name: {row["figure"] for row in found[name]["rows"]} for name in LISTS}
    assert figures["across_methods"] == {"effective_rank", "z_effective_rank", "kept_count", "noise"}
    assert figures["across_methods_before_llm"] == {"effective_rank", "noise"}
    # one method alone has scores: nothing to compare across methods, but across images
    assert figures["across_images"] == {"effective_rank", "z_effective_rank", "noise", "score_entropy"}
    for name in LISTS:
        sizes = [abs(row["value"]) for row in found[name]["rows"]]
        assert sizes == sorted(sizes, reverse=True)
    nothing = {"groups": 0, "mixed": 0, "methods": 0, "least_p_methods": None, "rows": []}
    assert correlations([]) == {name: nothing for name in LISTS}
    empty = [replace(cell, columns={n: c[:0] for n, c in cell.columns.items()}) for cell in _cells(3)]
    assert correlations(empty) == correlations([])


def _families(seed, crossing=0.0, images=150, more=()):
    """Attention gains ``crossing`` on the simplest image and loses it on the most complex one; diversity is level."""
    rng = np.random.default_rng(seed)
    names = [f"i{i}" for i in range(images)]
    complexity = dict(zip(names, rng.permutation(images) + 10.0))
    image = np.repeat(names, 2).astype(object)
    level = np.array([complexity[i] for i in image])
    tilt = 1 - 2 * (level - 10) / images
    cells = []
    for method, ranks_by, gain in (
        ("a1", "attention", 1),
        ("a2", "attention", 1),
        ("d", "diversity", 0),
        ("r", "chance", -1),
        *more,
    ):
        chance = 0.55 + (crossing * tilt if gain == 1 else 0.0) - 0.45 * (gain == -1)
        columns = {
            "question": np.array([f"q{i}" for i in range(2 * images)], dtype=object),
            "image": image,
            "family": np.full(2 * images, "all", dtype=object),
            "score": (rng.random(2 * images) < chance).astype(float),
        }
        cells += [CellColumns(method, keep, ranks_by, True, columns) for keep in (64, 16)]
    return cells, complexity


def test_a_planted_crossing_is_found():
    found = strata(*_families(0, crossing=0.4))
    assert [row["stratum"] for row in found["rows"]] == [*STRATA, *STRATA]
    assert [row["keep"] for row in found["rows"]] == [64] * 3 + [16] * 3
    lowest, _, highest = found["rows"][:3]
    assert lowest["winner"] == "attention" and highest["winner"] == "diversity"
    assert lowest["attention_minus_diversity"]["lo"] > 0 > highest["attention_minus_diversity"]["hi"]
    assert lowest["attention_minus_diversity"]["p_adjusted"] < 0.05 and highest["winner_minus_runner_up"]["p_adjusted"] < 0.05
    assert lowest["best_method"]["method"] in ("a1", "a2") and highest["best_method"]["method"] == "d"
    for one in found["interactions"]:
        assert one["lo"] > 0.2 and one["p_adjusted"] < 0.01
    spans = found["strata"]
    assert [span["n_images"] for span in spans] == [50, 50, 50]
    assert spans[0]["hi"] < spans[1]["lo"] and spans[1]["hi"] < spans[2]["lo"]


def test_no_crossing_is_not_found():
    alarms = 0
    for seed in range(40):
        cells, complexity = _families(seed, images=60)
        found = strata(cells[::2], complexity, seed)  # one budget
        alarms += found["interactions"][0]["p"] <= 0.05
        assert found["interactions"][0]["lo"] is not None
    assert alarms <= 6


def test_a_familys_accuracy_is_the_mean_over_its_cells():
    cells, complexity = _families(5, crossing=0.2)
    simplest = sorted(complexity, key=complexity.__getitem__)[:50]
    expected = [
        np.mean([s for i, s in zip(cell.columns["image"], cell.columns["score"]) if i in simplest])
        for cell in cells
        if cell.keep == 64 and cell.ranks_by == "attention"
    ]
    row = strata(cells, complexity)["rows"][0]
    assert (
        row["families"]["attention"]["value"] == pytest.approx(np.mean(expected)) and row["families"]["attention"]["cells"] == 2
    )
    assert row["best_method"]["value"] >= max(expected) - 1e-12
    assert (row["n"], row["n_images"]) == (100, 50)
    difference = row["attention_minus_diversity"]["value"]
    assert difference == pytest.approx(row["families"]["attention"]["value"] - row["families"]["diversity"]["value"])


def test_interaction_against_all_deals():
    from itertools import combinations

    difference = np.array([1.0, 0.5, 1.0, -0.5, 0.0, 0.5, -1.0, 0.0, 0.5])
    image = np.array(list("aabbcdefg"))  # of one to two questions
    low = np.isin(image, list("abc"))
    found = interaction(difference, image, low, ~low, seed=0, permutations=20000)
    names = sorted(set(image))
    gaps = []
    for chosen in combinations(names, 3):
        inside = np.isin(image, chosen)
        gaps.append(difference[inside].mean() - difference[~inside].mean())
    assert found["value"] == pytest.approx(difference[low].mean() - difference[~low].mean())
    assert found["p"] == pytest.approx(np.mean(np.abs(gaps) >= abs(found["value"]) - 1e-9), abs=0.015)


def test_strata_of_little():
    cells, complexity = _families(6)
    assert strata([], complexity)["rows"] == []
    assert strata(cells, {})["rows"] == []
    one = strata([cells[0]], complexity)
    assert one["rows"][0]["winner"] == "attention" and one["rows"][0]["winner_minus_runner_up"] is None
    assert one["interactions"] == []
    few = strata(cells, dict(list(complexity.items())[:2]))
    assert [row["n_images"] for row in few["rows"]] == [1, 1] * 2 and few["interactions"] == []
    odd = [replace(cells[0], ranks_by="none"), replace(cells[2], keep=None)]
    assert strata(odd, complexity)["rows"][0]["families"] == {}
    assert strata(odd, complexity)["rows"][0]["best_method"]["method"] == "a1"


class _Run:
    """A run folder of the cells given, as `harness.store.runs` would offer it."""

    folder = "runs/example"

    def __init__(self, cells, complexity, facts):
        self._cells, self._complexity, self._facts = cells, complexity, facts

    def cells(self):
        return [(i, f"key {i}", facts) for i, facts in enumerate(self._facts)]

    def analysed(self):
        return [question for cell in self._cells for question in cell.columns["question"]]

    def columns(self, ident, questions):
        assert set(self._cells[ident].columns["question"]) <= set(questions)
        return {name: self._cells[ident].columns[name] for name in ("question", "image", "family", "score")}

    def analysis(self, ident):
        return dict(self._cells[ident].columns)

    def complexity(self):
        return self._complexity

    def summary(self):
        return {"cells": []}


def _run(effect=0.0):
    names = ("fastv", "divprune", "tome", "random", "oracle", "random[like=fastv]", "none", "vtw")
    rows, facts = [], []
    template = _cells(7, effect=effect, keeps=(64,))
    for i, method in enumerate(names):
        rows.append(template[i % 4])
        one = {"model": "tiny", "task": "shapes", "method": method, "keep": None if method == "none" else 64, "budget": "average"}
        one |= {"reference": method in ("random", "oracle", "random[like=fastv]", "none")}
        one |= {"prunes": method not in ("tome", "none", "vtw"), "skipped": "no such layer" if method == "vtw" else None}
        facts.append({**one, "schedule": [64, 32] if method == "fastv" else [64, 64]})
    images = dict.fromkeys(rows[0].columns["image"])
    return _Run(rows, {image: float(i % 7) for i, image in enumerate(images)}, facts)


def test_a_run_is_read_without_its_yardsticks():
    found = explain(_run())
    assert found["n_images"] == 60
    assert _row(found["correlations"], "across_methods")["n"] == 3 * 180  # fastv, divprune, random
    assert _row(found["correlations"], "across_methods_before_llm")["n"] == 2 * 180
    families = found["complexity"]["rows"][0]["families"]
    assert list(families) == ["attention", "diversity", "merging", "chance"] and all(f["cells"] == 1 for f in families.values())
    json.dumps(found, allow_nan=False)


def test_a_run_that_knows_its_families_is_asked_first():
    run = _run()
    for facts in run._facts:
        facts["method"], facts["ranks_by"] = f"plug_in_{facts['method']}", "diversity"
    assert set(explain(run)["complexity"]["rows"][0]["families"]) == {"diversity"}
    for facts in run._facts:
        del facts["ranks_by"]
    assert explain(run)["complexity"]["rows"][0]["families"] == {}


def test_a_run_without_analysis_says_how_to_get_one():
    run = _run()
    run._complexity = {}
    with pytest.raises(RequestError, match="--analyse"):
        explain(run)


def test_text():
    text = as_text(explain(_run()))
    assert "That any figure predicts correctness within question and budget could not be shown." in text
    assert "keep 64" in text and "lowest" in text and "attention (1)" in text
    assert "No certain effect of complexity" in text and "(not settled)" in text
    assert max(map(len, text.splitlines())) <= 130
    text = as_text(explain(_run(effect=3.0)))
    assert "2 of 3 figures predict correctness within question and budget on other images; strongest: effective_rank." in text
    assert "Whether they do so with other methods too cannot be tested with 3 methods." in text
    assert "2 of 4 figures predict correctness within method, budget and question family on other images;" in text
    assert max(map(len, text.splitlines())) <= 130
    nothing = {"correlations": correlations([]), "complexity": strata([], {})}
    assert "nothing to compare" in as_text(nothing)


def _many(seed, effect, methods, images=24):
    """One budget, two questions an image; each method has a level of the figure, and ``effect`` of it on its scores."""
    rng = np.random.default_rng(seed)
    image = np.repeat([f"i{i}" for i in range(images)], 2).astype(object)
    question, difficulty = np.array([f"q{i}" for i in range(2 * images)], dtype=object), rng.normal(size=2 * images)
    cells = []
    for number in range(methods):
        level = rng.normal()
        figure = level + 0.5 * rng.normal(size=2 * images)
        ease = difficulty + effect * level + rng.logistic(size=2 * images)
        columns = {"question": question, "image": image, "family": np.full(2 * images, "all", dtype=object),
                   "score": (ease > 0).astype(float), "effective_rank": figure}  # fmt: skip
        cells.append(CellColumns(f"method {number}", 64, "attention", True, columns))
    return cells


def _claims(cells):
    """What is said of a list across methods, and the row of its figure."""
    found = {"correlations": correlations(cells), "complexity": strata([], {})}
    return as_text(found), _row(found["correlations"], "across_methods"), found["correlations"]["across_methods"]


def test_a_relation_that_most_methods_show_is_claimed_of_other_methods():
    text, row, listed = _claims(_many(1, 2.0, 12))
    assert row["p_adjusted"] < 0.001 and row["p_methods"] == row["p_methods_adjusted"] < 0.01
    assert listed["methods"] == 12 and listed["least_p_methods"] == 1 / 4001
    assert "1 of these predict it with other methods too; strongest: effective_rank." in text and "p, other methods" in text


def test_a_coincidence_of_few_methods_is_not_claimed_of_others():
    cells = _many(2, 2.0, 4)
    text, row, listed = _claims(cells)
    assert row["p_adjusted"] < 0.001 and row["p_methods"] >= listed["least_p_methods"] == pytest.approx(1 / 24)
    rivals = [replace(cell, columns={**cell.columns, "effective_rank": cells[i].columns["effective_rank"]})
              for cell, i in zip(cells, (1, 0, 3, 2))]  # fmt: skip
    text, row, _ = _claims(rivals)
    assert row["p_adjusted"] < 0.05 < row["p_methods"]
    assert "That any of these does so with other methods too could not be shown by 4 methods, whose p is at least 0.042." in text


def test_many_budgets_do_not_hide_the_winner_of_a_stratum():
    cells, complexity = _families(0, crossing=0.4)
    many = [replace(cell, keep=keep) for keep in range(1, 40) for cell in cells[::2]]
    rows = strata(many, complexity)["rows"]
    assert len(rows) == 3 * 39
    for row in rows:
        gap = row["attention_minus_diversity"]
        assert gap["p_adjusted"] >= gap["p"]
        if row["stratum"] != "middle":
            assert gap["p_adjusted"] < 0.005  # budgets that are copies cost nothing; Holm of 117 rows would say 117 times p


def test_families_are_the_registrys():
    from methods import registry

    assert set(FAMILIES) < set(registry.FAMILIES)
