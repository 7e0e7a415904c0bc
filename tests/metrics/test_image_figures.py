"""Intervals and tests of figures of sums over images, against scipy's resampling, the statistics of means, and definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scipy.stats import binomtest

from harness.tasks.own_figures import KINDS, CircularAccuracy, F1OfYes, MeanScore, MmeScore, ScoredAnswers
from metrics import statistics as stats
from metrics.design_effect import effective_images
from metrics.differences import mean_difference
from metrics.image_figures import Linearised, changes, figure_difference, figure_interval
from metrics.intervals import figure_deviates, proportion, standard_error
from metrics.non_inferiority import ONE_SIDED, no_loss_p
from metrics.pareto import figure_front_share, front
from metrics.resampling import GROUPS
from metrics.step_down import step_down_figures


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


@pytest.mark.parametrize("rho, rate", [(0.0, 0.0), (0.4, 0.02)])
@pytest.mark.parametrize("images", [2, 30, GROUPS + 100])
def test_of_a_mean_it_is_the_statistic_of_means(images, rho, rate):
    """Where images have equally many questions; else leaving one out is the linearised error but for its share of them."""
    rng, mean = np.random.default_rng(images), MeanScore()
    image = np.repeat(np.arange(images), 3)
    one = rng.integers(0, 2, len(image)).astype(float)
    other = one * rng.integers(0, 2, len(image))  # answers are lost alone: sums over an image hide what is lost and gained there
    a, b = (mean.by_image(ScoredAnswers(s, image, image * 0, ("x",), s, s), images) for s in (one, other))
    found, known = figure_interval(a, mean.value, mean.size(a.sum(0)), images, rho), proportion(one, image, rho)
    assert [found.value, found.lo, found.hi] == pytest.approx([known.value, known.lo, known.hi])
    gap, plain = figure_difference(a, b, mean.value, len(image), images, rho, rate), mean_difference(one, other, image, rho, rate)
    assert [gap.value, gap.lo, gap.hi, gap.se] == pytest.approx([plain.value, plain.lo, plain.hi, plain.se])
    assert gap.changes == pytest.approx(plain.changes) and gap.deviates == pytest.approx(plain.deviates)
    assert (gap.pieces, gap.together, gap.images) == (plain.pieces, plain.together, images)
    assert changes(a, b, mean.value) * len(one) == pytest.approx(np.bincount(image, one - other))


def test_of_a_mean_of_uneven_images_it_is_nearly_the_statistic_of_means():
    rng, mean = np.random.default_rng(1), MeanScore()
    image = np.repeat(np.arange(200), rng.integers(1, 7, 200))
    one, other = rng.integers(0, 2, (2, len(image))).astype(float)
    a, b = (mean.by_image(ScoredAnswers(s, image, image * 0, ("x",), s, s), 200) for s in (one, other))
    found, known = figure_interval(a, mean.value, mean.size(a.sum(0)), effective_images(a[:, 1])), proportion(one, image)
    assert [found.value, found.lo, found.hi] == pytest.approx([known.value, known.lo, known.hi], rel=5e-3)
    gap, plain = (
        figure_difference(a, b, mean.value, len(image), effective_images(a[:, 1]), 0.0),
        mean_difference(one, other, image, 0.0),
    )
    assert [gap.value, gap.lo, gap.hi, gap.se] == pytest.approx([plain.value, plain.lo, plain.hi, plain.se], rel=5e-2)


@pytest.mark.parametrize("kind", [F1OfYes(), F1OfYes(False), MmeScore(), CircularAccuracy()])
@pytest.mark.parametrize("seed", range(2))
def test_standard_errors_are_those_of_images_drawn_again(kind, seed):
    """By scipy's resampling, of 150 images so that leaving one out and drawing anew agree."""
    a, b = pair(seed, kind, images=150)
    asked = {"n_resamples": 4000, "method": "percentile", "vectorized": True, "rng": np.random.default_rng(9)}
    rows = (np.arange(len(a)),)
    theirs = scipy.stats.bootstrap(rows, lambda i, axis: kind.value(a[i].sum(-2)), **asked)
    assert standard_error(figure_deviates(a, kind.value)) == pytest.approx(theirs.standard_error, rel=0.08)
    ours = figure_interval(a, kind.value, kind.size(a.sum(0)), 150)
    low, high = theirs.confidence_interval
    assert low <= ours.value <= high and (ours.hi - ours.lo) > 0.92 * (high - low)
    assert [ours.lo, ours.hi] == pytest.approx([low, high], abs=0.25 * (high - low))
    theirs = scipy.stats.bootstrap(rows, lambda i, axis: kind.value(a[i].sum(-2)) - kind.value(b[i].sum(-2)), **asked)
    gap = figure_difference(a, b, kind.value, kind.size((a.sum(0) + b.sum(0)) / 2), 150, 0.0)
    assert standard_error(gap.deviates) == pytest.approx(theirs.standard_error, rel=0.08)
    low, high = theirs.confidence_interval
    assert gap.lo < low + 0.1 * (high - low) and gap.hi > high - 0.1 * (high - low)


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
    ours = step_down_figures(a[:, None], b[:, None], kind.value, draws=20_000)
    assert figure_difference(a, b, kind.value, 10.0, 12, 0.0).value == pytest.approx(theirs.statistic)
    exact = min(1.0, theirs.pvalue)
    assert ours.p[0] == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 20_000) ** 0.5 + 1e-3)
    turned = step_down_figures(b[:, None], a[:, None], kind.value, draws=20_000)
    assert turned.p[0] == ours.p[0] == ours.p_adjusted[0]


