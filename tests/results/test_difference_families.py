"""Differences between the cells of a run: who is tested with whom, what is claimed of no loss, and what has no interval."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.results.answer_figures import answer_figures, best_methods
from harness.results.difference_families import DIFFERENCES, DifferenceFamilies, MeanFamily
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.summary import plain
from harness.tasks.leading_figure import OwnFigure
from harness.tasks.own_figures import CircularAccuracy
from methods.keep import Keep
from metrics.differences import mean_difference
from metrics.intervals import mean_interval
from metrics.loss_power import found_loss, normal_critical
from metrics.non_inferiority import ONE_SIDED, no_loss_p
from metrics.resampling import sign_flip
from metrics.statistics import holm
from metrics.step_down import step_down, step_down_figures

IMAGES, QUESTIONS, MARGIN, SEED = 30, 3, 0.05, 7
ONE = (1.0, 1.0, 1.0)
REFERENCES = ("none", "blind", "downsample", "oracle")
Scores = dict[tuple[str, int | None], np.ndarray]
"""Scores [images, questions] by method and budget; nan is a failed answer."""


def cell(scores: np.ndarray) -> CellScores:
    flat = scores.ravel().astype(float)
    image = np.repeat(np.arange(len(scores)), scores.shape[1])
    return CellScores(flat, image, np.zeros(len(flat), np.int64), ~np.isnan(flat))


def facts_of(method: str, keep: int | None, **more: object) -> dict:
    known = {"method": method, "keep": keep, "keep_label": "all" if keep is None else str(keep), "removes_nothing": False}
    like = f"random[like={method}]" if method in ("fastv", "sts") else None
    return known | {"reference": method in REFERENCES or "like=" in method, "like": like} | more


def summarised(run: Scores, figure: OwnFigure | None = None, **more: dict) -> tuple[dict, dict]:
    """The figures of every cell of a run, and what is told of its families.

    Args:
        run: scores.
        figure: that leads; by default the mean score.
        more: facts by method that differ.
    """
    cells = {key: cell(scores) for key, scores in run.items()}
    named = [(place, facts_of(*key, **more.get(key[0], {})), scores) for place, (key, scores) in enumerate(cells.items())]
    leading = LeadingFigure() if figure is None else LeadingFigure(figure)
    seeing = [scores for (method, _), scores in cells.items() if method != "blind" and scores.scored]
    leading = leading.knowing(seeing, cells.get(("none", None)), MARGIN)
    families = DifferenceFamilies(leading, SEED)
    by_name = {(facts["method"], Keep.stored(facts)): scores for _, facts, scores in named}
    winners = best_methods(named, leading)
    found = [answer_figures(scores, by_name, winners, facts, families, leading) for _, facts, scores in named]
    told = families.test()
    return dict(zip(run, plain(found))), plain(told)


def drawn(seed: int = 0, images: int = IMAGES, questions: int = QUESTIONS) -> Scores:
    """A run of two references, four methods and a control at two budgets, of which one has a method less."""
    rng = np.random.default_rng(seed)
    easy = rng.normal(size=(images, 1)) + rng.normal(size=(images, questions))
    level = {"none": 1.6, "blind": -0.9, "downsample": 0.6, "oracle": 1.5, "random": 0.7, "fastv": 0.8, "random[like=fastv]": 0.4,
             "sts": 1.3, "tome": 0.9, "divprune": 1.4}  # fmt: skip
    named = [("none", None), ("blind", None), *((name, keep) for keep in (64, 16) for name in list(level)[2:])]
    named.remove(("divprune", 16))
    return {
        (name, keep): (easy + level[name] + rng.normal(0, 0.4 if keep else 0, easy.shape) > 0).astype(float)
        for name, keep in named
    }


COMPETITORS = [("fastv", 64), ("sts", 64), ("tome", 64), ("divprune", 64), ("fastv", 16), ("sts", 16), ("tome", 16)]


@pytest.fixture(scope="module")
def run() -> Scores:
    return drawn()


@pytest.fixture(scope="module")
def found(run) -> tuple[dict, dict]:
    return summarised(run)


def totals(run: Scores, rivals: list[tuple[tuple, tuple]]) -> np.ndarray:
    return np.stack([(run[a] - run[b]).sum(1) for a, b in rivals], 1)


def test_each_kind_is_one_family_over_competing_cells(run, found):
    cells, told = found
    best = {keep: max((key for key in COMPETITORS if key[1] == keep), key=lambda key: run[key].mean()) for keep in (64, 16)}
    rivals = {
        "difference_none": lambda key: ("none", None),
        "difference_like": lambda key: (f"random[like={key[0]}]", key[1]) if key[0] == "fastv" else None,
        "difference_winner": lambda key: best[key[1]] if key != best[key[1]] else None,
        "difference_downsample": lambda key: ("downsample", key[1]),
    }
    assert set(told) == set(DIFFERENCES) == set(rivals)
    for name, rival in rivals.items():
        asked = [key for key in COMPETITORS if rival(key) is not None]
        test = step_down(totals(run, [(key, rival(key)) for key in asked]), seed=SEED)
        assert told[name]["tests"] == len(asked)
        assert told[name]["critical"] == pytest.approx(test.critical, abs=0.06)  # of images on which a control changes there
        for place, key in enumerate(asked):
            entry = cells[key][name]
            assert entry["value"] == pytest.approx((run[key] - run[rival(key)]).mean())
            assert entry["p"] == pytest.approx(test.p[place], abs=0.02)
            assert entry["p_adjusted"] == pytest.approx(test.p_adjusted[place], abs=0.03)
            assert entry["p"] <= entry["p_adjusted"] <= 1
        for key in set(COMPETITORS) - set(asked):
            assert cells[key][name] is None


def test_references_and_controls_are_tested_alone(run, found):
    cells, _ = found
    for key, entry in cells.items():
        if key in COMPETITORS or key == ("none", None):
            continue
        gap, claim = entry["difference_none"], entry["non_inferior"]
        p = sign_flip((run[key] - run["none", None]).sum(1), SEED, 10_000)
        assert gap["p"] == pytest.approx(p, abs=0.02) and gap["p_adjusted"] is None
        assert claim["p_best"] is None and claim["p_adjusted"] is None and claim["p"] is not None
        assert entry["difference_winner"] is None and entry["difference_downsample"] is None
    assert cells["none", None]["difference_none"] is None and cells["none", None]["non_inferior"] is None


def test_claims_of_no_loss_are_corrected_for_the_methods_of_a_budget_or_for_all_cells(run, found):
    cells, _ = found
    leading = LeadingFigure().knowing([cell(s) for (name, _), s in run.items() if name != "blind"], None, MARGIN)
    changes = LeadingFigure().knowing([cell(s) for (n, _), s in run.items() if n != "blind"], cell(run["none", None]), MARGIN)
    assert leading.of_changes.rho == 1.0 != changes.of_changes.rho  # without `none` nothing is known of changes
    racing, raw = Counter(keep for _, keep in COMPETITORS), {}
    assert racing == {64: 4, 16: 3}
    image = np.repeat(np.arange(IMAGES), QUESTIONS)
    for key, scores in run.items():
        if key == ("none", None):
            continue
        gap = mean_difference(scores.ravel(), run["none", None].ravel(), image, changes.of_changes.rho, MARGIN)
        claim = cells[key]["non_inferior"]
        raw[key] = no_loss_p(gap, MARGIN)
        assert claim["p"] == pytest.approx(raw[key]) and claim["margin"] == MARGIN
        assert claim["holds"] == (claim["p"] <= ONE_SIDED)
        if key in COMPETITORS:
            assert claim["p_best"] == pytest.approx(min(1.0, raw[key] * racing[key[1]]))
        if claim["holds"]:
            assert cells[key]["difference_none"]["lo"] > -MARGIN
    corrected = holm([raw[key] for key in COMPETITORS])
    assert [cells[key]["non_inferior"]["p_adjusted"] for key in COMPETITORS] == pytest.approx(corrected)


def test_what_is_detectable_is_so_after_correction(run, found):
    cells, told = found
    critical = told["difference_none"]["critical"]
    assert normal_critical(0.05, 1) < critical < normal_critical(0.05, len(COMPETITORS)) + 0.1
    image, none = np.repeat(np.arange(IMAGES), QUESTIONS), run["none", None]
    rho = LeadingFigure().knowing([cell(s) for (n, _), s in run.items() if n != "blind"], cell(none), MARGIN).of_changes.rho
    for key, scores in run.items():
        if key == ("none", None):
            continue
        gap = mean_difference(scores.ravel(), none.ravel(), image, rho, MARGIN)
        passed = critical if key in COMPETITORS else normal_critical(0.05, 1)
        expected = found_loss(gap.se, gap.together / gap.pieces, IMAGES, max(passed, 6**0.5))
        assert cells[key]["non_inferior"]["smallest_detectable"] == pytest.approx(expected) and expected > 0


def test_the_order_of_cells_and_of_images_does_not_matter(run, found):
    cells, told = found
    again, told_again = summarised(dict(reversed(run.items())))
    assert told_again.keys() == told.keys()
    for key, entry in cells.items():
        assert close(again[key], entry), key
    order = np.random.default_rng(0).permutation(IMAGES)
    mixed, _ = summarised({key: scores[order] for key, scores in run.items()})
    for key, entry in cells.items():
        for name in ("score", "accuracy", "retention", "retention_adjusted"):
            assert close(mixed[key][name], entry[name])
        for name in DIFFERENCES:
            if entry[name] is not None:
                assert all(close(mixed[key][name][part], entry[name][part]) for part in ("value", "lo", "hi"))
                assert mixed[key][name]["p"] == pytest.approx(entry[name]["p"], abs=0.02)  # signs fall on other images


def close(one: object, other: object) -> bool:
    """Whether two parts of a summary are equal but for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    return one == pytest.approx(other, abs=1e-12) if isinstance(one, float) else one == other


