import numpy as np
import pytest
import scipy.stats

from metrics.chance import summarise_z


def test_summary_counts_ties_half_and_tests_images():
    percentile = np.array([0.5, 0.1, 0.9, 0.2, 0.5, np.nan])
    images = ["a", "a", "b", "c", "d", "e"]
    found = summarise_z(np.zeros(6), percentile, images, True)
    assert found["share_below_chance"] == pytest.approx((2 + 2 * 0.5) / 5)
    assert found["p"] == pytest.approx(scipy.stats.wilcoxon([-0.2, 0.4, -0.3, 0.0]).pvalue)
    flipped = summarise_z(np.zeros(6), percentile, images, False)
    assert flipped["share_below_chance"] == pytest.approx((1 + 2 * 0.5) / 5) and flipped["p"] == found["p"]
    empty = summarise_z(np.array([]), np.array([]), [], True)
    assert set(empty.values()) == {None}
    with pytest.raises(ValueError, match="5 images"):
        summarise_z(np.zeros(6), percentile, images[1:], True)
