"""Clusters of samples as codes: the questions of one image belong together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Flags, Floats, Numbers, Whole


def cluster_codes(clusters: Iterable[Hashable]) -> Whole:
    """Return clusters as integers 0..C-1 in order of first appearance: int64 [n]."""
    if isinstance(clusters, np.ndarray) and clusters.dtype.kind == "i" and clusters.ndim == 1:
        return _integer_codes(clusters)
    seen: dict[Hashable, int] = {}
    items = clusters.tolist() if hasattr(clusters, "tolist") else clusters
    return np.array([seen.setdefault(item, len(seen)) for item in items], dtype=np.int64)


def _integer_codes(clusters: NDArray[np.integer]) -> Whole:
    """`cluster_codes` of integers, without a loop."""
    steps = np.diff(clusters)
    if (steps >= 0).all():  # in runs already, as a run folder gives the samples of its images
        return np.concatenate([np.zeros(min(1, len(clusters)), np.int64), np.cumsum(steps > 0)])
    _, first, codes = np.unique(clusters, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[codes]


def chosen(clusters: Sequence[Hashable] | NDArray[np.generic], rows: Flags) -> Sequence[Hashable] | NDArray[np.generic]:
    """Return the clusters of some rows, bool [n]; an array stays one."""
    return clusters[rows] if isinstance(clusters, np.ndarray) else [clusters[int(i)] for i in np.flatnonzero(rows)]


def aligned(clusters: Iterable[Hashable], *columns: Numbers) -> tuple[Whole, list[Floats]]:
    """Return cluster codes and columns of equal length, without the rows that have a nan in any column.

    Args:
        clusters: [n] any hashables, such as the image of each sample.
        columns: [n] each.

    Returns:
        Codes int64 [m], dense from 0 on: a cluster of which no row is left has none, so that it is never drawn; and the
        columns, float64 [m] each.

    Raises:
        ValueError: where the lengths differ.
    """
    codes = cluster_codes(clusters)
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    for array in arrays:
        if array.shape != codes.shape:
            raise ValueError(f"{len(codes)} clusters but values of shape {array.shape}; give one cluster a value")
    whole = np.all([~np.isnan(array) for array in arrays], axis=0)
    if whole.all():
        return codes, arrays
    kept = codes[whole]
    dense = np.cumsum(np.bincount(kept) > 0) - 1
    return dense[kept], [array[whole] for array in arrays]