def test_what_is_none_itself_has_no_test_and_no_error(run):
    """By another name too, as where a budget is all tokens."""
    cells, told = summarised(run | {("tome", 576): run["none", None]}, tome={"removes_nothing": False})
    whole, told_whole = summarised(run | {("all", 576): run["none", None]}, all={"removes_nothing": True})
    assert told["difference_none"]["tests"] == 8 and told_whole["difference_none"]["tests"] == 7
    for key in (("none", None), ("all", 576)):
        assert tuple(whole[key]["retention"].values()) == tuple(whole[key]["retention_adjusted"].values()) == ONE
        assert all(whole[key][name] is None for name in (*DIFFERENCES, "non_inferior", "mcnemar"))
    same = cells["tome", 576]  # equal answers that are no such thing by definition
    assert same["retention"]["value"] == 1 and same["retention"]["lo"] < 1 < same["retention"]["hi"]
    assert same["difference_none"]["p"] == same["difference_none"]["p_adjusted"] == 1.0


def test_downsample_is_asked_of_methods_alone_and_where_it_is(run):
    without = {key: scores for key, scores in run.items() if key != ("downsample", 16)}
    cells, told = summarised(without)
    asked = [key for key, entry in cells.items() if entry["difference_downsample"] is not None]
    assert asked == [key for key in without if key in COMPETITORS and key[1] == 64]
    assert told["difference_downsample"]["tests"] == 4
    assert all(cells[key]["difficulty"] is None for key in cells if key[1] == 16)


