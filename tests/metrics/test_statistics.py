from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import resampling
from metrics import statistics as stats
from metrics.ranks import within_rank_correlation, within_rank_sums

scores = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30)


def test_bootstrap_of_single_clusters_is_scipys():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = stats.bootstrap_mean(values, range(80), resamples=8000)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == pytest.approx(values.mean())
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.lo == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
    assert ours.hi == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_bootstrap_against_a_loop_over_the_same_draws():
    rng = np.random.default_rng(2)
    values, clusters = rng.random(23), rng.integers(0, 5, 23)
    order = list(dict.fromkeys(clusters.tolist()))
    drawn = np.random.default_rng(7).integers(0, 5, size=(300, 5))
    means = [np.concatenate([values[clusters == order[c]] for c in row]).mean() for row in drawn]
    figure = stats.bootstrap_mean(values, clusters, seed=7, resamples=300)
    assert (figure.lo, figure.hi) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_clusters_widen_the_interval_of_repeated_samples():
    base = np.random.default_rng(3).random(20)
    repeated, images = np.repeat(base, 10), np.repeat([f"image {i}" for i in range(20)], 10)
    one = stats.bootstrap_mean(base, range(20), seed=1)
    clustered = stats.bootstrap_mean(repeated, images, seed=1)
    naive = stats.bootstrap_mean(repeated, range(200), seed=1)
    assert clustered.as_dict() == pytest.approx(one.as_dict())
    assert naive.hi - naive.lo < 0.5 * (clustered.hi - clustered.lo)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(4), 0
    for seed in range(200):
        effect = rng.normal(size=(40, 1)) + rng.normal(size=(40, 3))
        figure = stats.bootstrap_mean(effect.ravel(), np.repeat(range(40), 3), seed=seed, resamples=400)
        covered += figure.lo <= 0 <= figure.hi
    assert 0.88 <= covered / 200 <= 0.985


def test_chunks_do_not_change_the_draws(monkeypatch):
    values, clusters = np.random.default_rng(5).random(50), np.arange(50) % 17
    whole = stats.bootstrap_mean(values, clusters), stats.paired_difference(values, values[::-1], clusters)
    monkeypatch.setattr(resampling, "CHUNK", 40)
    resampling._counts.cache_clear()
    assert whole == (stats.bootstrap_mean(values, clusters), stats.paired_difference(values, values[::-1], clusters))


def test_many_clusters_are_drawn_in_groups_and_give_the_same_interval(monkeypatch):
    rng = np.random.default_rng(8)
    images = np.repeat(np.arange(6000), 2)
    values = (rng.random(6000) * 0.5)[images] + rng.random(12000) * 0.5
    other = values + rng.normal(0.004, 0.3, 12000)
    groups = stats.bootstrap_mean(values, images), stats.paired_difference(values, other, images)
    monkeypatch.setattr(resampling, "GROUPS", 10_000)
    each = stats.bootstrap_mean(values, images), stats.paired_difference(values, other, images)
    for mine, theirs in zip(groups, each, strict=True):
        assert mine.value == theirs.value
        assert (mine.hi - mine.lo) == pytest.approx(theirs.hi - theirs.lo, rel=0.08)
        assert mine.lo == pytest.approx(theirs.lo, abs=0.1 * (theirs.hi - theirs.lo))
    assert groups[1].p == pytest.approx(each[1].p, abs=0.03)


def test_integer_clusters_are_coded_as_others_are():
    for codes in ([3, 3, 5, 9, 9], [4, 1, 4, 0], [], [7]):
        array = np.array(codes, dtype=np.int64)
        assert stats.cluster_codes(array).tolist() == stats.cluster_codes(list(codes)).tolist()


def test_few_samples():
    assert stats.bootstrap_mean([], []) == stats.Estimate(None)
    assert stats.bootstrap_mean([1.0, 0.0], ["a", "a"]) == stats.Estimate(0.5)
    assert stats.bootstrap_mean([1.0, np.nan, 0.0], ["a", "b", "c"]).value == 0.5
    # a cluster without a measured sample is not drawn, so it cannot divide by zero
    assert stats.bootstrap_mean([1.0, np.nan], ["a", "b"]) == stats.Estimate(1.0)
    assert stats.bootstrap_mean([1.0, np.nan, 0.0], ["a", "b", "c"]) == stats.bootstrap_mean([1.0, 0.0], ["a", "c"])
    assert stats.paired_difference([], [], []) == stats.PairedDifference(None, None, None, None)
    assert stats.paired_difference([1, 1], [0, 1], ["a", "a"]).lo is None
    assert stats.bootstrap_median([]) == stats.Estimate(None)
    assert stats.bootstrap_median([3.0]) == stats.Estimate(3.0)
    with pytest.raises(ValueError, match="2 clusters"):
        stats.bootstrap_mean([1.0], ["a", "b"])


