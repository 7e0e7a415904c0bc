"""How much the answers about one image stand and fall together, and how many independent answers they are worth."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Numbers
from metrics.clusters import aligned

PRIOR = 0.5
"""Images whose answers all changed at once that every pool begins with: few changes do not tell how they go together."""


@dataclass
class IntraclassCorrelation:
    """The correlation of values of one image, pooled over cells: a single cell in which little changes says next to nothing.

    Each cell adds its sums by `add`. Of C cells with images i of n_i values x, each less its cell's mean,
    rho = sum (T_i^2 - sum x^2) / sum (n_i - 1) sum x^2, T_i being the sum over an image: products of two different values of
    one image over what they would be if all were equal. Cells in which more varies weigh more. The sums begin with those of
    `PRIOR` images of which all answers changed at once, since a pool of few changes falls short of the truth: without it a run
    of one method would be called non-inferior at the margin in up to 9 % of simulated runs in place of 2.5 %.

    Source: Donner 1986, International Statistical Review 54 (analysis-of-variance estimators of intraclass correlation).
    """

    together: float = 0.0  # products of different values of one image
    apart: float = 0.0  # what they come to where the values of an image are equal
    cells: int = 0  # that have two values of one image, and vary
    values: int = 0
    squares: int = 0  # sum of squared numbers of values of an image

    def add(self, values: Numbers, images: Iterable[Hashable]) -> None:
        """Take in one cell.

        Args:
            values: [n] scores, or changes of scores; nan is left out.
            images: [n] the image of each.

        Raises:
            ValueError: where the lengths differ.
        """
        codes, (known,) = aligned(images, values)
        if not len(known):
            return
        size = np.bincount(codes)
        self.values, self.squares = self.values + len(known), self.squares + int((size**2).sum())
        centred = known - known.mean()
        total, square = np.bincount(codes, centred), np.bincount(codes, centred**2)
        apart = float(((size - 1) * square).sum())
        if apart <= 0 or len(size) < 2:
            return
        # sums about the mean of few images fall short of those about the true one, by one image in so many
        self.together += float((total**2).sum()) * len(size) / (len(size) - 1) - float(square.sum())
        self.apart += apart
        self.cells += 1

    @property
    def rho(self) -> float:
        """The correlation, within 0 and 1: 1 where no cell told anything of it, as then all answers of an image may be one."""
        each = self.questions_an_image
        prior = PRIOR * each * (each - 1)
        below = self.apart + prior
        return min(1.0, max(0.0, (self.together + prior) / below)) if below > 0 else 1.0

    @property
    def questions_an_image(self) -> float:
        """How many values the image of a value has on average, sum n_i^2 / sum n_i; 1 of none."""
        return self.squares / self.values if self.values else 1.0


def effective_images(sizes: Numbers) -> float:
    """Return how many images of equal size are worth images of these sizes: (sum n)^2 / sum n^2; 0 of none.

    Args:
        sizes: [I] answers about each.

    >>> effective_images([9, 9, 9]), round(effective_images([40, 1, 1]), 2)
    (3.0, 1.1)

    Source: Kish 1965, Survey Sampling, section 11.7.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    squares = float((sizes**2).sum())
    return float(sizes.sum()) ** 2 / squares if squares > 0 else 0.0


def design_effect(questions: float, rho: float, rate: float = 0.0) -> float:
    """Return how many answers of an image go with one of them: 1 + (q - 1) (rho + (1 - rho) rate).

    Of rate 0 it is Kish's design effect, by which the variance of a mean exceeds that of independent answers.

    Args:
        questions: q an image, of images of different sizes sum n^2 / sum n; under 1 counts as 1.
        rho: from `IntraclassCorrelation`.
        rate: how often an answer changes by itself.

    >>> design_effect(9, 0.25)
    3.0

    Source: Kish 1965, Survey Sampling, section 5.4.
    """
    return 1.0 + (max(questions, 1.0) - 1.0) * (rho + (1.0 - rho) * rate)