def test_what_seeing_is_worth_has_to_be_told_from_nothing(run):
    """`blind` answers as `none` does but for a few: shares of the difference mean nothing."""
    cells, _ = summarised(run)
    blind, none = run["blind", None].mean(), run["none", None].mean()
    for key, scores in run.items():
        expected = (scores.mean() - blind) / (none - blind)
        share = cells[key]["retention_adjusted"]
        assert share["value"] == pytest.approx(expected, abs=1e-12) and share["lo"] <= share["value"] <= share["hi"]
    near = run["none", None].copy()
    near[:2] = 1 - near[:2]
    cells, _ = summarised(run | {("blind", None): near})
    assert all(entry["retention_adjusted"] is None for entry in cells.values())
    assert all(entry["retention"] is not None for entry in cells.values())
    better = np.ones_like(near)
    assert summarised(run | {("blind", None): better})[0]["sts", 64]["retention_adjusted"] is None
    alone, _ = summarised({key: scores for key, scores in run.items() if key != ("blind", None)})
    assert alone["sts", 64]["retention_adjusted"] is None and alone["sts", 64]["retention"] is not None


def test_of_nothing_there_is_no_share(run):
    cells, _ = summarised({**run, ("none", None): np.zeros((IMAGES, QUESTIONS))})
    assert {entry["retention"] for entry in cells.values()} == {None}
    few = np.zeros((IMAGES, QUESTIONS))
    few[0, 0] = 1.0
    share = summarised({**run, ("none", None): few})[0]["sts", 64]["retention"]
    assert share["value"] > 1 and share["lo"] is None and share["hi"] is None  # one right answer may be none


