"""Intervals over images, against scipy's, against other ways to reckon them, and on little and on missing data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from metrics import intervals
from metrics.differences import mean_difference
from metrics.intervals import fieller_of, mean_interval, mean_intervals, proportion, wilson
from metrics.statistics import Estimate

scores = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30)


def uneven(seed: int, images: int = 15, most: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Values of images that differ, with one to seven questions each, in a random order."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), rng.integers(1, most + 1, images))
    values = rng.normal(size=images)[image] + rng.normal(size=len(image))
    order = rng.permutation(len(image))
    return values[order], image[order]


def sandwich(values: np.ndarray, images: np.ndarray) -> float:
    """The cluster-robust standard error of the intercept of a least-squares fit (Liang & Zeger 1986), times I / (I - 1)."""
    design = np.ones((len(values), 1))
    coefficient = np.linalg.lstsq(design, values, rcond=None)[0]
    residual = values - design @ coefficient
    bread, meat, names = np.linalg.inv(design.T @ design), np.zeros((1, 1)), set(images.tolist())
    for name in names:
        score = design[images == name].T @ residual[images == name]
        meat += np.outer(score, score)
    return float(((bread @ meat @ bread)[0, 0] * len(names) / (len(names) - 1)) ** 0.5)


def t_of(images: np.ndarray) -> float:
    """Student's t with one degree fewer than images of equal size that these are worth, (sum n)^2 / sum n^2 (Kish 1965)."""
    sizes = np.unique(images, return_counts=True)[1]
    return float(scipy.stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1))


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("images", [2, 3, 24, 400])
def test_of_one_question_an_image_it_is_scipys_t_interval(images, level):
    values = np.random.default_rng(images).gamma(2.0, size=images)
    found, theirs = mean_interval(values, range(images), level), scipy.stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert [found.value, found.lo, found.hi] == pytest.approx([values.mean(), theirs.low, theirs.high])


@pytest.mark.parametrize("seed", range(10))
def test_the_standard_error_is_that_of_a_cluster_robust_fit(seed):
    values, images = uneven(seed)
    found = mean_interval(values, images)
    assert (found.hi - found.lo) / 2 / t_of(images) == pytest.approx(sandwich(values, images))
    assert found.value == pytest.approx(values.mean())


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_samples_and_the_names_of_images_do_not_matter(seed):
    values, images = uneven(seed)
    order = np.random.default_rng(seed).permutation(len(values))
    named = [f"image {images[i] * 7 % 15}" for i in order]
    for figure in (mean_interval, lambda v, i: proportion(1 / (1 + np.exp(-v)), i, 0.3)):
        one, other = figure(values, images), figure(values[order], named)
        assert list(one.as_dict().values()) == pytest.approx(list(other.as_dict().values()))
    one, other = (mean_difference(v > 0, v > 1, i, 0.2, 0.02) for v, i in ((values, images), (values[order], named)))
    assert [one.lo, one.hi, one.se, one.together] == pytest.approx([other.lo, other.hi, other.se, other.together])
    assert sorted(one.changes) == pytest.approx(sorted(other.changes))


def test_clusters_widen_the_interval_of_repeated_samples():
    base = np.random.default_rng(3).random(20)
    repeated, images = np.repeat(base, 10), np.repeat([f"image {i}" for i in range(20)], 10)
    for figure in (mean_interval, lambda values, of: proportion(values, of, 1.0)):
        one, clustered, naive = figure(base, range(20)), figure(repeated, images), figure(repeated, range(200))
        assert clustered.as_dict() == pytest.approx(one.as_dict())
        assert naive.hi - naive.lo < 0.5 * (clustered.hi - clustered.lo)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(4), 0
    for _ in range(1000):
        effect = rng.normal(size=(12, 1)) + rng.normal(size=(12, 3))
        figure = mean_interval(effect.ravel(), np.repeat(range(12), 3))
        covered += figure.lo <= 0 <= figure.hi
    low, high = scipy.stats.binomtest(covered, 1000).proportion_ci(0.99)
    assert low <= 0.95 <= high