def test_a_share_of_none_against_its_definition():
    """Around 1, gap over none: the shares r for which own - r none is within t standard errors of 0."""
    a, b = pair(4, F1OfYes(), images=60)
    gap = figure_difference(a, b, F1OfYes().value, 1000.0, 60, 0.0).as_seen
    whole = Linearised(float(F1OfYes().value(b.sum(0))), standard_error(d := figure_deviates(b, F1OfYes().value)), d, 60)
    found = gap.over(whole, around=1.0)
    own, none = (float(F1OfYes().value(s.sum(0))) for s in (a, b))
    assert found.value == pytest.approx(own / none) and found.lo < found.value < found.hi
    for bound in (found.lo, found.hi):
        rest = figure_deviates(a, F1OfYes().value) - bound * d
        assert abs(own - bound * none) == pytest.approx(scipy.stats.t.ppf(0.975, 59) * standard_error(rest), rel=1e-3)


def test_a_share_of_what_cannot_be_told_from_nothing_has_no_interval():
    rng, ones = np.random.default_rng(0), np.ones(20)
    deviates = rng.normal(0, 0.01, 20)
    some, little = Linearised(0.3, 0.02, deviates, 20), Linearised(0.05, 0.03, deviates[::-1], 20)
    assert some.over(little).lo is None and some.over(little).value == pytest.approx(6.0)
    for nothing in (0.0, -0.1, float("nan")):
        assert some.over(Linearised(nothing, 0.01, deviates, 20)) == stats.Estimate(None)
    assert Linearised(0.3, 0.0, ones[:1], 1).over(Linearised(0.5, 0.0, ones[:1], 1), 1.0) == stats.Estimate(1.6)
    still = Linearised(0.0, 0.0, 0 * ones, 20).over(Linearised(0.5, 0.01, deviates, 20), 1.0)
    assert (still.value, still.lo, still.hi) == (1.0, 1.0, 1.0)


def test_a_figure_has_at_least_the_standard_error_of_so_many_answers():
    """Of images that happen to be alike; one question an image, whose answers are all there is."""
    mean, sums = MeanScore(), np.tile([[8.0, 9.0]], (24, 1))
    found = Linearised.of(sums, mean.value, 216.0, 24, 0.5)
    assert found.value == pytest.approx(8 / 9) and not found.deviates.any()
    assert found.se == pytest.approx((8 / 81 * 5 / 216) ** 0.5)
    assert np.isnan(Linearised.of(sums, mean.value, 0.0, 24, 0.5).se)
    varied = np.stack([np.arange(24) % 2, np.ones(24)], 1).astype(float)
    assert Linearised.of(varied, mean.value, 24.0, 24, 0.5).se == pytest.approx(scipy.stats.sem(varied[:, 0]))


def test_what_an_interval_allows_for_a_ratio_allows_for():
    """Nothing changed: the standard error is 0, and a share of none has an interval all the same."""
    mean, sums = MeanScore(), np.stack([np.arange(30) % 3, np.full(30, 3)], 1).astype(float)
    gap = figure_difference(sums, sums, mean.value, 90.0, 30, 0.3, 0.02)
    assert gap.value == gap.se == gap.as_seen.se == 0 and gap.hi == -gap.lo > 0
    assert gap.linearised.se == pytest.approx(gap.hi / scipy.stats.t.ppf(0.975, 29))
    share = gap.linearised.over(Linearised.of(sums, mean.value, 90.0, 30, 0.3), around=1.0)
    assert share.value == 1.0 and share.lo < 1 < share.hi