@settings(max_examples=40, deadline=None)
@given(scores)
def test_interval_holds_the_range_and_repeats(rows):
    values, clusters = zip(*rows)
    figure = stats.bootstrap_mean(values, clusters, resamples=100)
    assert figure == stats.bootstrap_mean(values, clusters, resamples=100)
    if figure.lo is not None:
        assert min(values) - 1e-9 <= figure.lo <= figure.hi <= max(values) + 1e-9


def test_sign_flip_against_all_flips():
    differences = np.array([0.5, -0.25, 1.0, 0.75, 0.5, 0.0, -0.5, 1.0, 0.25])
    flips = np.array(list(product([-1, 1], repeat=len(differences)))) @ differences
    exact = np.mean(np.abs(flips) >= abs(differences.sum()) - 1e-12)
    found = stats.paired_difference(differences, np.zeros(9), range(9), permutations=40000)
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.value == pytest.approx(differences.mean())


def test_sign_flip_is_scipys():
    rng = np.random.default_rng(6)
    a, b = rng.random(40) + 0.08, rng.random(40)
    theirs = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    )
    assert stats.paired_difference(a, b, range(40), permutations=9999).p == pytest.approx(theirs.pvalue, abs=0.02)


def test_sign_flip_is_at_the_level_of_images():
    a = np.repeat([1.0, 1.0, 1.0], 50)
    assert stats.paired_difference(a, np.zeros(150), np.repeat(range(3), 50)).p > 0.2  # three images prove nothing
    assert stats.paired_difference(a, np.zeros(150), range(150)).p < 0.001


def test_p_is_never_zero():
    assert stats.paired_difference(np.ones(60), np.zeros(60), range(60), permutations=99).p == 1 / 100


def test_false_alarms_are_at_the_level():
    rng = np.random.default_rng(8)
    p = [stats.paired_difference(*rng.integers(0, 2, (2, 60)), np.arange(60) // 3, i, 10, 300).p for i in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08


def test_equal_methods_differ_by_exactly_nothing():
    found = stats.paired_difference([0.3, 1, 0], [0.3, 1, 0], "abc")
    assert (found.value, found.lo, found.hi, found.p) == (0.0, 0.0, 0.0, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 4)), min_size=2, max_size=20))
def test_paired_difference_is_antisymmetric(rows):
    a, b, clusters = zip(*rows)
    one = stats.paired_difference(a, b, clusters, resamples=100, permutations=100)
    other = stats.paired_difference(b, a, clusters, resamples=100, permutations=100)
    assert one.p == other.p and one.value == pytest.approx(-other.value)
    if one.lo is not None:
        assert (one.lo, one.hi) == pytest.approx((-other.hi, -other.lo), abs=1e-9)