def test_few_samples():
    for figure in (mean_interval, proportion):
        assert figure([], []) == Estimate(None)
        assert figure([np.nan], ["a"]) == Estimate(None)
        assert figure([1.0, 0.0], ["a", "a"]) == Estimate(0.5)
        # an image without a measured sample is none, so that it adds no degree of freedom
        assert figure([1.0, np.nan], ["a", "b"]) == Estimate(1.0)
        assert figure([1.0, np.nan, 0.0], ["a", "b", "c"]) == figure([1.0, 0.0], ["a", "c"])
        with pytest.raises(ValueError, match="1"):
            figure([1.0], ["a", "b"])
    assert mean_interval([0.3, 0.3], ["a", "b"]) == Estimate(0.3, 0.3, 0.3)  # what does not vary is known
    assert mean_difference([], [], []) is None and mean_difference([np.nan], [1.0], ["a"]) is None
    assert mean_difference([1, 1], [0, 1], ["a", "a"]).lo is None


def test_many_means_are_one_mean_each():
    """100 tables, half of them with holes."""
    rng = np.random.default_rng(0)
    for case in range(100):
        images = rng.integers(0, rng.integers(1, 12), size=30)
        table = rng.normal(size=(30, 4))
        if case % 2:
            table[:, 1][rng.random(30) < 0.4] = np.nan
            table[:, 2], table[:, 3] = np.nan, np.where(images == images[0], table[:, 3], np.nan)
        found = mean_intervals(table, images, 0.9)
        for place, figure in enumerate(found):
            known = ~np.isnan(table[:, place])
            alone = mean_interval(table[known, place], images[known], 0.9)
            assert figure.as_dict() == {name: n if n is None else pytest.approx(n) for name, n in alone.as_dict().items()}
        if case % 2:
            assert found[2] == Estimate(None) and found[3].lo is None
    with pytest.raises(ValueError, match="one image a row"):
        mean_intervals(np.zeros((3, 1)), [1, 2])
    assert mean_intervals(np.zeros((0, 2)), []) == [Estimate(None), Estimate(None)]


@pytest.mark.parametrize("right, n", [(1, 40), (39, 40), (13, 30), (700, 1000)])
def test_with_many_images_it_is_scipys_wilson_interval(right, n):
    """Of ten million images t is the normal quantile to seven digits."""
    p = right / n
    found = wilson(p, (p * (1 - p) / n) ** 0.5, 10_000_000)
    theirs = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    assert [found.lo, found.hi] == pytest.approx([theirs.low, theirs.high], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("right, images", [(0, 12), (1, 12), (7, 12), (12, 12), (3, 200), (100, 200)])
def test_bounds_of_a_share_are_the_shares_that_a_score_test_with_t_just_rejects(right, images):
    """At a bound b, (p - b)^2 = t^2 b (1 - b) / n; of one question an image, n is I - 1 where answers vary, else I."""
    p, t = right / images, scipy.stats.t.ppf(0.975, images - 1)
    found = proportion(np.arange(images) < right, range(images))
    n = images - (0 < right < images)

    def rejected(b):
        return (p - b) ** 2 - t**2 * b * (1 - b) / n

    assert found.lo == pytest.approx(0.0 if right == 0 else brentq(rejected, 1e-15, p - 1e-9), abs=1e-8)
    assert found.hi == pytest.approx(1.0 if right == images else brentq(rejected, p + 1e-9, 1 - 1e-15), abs=1e-8)


def steadied(own: float, pooled: float, images: int) -> float:
    """The larger of an image's standard error and its mean with the pooled one, as variances, which counts as ten images."""
    return max(own, ((images * own**2 + 10 * pooled**2) / (images + 10)) ** 0.5)


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 1.0])
def test_shares_are_worth_fewer_answers_where_those_of_an_image_go_together(rho):
    """Few images that look apart by chance do not narrow the interval: each has one or two wrong answers of nine."""
    images = np.repeat(np.arange(24), 9)
    right = np.arange(216) % 9 != images % 9
    right[[1, 44, 61]] = False  # a second one of three images
    found, p, t = proportion(right, images, rho), right.mean(), scipy.stats.t.ppf(0.975, 23)
    fewer = np.bincount(images, right) < 9 * p  # images that do worse than the mean tell how much images differ
    assert min(fewer.sum(), (~fewer).sum()) == 3
    se = steadied(sandwich(right * 1.0, images), (p * (1 - p) * (1 + 8 * rho) / 216) ** 0.5, 3)
    n = p * (1 - p) / se**2
    assert [(p - b) ** 2 for b in (found.lo, found.hi)] == pytest.approx([t**2 * b * (1 - b) / n for b in (found.lo, found.hi)])
    assert found.hi - found.lo >= (less := proportion(right, images, rho / 2)).hi - less.lo


