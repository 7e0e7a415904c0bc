"""The mean difference of two columns of scores of the same samples, with its interval over images."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np

from metrics.arrays import Numbers, Reals
from metrics.clusters import aligned
from metrics.design_effect import effective_images
from metrics.image_figures import FigureDifference
from metrics.intervals import mean_deviates


def mean_difference(
    a: Numbers, b: Numbers, images: Iterable[Hashable], rho: float = 1.0, rate: float = 0.0
) -> FigureDifference | None:
    """Return the mean of a - b on the same samples with its 95 % interval.

    Args:
        a: [n] scores; a row with nan on either side is left out.
        b: [n] scores of the same samples.
        images: [n] the image of each.
        rho: correlation of the changes of an image, pooled over cells; by default all answers of an image are one.
        rate: how often an answer changes by itself; see `intervals.difference_width`.

    Returns:
        None of no sample.

    Raises:
        ValueError: where the lengths differ.
    """
    codes, (left, right) = aligned(images, a, b)
    if not len(left):
        return None
    differences = left - right
    totals, spread = np.bincount(codes, differences), float(differences.var())
    return difference_of(totals, np.bincount(codes), float(differences.mean()), rho, rate, spread)


def difference_of(
    totals: Reals, sizes: Reals, value: float, rho: float = 1.0, rate: float = 0.0, spread: float | None = None
) -> FigureDifference:
    """Return `mean_difference` from sums over images.

    Args:
        totals: [I] summed difference of each image.
        sizes: [I] how many samples that sums.
        value: the mean.
        rho: see `mean_difference`.
        rate: likewise.
        spread: variance of single differences, where it is known.
    """
    deviates, pieces = mean_deviates(totals, sizes), float(sizes.sum())
    return FigureDifference.of(value, deviates, totals.astype(np.float64), pieces, effective_images(sizes), rho, rate, spread)
