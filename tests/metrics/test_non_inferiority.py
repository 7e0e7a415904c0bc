"""Claims of no loss against the score test of pairs, and how many images they take, by trying one number after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from metrics import non_inferiority as claims
from metrics.design_effect import design_effect
from metrics.differences import mean_difference
from metrics.image_figures import FigureDifference


def difference(change: np.ndarray, rho: float, margin: float) -> FigureDifference:
    """The mean difference of answers that change by [images, questions]."""
    images = np.repeat(np.arange(len(change)), change.shape[1])
    found = mean_difference(change.ravel(), np.zeros(change.size), images, rho, margin)
    assert found is not None
    return found


def loss_p(change: np.ndarray, margin: float, rho: float = 0.0) -> float:
    return claims.no_loss_p(difference(change, rho, margin), margin)


def pairs(images: int, lost: int, gained: int) -> np.ndarray:
    """One question an image."""
    return np.repeat([-1.0, 1.0, 0.0], [lost, gained, images - lost - gained])[:, None]


def tango(images: int, lost: int, gained: int, margin: float) -> float:
    """z of the score test that a difference of paired proportions is -margin (Tango 1998, equations 6 and 7)."""
    a, delta = 2 * images, -margin
    b, c = -gained - lost + (2 * images - gained + lost) * delta, -lost * delta * (1 - delta)
    only_none = ((b * b - 4 * a * c) ** 0.5 - b) / (2 * a)  # the likeliest share of answers that only `none` has, at -margin
    return (gained - lost + images * margin) / (images * (2 * only_none + delta - delta**2)) ** 0.5


@pytest.mark.parametrize(
    "lost, gained, n, margin", [(3, 2, 500, 0.02), (0, 0, 400, 0.02), (4, 9, 1000, 0.01), (0, 5, 300, 0.03), (20, 20, 2000, 0.02)]
)
def test_the_score_test_of_pairs(lost, gained, n, margin):
    """One question an image: the spread is that of as many losses as the margin makes beside the gains."""
    z = (gained - lost + n * margin) / (n * margin + 2 * gained - (gained - lost) ** 2 / n) ** 0.5
    change = pairs(n, lost, gained)
    found = claims.no_loss_p(replace(difference(change, 0.0, margin), se=change.std() / n**0.5), margin)
    assert found == pytest.approx(student.sf(z, n - 1), rel=1e-9)
    assert loss_p(change, margin) == pytest.approx(found, rel=0.02)  # whose variance has I / (I - 1)


@pytest.mark.parametrize(
    "lost, gained, n, margin",
    [(0, 0, 400, 0.02), (3, 2, 500, 0.02), (10, 0, 500, 0.02), (4, 9, 1000, 0.01), (20, 20, 2000, 0.02)],
)
def test_it_is_a_little_stricter_than_tangos_test_and_the_same_at_the_margin(lost, gained, n, margin):
    p, z = loss_p(pairs(n, lost, gained), margin), tango(n, lost, gained, margin)
    if gained - lost == -n * margin:
        assert z == 0 and p == 1.0  # of which nothing is claimed anyway
    else:
        assert norm.sf(z) < p < norm.sf(0.8 * z)
    near = pairs(100_000, 1990, 10)  # the margin was nearly lost
    assert loss_p(near, 0.02) == pytest.approx(norm.sf(tango(100_000, 1990, 10, 0.02)), rel=0.02)


@pytest.mark.parametrize(
    "images, questions, claimed",
    [(5, 1000, False), (20, 9, False), (28, 9, True), (27, 9, False), (195, 1, True), (194, 1, False)],
)
def test_equal_answers_of_few_images_prove_nothing(images, questions, claimed):
    """At 2 points; a loss of four answers is what equal answers still tell from none."""
    assert (loss_p(np.zeros((images, questions)), 0.02) <= claims.ONE_SIDED) is claimed


@pytest.mark.parametrize(
    "images, questions, lost, gained, together, rho",
    [(400, 1, 0.01, 0.0, 1, 1.0), (200, 1, 0.02, 0.0, 1, 1.0), (400, 1, 0.03, 0.02, 1, 0.0), (36, 9, 0.02, 0.0, 1, 0.0),
     (100, 9, 0.02, 0.0, 3, 0.25)],
)  # fmt: skip
def test_a_loss_of_the_margin_is_called_none_at_most_once_in_forty(images, questions, lost, gained, together, rho):
    """An interval alone calls it none three times as often: it knows no spread but that of the losses it has seen."""
    rng, claimed = np.random.default_rng(0), 0
    for _ in range(2000):
        gone = np.repeat(rng.random((images, questions // together)) < lost, together, axis=1)
        won = ~gone & (rng.random(gone.shape) < gained / (1 - lost))
        claimed += loss_p(won * 1.0 - gone, lost - gained, rho) <= claims.ONE_SIDED
    assert claimed > 0 and binomtest(claimed, 2000).proportion_ci(0.99).low <= claims.ONE_SIDED


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.0, 0.0, 1.0]), min_size=36, max_size=36),
    st.floats(0.005, 0.4), st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_it_takes_more_where_answers_change_together_and_for_a_smaller_margin(changes, margin, rho, other):
    change, (low, high) = np.reshape(changes, (12, 3)), sorted((rho, other))
    assert loss_p(change, margin, low) <= loss_p(change, margin, high) + 1e-12
    gap = difference(change, rho, margin)
    p = [claims.no_loss_p(gap, m) for m in (margin, 1.5 * margin)]
    assert p[1] <= p[0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([-1.0] + [0.0] * 20 + [1.0]), min_size=96, max_size=96), st.floats(0.01, 0.5), st.floats(0, 1),
    st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_what_is_claimed_is_what_the_interval_shows(changes, margin, rho, questions):
    """No loss is claimed only where the interval of the difference does not reach the margin: both have one spread and one c."""
    change = np.reshape(changes, (-1, questions))
    gap = difference(change, rho, margin)
    if loss_p(change, margin, rho) <= claims.ONE_SIDED:
        assert gap.lo > -margin - 1e-9
    if gap.hi < -margin:
        assert loss_p(change, margin, rho) == 1.0


def test_answers_that_are_seen_to_go_together_are_never_taken_as_apart():
    """The pool says that answers change alone; here nine go at once, on one image."""
    change = np.zeros((200, 9))
    change[0] = -1
    gap = difference(change, 0.0, 0.02)
    t = (gap.value + 0.02) / (gap.se**2 + 9 * (gap.value + 0.02) / 1800) ** 0.5
    assert gap.together < 1.2 and loss_p(change, 0.02) == pytest.approx(student.sf(t, 199))


def test_where_nothing_can_be_claimed():
    with pytest.raises(ValueError, match="margin is 0"):
        loss_p(np.zeros((9, 9)), 0)
    gained, lost = difference(np.full((100, 1), 0.5), 0.0, 0.02), difference(pairs(100, 2, 0), 0.0, 0.02)
    assert claims.no_loss_p(gained, 0.02) < 1e-6
    for nothing in (replace(gained, se=float("nan")), replace(gained, pieces=0.0), replace(gained, worth=1.0)):
        assert claims.no_loss_p(nothing, 0.02) == 1.0
    assert loss_p(np.full((5, 1), 0.5), 0.02) == 1.0  # of five images nothing, however much they gain
    assert claims.no_loss_p(lost, 0.02) == 1.0  # the margin itself was lost


@pytest.mark.parametrize("methods", [1, 3, 20])
@pytest.mark.parametrize(
    "margin, questions, rho", [(0.05, 1, 0.0), (0.05, 9, 0.0), (0.05, 9, 0.3), (0.02, 9, 0.0), (0.3, 9, 0.0), (0.9, 9, 0.5)]
)
def test_so_many_images_are_the_fewest(margin, questions, rho, methods):
    found = claims.images_needed(margin, questions, rho, methods)
    together = design_effect(questions, rho, margin)

    def shown(images: int) -> bool:
        gap = replace(difference(np.zeros((images, questions)), rho, margin), se=0.0)
        assert images == 1 or gap.together == pytest.approx(together)
        return claims.no_loss_p(gap, margin) <= claims.ONE_SIDED / methods

    assert found == next(images for images in range(1, 2000) if shown(images))


def test_images_are_needed_for_a_share_of_the_scale():
    for margin, questions, methods in ((0.0, 1, 1), (1.0, 1, 1), (0.02, 0, 1), (0.02, 1, 0)):
        with pytest.raises(ValueError, match="give a share and counts"):
            claims.images_needed(margin, questions, 0.0, methods)
    needed = [claims.images_needed(0.02, 9, rho) for rho in (0.0, 0.2, 0.6, 1.0)]
    assert needed == sorted(needed) and needed[-1] == claims.images_needed(0.02, 1, 1.0) == 195
