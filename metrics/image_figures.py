"""Intervals and tests of a figure that is made of sums over images, such as F1 or MME's score, and no mean of answers.

Images are what is independent: an interval draws them again, and a test gives each image's answers of one method to the other.
Of a mean, `statistics.bootstrap_mean` and `statistics.paired_difference` are the same thing.
"""

from __future__ import annotations

import numpy as np

from metrics.arrays import Figure, Floats
from metrics.resampling import TIE, random_signs, resampled, swapped_units
from metrics.statistics import Estimate, PairedDifference, percentiles


def bootstrap_figure(sums: Floats, figure: Figure, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> Estimate:
    """Return a figure with a percentile interval from drawing images again.

    The draws are those of `statistics.bootstrap_mean`, so that of a mean the interval is the same.

    Args:
        sums: [I, k] what each image with an answer adds.
        figure: of sums [..., k] the figure [...].
        seed: of the resampling.
        resamples: draws; those of which there is no figure are left out.
        level: of the interval.

    Returns:
        The figure in its own unit; value None of nothing, interval None of one image.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile); Davison & Hinkley 1997, section 3.8 (clusters).
    """
    value = float(figure(sums.sum(0)))
    if np.isnan(value):
        return Estimate(None)
    return Estimate(value, *_interval(figure(resampled(sums, seed, resamples)), level) if len(sums) > 1 else (None, None))


def figure_difference(
    a: Floats,
    b: Floats,
    figure: Figure,
    seed: int = 0,
    resamples: int = 2000,
    permutations: int = 4000,
    level: float = 0.95,
) -> PairedDifference:
    """Return a figure of method a less that of method b on the same answers, with an interval and a test that swaps images.

    The interval draws images again, the same for both. The test gives each image's answers of one method to the other at
    random, makes both figures anew, and p is (hits + 1) / (permutations + 1), a hit being a difference at least as far from 0
    as the observed one.

    Args:
        a: [I, k] what each image adds under the one method, of the answers that both have.
        b: [I, k] under the other.
        figure: of sums [..., k] the figure [...].
        seed: of resampling and swaps.
        resamples: bootstrap draws; those of which there is no difference are left out.
        permutations: swaps.
        level: of the interval.

    Returns:
        The difference in the unit of the figure. All None of nothing; interval None of one image.

    Raises:
        ValueError: where the shapes differ.

    Source: Good 2005, Permutation, Parametric and Bootstrap Tests, section 3.2; for F1, approximate randomisation of Yeh 2000
    (Proceedings of COLING); Phipson & Smyth 2010 (the +1).
    """
    if a.shape != b.shape:
        raise ValueError(f"sums of {a.shape} against {b.shape}; a difference pairs the same images")
    mine, theirs = a.sum(0), b.sum(0)
    value = float(figure(mine) - figure(theirs))
    if np.isnan(value):
        return PairedDifference(None, None, None, None)
    units = swapped_units(a - b)
    reached = abs(value) - TIE * float(np.abs(changes(a, b, figure)).sum())
    middle, hits = (mine + theirs) / 2, 0
    for signs in random_signs(len(a), len(units), seed, permutations) if len(units) else ():
        half = (signs @ units) / 2
        hits += int((np.abs(figure(middle + half) - figure(middle - half)) >= reached).sum())
    p = (hits + 1) / (permutations + 1) if len(units) else 1.0
    if len(a) < 2:
        return PairedDifference(value, None, None, p)
    drawn_a, drawn_b = np.split(resampled(np.concatenate([a, b], 1), seed, resamples), 2, axis=1)
    draws = figure(drawn_a) - figure(drawn_b)
    draws = draws[~np.isnan(draws)]
    se = float(draws.std(ddof=1)) if len(draws) > 1 else None
    lo, hi = _interval(draws, level)
    return PairedDifference(value, lo, hi, p, se)


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


def _interval(draws: Floats, level: float) -> tuple[float, float] | tuple[None, None]:
    known = draws[~np.isnan(draws)]
    return percentiles(known, level) if len(known) else (None, None)
