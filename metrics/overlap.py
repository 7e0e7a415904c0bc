"""Positional bias across images: how much a kept set overlaps what its method keeps elsewhere."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Flags, Floats
from metrics.clusters import cluster_codes


def map_overlap(kept: Sequence[Sequence[bool]] | Flags, images: Iterable[Hashable] | None = None) -> Floats:
    """Return the overlap of each kept set with what the method keeps on other images.

    The mean map of all other images is ranked (ties towards the lower index), and its top K compared with the K kept.

    Args:
        kept: bool [n, N] of one method, budget and grid.
        images: [n] the image of each sample; by default each sample is an image of its own.

    Returns:
        float64 [n] |kept and top K| / K; 1 is a choice that ignores the image, K / N is chance. nan where nothing is
        kept or there is no other image.

    Raises:
        ValueError: where the lengths differ.

    Source: the positional pull of FastV, arXiv:2412.13180.
    """
    sets: Flags = np.asarray(kept, dtype=bool)
    codes = cluster_codes(range(len(sets)) if images is None else images)
    if codes.shape != sets.shape[:1]:
        raise ValueError(f"{len(codes)} images but kept sets of {len(sets)} samples; give one image a sample")
    if not len(sets):
        return np.zeros(0)
    sizes = np.bincount(codes)
    count, starts = len(sizes), np.cumsum(sizes) - sizes
    sums = np.add.reduceat(sets[np.argsort(codes, kind="stable")], starts, axis=0, dtype=np.int64)
    others = sums.sum(0) - sums  # the same for all samples of an image
    rank = np.argsort(np.argsort(-others, axis=-1, kind="stable"), axis=-1)
    size: NDArray[np.int64] = sets.sum(-1)
    shared = (sets & (rank[codes] < size[:, None])).sum(-1) / np.maximum(size, 1)
    return np.where((size > 0) & (count > 1), shared, np.nan)
