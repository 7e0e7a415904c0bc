import numpy as np
import pytest
import scipy.stats

from metrics.chance import centre_p, share_below, summarise_z
from metrics.intervals import mean_interval

PERCENTILE = np.array([0.5, 0.1, 0.9, 0.2, 0.5, np.nan])
IMAGES = ["a", "a", "b", "c", "d", "e"]


def test_summary_of_ranks_tests_images():
    z = np.array([0.5, -1.0, 2.0, np.nan, 0.0, 1.0])
    found = summarise_z(z, PERCENTILE, IMAGES, True)
    assert {name: found[name] for name in ("value", "lo", "hi")} == mean_interval(z, IMAGES).as_dict()
    expected = mean_interval(PERCENTILE, IMAGES)
    assert found["percentile"]["value"] == pytest.approx(0.44) and found["percentile"]["lo"] == max(0.0, expected.lo)
    assert found["share_below_chance"] == pytest.approx((2 + 2 * 0.5) / 5)
    assert found["p"] == pytest.approx(scipy.stats.wilcoxon([-0.2, 0.4, -0.3, 0.0]).pvalue)
    flipped = summarise_z(z, PERCENTILE, IMAGES, False)
    assert flipped["share_below_chance"] == pytest.approx((1 + 2 * 0.5) / 5) and flipped["p"] == found["p"]
    assert flipped["percentile"] == found["percentile"]  # in the figure's own direction
    empty = summarise_z(np.array([]), np.array([]), [], True)
    assert set(empty.values()) == {None} and set(empty) == set(found)
    with pytest.raises(ValueError, match="5 images"):
        summarise_z(np.zeros(6), PERCENTILE, IMAGES[1:], True)


def test_what_says_little_is_not_said():
    found = summarise_z(np.zeros(6), PERCENTILE, IMAGES, True, skewed=True)
    assert found["value"] is found["lo"] is found["hi"] is None and found["percentile"]["value"] == pytest.approx(0.44)
    older = summarise_z(np.zeros(6), PERCENTILE, IMAGES, True, ranked=False)
    assert older["percentile"] is older["share_below_chance"] is older["p"] is None and older["value"] == 0.0


def test_intervals_of_percentiles_stay_within_their_range():
    found = summarise_z(np.zeros(4), np.array([0.0, 0.0, 0.0, 1.0]), range(4), True)["percentile"]
    assert found == {"value": 0.25, "lo": 0.0, "hi": 1.0}


def test_share_below_and_test_of_a_centre():
    assert share_below([0.4, 0.5 + 1e-12, 0.6, np.nan]) == pytest.approx(0.5) and share_below([np.nan]) is None
    assert centre_p([np.nan], ["a"], 0.0) is None and centre_p([2.0, 2.0], ["a", "b"], 2.0) == 1.0
    values = np.random.default_rng(0).random(20)
    assert centre_p(values, range(20), 0.3) == pytest.approx(scipy.stats.wilcoxon(values - 0.3, method="exact").pvalue)