def test_rounding_tells_of_nothing():
    """Nine scores of 0.7 have a sum that is off by a digit, on every image alike or not; no image differs."""
    rng, images = np.random.default_rng(0), np.repeat(np.arange(40), 9)
    order = rng.permutation(9)
    scores = np.concatenate([rng.permutation(np.linspace(0.1, 0.9, 9)[order]) for _ in range(40)])
    found, p = proportion(scores, images, 0.5), 0.5
    n, t = 360 / (1 + 8 * 0.5), scipy.stats.t.ppf(0.975, 39)
    assert [(p - b) ** 2 for b in (found.lo, found.hi)] == pytest.approx([t**2 * b * (1 - b) / n for b in (found.lo, found.hi)])
    gap = mean_difference(scores, 0 * scores + 0.5, images, 0.5)
    assert np.abs(gap.changes).max() < 1e-12 and gap.se < 1e-6
    lost = np.zeros(360)
    lost[[0, 90, 180, 270]] = 1.0  # on four images; the other 36 change by a digit at most
    blurred, clean = (
        mean_difference(one - lost, other, images, 0.5) for one, other in ((scores, 0 * scores + 0.5), (0 * lost, 0 * lost))
    )
    assert np.count_nonzero(blurred.changes) > 10 and blurred.se == pytest.approx(clean.se)


@settings(max_examples=80, deadline=None)
@given(scores, st.floats(0, 1))
def test_a_share_is_within_an_interval_that_is_no_point_within_0_and_1(rows, rho):
    values, images = zip(*rows)
    found = proportion(values, images, rho)
    assert found == proportion(values, images, rho)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.lo is None) == (len(set(images)) < 2)
    if found.lo is not None:
        assert 0 <= found.lo <= found.value + 1e-12 and found.value - 1e-12 <= found.hi <= 1 and found.hi - found.lo > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_a_figure_with_every_image_left_out_is_a_loop(seed):
    rng = np.random.default_rng(seed)
    sums = np.stack([rng.normal(1, 1, 13), rng.uniform(0.5, 2, 13)], 1)
    ratio = lambda s: s[..., 0] / s[..., 1]
    found = intervals.standard_error(intervals.figure_deviates(sums, ratio))
    left_out = [sum(row[0] for k, row in enumerate(sums) if k != i) / sum(row[1] for k, row in enumerate(sums) if k != i)
                for i in range(13)]  # fmt: skip
    whole = sums[:, 0].sum() / sums[:, 1].sum()
    assert found**2 == pytest.approx(12 / 13 * sum((value - whole) ** 2 for value in left_out))
    equal = np.stack([sums[:, 0], np.full(13, 4.0)], 1)
    assert intervals.figure_deviates(equal, ratio) == pytest.approx(intervals.mean_deviates(equal[:, 0], equal[:, 1]))
    assert np.isnan(intervals.standard_error(np.zeros(1)))


