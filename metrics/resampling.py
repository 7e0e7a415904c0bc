"""Draws of whole clusters and their sums, made once for all figures of the same clusters; many clusters in random groups.

Beyond `GROUPS` clusters a resample draws random groups of clusters in their place. The variance that groups show is that
of the clusters they are made of (the method of random groups, Wolter 2007, section 2.4), with a relative standard error of
sqrt(1 / (2 * GROUPS)), under 2 % of an interval's width, where 2000 draws leave some 3 % to chance. A sign flipped for a
whole group is one of the flips that a test of clusters allows, so that the test stays exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Flags, Floats, Whole

CHUNK = 2_000_000  # random numbers held at once, which bounds memory at some 16 MB
GROUPS = 2048
TIE = 1e-9
"""Share of the summed changes by which a permuted sum may fall short of the observed one and still equal it."""
_ROWS = 256  # of the draws turned into floats at once


def pooled(sums: Floats) -> Floats:
    """Return sums of each cluster [C, ...] as they are, or of more than `GROUPS` clusters those of random groups.

    The groups are dealt alike every time.
    """
    if len(sums) <= GROUPS:
        return sums
    group, columns = _deal(len(sums)), sums.reshape(len(sums), -1)
    added = [np.bincount(group, weights=column, minlength=GROUPS) for column in columns.T]
    found: Floats = np.stack(added, 1).reshape(GROUPS, *sums.shape[1:]).astype(np.float64, copy=False)
    return found


@lru_cache(maxsize=16)
def _deal(count: int) -> Whole:
    return np.random.default_rng([count, 3]).permutation(count) % GROUPS


@lru_cache(maxsize=16)
def _counts(seed: int, clusters: int, resamples: int) -> NDArray[np.uint8]:
    """How often each draw of C clusters with replacement holds each of them: [resamples, C]."""
    rng, rows = np.random.default_rng(seed), max(1, CHUNK // clusters)
    times = np.empty((resamples, clusters), np.uint8)  # of more than 255 clusters none is ever drawn 256 times
    for start in range(0, resamples, rows):
        drawn = rng.integers(0, clusters, size=(min(rows, resamples - start), clusters))
        drawn += np.arange(len(drawn))[:, None] * clusters
        times[start : start + len(drawn)] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
    times.flags.writeable = False
    return times


def resampled(sums: Floats, seed: int, resamples: int) -> Floats:
    """Return sums over draws of C clusters with replacement.

    Args:
        sums: float64 [C, k], of each cluster.
        seed: of the draws, which are the same for the same number of clusters.
        resamples: draws.

    Returns:
        float64 [resamples, k].
    """
    table: Floats = np.ascontiguousarray(pooled(sums), dtype=np.float64)
    times = _counts(seed, len(table), resamples)
    return np.concatenate([times[i : i + _ROWS].astype(np.float64) @ table for i in range(0, resamples, _ROWS)])


@lru_cache(maxsize=2)
def _signs(seed: int, clusters: int, permutations: int) -> NDArray[np.int8]:
    """Random signs as 0 and 1: int8 [permutations, clusters]."""
    found = np.random.default_rng([seed, 1]).integers(0, 2, size=(permutations, clusters), dtype=np.int8)
    found.flags.writeable = False
    return found


def sign_flip(totals: Floats, seed: int, permutations: int) -> float:
    """Return the two-sided p of the sum of cluster totals [C] under random signs: (hits + 1) / (permutations + 1)."""
    moving = swapped_units(totals)
    if not moving.any():
        return 1.0
    # sums of the same magnitudes in another order differ by rounding; those are ties, and ties are hits
    reached = abs(moving.sum()) - TIE * np.abs(moving).sum()
    drawn = random_signs(len(totals), len(moving), seed, permutations)
    hits = sum(int((np.abs(signs @ moving) >= reached).sum()) for signs in drawn)
    return (hits + 1) / (permutations + 1)


def swapped_units(changes: Floats) -> Floats:
    """Return what changes [C, ...] of clusters flip in a test: those that are not zero, or of many clusters random groups.

    Zeros are the same under either sign; groups keep theirs, so that all figures share one set of signs.
    """
    if len(changes) > GROUPS:
        return pooled(changes)
    moving: Floats = changes[(changes != 0).any(axis=tuple(range(1, changes.ndim)))]
    return moving


def in_root_mean_squares(observed: Floats, drawn: Floats) -> tuple[Floats, Floats, Flags]:
    """Return figures in units of their root mean square over all draws and what was observed, so that columns compare.

    What was observed is one of the draws, and the unit is of all of them alike, so that a test in these units is exact.

    Args:
        observed: [M]; nan is of nothing.
        drawn: [draws, M]; what is not finite has no figure, and counts as reaching any.

    Returns:
        Observed [M] and drawn [draws, M] in these units, and which columns stand still [M], without any change or without
        answers: these are 0 throughout.

    Source: Hemerik & Goeman 2018, Exact testing with random permutations, TEST 27, theorem 2.
    """
    known = np.isfinite(drawn)
    squares = np.where(known, drawn, 0.0) ** 2
    scale = np.sqrt((squares.sum(0) + np.nan_to_num(observed) ** 2) / (known.sum(0) + 1))
    still: Flags = (scale < 1e-12) | np.isnan(observed)
    unit = np.where(still, 1.0, scale)
    statistics = np.where(still, 0.0, np.where(known, drawn / unit, np.inf))
    return np.where(still, 0.0, np.nan_to_num(observed) / unit), statistics, still


def random_signs(clusters: int, units: int, seed: int, permutations: int) -> Iterator[Floats]:
    """Yield random signs, float64 [rows, units] of -1 and 1, until there are as many rows as permutations.

    Args:
        clusters: of which `swapped_units` are made.
        units: how many of these there are.
        seed: of the signs.
        permutations: rows in all.
    """
    many = clusters > GROUPS
    rng = np.random.default_rng([seed, 1])
    rows = _ROWS if many else max(1, CHUNK // units)
    for start in range(0, permutations, rows):
        size = min(rows, permutations - start)
        drawn = (
            _signs(seed, units, permutations)[start : start + size]
            if many
            else rng.integers(0, 2, size=(size, units), dtype=np.int8)
        )
        yield drawn.astype(np.float64) * 2 - 1
