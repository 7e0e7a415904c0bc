"""Claims of no loss: whether one of a margin is ruled out, and how many images that takes."""

from __future__ import annotations

import numpy as np

from metrics.design_effect import design_effect
from metrics.image_figures import FigureDifference

FEWEST = 6
"""Images that must differ, all one way, before a two-sided test that flips signs gets below 0.05: 2 / 2^6."""
ONE_SIDED = 0.025
"""Level of a claim of no loss, that of a two-sided interval of 95 % on one side."""


def no_loss_p(gap: FigureDifference, margin: float) -> float:
    """Return the one-sided p of a loss of the margin or more: how often images like these would show no larger loss.

    The spread is that of a world in which the margin is lost, not the one seen: images that lose nothing have no spread, and
    would take three of them for proof. The answers that would have been lost and were not add their share:
    t = (difference + margin) / sqrt(se^2 + c (difference + margin) / N), with one degree of freedom fewer than the images are
    worth; c is the number of answers that go at once on an image that changes. Of one question an image, that is the score test
    of paired proportions with gains as they were seen, and so many losses as the margin makes of them; Tango's, which fits gains
    as well, is less strict. How many go at once is pooled over all cells of a run, since the images that were not seen to lose
    do not say; it is never taken as less than what this cell shows, sum t^2 / sum abs(t) of the images' totals t.

    Args:
        gap: of the method to its reference, with c by the pooled correlation.
        margin: the loss one is ready to call none, > 0, in the unit of the difference.

    Returns:
        p; 1.0 of fewer than `FEWEST` images, of which nothing is claimed.

    Raises:
        ValueError: of a margin that is not positive.

    Source: Tango 1998, Statistics in Medicine 17, for pairs; the claim: Piaggio et al. 2012, CONSORT for non-inferiority.
    """
    from scipy.special import stdtr

    if margin <= 0:
        raise ValueError(f"margin is {margin}; non-inferiority needs one above 0, such as 0.01")
    totals = np.abs(gap.changes)
    if gap.pieces <= 0 or len(totals) < FEWEST or not gap.value > -margin or not gap.se >= 0 or gap.worth <= 1:
        return 1.0
    beyond = gap.value + margin
    own = float((totals**2).sum() / totals.sum()) if totals.any() else 1.0
    spread = (gap.se**2 + max(own, gap.together) * beyond / gap.pieces) ** 0.5
    return float(stdtr(gap.worth - 1, -beyond / spread))


def images_needed(margin: float, questions: float, rho: float, methods: int = 1) -> int:
    """Return how many images it takes to show that a method which changes no answer loses less than the margin.

    The smallest I at which `no_loss_p` is within its level, corrected for the number of methods of which the best is picked.
    A method that changes answers takes more.

    Args:
        margin: share of the scale, in (0, 1).
        questions: an image; of images of different sizes sum n^2 / sum n.
        rho: correlation of the changes of an image, 0 to 1; before a run it is not known.
        methods: among which the best is claimed.

    Raises:
        ValueError: of a margin that is not between 0 and 1, or of no question.

    >>> images_needed(0.02, 9, 0.0), images_needed(0.02, 9, 1.0)
    (28, 195)
    """
    from scipy.special import stdtrit

    if not 0 < margin < 1 or questions < 1 or methods < 1:
        raise ValueError(f"margin {margin}, {questions} questions, {methods} methods; give a share and counts of 1 or more")
    enough = margin * questions / design_effect(questions, rho, margin)
    low, high = FEWEST - 1, FEWEST
    while stdtrit(high - 1, 1 - ONE_SIDED / methods) ** 2 > enough * high:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if middle >= FEWEST and stdtrit(middle - 1, 1 - ONE_SIDED / methods) ** 2 <= enough * middle:
            high = middle
        else:
            low = middle
    return high