def test_where_one_image_has_all_of_a_denominator_leaving_it_out_says_nothing():
    sums = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    quotient = lambda s: np.divide(s[..., 0], s[..., 1], out=np.full(np.shape(s[..., 0]), np.nan), where=s[..., 1] > 0)
    assert intervals.figure_deviates(sums, quotient).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("images, questions", [(40, 1), (400, 1)])
def test_of_many_changes_a_difference_has_scipys_paired_t_interval(images, questions):
    """So that no floor acts: answers of one question an image that are right or wrong, many of which change."""
    rng = np.random.default_rng(images)
    a, b = rng.integers(0, 2, (2, images)).astype(float)
    theirs = scipy.stats.ttest_rel(a, b).confidence_interval()
    found = mean_difference(a, b, range(images), rho=0.0)
    assert [found.value, found.lo, found.hi] == pytest.approx([np.mean(a - b), theirs.low, theirs.high])
    assert found.se == pytest.approx(scipy.stats.sem(a - b)) and found.images == images
    assert found.changes == pytest.approx(a - b) and found.pieces == images


@pytest.mark.parametrize("seed", range(5))
def test_a_difference_of_images_that_differ_has_the_standard_error_of_a_cluster_robust_fit(seed):
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(30), rng.integers(1, 8, 30))
    shift = rng.integers(-1, 2, 30)[images]  # all answers of an image change alike, as rho 0 does not expect
    b = rng.integers(0, 2, len(images))
    found = mean_difference(b + shift, b, images, rho=0.0)
    assert found.se == pytest.approx(sandwich(shift.astype(float), images))
    assert found.hi - found.value == pytest.approx(t_of(images) * found.se)


def test_graded_scores_have_scipys_interval_and_few_of_them_a_wider_one():
    """Where ten images and more change, the spread is that of the changes; of fewer it allows for whole answers."""
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 100))
    theirs, found = scipy.stats.ttest_rel(a, b).confidence_interval(), mean_difference(a, b, range(100), 0.0)
    assert (found.lo, found.hi) == pytest.approx(theirs)
    few = np.where(np.arange(100) < 9, b, a)
    theirs, found = scipy.stats.ttest_rel(a, few).confidence_interval(), mean_difference(a, few, range(100), 0.0)
    assert found.lo < theirs.low and theirs.high < found.hi


def test_graded_shares_are_as_wide_as_they_vary():
    """Shares near a half that hardly vary are known well; of right and wrong the interval is that of counts."""
    values = 0.5 + np.random.default_rng(2).normal(0, 0.05, 200)
    found, theirs = proportion(values, range(200)), scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.lo, found.hi) == pytest.approx(theirs, abs=2e-4)
    right = (values > 0.5).astype(float)
    theirs = scipy.stats.binomtest(int(right.sum()), 200).proportion_ci(method="wilson")
    found = proportion(right, range(200))
    assert (found.lo, found.hi) == pytest.approx(theirs, abs=2e-3)


@pytest.mark.parametrize(
    "images, questions, rho, rate", [(24, 9, 0.0, 0.0), (24, 9, 0.3, 0.02), (100, 1, 1.0, 0.02), (6, 9, 1.0, 0.0)]
)
def test_equal_answers_differ_by_nothing_but_what_few_images_may_hide(images, questions, rho, rate):
    image = np.repeat(np.arange(images), questions)
    found = mean_difference(np.ones(len(image)), np.ones(len(image)), image, rho, rate)
    together = 1 + (questions - 1) * (rho + (1 - rho) * rate)
    assert found.value == 0 and found.se == 0 and found.together == pytest.approx(together)
    assert [-found.lo, found.hi] == pytest.approx([1.959964**2 * together / len(image)] * 2, rel=1e-3)
    # nearly the upper bound of a Poisson mean of which nothing was seen, -ln 0.025
    assert found.hi * len(image) / together == pytest.approx(scipy.stats.chi2.ppf(0.975, 2) / 2, rel=0.05)


