"""A figure that is made of sums over images, such as a mean, F1 or MME's score: its interval, and its difference between methods.

Images are what is independent. Standard errors come from leaving each image out, which of a mean is the linearised one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metrics.arrays import Figure, Floats
from metrics.intervals import difference_width, fieller_of, figure_deviates, share_error, standard_error, students_t, wilson
from metrics.statistics import Estimate


@dataclass(frozen=True, eq=False)
class Linearised:
    """A figure, or a difference of figures, with its standard error and what each image adds to its error."""

    value: float
    se: float
    deviates: Floats  # [I]
    images: float  # that the images of different sizes are worth

    @classmethod
    def of(cls, sums: Floats, figure: Figure, pieces: float, images: float, rho: float) -> Linearised:
        """Return a figure within [0, 1] that is made of sums over images.

        Args:
            sums: [I, k] what each image adds.
            figure: of sums [..., k].
            pieces: N, of how many the figure is the mean.
            images: that the images of different sizes are worth, see `design_effect.effective_images`.
            rho: correlation of the scores of an image; see `intervals.share_error`.
        """
        value, deviates = float(figure(sums.sum(0))), figure_deviates(sums, figure)
        return cls(value, share_error(value, deviates, pieces, images, rho), deviates, images)

    def over(self, below: Linearised, around: float = 0.0) -> Estimate:
        """Return around + this / below with Fieller's interval.

        Around 1, this being a method less `none` and ``below`` being `none`, it is the method's share of `none`.

        Args:
            below: of the same images.
            around: what is added.

        Returns:
            value None where ``below`` is not above 0; interval None where it is unbounded, as where ``below`` cannot be told
            from 0, and of one image.
        """
        if not below.value > 0:
            return Estimate(None)
        value = around + self.value / below.value
        if len(self.deviates) < 2:
            return Estimate(value)
        # standard errors that were raised leave the correlation as it is
        covariance = _correlation(self.deviates, below.deviates) * self.se * below.se
        variances = self.se**2, below.se**2
        found = fieller_of(self.value, below.value, *variances, covariance, students_t(self.images))
        return Estimate(value) if found is None else Estimate(value, around + found[0], around + found[1])


def _correlation(one: Floats, other: Floats) -> float:
    """Correlation [I] of what images add to two errors, which sum to nearly 0; 0 where one does not vary."""
    size = float((one**2).sum() * (other**2).sum()) ** 0.5
    return float((one * other).sum()) / size if size > 0 else 0.0


@dataclass(frozen=True, eq=False)
class FigureDifference:
    """A figure of one method less that of another, over the answers that both have; in the unit of the figure."""

    value: float
    lo: float | None  # None of one image; within [-1, 1], as differences of shares are
    hi: float | None
    half: float  # width to either side before it is cut off there; infinite of one image
    se: float  # nan of one image; steadied by the pooled design effect
    together: float  # c: answers of an image that change with one of them
    changes: Floats  # [I] pieces by which each image changes the figure; their sum over `pieces` is nearly the value
    pieces: float  # N, of how many the figure is the mean
    deviates: Floats  # [I] what each image adds to the error
    worth: float  # images of equal size that these are worth

    @classmethod
    def of(
        cls,
        value: float,
        deviates: Floats,
        changes: Floats,
        pieces: float,
        worth: float,
        rho: float,
        rate: float,
        spread: float | None = None,
    ) -> FigureDifference:
        """Return a difference with its interval, see `intervals.difference_width`.

        Args:
            value: of the difference, within [-1, 1].
            deviates: [I] what each image adds to the error.
            changes: [I] pieces by which each image changes the figure.
            pieces: N, of how many it is the mean.
            worth: images of equal size that these are worth.
            rho: correlation of the changes of an image, pooled over cells.
            rate: how often an answer changes by itself.
            spread: variance of single changes, where it is known.
        """
        width = difference_width(deviates, changes, pieces, worth, rho, rate, spread)
        known = np.isfinite(width.half)
        lo, hi = (max(-1.0, value - width.half), min(1.0, value + width.half)) if known else (None, None)
        return cls(value, lo, hi, width.half, width.se, width.together, changes, pieces, deviates, worth)

    @property
    def images(self) -> int:
        """How many images have answers of both."""
        return len(self.changes)

    @property
    def as_seen(self) -> Linearised:
        """The same with the standard error over images alone, for what changes on many of them."""
        return Linearised(self.value, standard_error(self.deviates), self.deviates, self.worth)

    @property
    def linearised(self) -> Linearised:
        """The same with the standard error that its interval implies, which allows for what few images do not show."""
        return Linearised(self.value, self.half / students_t(self.worth), self.deviates, self.worth)


def figure_interval(sums: Floats, figure: Figure, pieces: float, images: float, rho: float = 0.0) -> Estimate:
    """Return a figure within [0, 1] with Wilson's interval at the effective number of the pieces of which it is the mean.

    Args:
        sums: [I, k] what each image with an answer adds.
        figure: of sums [..., k] the figure [...].
        pieces: N, of how many the figure is the mean.
        images: that the images of different sizes are worth, see `design_effect.effective_images`.
        rho: correlation of the scores of an image, pooled over cells.

    Returns:
        The figure as a share; value None of nothing, interval None of one image. See `intervals.wilson`.
    """
    value = float(figure(sums.sum(0)))
    if np.isnan(value):
        return Estimate(None)
    if len(sums) < 2 or pieces <= 0:
        return Estimate(value)
    return wilson(value, share_error(value, figure_deviates(sums, figure), pieces, images, rho), images)


def figure_difference(
    mine: Floats, theirs: Floats, figure: Figure, pieces: float, images: float, rho: float, rate: float = 0.0
) -> FigureDifference | None:
    """Return a figure of one method less that of another on the same answers, with its 95 % interval.

    Args:
        mine: [I, k] what each image adds under the one method, of the answers that both have.
        theirs: [I, k] under the other.
        figure: of sums [..., k] the figure [...].
        pieces: N, of how many the figure is the mean.
        images: that the images of different sizes are worth, see `design_effect.effective_images`.
        rho: correlation of the changes of an image, pooled over cells.
        rate: how often an answer changes by itself; see `intervals.difference_width`.

    Returns:
        None where there is no figure on either side.

    Raises:
        ValueError: where the shapes differ.
    """
    if mine.shape != theirs.shape:
        raise ValueError(f"sums of {mine.shape} against {theirs.shape}; a difference pairs the same images")
    value = float(figure(mine.sum(0)) - figure(theirs.sum(0)))
    if np.isnan(value):
        return None
    moved = changes(mine, theirs, figure) * pieces
    deviates = figure_deviates(mine, figure) - figure_deviates(theirs, figure) if len(mine) > 1 else np.zeros(len(mine))
    return FigureDifference.of(value, deviates, moved, pieces, images, rho, rate)


def changes(a: Floats, b: Floats, figure: Figure) -> Floats:
    """Return by how much each image moves the figure from that of method b to that of method a.

    With M half way between the sums of a and of b, and d_i what image i adds more under a, it is
    F(M + d_i / 2) - F(M - d_i / 2): the finite difference of the figure in the direction of one image, half of every other
    image's answers being each method's. Of a mean of n answers it is the image's total difference over n, and the sum over
    images is the difference itself; of a smooth figure that is so to second order, since M is in the middle.

    Args:
        a: [I, k] what each image adds under the one method.
        b: [I, k] under the other.
        figure: of sums [..., k] the figure [...].

    Returns:
        float64 [I], in the unit of the figure.

    Source: the influence of an observation as the infinitesimal jackknife takes it, Efron 1982, The Jackknife, the Bootstrap
    and Other Resampling Plans, chapter 6; a whole image for the small step.
    """
    middle, half = (a.sum(0) + b.sum(0)) / 2, (a - b) / 2
    return figure(middle + half) - figure(middle - half)