def test_without_none_there_is_nothing_to_lose(run):
    cells, told = summarised({key: scores for key, scores in run.items() if key[0] != "none"})
    assert set(told) == set(DIFFERENCES) - {"difference_none"}
    for entry in cells.values():
        names = ("difference_none", "non_inferior", "retention", "retention_adjusted", "difficulty")
        assert [entry[name] for name in names] == [None] * 5
    assert cells["tome", 64]["difference_winner"] is not None and cells["tome", 64]["score"]["lo"] is not None


def test_one_image_has_no_interval_and_proves_nothing(run):
    cells, told = summarised({key: scores[:1] for key, scores in run.items()})
    for key, entry in cells.items():
        assert entry["score"]["lo"] is None and entry["accuracy"]["hi"] is None
        if key == ("none", None):
            continue
        assert entry["difference_none"]["lo"] is None and entry["difference_none"]["p"] == 1.0
        claim = entry["non_inferior"]
        assert claim["p"] == 1.0 and not claim["holds"] and claim["smallest_detectable"] is None
        assert entry["retention"]["lo"] is None and entry["retention_adjusted"] is None
    assert told["difference_none"]["tests"] == 7


@pytest.mark.parametrize("changed", [None, ("oracle", 64)])
def test_where_no_method_changes_an_answer_nothing_is_certain_all_the_same(run, changed):
    """The answers are equal everywhere, or but for a reference, which is in no race: there is no critical value."""
    none = run["none", None]
    cells, told = summarised({key: run[key] if key == changed else none for key in run})
    assert told["difference_none"] == {"tests": 7, "critical": None}
    for key in COMPETITORS:
        gap, claim = cells[key]["difference_none"], cells[key]["non_inferior"]
        assert gap["value"] == 0 and gap["lo"] < 0 < gap["hi"] and gap["p"] == gap["p_adjusted"] == 1.0
        images = found_loss(0.0, 1 / (IMAGES * QUESTIONS), IMAGES, normal_critical(0.05, 7))
        assert claim["smallest_detectable"] >= images > 0
        assert cells[key]["retention"]["lo"] < 1 < cells[key]["retention"]["hi"]
    if changed is None:
        assert {cells[key]["non_inferior"]["smallest_detectable"] for key in COMPETITORS} == {
            found_loss(0.0, 1 / IMAGES, IMAGES, normal_critical(0.05, 7))
        }  # of what no cell shows, all answers of an image are one


def test_failed_answers_count_in_no_difference(run):
    """The difference is that of the answers that both have; of an image without any, nothing is known."""
    holes = {key: scores.copy() for key, scores in run.items()}
    holes["sts", 64][4], holes["sts", 64][5, 1] = np.nan, np.nan
    holes["fastv", 16][:] = np.nan
    cells, told = summarised(holes)
    both = ~np.isnan(holes["sts", 64])
    entry = cells["sts", 64]
    assert entry["n"] == IMAGES * QUESTIONS - 4 and entry["n_images"] == IMAGES - 1
    assert entry["difference_none"]["value"] == pytest.approx((run["sts", 64] - run["none", None])[both].mean())
    assert entry["retention"]["value"] == pytest.approx(run["sts", 64][both].mean() / run["none", None][both].mean())
    for name in ("difference_none", "difference_downsample"):
        assert told[name]["tests"] == 6 and told[name]["critical"] > 1.9
        assert 0 < entry[name]["p"] <= entry[name]["p_adjusted"] <= 1
    failed = cells["fastv", 16]
    assert failed["n"] == 0 and all(
        failed[name] is None for name in ("score", "accuracy", "retention", *DIFFERENCES, "non_inferior")
    )
    other = cells["sts", 16]["non_inferior"]
    assert other["p_best"] == pytest.approx(min(1.0, 2 * other["p"]))  # two are left in that race
    apart = {
        key: np.where(np.arange(IMAGES)[:, None] < 15, scores, np.nan) if key == ("sts", 64) else scores
        for key, scores in run.items()
    }
    apart["none", None] = np.where(np.arange(IMAGES)[:, None] < 15, np.nan, run["none", None])
    lone = summarised(apart)[0]["sts", 64]  # no answer in common with `none`
    assert lone["difference_none"] is None and lone["non_inferior"] is None and lone["difference_downsample"] is not None
    assert lone["retention"] is None


def test_a_run_without_answers_has_no_family(run):
    cells, told = summarised({key: np.full_like(scores, np.nan) for key, scores in run.items()})
    assert told == {} and all(entry["score"] is None and entry["difference_none"] is None for entry in cells.values())


