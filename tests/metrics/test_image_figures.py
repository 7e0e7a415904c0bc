"""Intervals and tests of figures of sums over images, against scipy's resampling and the statistics of means."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binomtest

from harness.tasks.own_figures import KINDS, CircularAccuracy, F1OfYes, MeanScore, MmeScore, ScoredAnswers
from metrics import accuracy as acc
from metrics import statistics as stats
from metrics.image_figures import bootstrap_figure, changes, figure_difference
from metrics.pareto import figure_front_share, front
from metrics.resampling import GROUPS


def drawn(rng, images: int, each: int, level: float = 0.8, categories: int = 4) -> ScoredAnswers:
    """Answers of a method that is right with a chance that differs by image."""
    n, image = images * each, np.repeat(np.arange(images), each)
    right = rng.random(n) < np.clip(level + 0.15 * rng.standard_normal(images), 0, 1)[image]
    wanted = np.tile([1.0, 0.0], n)[:n]
    said = np.where(right, wanted, np.where(rng.random(n) < 0.3, np.nan, 1 - wanted))
    return ScoredAnswers(right * 1.0, image, image % categories, tuple("abcd"[:categories]), wanted, said)


def pair(seed: int, kind, images: int = 40, each: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(kind.by_image(drawn(rng, images, each, level), images) for level in (0.7, 0.8))


@pytest.mark.parametrize("images", [2, 30, GROUPS + 100])
def test_of_a_mean_it_is_the_statistic_of_means(images):
    rng = np.random.default_rng(images)
    image = np.sort(rng.integers(0, images, images * 3))
    one, other = rng.random((2, len(image))).round(2)
    codes = np.unique(image, return_inverse=True)[1]
    mean = MeanScore()
    a, b = (mean.by_image(ScoredAnswers(s, codes, codes * 0, ("x",), s, s), codes.max() + 1) for s in (one, other))
    found, known = bootstrap_figure(a, mean.value, 5, 200), stats.bootstrap_mean(one, image, 5, 200)
    assert (found.lo, found.hi) == (known.lo, known.hi) and found.value == pytest.approx(known.value)
    found = figure_difference(a, b, mean.value, 5, 200, 500)
    known = stats.paired_difference(one, other, image, 5, 200, 500)
    assert found.p == known.p
    assert [found.value, found.lo, found.hi, found.se] == pytest.approx([known.value, known.lo, known.hi, known.se])
    totals = np.bincount(codes, one - other)
    assert changes(a, b, mean.value) * len(one) == pytest.approx(totals)
    assert acc.no_loss_p(found, changes(a, b, mean.value) * mean.size(a.sum(0)), mean.size(a.sum(0)), 0.5) == pytest.approx(
        acc.non_inferior_p(known, one, other, image, 0.5), rel=1e-6
    )


@pytest.mark.parametrize("kind", [F1OfYes(), F1OfYes(False), MmeScore(), CircularAccuracy()])
@pytest.mark.parametrize("seed", range(2))
def test_interval_is_scipys(kind, seed):
    a, b = pair(seed, kind)
    rows = (np.arange(len(a)),)
    ours, difference = bootstrap_figure(a, kind.value, resamples=6000), figure_difference(a, b, kind.value, 0, 6000, 10)
    asked = {"n_resamples": 6000, "method": "percentile", "vectorized": True, "rng": np.random.default_rng(9)}
    theirs = scipy.stats.bootstrap(rows, lambda i, axis: kind.value(a[i].sum(-2)), **asked)
    low, high = theirs.confidence_interval
    near = 5 * theirs.standard_error / 6000**0.5 * 2.7  # a quantile at 2.5 % is 2.7 times as uncertain as a mean
    assert ours.lo == pytest.approx(low, abs=near + 1e-12) and ours.hi == pytest.approx(high, abs=near + 1e-12)
    theirs = scipy.stats.bootstrap(rows, lambda i, axis: kind.value(a[i].sum(-2)) - kind.value(b[i].sum(-2)), **asked)
    low, high = theirs.confidence_interval
    near = 5 * theirs.standard_error / 6000**0.5 * 2.7
    assert difference.lo == pytest.approx(low, abs=near) and difference.hi == pytest.approx(high, abs=near)
    assert difference.se == pytest.approx(theirs.standard_error, rel=0.06)


@pytest.mark.parametrize("kind", [F1OfYes(), F1OfYes(False), MmeScore(), CircularAccuracy()])
@pytest.mark.parametrize("seed", range(3))
def test_swaps_are_scipys_permutations_of_samples(kind, seed):
    """Of twelve images scipy makes every swap; ours are drawn."""
    a, b = pair(seed, kind, images=12)
    both = np.concatenate([a, b])

    def statistic(x, y, axis):
        return kind.value(both[x].sum(axis - 1 if axis < 0 else axis)) - kind.value(both[y].sum(axis - 1 if axis < 0 else axis))

    theirs = scipy.stats.permutation_test(
        (np.arange(12), np.arange(12, 24)), statistic, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    ours = figure_difference(a, b, kind.value, resamples=50, permutations=20_000)
    assert ours.value == pytest.approx(theirs.statistic)
    exact = min(1.0, theirs.pvalue)
    assert ours.p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-3)


def test_nothing_and_little():
    f1, empty = F1OfYes(), np.zeros((0, 4))
    assert bootstrap_figure(empty, f1.value) == stats.Estimate(None)
    assert figure_difference(empty, empty, f1.value) == stats.PairedDifference(None, None, None, None)
    one = np.array([[3.0, 1.0, 1.0, 8.0]])
    assert bootstrap_figure(one, f1.value) == stats.Estimate(0.75)
    found = figure_difference(one, one, f1.value)
    assert (found.value, found.lo, found.p) == (0.0, None, 1.0)
    same = np.tile(one, (9, 1))
    assert figure_difference(same, same, f1.value) == stats.PairedDifference(0.0, 0.0, 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="pairs the same images"):
        figure_difference(one, same, f1.value)


def test_draws_without_a_figure_are_left_out():
    """Of three images, two without a pair of answers: a draw of these alone has no MME score."""
    sums = np.array([[0.75, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert bootstrap_figure(sums, MmeScore().value) == stats.Estimate(0.75, 0.75, 0.75)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [6, 300])
def test_what_images_change_sums_to_the_difference(kind, images):
    made = KINDS[kind]()
    a, b = pair(7, made, images)
    found, value = changes(a, b, made.value), float(made.value(a.sum(0)) - made.value(b.sum(0)))
    assert found.sum() == pytest.approx(value, rel=0.02 if images == 6 else 1e-4)
    assert not found[(a == b).all(1)].any()


def test_a_benchmark_of_two_thousand_images_is_tested_in_bounded_memory():
    """More images than are drawn one by one: the same p and interval as with all of them, but for chance."""
    kind = MmeScore()
    a, b = pair(3, kind, images=GROUPS + 152)
    found = figure_difference(a, b, kind.value)
    d = a.sum(0), b.sum(0)
    assert found.value == float(kind.value(d[0]) - kind.value(d[1])) and found.p <= 0.001
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(a), (400, len(a)))
    assert found.se == pytest.approx((kind.value(a[rows].sum(1)) - kind.value(b[rows].sum(1))).std(), rel=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_front_of_a_figure_against_a_loop_over_the_same_draws(seed):
    rng, kind = np.random.default_rng(seed), F1OfYes()
    images, cells = int(rng.integers(2, 12)), int(rng.integers(2, 5))
    sums = np.stack([kind.by_image(drawn(rng, images, 2), images) for _ in range(cells)], 1)
    costs = rng.integers(1, 4, cells).astype(float)
    found, hits = figure_front_share(sums, kind.value, costs, seed, 30), np.zeros(cells)
    draws = np.random.default_rng(seed)
    for times in draws.multinomial(images, np.full(images, 1 / images), size=30):
        level = [round(float(kind.value((times[:, None] * sums[:, cell]).sum(0))), 12) for cell in range(cells)]
        hits += front(level, costs)
    assert found.share.tolist() == (hits / 30).tolist()
    assert found.on.tolist() == front([round(float(kind.value(s)), 12) for s in sums.sum(0).reshape(cells, -1)], costs).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [F1OfYes(), MmeScore(), CircularAccuracy()])
def test_the_swap_test_keeps_its_level(kind):
    """Two methods that are alike, image by image: p is at most 0.05 in no more than 5 % of 1000 pairs."""
    rng, found = np.random.default_rng(0), []
    for case in range(1000):
        a, b = (kind.by_image(drawn(rng, 24, 2), 24) for _ in range(2))
        found.append(figure_difference(a, b, kind.value, case, 10, 300).p)
    false = sum(p <= 0.05 for p in found)
    assert binomtest(false, 1000, 0.05, alternative="greater").pvalue > 0.01
    assert false >= 20  # and it finds what it may


@pytest.mark.slow
@pytest.mark.parametrize("kind", [F1OfYes(), MmeScore(), CircularAccuracy()])
def test_a_loss_of_the_margin_is_seldom_called_none(kind):
    """The unpruned model is right in nine of ten; the loss is just the margin, of answers that are lost one by one."""
    rng, claims, images = np.random.default_rng(1), 0, 200

    def sums(right):
        image = np.repeat(np.arange(images), 2)
        wanted = np.tile([1.0, 0.0], images)
        said = np.where(right, wanted, 1 - wanted)
        return kind.by_image(ScoredAnswers(right * 1.0, image, image % 4, tuple("abcd"), wanted, said), images)

    lost = 0.03
    worlds = []
    for _ in range(600):
        none = rng.random(images * 2) < 0.9
        worlds.append((sums(none & (rng.random(images * 2) >= lost)), sums(none)))
    margin = -float(np.mean([kind.value(a.sum(0)) - kind.value(b.sum(0)) for a, b in worlds]))
    for a, b in worlds:
        gap = figure_difference(a, b, kind.value, 0, 300, 10)
        size = kind.size((a.sum(0) + b.sum(0)) / 2)
        p = acc.no_loss_p(gap, changes(a, b, kind.value) * size, size, margin)
        claims += acc.non_inferior(gap, p, margin)
    assert 0 < claims <= 0.035 * 600
