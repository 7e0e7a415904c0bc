"""What `regress` says of drops that it would miss, held against simulated builds that lose as much."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from metrics import familywise

pytestmark = pytest.mark.simulation
CELLS, WORLDS, STATEMENTS = 12, 2000, 20
TOGETHER = 0.4
"""Correlation of the changes of an image's answers."""


def flips(rng: np.random.Generator, share: float, images: int, questions: int, cells: int) -> np.ndarray:
    """Answers that change, of such a share, of an image together: bool [images, questions, cells]."""
    if share <= 0:
        return np.zeros((images, questions, cells), bool)
    weight = (1 - TOGETHER) / TOGETHER
    return rng.random((images, questions, cells)) < rng.beta(share * weight, (1 - share) * weight, (images, 1, cells))


def builds(rng: np.random.Generator, images: int, questions: int, churn: float, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of two builds [images, questions, cells]; the second answers some otherwise, and loses in the first cell.

    Rights and wrongs change sides alike, so that without a loss no build is better.
    """
    hard = rng.normal(0, 0.8, (images, 1, 1)) + rng.logistic(0, 1, (images, questions, CELLS))
    before = 1.6 + hard > 0
    after = before.copy()
    moved = flips(rng, churn, images, questions, CELLS)
    side = rng.random((images, 1, CELLS)) < 0.5  # an image that changes goes one way
    after[moved] = np.broadcast_to(side, moved.shape)[moved]
    before[moved] = np.broadcast_to(~side, moved.shape)[moved]
    accuracy = after[..., 0].mean()
    after[..., 0] &= ~flips(rng, min(0.98, loss / accuracy), images, questions, 1)[..., 0]
    return before, after


def compared(before: np.ndarray, after: np.ndarray, level: float, draws: int) -> familywise.ColumnLosses:
    totals = before.sum(1, dtype=float) - after.sum(1)
    return familywise.paired(totals, np.full(totals.shape, float(before.shape[1])), level, draws=draws)


def power(images: int, questions: int, churn: float, level: float, draws: int, worlds: int) -> tuple[float, int, int]:
    """The median of what pairs of equal builds say is seen, how often a loss of that much is found, and in how many worlds."""
    rng, said, found, tried = np.random.default_rng(0), [], 0, 0
    for _ in range(STATEMENTS):
        before, after = builds(rng, images, questions, churn, 0.0)
        stated = float(compared(before, after, level, draws).detectable()[0])
        said.append(stated if np.isfinite(stated) else 1.0)
        if said[-1] > 0.9 * before[..., 0].mean():
            continue  # even a loss of nearly all would be missed, and nothing is promised
        for _ in range(worlds // STATEMENTS):
            losses = compared(*builds(rng, images, questions, churn, stated), level, draws)
            found += bool(losses.p[0] <= level and losses.least_p(0) <= level)
            tried += 1
    return float(np.median(said)), found, tried


DESIGNS = [(24, 1), (24, 4), (24, 9), (60, 1), (60, 9), (200, 1), (200, 4), (200, 9)]


@pytest.mark.parametrize(("churn", "level", "draws", "worlds"), [(0.0, 0.0005, 20_000, 2000), (0.02, 0.01, 1999, 2000)])
def test_a_loss_as_large_as_is_said_is_found_four_times_in_five(tell, churn, level, draws, worlds):
    """On equal builds, where no answer changes, and on such as change some answers of no build's advantage."""
    low = []
    for images, questions in DESIGNS:
        said, found, tried = power(images, questions, churn, level, draws, worlds)
        share = f"{found / tried:.3f} of {tried}" if tried else "nothing is promised"
        design = f"{images} x {questions}, changed answers {churn:g}, level {level:g}, says {100 * said:.1f} points"
        tell("drop that regress says it would see is found", design, ">= 0.8", share)
        if tried and binomtest(found, tried).proportion_ci(0.99, "exact").high < 0.8:
            low.append((images, questions))
    assert not low
