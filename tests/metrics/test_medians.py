from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from metrics.medians import median
from metrics.statistics import Estimate


def test_few_values():
    assert median([]) == median([np.nan]) == Estimate(None)
    assert median([3.0]) == Estimate(3.0) and median([1, 2, 3, 4, 5]) == Estimate(3.0)
    assert median([6, 5, np.nan, 4, 3, 2, 1]) == Estimate(3.5, 1.0, 6.0)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_the_order_statistics_are_those_of_the_binomial(level):
    """Against SciPy's interval of a quantile, and by what the binomial distribution gives the ranks."""
    for count in (*range(1, 60), 400):
        found = median(np.arange(1, count + 1), level)
        outside = lambda rank: 2 * scipy.stats.binom.cdf(rank - 1, count, 0.5)
        if found.lo is None:
            assert outside(1) > 1 - level
            continue
        assert found.lo + found.hi == count + 1 and outside(found.lo) <= 1 - level + 1e-12
        assert found.lo + 1 > count / 2 or outside(found.lo + 1) > 1 - level
        theirs = scipy.stats.quantile_test(np.arange(1, count + 1), p=0.5).confidence_interval(level)
        assert found.lo >= theirs.low or np.isnan(theirs.low)


@given(st.lists(st.floats(0.1, 1e6), min_size=6, max_size=40), st.randoms())
def test_order_and_scale_do_not_matter(values, random):
    found, shuffled = median(values), random.sample(values, len(values))
    assert median(shuffled) == found and found.lo <= found.value <= found.hi
    assert median([4 * value for value in values]) == Estimate(4 * found.value, 4 * found.lo, 4 * found.hi)
