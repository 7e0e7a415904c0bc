"""Rank agreement against scipy's own rho and permutation test, and against a published table of critical values."""

import numpy as np
import pytest
from scipy import stats

from metrics.rank_agreement import rank_agreement, without_each


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [4, 5, 6])
def test_rho_and_p_are_those_of_scipy(n, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2 * n, (2, n)).astype(float)  # some tie
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        pytest.skip("nothing to rank")
    found = rank_agreement(a, b)
    assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
    ranked = stats.rankdata(b)
    asked = stats.permutation_test(
        (a,), lambda one: abs(np.corrcoef(stats.rankdata(one), ranked)[0, 1]).round(9),
        permutation_type="pairings", alternative="greater", n_resamples=np.inf,
    )  # fmt: skip
    assert found.p == pytest.approx(asked.pvalue)
    assert found.exact and found.n == n


CRITICAL = {5: (1.000, None), 6: (0.886, 1.000), 7: (0.786, 0.929), 8: (0.738, 0.881), 9: (0.700, 0.833)}
"""Critical values of Spearman's rho at a two-sided 5 % and 1 % (Zar 1972, J. Am. Stat. Assoc. 67, table 1), by n."""


@pytest.mark.parametrize("n", CRITICAL)
def test_p_crosses_5_and_1_percent_where_the_published_table_says(n):
    """Every rho that n things can reach: those at the critical value or above are significant, the next below is not."""
    reached = {}
    rng = np.random.default_rng(n)
    order = np.arange(n)
    for _ in range(60):
        found = rank_agreement(order, rng.permutation(n)) if n < 9 else None
        if found is not None:
            reached[round(abs(found.rho), 6)] = found.p
    if n == 9:  # 362,880 orders each: fewer of them
        for swaps in ([0, 1], [0, 4], [0, 5], [1, 6], [0, 6]):
            other = order.copy()
            other[swaps] = other[swaps[::-1]]
            found = rank_agreement(order, other)
            reached[round(abs(found.rho), 6)] = found.p
    reached[1.0] = rank_agreement(order, order).p
    for level, critical in zip((0.05, 0.01), CRITICAL[n]):
        for rho, p in reached.items():
            assert (p <= level) == (critical is not None and rho >= critical - 5e-4), (rho, p, level)


def test_so_few_things_allow_no_small_p():
    assert rank_agreement([1, 2, 3], [1, 2, 3]).p == pytest.approx(2 / 6) == rank_agreement([1, 2, 3], [1, 2, 3]).least_p
    assert rank_agreement(range(4), range(4)).p == pytest.approx(2 / 24)


@pytest.mark.parametrize("lists", [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4]), ([], [])])
def test_what_cannot_be_ranked_has_no_figure(lists):
    found = rank_agreement(*lists)
    assert found.rho is None and found.p is None and found.n == len(lists[0])


def test_of_many_things_orders_are_drawn_and_say_so():
    rng = np.random.default_rng(3)
    a = rng.normal(size=20)
    b = a + rng.normal(size=20)
    found = rank_agreement(a, b)
    assert not found.exact
    assert found.p == pytest.approx(stats.spearmanr(a, b).pvalue, rel=0.5)
    assert found == rank_agreement(a, b)


def test_each_is_left_out_once():
    a, b = [1, 2, 3, 4, 5, 6], [6, 1, 2, 3, 4, 5]
    found = without_each(a, b)
    assert [one.n for one in found] == [5] * 6
    assert found[0].rho == 1.0
    assert found[1] == rank_agreement([1, 3, 4, 5, 6], [6, 2, 3, 4, 5])


@pytest.mark.parametrize("lists", [([1, 2, 3], [1, 2]), ([1, 2, float("nan")], [1, 2, 3]), ([[1, 2, 3]], [[1, 2, 3]])])
def test_what_is_no_two_lists_of_numbers_is_an_error(lists):
    with pytest.raises(ValueError):
        rank_agreement(*lists)
