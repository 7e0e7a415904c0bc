"""Benchmarks' own figures, made of sums over images, against scikit-learn, pandas and lmms-eval's own aggregation."""

from __future__ import annotations

import json
from importlib import import_module

import numpy as np
import pandas
import pytest
from sklearn.metrics import f1_score

from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.own_figures import KINDS, CircularAccuracy, F1OfYes, MeanScore, MmeScore, ScoredAnswers, sums_of

CATEGORIES = ("OCR", "artwork", "celebrity", "code_reasoning", "color", "commonsense_reasoning", "count", "existence",
              "landmark", "numerical_calculation", "position", "posters", "scene", "text_translation")  # fmt: skip


def answered(seed: int, images: int = 40, each: int = 2, missing: float = 0.0, kinds: int = 14) -> ScoredAnswers:
    """Answers to questions with yes and no, some of them unread: an image is of one category."""
    rng, n = np.random.default_rng(seed), images * each
    wanted = rng.integers(0, 2, n).astype(float)
    said = np.where(rng.random(n) < 0.15, np.nan, np.where(rng.random(n) < 0.7, wanted, 1 - wanted))
    score = np.where(rng.random(n) < missing, np.nan, (said == wanted) * 1.0)
    image = np.repeat(np.arange(images), each)
    return ScoredAnswers(score, image, np.repeat(rng.integers(0, kinds, images), each), CATEGORIES[:kinds], wanted, said)


def value(kind, answers: ScoredAnswers) -> float:
    return float(kind.value(kind.by_image(answers, int(answers.image.max()) + 1).sum(0)))


@pytest.mark.parametrize("seed", range(20))
def test_f1_is_scikit_learns(seed):
    a = answered(seed, missing=0.1)
    known = np.isfinite(a.score)
    yes = a.said[known] == 1
    assert value(F1OfYes(True), a) == pytest.approx(f1_score(a.wanted[known], yes, zero_division=0.0), abs=1e-12)
    read = known & ~(np.isnan(a.said) & (a.wanted == 1))  # where only "no" misses, an unread answer is as if not asked
    theirs = f1_score(a.wanted[read], a.said[read] == 1, zero_division=0.0)
    assert value(F1OfYes(False), a) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("wanted", "said", "f1"),
    [([1, 1], [0, 0], 0.0), ([0, 0], [0, 0], 0.0), ([0, 0], [1, 1], 0.0), ([1, 0], [1, 1], 2 / 3), ([1, 1], [1, np.nan], 2 / 3)],
)
def test_f1_where_a_share_is_of_nothing(wanted, said, f1):
    wanted, said = np.array(wanted, float), np.array(said, float)
    a = ScoredAnswers((wanted == said) * 1.0, np.arange(2), np.zeros(2, int), ("a",), wanted, said)
    assert value(F1OfYes(), a) == pytest.approx(f1)
    if np.isnan(said).any():
        assert value(F1OfYes(False), a) == 1.0  # lmms-eval's recall counts only "no" as missed


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kinds", [14, 5])
def test_mme_is_a_mean_over_categories_of_pairs(seed, kinds):
    a = answered(seed, images=60, missing=0.05, kinds=kinds)
    frame = pandas.DataFrame({"category": a.category, "image": a.image, "score": a.score}).dropna()
    pairs = frame.groupby(["category", "image"])["score"].agg(["size", "mean", "min"])
    pairs = pairs[pairs["size"] == 2]
    of_200 = 100 * (pairs["mean"] + pairs["min"]).groupby("category").mean()
    assert value(MmeScore(), a) * 200 == pytest.approx(of_200.mean())


@pytest.mark.parametrize("seed", range(10))
def test_circular_accuracy_wants_every_rotation_right(seed):
    a = answered(seed, each=3, missing=0.3)
    images = pandas.DataFrame({"image": a.image, "score": a.score}).groupby("image")["score"]
    least = images.agg(lambda scores: scores.min(skipna=False))  # of an image that lacks an answer there is none
    assert value(CircularAccuracy(), a) == pytest.approx(least.mean()) and 0 < least.isna().sum() < len(least)


def test_the_mean_is_the_mean():
    a = answered(3, missing=0.2)
    assert value(MeanScore(), a) == pytest.approx(np.nanmean(a.score))