def test_few_changes_that_look_apart_by_chance_do_not_narrow_a_difference():
    """Four answers lost on four images; in other cells answers of an image change together."""
    image, lost = np.repeat(np.arange(24), 9), np.zeros(216)
    lost[[0, 50, 100, 150]] = 1
    apart, together = (mean_difference(-lost, 0 * lost, image, rho) for rho in (0.0, 1.0))
    share = 4 / 216
    for found, effect in ((apart, 1), (together, 9)):
        pooled = (effect * (share - share**2) / 216) ** 0.5
        assert found.se == pytest.approx(steadied(sandwich(lost, image), pooled, 4))
    assert apart.se < together.se and apart.lo > together.lo


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=2, max_size=20), st.floats(0, 1))
def test_a_difference_is_antisymmetric(rows, rho):
    a, b, images = zip(*rows)
    one, other = mean_difference(a, b, images, rho, 0.02), mean_difference(b, a, images, rho, 0.02)
    assert one.value == pytest.approx(-other.value, abs=1e-12) and one.changes == pytest.approx(-other.changes)
    assert (one.lo is None) == (len(set(images)) < 2)
    if one.lo is not None:
        assert (one.lo, one.hi) == pytest.approx((-other.hi, -other.lo), abs=1e-9)
        assert -1 <= one.lo <= one.value <= one.hi <= 1 and one.lo < one.hi and one.se == pytest.approx(other.se, abs=1e-12)


def test_a_difference_pairs_what_both_have():
    a, b = np.array([1.0, np.nan, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, np.nan, 1.0, 0.0])
    found, rest = mean_difference(a, b, list("aabcd"), 0.5), mean_difference(a[[0, 3, 4]], b[[0, 3, 4]], list("acd"), 0.5)
    assert (found.value, found.lo, found.hi, found.se) == (rest.value, rest.lo, rest.hi, rest.se)
    assert found.images == 3 and found.pieces == 3
    with pytest.raises(ValueError, match="3 clusters"):
        mean_difference([1, 0], [1, 0], "abc")


@pytest.mark.parametrize("seed", range(200))
def test_fieller_against_its_definition(seed):
    """Of a fine grid, the ratios r for which (above - r below)^2 <= t^2 var(above - r below) are those between its bounds."""
    rng = np.random.default_rng(seed)
    above, below, t = rng.normal(0, 1), rng.normal(0.5, 1), rng.uniform(1, 3)
    root = rng.normal(size=(2, 2)) * rng.choice([0.05, 0.3, 1.0])
    (aa, ab), (_, bb) = root @ root.T
    found = fieller_of(above, below, aa, bb, ab, t)
    holds = lambda r: (above - r * below) ** 2 <= t**2 * (aa - 2 * r * ab + r**2 * bb)
    far = np.array([-1e9, 1e9])
    assert (found is None) == bool(holds(far).any())  # unbounded
    if found is not None:
        lo, hi = found
        assert lo <= above / below <= hi
        width = max(hi - lo, 1e-6)
        grid = np.linspace(lo - 20 * width, hi + 20 * width, 40_001)
        clear = (np.abs(grid - lo) > 1e-6 * width) & (np.abs(grid - hi) > 1e-6 * width)
        assert (holds(grid) == ((lo <= grid) & (grid <= hi)))[clear].all()


def test_a_ratio_has_no_bounds_where_its_denominator_may_be_nothing():
    assert fieller_of(0.5, 0.1, 0.01, 0.0026, 0.0, 2.0) is None  # under two standard errors from 0
    assert fieller_of(0.5, 0.1, 0.01, 0.0024, 0.0, 2.0) is not None
    assert fieller_of(0.5, 0.1, 0.0, 0.0, 0.0, 2.0) == pytest.approx((5.0, 5.0))


@pytest.mark.parametrize("images", [2, 3, 30, 10_000])
def test_quantiles_are_scipys(images):
    assert intervals.students_t(images) == pytest.approx(scipy.stats.t.ppf(0.975, images - 1))
    assert intervals.students_t(1) == intervals.students_t(0.5) == intervals.students_t(1 + 1e-9) == 1000  # all there is