def test_a_figure_that_is_no_mean_is_tested_by_swaps_of_images(run):
    """Whole images count: circular accuracy, with an answer that failed."""
    holes = {key: scores.copy() for key, scores in run.items()}
    holes["tome", 64][3, 0] = np.nan
    cells, told = summarised(holes, OwnFigure("circular", "circular accuracy"))
    kind, none = CircularAccuracy(), (run["none", None] == 1).all(1)
    mine, theirs = [], []
    for key in COMPETITORS:
        there = ~np.isnan(holes[key]).any(1)
        whole = (holes[key] == 1).all(1)
        entry = cells[key]["difference_none"]
        assert cells[key]["score"]["value"] == pytest.approx(100 * whole[there].mean())
        assert entry["value"] == pytest.approx(whole[there].mean() - none[there].mean())
        assert entry["lo"] < entry["value"] < entry["hi"]
        assert cells[key]["retention"]["value"] == pytest.approx(whole[there].mean() / none[there].mean())
        mine.append(np.stack([whole & there, there], 1))
        theirs.append(np.stack([none & there, there], 1))
    test = step_down_figures(np.stack(mine, 1), np.stack(theirs, 1), kind.value, seed=SEED)
    assert told["difference_none"]["tests"] == 7
    assert told["difference_none"]["critical"] == pytest.approx(test.critical, abs=0.08)
    for place, key in enumerate(COMPETITORS):
        assert cells[key]["difference_none"]["p"] == pytest.approx(test.p[place], abs=0.02)
        assert cells[key]["difference_none"]["p_adjusted"] == pytest.approx(test.p_adjusted[place], abs=0.03)
        claim = cells[key]["non_inferior"]
        assert claim["holds"] == (claim["p"] <= ONE_SIDED) and claim["smallest_detectable"] > 0
        assert not claim["holds"] or cells[key]["difference_none"]["lo"] > -MARGIN


def test_a_figure_of_no_pieces_is_compared_and_nothing_claimed():
    """F1 of yes where yes is neither right nor said: it is 0 of all, of as good as no answers."""
    answers = np.ones((IMAGES, QUESTIONS))
    sure = cell(answers)
    no = np.zeros(len(sure.score))
    cells = [CellScores(sure.score, sure.image, sure.family, sure.answered, no, no) for _ in range(3)]
    leading = LeadingFigure(OwnFigure("f1", "F1")).knowing(cells, cells[0], MARGIN)
    families, entry = DifferenceFamilies(leading, SEED), {}
    for name in DIFFERENCES:
        families.add(name, cells[1], cells[0], facts_of("sts", 64), entry)
    told = plain(families.test())
    assert told["difference_none"] == {"tests": 1, "critical": None}
    assert entry["difference_none"] == {"value": 0.0, "lo": None, "hi": None, "p": 1.0, "p_adjusted": 1.0}
    assert entry["non_inferior"]["smallest_detectable"] is None and not entry["non_inferior"]["holds"]
    assert plain(leading.retention(cells[1], cells[0])) == {"value": None, "lo": None, "hi": None}


def test_means_against_nothing_are_one_family_too():
    rng, family = np.random.default_rng(0), MeanFamily(20, SEED)
    image = np.repeat(np.arange(20), 2)
    shifts = [rng.normal(shift, 0.3, 40) for shift in (0.0, 0.2, 0.5)]
    shifts[1][:3] = np.nan
    entries = [family.add(values, image, facts_of(name, 64)) for values, name in zip(shifts, ("sts", "fastv", "random"))]
    assert family.add(np.full(40, np.nan), image, facts_of("tome", 64)) is None
    assert [entry["p"] for entry in entries] == [None] * 3
    family.test()
    for entry, values in zip(entries, shifts):
        known = ~np.isnan(values)
        assert entry["value"] == pytest.approx(values[known].mean())
        assert {name: entry[name] for name in ("value", "lo", "hi")} == mean_interval(values[known], image[known]).as_dict()
        assert entry["p"] == pytest.approx(sign_flip(np.bincount(image[known], values[known], 20), SEED, 10_000), abs=0.02)
    assert entries[2]["p_adjusted"] is None and entries[2]["p"] < 0.01  # random tokens are in no race
    assert all(entry["p_adjusted"] >= entry["p"] for entry in entries[:2])
    MeanFamily(20, SEED).test()  # of nothing
