"""The signed-rank test against scipy where that is exact, and against all signs where ranks tie."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata, wilcoxon

from metrics.signed_rank import EXACT, signed_rank_p


@pytest.mark.parametrize("count", [1, 2, 5, 13, 14, 30, EXACT])
def test_equals_scipy_where_nothing_ties(count):
    for seed in range(10):
        found = np.random.default_rng([count, seed]).normal(0.3, 1.0, count)
        assert signed_rank_p(found) == pytest.approx(wilcoxon(found, method="exact").pvalue, rel=1e-12)


def test_equals_all_signs_where_ranks_tie():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = rng.integers(-3, 5, rng.integers(2, 11)).astype(float)
        moving = found[found != 0]
        ranks = rankdata(np.abs(moving))
        sums = np.array([ranks[np.array(signs, bool)].sum() for signs in product([0, 1], repeat=len(moving))])
        reached = ranks[moving > 0].sum()
        expected = min(1.0, 2 * min((sums <= reached).mean(), (sums >= reached).mean()))
        assert signed_rank_p(found) == pytest.approx(expected)


def test_many_are_approximated():
    found = np.random.default_rng(0).integers(-4, 6, 200).astype(float)
    assert signed_rank_p(found) == pytest.approx(wilcoxon(found[found != 0], method="approx").pvalue)


def test_zeros_say_nothing():
    assert signed_rank_p([0.0, 0.0]) == 1.0 and signed_rank_p([]) == 1.0
    assert signed_rank_p([0.0, 1.0, 2.0]) == signed_rank_p([1.0, 2.0]) == 0.5