def test_standard_error_is_that_of_the_mean():
    differences = np.random.default_rng(9).normal(size=400)
    found = stats.paired_difference(differences, np.zeros(400), range(400))
    assert found.se == pytest.approx(scipy.stats.sem(differences), rel=0.1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_the_definition(p):
    order = np.argsort(p, kind="stable")
    expected = np.empty(len(p))
    for k, i in enumerate(order):
        expected[i] = min(1.0, max((len(p) - j) * p[order[j]] for j in range(k + 1)))
    assert stats.holm(p) == pytest.approx(expected.tolist())


def test_holm_of_a_textbook_and_of_no_test():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    assert stats.holm([]) == []


def test_mcnemar_against_the_binomial_tail():
    a, b = np.array([1] * 9 + [0] * 2 + [1] * 30), np.array([0] * 9 + [1] * 2 + [1] * 30)
    assert stats.mcnemar_exact(a, b) == pytest.approx(2 * scipy.stats.binom.cdf(2, 11, 0.5))
    assert stats.mcnemar_exact(a, b) == stats.mcnemar_exact(b, a)
    assert stats.mcnemar_exact(a, a) == 1.0


def test_median_is_scipys():
    values = np.random.default_rng(10).lognormal(size=60)
    ours = stats.bootstrap_median(values, resamples=6000)
    theirs = scipy.stats.bootstrap((values,), np.median, n_resamples=6000, method="percentile", rng=np.random.default_rng(1))
    assert ours.value == np.median(values)
    assert ours.lo == pytest.approx(theirs.confidence_interval.low, rel=0.05)
    assert ours.hi == pytest.approx(theirs.confidence_interval.high, rel=0.05)


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(11)
    x = rng.integers(0, 6, 60)
    y = x + rng.integers(0, 8, 60)
    found = stats.rank_correlation(x, y, np.arange(60) // 2)
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert found.lo < found.value < found.hi <= 1.0
    assert stats.rank_correlation([1, 1, 1], [1, 2, 3], range(3)) == stats.Estimate(None)
    assert stats.rank_correlation([1, 2, 3], [1, 3, 2], [0, 0, 0]) == stats.Estimate(pytest.approx(0.5))


def _slow_within(x, y, groups):
    """Spearman pooled over groups, one group after the other."""
    xy = xx = yy = 0.0
    whole = ~(np.isnan(x) | np.isnan(y))
    for group in set(groups[whole].tolist()):
        rows = np.flatnonzero(whole & (groups == group))
        u, v = (scipy.stats.rankdata(side[rows]) / len(rows) for side in (x, y))
        u, v = u - u.mean(), v - v.mean()
        xy, xx, yy = xy + u @ v, xx + u @ u, yy + v @ v
    return None if whole.sum() < 3 or xx < 1e-12 or yy < 1e-12 else xy / np.sqrt(xx * yy)


def _random_groups(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 60))
    images = rng.integers(0, 6, n)
    x, y = rng.integers(0, 4, n).astype(float), rng.integers(0, rng.integers(1, 4), n).astype(float)
    x[rng.random(n) < 0.1] = np.nan
    y[rng.random(n) < 0.1] = np.nan
    return x, y, images * 3 + rng.integers(0, 3, n), images


@pytest.mark.parametrize("seed", range(100))
def test_within_rank_correlation_against_a_loop(seed):
    x, y, groups, images = _random_groups(seed)
    figure = within_rank_correlation(x, y, groups, images, resamples=50)
    slow = _slow_within(x, y, groups)
    assert figure.value == (None if slow is None else pytest.approx(slow, abs=1e-12))
    spread = within_rank_correlation(x, y, groups, images[::-1], resamples=50, spanning=True)
    assert spread.value == figure.value if slow is None else spread.value == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_within_rank_interval_is_that_of_ranking_each_draw_anew(seed):
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(6), 10)
    groups = images * 2 + rng.integers(0, 2, 60)
    x, y = rng.integers(0, 4, 60).astype(float), rng.integers(0, 2, 60).astype(float)
    x[rng.random(60) < 0.1] = np.nan
    draws = []
    for drawn in np.random.default_rng(seed).integers(0, 6, (80, 6)):
        rows = np.concatenate([np.flatnonzero(images == image) for image in drawn])
        draws.append(_slow_within(x[rows], y[rows], groups[rows] + 100 * np.repeat(np.arange(6), 10)))
    found = within_rank_correlation(x, y, groups, images, seed, resamples=80)
    assert (found.lo, found.hi) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_within_one_group_is_spearmans():
    rng = np.random.default_rng(12)
    x = rng.integers(0, 9, 70).astype(float)
    y = x + rng.integers(0, 20, 70)
    found = within_rank_correlation(x, y, ["all"] * 70, np.arange(70) // 2, spanning=True)
    assert found.value == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert found.lo < found.value < found.hi
    with pytest.raises(ValueError, match="several clusters"):
        within_rank_correlation(x, y, ["all"] * 70, np.arange(70) // 2)


def test_what_differs_between_groups_does_not_correlate():
    rng = np.random.default_rng(13)
    groups = np.repeat(np.arange(300), 6)
    level = rng.normal(size=300)[groups]
    x, y = level + 0.3 * rng.normal(size=1800), level + 0.3 * rng.normal(size=1800)
    assert scipy.stats.spearmanr(x, y).statistic > 0.8
    found = within_rank_correlation(x, y, groups, groups)
    assert abs(found.value) < 0.06 and found.lo < 0 < found.hi
    assert within_rank_sums(x, y, groups, groups).p() > 0.05


def test_groups_that_do_not_follow_hold_the_correlation_down():
    x, y = np.tile([1.0, 2.0, 3.0], 4), np.array([1.0, 2, 3] * 2 + [5.0] * 6)
    assert within_rank_correlation(x[:6], y[:6], np.arange(6) // 3, np.arange(6) // 3).value == pytest.approx(1.0)
    assert within_rank_correlation(x, y, np.arange(12) // 3, np.arange(12) // 3).value == pytest.approx(0.5**0.5)


def test_degenerate_ranks():
    nothing = stats.Estimate(None)
    assert within_rank_correlation([], [], [], []) == nothing
    assert within_rank_correlation([1, 2], [1, 2], [0, 0], [0, 0]) == nothing
    assert within_rank_correlation([1, 1, 2, 2], [1, 2, 1, 2], [0, 0, 1, 1], [0, 0, 1, 1]) == nothing
    assert within_rank_correlation([np.nan] * 4, [1, 2, 3, 4], [0] * 4, [0] * 4) == nothing
    assert within_rank_correlation([1, 2, 3], [1, 3, 2], [0, 0, 0], [7, 7, 7]) == stats.Estimate(pytest.approx(0.5))
    assert within_rank_sums([1, 1, 1], [1, 2, 3], [0] * 3, [0] * 3).p() is None
    with pytest.raises(ValueError, match="one of each"):
        within_rank_correlation([1, 2], [1, 2, 3], [0] * 3, [0] * 3)


def test_within_rank_p_is_at_the_level():
    rng, alarms = np.random.default_rng(14), 0
    groups = np.repeat(np.arange(90), 5)
    for seed in range(300):
        x = rng.normal(size=(30, 1, 5)) + rng.normal(size=(30, 3, 5))  # of one image's questions the figures are alike
        y = rng.normal(size=(30, 1, 5)) + rng.normal(size=(30, 3, 5)) > 0
        alarms += within_rank_sums(x.ravel(), y.ravel(), groups, groups // 3).p(seed, 400) <= 0.05
    assert alarms / 300 <= 0.085


def test_many_means_are_one_mean_each():
    """The same draws as `bootstrap_mean` where nothing is missing; 100 tables, some with holes."""
    rng = np.random.default_rng(0)
    for case in range(100):
        clusters = np.sort(rng.integers(0, rng.integers(1, 12), size=30))
        table = rng.normal(size=(30, 3))
        if case % 2:
            table[:, 1][rng.random(30) < 0.4] = np.nan
            table[:, 2] = np.nan
        found = stats.bootstrap_means(table, clusters, seed=case, resamples=300)
        one = stats.bootstrap_mean(table[:, 0], clusters, seed=case, resamples=300)
        assert found[0].as_dict() == pytest.approx(one.as_dict())
        assert found[1].value == pytest.approx(np.nanmean(table[:, 1]))
        if case % 2:
            assert found[2] == stats.Estimate(None)
            if found[1].lo is not None:
                assert found[1].lo <= found[1].value <= found[1].hi
    with pytest.raises(ValueError, match="one cluster a row"):
        stats.bootstrap_means(np.zeros((3, 1)), [1, 2])
    assert stats.bootstrap_means(np.zeros((0, 2)), []) == [stats.Estimate(None), stats.Estimate(None)]


def test_ratio_against_a_loop_over_the_same_draws():
    rng = np.random.default_rng(1)
    for case in range(100):
        clusters = np.arange(20) // 2
        above, below = rng.normal(size=20), rng.uniform(0.5, 2, size=20)
        found = stats.bootstrap_ratio(above, below, clusters, seed=case, resamples=200)
        assert found.value == pytest.approx(above.sum() / below.sum())
        draws = np.random.default_rng(case).integers(0, 10, size=(200, 10))
        rows = [np.concatenate([np.flatnonzero(clusters == c) for c in drawn]) for drawn in draws]
        ratios = [above[r].sum() / below[r].sum() for r in rows]
        assert (found.lo, found.hi) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
    assert stats.bootstrap_ratio([1.0], [0.0], ["a"]) == stats.Estimate(None)
    assert stats.bootstrap_ratio([1.0], [2.0], ["a"]) == stats.Estimate(0.5)
