"""Accuracy by question family, and on hard and easy samples."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from metrics.arrays import Clusters, Flags, Numbers
from metrics.clusters import chosen, cluster_codes
from metrics.intervals import proportion
from metrics.statistics import Estimate

ANSWERED = 0.5
"""A graded score counts as an answer from here on; right and wrong are 1 and 0."""


def by_family(scores: Numbers, families: Clusters, images: Clusters, rho: float = 0.0) -> dict[Hashable, Estimate]:
    """Return the mean score of each question family with its `proportion` interval, in the order of their names.

    Args:
        scores: [n] in [0, 1].
        families: [n] the family of each sample, by name or number; None is no family and left out.
        images: [n].
        rho: correlation of the scores of an image.

    Raises:
        ValueError: where the lengths differ.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values) == len(families) == len(images):
        raise ValueError(f"{len(values)} scores, {len(families)} families, {len(images)} images; give one of each a sample")
    if isinstance(families, np.ndarray) and families.dtype.kind == "i":
        rows = {name: families == name for name in np.unique(families).tolist()}
    else:
        codes = cluster_codes(families)
        rows = {name: codes == code for code, name in enumerate(dict.fromkeys(families)) if name is not None}
    return {name: proportion(values[rows[name]], chosen(images, rows[name]), rho) for name in sorted(rows)}


def difficulty(
    scores: Numbers,
    none_scores: Numbers,
    downsample_scores: Numbers,
    images: Clusters,
    rho: float = 0.0,
) -> dict[str, Estimate | int | None]:
    """Return accuracy on hard and on easy samples.

    Hard: `none` answers and `downsample` at the same budget does not. Easy: both answer. Samples that
    `none` does not answer say nothing about pruning, and are in neither.

    Args:
        scores: [n] of the method.
        none_scores: [n].
        downsample_scores: [n] at the same budget.
        images: [n].
        rho: correlation of the scores of an image.

    Returns:
        ``hard`` and ``easy`` (None where there are no such samples) and ``n_hard``.

    Raises:
        ValueError: where the lengths differ.

    Source: VTC-Bench, arXiv:2510.07143.
    """
    mine, none, small = (np.asarray(s, dtype=np.float64) for s in (scores, none_scores, downsample_scores))
    if not mine.shape == none.shape == small.shape == (len(images),):
        raise ValueError(f"scores {mine.shape}, none {none.shape}, downsample {small.shape}, {len(images)} images differ")
    answered = none >= ANSWERED
    hard, easy = answered & (small < ANSWERED), answered & (small >= ANSWERED)

    def figure(rows: Flags) -> Estimate | None:
        return proportion(mine[rows], chosen(images, rows), rho) if rows.any() else None

    return {"hard": figure(hard), "easy": figure(easy), "n_hard": int(hard.sum())}
