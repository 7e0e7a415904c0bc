"""The loss that a sign-flip test of whole images finds, against its equation and against chances that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from metrics.loss_power import POWER, found_loss, normal_critical
from metrics.non_inferiority import FEWEST
from metrics.step_down import step_down

Z = norm.ppf(0.8)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 0.1), st.floats(1, 9), st.integers(6, 5000), st.floats(1.96, 4))
def test_what_is_found_solves_its_equation_and_is_never_nothing(se, together, images, critical):
    piece = together / (9 * images)
    found = found_loss(se, piece, images, critical)
    assert (found is None) == (critical >= images**0.5)
    if found is not None:
        scale = (se**2 + piece * found) ** 0.5
        own = piece * found * max(0.0, 1 - found / (piece * images))
        spread = (se**2 + own * (1 - critical * piece / (2 * scale)) ** 2) ** 0.5
        assert found >= critical * scale * (1 - 1e-9) > 0
        assert found == pytest.approx(critical * scale + Z * spread, rel=1e-6)
        more = found_loss(se, piece, images, critical + 0.3)
        assert more is None or more > found


@pytest.mark.parametrize("images", [24, 48, 200, 1000])
@pytest.mark.parametrize("critical", [1.96, 2.8, 3.3])
def test_where_nothing_else_changes_so_many_images_lose_with_its_power(images, critical):
    """The statistic of L images that lose as much is the root of L; of a loss d, an image loses with a chance of d / (g I)."""
    piece = 3 / (9 * images)
    found = found_loss(0.0, piece, images, critical)
    chance = found / (piece * images)
    power = [binom.sf(np.ceil(critical**2) - 1 - shift, images, chance) for shift in (0, 1)]  # an L is a whole number
    assert power[0] - 0.08 < POWER < power[1] + 0.08


def test_where_much_changes_a_loss_is_found_with_its_power():
    """Of 400 images whose differences are normal; the loss shows in the standard error already."""
    rng, images, found = np.random.default_rng(0), 400, 0
    least = found_loss(1 / images**0.5, 0.0, images, norm.ppf(0.975))
    assert least == pytest.approx((norm.ppf(0.975) + Z) / images**0.5)
    for seed in range(400):
        found += step_down(rng.normal(-least, 1, (images, 1)), seed=seed % 5, draws=999).p[0] <= 0.05
    assert found / 400 == pytest.approx(POWER, abs=0.06)


def test_few_images_find_nothing():
    """Six that all lose are the fewest whose signs, flipped in all ways, leave a p below 0.05."""
    assert [2 / 2**n < 0.05 for n in (FEWEST - 1, FEWEST)] == [False, True]
    assert found_loss(0.0, 1 / 45, 5, 1.96) is None
    assert found_loss(0.0, 1 / 54, 6, 2.4) is not None
    assert found_loss(0.0, 1 / 54, 6, 6**0.5) is None  # all six one way is no more than the root of six
    assert found_loss(0.01, 1 / 432, 48, float("nan")) is None and found_loss(float("nan"), 1 / 432, 48, 2.0) is None


@pytest.mark.parametrize("level, tests", [(0.05, 1), (0.05, 60), (0.01, 3), (0.05, 0)])
def test_normal_critical_values_are_scipys(level, tests):
    assert normal_critical(level, tests) == pytest.approx(norm.isf(level / 2 / max(tests, 1)))
