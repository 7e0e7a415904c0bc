"""How large a loss a test by signs of whole images finds, and on how many images. Needs no torch."""

from __future__ import annotations

from math import ceil, log2

import numpy as np

from metrics.arrays import Floats, Whole
from metrics.non_inferiority import FEWEST

POWER = 0.8


def found_loss(se: float, piece: float, images: int, critical: float) -> float | None:
    """Return the loss d that a sign flip of whole images finds with a power of 80 %, where what is lost is noise as well.

    With g what an image loses if it loses anything, the statistic of a loss d is d / sqrt(S), S = se^2 + g d: flipping signs
    spreads what was lost too. It passes the critical value k where f = d - k sqrt(S) is above 0, and by the delta method f has
    the variance se^2 + v (1 - k g / 2 sqrt(S))^2, v = g d (1 - d / (g I)) being that of the loss: more lost images enlarge the
    statistic's own scale. Where nothing else changed, d is g (k^2 + z k / 2) or so, and never 0.

    Args:
        se: standard error of the difference where nothing is lost.
        piece: g, in the unit of the standard error; 0 where it shows in the standard error already. Of N answers of which c go
            at once it is c / N.
        images: I, that are compared.
        critical: k, in standard errors, corrected for the number of tests.

    Returns:
        A loss in the unit of the standard error; None where no loss of these images passes: of fewer than `FEWEST`, and where
        the statistic of all of them changing one way, sqrt(I), does not.

    Source: Bland 2015, An Introduction to Medical Statistics, section 18.3, with the spread at the alternative.

    >>> round(found_loss(0.0, 1 / 432, 48, 2.8), 4)
    0.024
    """
    from scipy.special import ndtri

    if images < FEWEST or not se >= 0 or not critical < images**0.5:
        return None
    z = float(ndtri(POWER))
    low, high = (_passing(steps, se, piece) for steps in (critical, critical + z))
    for _ in range(50):
        loss = (low + high) / 2
        scale = max(se**2 + piece * loss, 1e-300)
        own = piece * loss * max(0.0, 1 - loss / (piece * images)) if piece > 0 else 0.0
        spread = se**2 + own * (1 - critical * piece / (2 * scale**0.5)) ** 2
        low, high = (low, loss) if loss >= critical * scale**0.5 + z * spread**0.5 else (loss, high)
    return high


def _passing(steps: float, se: float, piece: float) -> float:
    """The loss d that is so many sqrt(se^2 + g d)."""
    alone = steps**2 * piece
    return float((alone + (alone**2 + 4 * steps**2 * se**2) ** 0.5) / 2)


def images_that_find(se: float, piece: float, images: int, critical: float, loss: float) -> float:
    """Return about how many images find a loss with a power of 80 %.

    Args:
        se: standard error on the images at hand, where nothing is lost.
        piece: what one of them loses if it loses anything, in the unit of the standard error.
        images: at hand.
        critical: value of the test, in standard errors.
        loss: above 0, in the unit of the standard error.

    Returns:
        inf where no number of images does, or nothing is known.
    """
    if not images or np.isnan(se):
        return float("inf")

    def enough(factor: float) -> bool:
        found = found_loss(se / factor**0.5, piece / factor, int(images * factor), critical)
        return found is not None and found <= loss

    low, high = 1e-3, 1e6
    if not enough(high):
        return float("inf")
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if enough(middle) else (middle, high)
    return images * high


def lost_by_an_image(lost: Floats, images: Whole, level: float) -> Floats:
    """Return what an image loses as a rule where it loses anything, by column, in the unit of the figure.

    It is sum t^2 / sum abs(t) over what changed in any column, t [I, M] being what each image lost, and as if beside that as
    many images as are needed for a p at the level had lost all of their answers: few changes do not tell how losses go together,
    and then all answers of an image are taken to go at once. Answers that change singly in many images make it smaller.

    Args:
        lost: [I, M] of the figure by each image alone; below 0 is a gain.
        images: [M] that have answers.
        level: of the test.

    Returns:
        [M]; 0 of a column without answers.
    """
    told = images > 0
    if not told.any():
        return np.zeros(len(images))
    many = np.maximum(images, 1)
    shares = np.abs(np.nan_to_num(lost)) * many  # in images
    fewest = fewest_images(level)
    together = ((shares**2).sum() + fewest) / (shares.sum() + fewest)
    return np.where(told, together / many, 0.0)


def fewest_images(level: float) -> int:
    """Return how many images must change all one way for a p at the level: 11 at 0.0005."""
    return ceil(-log2(level) - 1e-9)


def normal_critical(level: float, tests: int) -> float:
    """Return the two-sided critical value of a number of independent normal tests, for where no change gives another."""
    from scipy.special import ndtri

    return float(ndtri(1 - level / (2 * max(tests, 1))))
