from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import clusters, resampling
from metrics import statistics as stats
from metrics.ranks import products_by_cluster, within_rank_correlation, within_rank_sums
from metrics.step_down import step_down


def test_integer_clusters_are_coded_as_others_are():
    for codes in ([3, 3, 5, 9, 9], [4, 1, 4, 0], [], [7]):
        array = np.array(codes, dtype=np.int64)
        assert clusters.cluster_codes(array).tolist() == clusters.cluster_codes(list(codes)).tolist()


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


def test_sign_flip_against_all_flips():
    differences = np.array([0.5, -0.25, 1.0, 0.75, 0.5, 0.0, -0.5, 1.0, 0.25])
    flips = np.array(list(product([-1, 1], repeat=len(differences)))) @ differences
    exact = np.mean(np.abs(flips) >= abs(differences.sum()) - 1e-12)
    assert resampling.sign_flip(differences, 0, 40_000) == pytest.approx(exact, abs=0.01)
    assert resampling.sign_flip(differences, 0, 4000) == step_down(differences[:, None], draws=4000).p[0]
    assert resampling.sign_flip(-differences, 0, 4000) == resampling.sign_flip(differences, 0, 4000)


def test_sign_flip_is_scipys():
    rng = np.random.default_rng(6)
    a, b = rng.random(40) + 0.08, rng.random(40)
    theirs = scipy.stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
    )
    assert resampling.sign_flip(a - b, 0, 9999) == pytest.approx(theirs.pvalue, abs=0.02)


def test_sign_flip_of_nothing_and_of_few_images():
    assert resampling.sign_flip(np.zeros(5), 0, 99) == resampling.sign_flip(np.zeros(0), 0, 99) == 1.0
    assert resampling.sign_flip(np.full(3, 50.0), 0, 4000) > 0.2  # three images prove nothing
    assert resampling.sign_flip(np.ones(60), 0, 99) == 1 / 100  # and p is never zero


def test_chunks_do_not_change_resampled_sums(monkeypatch):
    sums = np.random.default_rng(5).random((17, 2))
    whole = resampling.resampled(sums, 0, 300)
    monkeypatch.setattr(resampling, "CHUNK", 40)
    resampling._counts.cache_clear()
    assert (resampling.resampled(sums, 0, 300) == whole).all()


def test_many_clusters_are_drawn_in_groups_with_the_same_spread(monkeypatch):
    sums = np.random.default_rng(8).random((6000, 1))
    groups = resampling.resampled(sums, 0, 2000)
    monkeypatch.setattr(resampling, "GROUPS", 10_000)
    each = resampling.resampled(sums, 0, 2000)
    assert groups.mean() == pytest.approx(each.mean(), rel=1e-3) and groups.std() == pytest.approx(each.std(), rel=0.08)


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
    assert step_down(products_by_cluster([within_rank_sums(x, y, groups, groups)])).p[0] > 0.05


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
    still = within_rank_sums([1, 1, 1], [1, 2, 3], [0] * 3, [0] * 3)
    assert still.value is None and step_down(products_by_cluster([still])).p.tolist() == [1.0]
    with pytest.raises(ValueError, match="one of each"):
        within_rank_correlation([1, 2], [1, 2, 3], [0] * 3, [0] * 3)


def test_within_rank_p_is_at_the_level():
    rng, alarms = np.random.default_rng(14), 0
    groups = np.repeat(np.arange(90), 5)
    for seed in range(300):
        x = rng.normal(size=(30, 1, 5)) + rng.normal(size=(30, 3, 5))  # of one image's questions the figures are alike
        y = rng.normal(size=(30, 1, 5)) + rng.normal(size=(30, 3, 5)) > 0
        products = products_by_cluster([within_rank_sums(x.ravel(), y.ravel(), groups, groups // 3)])
        alarms += step_down(products, seed=seed, draws=400).p[0] <= 0.05
    assert alarms / 300 <= 0.085
