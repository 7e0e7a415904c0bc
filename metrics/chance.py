"""Summaries of figures held against chance: whether a method keeps less diverse tokens than random choice does."""

from __future__ import annotations

import numpy as np

from metrics.arrays import Clusters, Numbers
from metrics.clusters import cluster_codes
from metrics.signed_rank import signed_rank_p
from metrics.statistics import bootstrap_mean


def summarise_z(
    z: Numbers,
    percentile: Numbers,
    images: Clusters,
    higher_is_diverse: bool,
    seed: int = 0,
) -> dict[str, float | None]:
    """Return whether a method's kept sets are less diverse than chance.

    Args:
        z: [n] of `collapse.z_scores`, in the figure's own direction; nan is left out of the mean.
        percentile: [n] of `collapse.z_scores`.
        images: [n].
        higher_is_diverse: True for effective rank and cells, False for mean cosine.
        seed: of the bootstrap.

    Returns:
        ``value``, ``lo``, ``hi``: mean z with a 95 % interval clustered by image. ``share_below_chance``: share of the
        samples less diverse than the median random subset, ties counting half; its null is 0.5. ``p``: one two-sided
        Wilcoxon signed-rank test of the images' mean percentiles against 0.5 (`signed_rank_p`), images being the
        independent unit; 1.0 where all are at 0.5. None where there is nothing to say.

    Raises:
        ValueError: where the lengths differ.
    """
    scores, ranks = np.asarray(z, dtype=np.float64), np.asarray(percentile, dtype=np.float64)
    codes = cluster_codes(images)
    if not scores.shape == ranks.shape == codes.shape:
        raise ValueError(f"z {scores.shape}, percentile {ranks.shape}, {len(codes)} images differ; give one of each a sample")
    known = ~np.isnan(ranks)
    oriented = ranks[known] if higher_is_diverse else 1.0 - ranks[known]
    share, p = None, None
    if len(oriented):
        off = np.where(np.abs(oriented - 0.5) <= 1e-9, 0.0, oriented - 0.5)
        share = float(np.mean((off < 0) + 0.5 * (off == 0)))
        dense = np.unique(codes[known], return_inverse=True)[1].reshape(-1)
        means = np.bincount(dense, weights=off) / np.bincount(dense)
        # means that mirror each other must tie, as their sums leave 1e-17 of rounding between them
        means = np.round(means, 12)
        p = signed_rank_p(means)
    return {**bootstrap_mean(scores, images, seed=seed).as_dict(), "share_below_chance": share, "p": p}