@pytest.mark.parametrize("kind", KINDS)
def test_figures_of_many_draws_are_those_of_each(kind):
    made, rng = KINDS[kind](), np.random.default_rng(0)
    sums = made.by_image(answered(1, missing=0.1), 45)  # five images have no answer
    assert sums.shape[0] == 45 and not sums[40:].any()
    draws = np.stack([sums[rng.integers(0, 45, 45)].sum(0) for _ in range(12)]).reshape(3, 4, -1)
    found = made.value(draws)
    assert found.shape == (3, 4) and ((found >= 0) & (found <= 1)).all()
    assert found.ravel().tolist() == [float(made.value(draw)) for draw in draws.reshape(12, -1)]
    assert np.isnan(made.value(np.zeros(sums.shape[1]))) and made.size(np.zeros(sums.shape[1])) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_survives_the_manifest(kind):
    figure = OwnFigure(kind, "a name", 2800.0, (("unread_missed", False),) if kind == "f1" else ())
    assert OwnFigure.of(json.loads(json.dumps(figure.stored()))) == figure
    assert sums_of(figure).reads_answers == (kind == "f1") and sums_of(ACCURACY).value(np.array([3.0, 4.0])) == 0.75


def test_how_many_pieces_a_figure_is_the_mean_of():
    """Of equal categories MME counts every image; F1 counts what is yes twice: once as right, once as said."""
    score = np.tile([1.0, 1.0, 1.0, 0.0], 14)
    image = np.repeat(np.arange(28), 2)
    a = ScoredAnswers(score, image, image // 2, CATEGORIES, np.ones(56), np.where(score == 1, 1.0, 0.0))
    sizes = {kind: KINDS[kind]().size(KINDS[kind]().by_image(a, 28).sum(0)) for kind in KINDS}
    assert sizes == {"mean": 56.0, "f1": pytest.approx(42 * 2 + 14), "mme": pytest.approx(28.0), "circular": 28.0}


@pytest.mark.differential
@pytest.mark.needs("lmms_eval", "loguru")
@pytest.mark.parametrize("seed", range(20))
def test_f1_and_mme_are_lmms_evals(seed):
    a = answered(seed, images=70)
    words = {1.0: "yes", 0.0: "no"}
    rows = [{"prediction": words.get(s, "maybe"), "ground_truth": words[w]} for s, w in zip(a.said, a.wanted)]
    pope = import_module("lmms_eval.tasks.pope.utils")
    assert value(F1OfYes(False), a) == pope.pope_aggregate_f1_score(rows)
    mme = import_module("lmms_eval.tasks.mme.utils")
    rows = [
        {"question_id": str(i), "category": CATEGORIES[c], "score": s} for i, c, s in zip(a.image, a.category, a.score)
    ]  # fmt: skip
    kinds = mme.eval_type_dict
    total = sum(mme.mme_aggregate_results([row for row in rows if row["category"] in kinds[kind]]) for kind in kinds)
    assert set(a.category) == set(range(14))
    assert value(MmeScore(), a) * 2800 == pytest.approx(total, rel=1e-12)
    assert sorted([*kinds["Perception"], *kinds["Cognition"]]) == sorted(CATEGORIES)


@pytest.mark.differential
@pytest.mark.needs("lmms_eval", "loguru")
def test_circular_accuracy_is_lmms_evals():
    evaluator = import_module("lmms_eval.tasks.mmbench.mmbench_evals").MMBench_Evaluator()
    rng, rows = np.random.default_rng(0), []
    for image in range(50):
        for rotation in range(4):
            right = "ABCD"[rotation]
            said = right if rng.random() < 0.85 else rng.choice(list("ABCD"))
            rows.append({"index": image + rotation * 1_000_000, "question": "q", "answer": right, "prediction": str(said),
                         "A": "w", "B": "x", "C": "y", "D": "z", "category": "c"})  # fmt: skip
    score = np.array([float(row["answer"] == row["prediction"]) for row in rows])
    image = np.array([row["index"] % 1_000_000 for row in rows])
    a = ScoredAnswers(score, image, np.zeros(200, int), ("c",), score, score)
    assert 0.2 < value(CircularAccuracy(), a) < 0.9
    assert value(CircularAccuracy(), a) == evaluator.eval_result(rows, eval_method="static")[0]
