"""Summaries of figures held against chance: whether a method keeps less diverse tokens than random choice does."""

from __future__ import annotations

from typing import Any

import numpy as np

from metrics.arrays import Clusters, Numbers
from metrics.clusters import cluster_codes
from metrics.intervals import mean_interval
from metrics.signed_rank import signed_rank_p

_EQUAL = 1e-9  # shares that differ by no more count as equal
_DIGITS = 12  # means that mirror each other must tie, as their sums leave 1e-17 of rounding between them


def summarise_z(
    z: Numbers,
    percentile: Numbers,
    images: Clusters,
    higher_is_diverse: bool,
    skewed: bool = False,
    ranked: bool = True,
) -> dict[str, Any]:
    """Return whether a method's kept sets are less diverse than chance.

    Args:
        z: [n] of `collapse.z_scores`, in the figure's own direction; nan is left out of the mean.
        percentile: [n] of `collapse.percentiles`, in the figure's own direction; nan is left out.
        images: [n].
        higher_is_diverse: True for effective rank and cells, False for mean cosine.
        skewed: whether the figure is one of `figures.SKEWED`, of which z says little: its mean is None then.
        ranked: whether percentiles are ranks with a known null. Those of runs that counted ties half, or drew one set of
            subsets for all images, have none for the figures of `figures.TIED`.

    Returns:
        ``value``, ``lo``, ``hi``: mean z with a 95 % interval over images. ``percentile``: the mean percentile with its
        ``value``, ``lo``, ``hi``; its null is 0.5. ``share_below_chance``: `share_below` of the percentiles in the direction
        of diversity; its null is 0.5. ``p``: `centre_p` of the percentiles
        against 0.5. None where there is nothing to say.

    Raises:
        ValueError: where the lengths differ.
    """
    scores, ranks = np.asarray(z, dtype=np.float64), np.asarray(percentile, dtype=np.float64)
    codes = cluster_codes(images)
    if not scores.shape == ranks.shape == codes.shape:
        raise ValueError(f"z {scores.shape}, percentile {ranks.shape}, {len(codes)} images differ; give one of each a sample")
    known = ~np.isnan(ranks)
    summary: dict[str, Any] = dict.fromkeys(("value", "lo", "hi", "percentile", "share_below_chance", "p"))
    if not skewed:
        summary |= mean_interval(scores, codes).as_dict()
    if ranked and known.any():
        mean = mean_interval(ranks, codes)
        summary["percentile"] = {name: None if end is None else min(1.0, max(0.0, end)) for name, end in mean.as_dict().items()}
        summary["share_below_chance"] = share_below(ranks if higher_is_diverse else 1.0 - ranks)
        summary["p"] = centre_p(ranks, codes, 0.5)
    return summary


def share_below(percentile: Numbers) -> float | None:
    """Return the share of samples that rank below half of their random subsets; those at just half count half.

    Args:
        percentile: [n], 1 more diverse than all subsets; nan is left out.

    Returns:
        The share in [0, 1], 0.5 on average over random sets; None of no samples.
    """
    off = np.asarray(percentile, dtype=np.float64) - 0.5
    off = off[~np.isnan(off)]
    return float(np.mean((off < -_EQUAL) + 0.5 * (np.abs(off) <= _EQUAL))) if len(off) else None


def centre_p(values: Numbers, images: Clusters, centre: float) -> float | None:
    """Return the two-sided p of the images' means against a centre around which they are symmetric where nothing pulls.

    One Wilcoxon signed-rank test (`signed_rank.signed_rank_p`), images being the independent unit.

    Args:
        values: [n]; nan is left out.
        images: [n].
        centre: in the values' unit.

    Returns:
        p in (0, 1], 1.0 where all images lie at the centre; None of no values.
    """
    codes, shifts = cluster_codes(images), np.asarray(values, dtype=np.float64) - centre
    known = ~np.isnan(shifts)
    if not known.any():
        return None
    dense = np.unique(codes[known], return_inverse=True)[1].reshape(-1)
    means = np.bincount(dense, weights=shifts[known]) / np.bincount(dense)
    return signed_rank_p(np.round(means, _DIGITS))