def test_nothing_and_little():
    f1, empty = F1OfYes(), np.zeros((0, 4))
    assert figure_interval(empty, f1.value, 0.0, 0) == stats.Estimate(None)
    assert figure_difference(empty, empty, f1.value, 0.0, 0, 0.0) is None
    one = np.array([[3.0, 1.0, 1.0, 8.0]])
    assert figure_interval(one, f1.value, 8.0, 1) == stats.Estimate(0.75)
    found = figure_difference(one, one, f1.value, 8.0, 1, 0.0)
    assert (found.value, found.lo, found.hi) == (0.0, None, None) and np.isnan(found.se) and found.linearised.value == 0.0
    same = np.tile(one, (9, 1))
    found = figure_difference(same, same, f1.value, 72.0, 9, 0.0)
    assert found.value == found.se == 0.0 and found.hi == -found.lo == pytest.approx(1.96**2 / 72)
    wrong = np.tile([[0.0, 0.0, 4.0, 8.0]], (9, 1))  # nothing is right: F1 is 0, and has an upper bound
    assert (
        figure_interval(wrong, f1.value, f1.size(wrong.sum(0)), 9).value == 0 < figure_interval(wrong, f1.value, 36.0, 9).hi < 0.5
    )
    without_yes = np.tile([[0.0, 0.0, 0.0, 8.0]], (9, 1))  # no piece of which F1 would be a share
    assert figure_interval(without_yes, f1.value, f1.size(without_yes.sum(0)), 9) == stats.Estimate(0.0)
    found = figure_difference(without_yes, without_yes, f1.value, f1.size(without_yes.sum(0)), 9, 0.0)
    assert (found.value, found.lo) == (0.0, None)
    with pytest.raises(ValueError, match="pairs the same images"):
        figure_difference(one, same, f1.value, 8.0, 1, 0.0)


def test_where_one_image_has_all_answers_of_a_figure_leaving_it_out_says_nothing():
    """Of three images, two without a pair of answers: without the first there is no MME score."""
    sums = np.array([[0.75, 1.0], [0.0, 0.0], [0.0, 0.0]])
    found = figure_interval(sums, MmeScore().value, MmeScore().size(sums.sum(0)), 3)
    assert found.value == 0.75 and 0 <= found.lo < 0.75 < found.hi <= 1


@pytest.mark.parametrize("kind", [F1OfYes(), MmeScore(), CircularAccuracy()])
def test_the_order_of_images_does_not_matter(kind):
    a, b = pair(2, kind)
    order = np.random.default_rng(0).permutation(len(a))
    one, other = (figure_difference(x, y, kind.value, 80.0, 40, 0.3, 0.02) for x, y in ((a, b), (a[order], b[order])))
    assert [one.value, one.lo, one.hi, one.se] == pytest.approx([other.value, other.lo, other.hi, other.se])
    assert one.changes[order] == pytest.approx(other.changes)
    turned = figure_difference(b, a, kind.value, 80.0, 40, 0.3, 0.02)
    assert [turned.value, turned.lo, turned.hi, turned.se] == pytest.approx([-one.value, -one.hi, -one.lo, one.se])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [6, 300])
def test_what_images_change_sums_to_the_difference(kind, images):
    made = KINDS[kind]()
    a, b = pair(7, made, images)
    found, value = changes(a, b, made.value), float(made.value(a.sum(0)) - made.value(b.sum(0)))
    assert found.sum() == pytest.approx(value, rel=0.02 if images == 6 else 1e-4)
    assert not found[(a == b).all(1)].any()


def test_a_benchmark_of_two_thousand_images_is_tested_in_bounded_memory():
    """More images than are drawn one by one: the standard error and p are those of all of them."""
    kind = MmeScore()
    a, b = pair(3, kind, images=GROUPS + 152)
    found = figure_difference(a, b, kind.value, 1000.0, GROUPS + 152, 0.0)
    d = a.sum(0), b.sum(0)
    assert found.value == float(kind.value(d[0]) - kind.value(d[1]))
    assert step_down_figures(a[:, None], b[:, None], kind.value).p[0] <= 0.001
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(a), (400, len(a)))
    assert standard_error(found.deviates) == pytest.approx(
        (kind.value(a[rows].sum(1)) - kind.value(b[rows].sum(1))).std(), rel=0.15
    )


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
        found.append(step_down_figures(a[:, None], b[:, None], kind.value, seed=case, draws=300).p[0])
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
        size = kind.size((a.sum(0) + b.sum(0)) / 2)
        gap = figure_difference(a, b, kind.value, size, images, 0.0, margin)
        p = no_loss_p(gap, margin)
        claims += p <= ONE_SIDED
    assert claims > 0 and binomtest(claims, 600).proportion_ci(0.99).low <= ONE_SIDED
