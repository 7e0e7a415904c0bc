"""Rank correlation within groups: what differs between budgets, images or questions cannot explain it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Floats, Numbers, Whole
from metrics.clusters import cluster_codes
from metrics.resampling import resampled
from metrics.statistics import Estimate, percentiles


@dataclass(frozen=True)
class RankSums:
    """Centred ranks and the sums of their products by cluster, from which `within_rank_correlation` takes its ratio."""

    sums: Floats  # [C, 3] of uv, u^2 and v^2
    clusters: Whole  # [C] codes of those clusters, which figures of the same rows share
    rows: Whole  # [n] places of the rows without a nan
    x_ranks: Floats  # [n] u: centred ranks of x within the group, over its size
    y_ranks: Floats  # [n] v: those of y

    @property
    def n(self) -> int:
        """Rows without a nan."""
        return len(self.rows)

    @property
    def value(self) -> float | None:
        """rho; None of under three rows or a side that is constant in all groups."""
        product, x, y = self.sums.sum(0)
        return None if self.n < 3 or x == 0 or y == 0 else float(product / (x * y) ** 0.5)

    def correlation(self, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> Estimate:
        """Return rho with its interval from resampling clusters."""
        if self.value is None or len(self.sums) < 2:
            return Estimate(self.value)
        product, x, y = resampled(self.sums, seed, resamples).T
        varies = (x > 0) & (y > 0)
        draws = product[varies] / np.sqrt(x[varies] * y[varies])
        return Estimate(self.value, *percentiles(draws, level)) if len(draws) > 1 else Estimate(self.value)


def within_rank_sums(
    x: Numbers,
    y: Numbers,
    groups: Iterable[Hashable],
    clusters: Iterable[Hashable],
    spanning: bool = False,
) -> RankSums:
    """Return the sums behind `within_rank_correlation`, of the same arguments: they give value, interval and p."""
    codes, group, left, right = _codes(clusters), _codes(groups), np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not codes.shape == group.shape == left.shape == right.shape:
        sizes = f"x {left.shape}, y {right.shape}, {len(group)} groups, {len(codes)} clusters"
        raise ValueError(f"{sizes}; give one of each a sample")
    whole = np.flatnonzero(~(np.isnan(left) | np.isnan(right)))
    left, right, group = left[whole], right[whole], _codes(group[whole])
    known, codes = np.unique(codes[whole], return_inverse=True)
    if not spanning and len(codes):
        home = np.zeros(group.max() + 1, dtype=np.int64)
        home[group] = codes
        if (home[group] != codes).any():
            raise ValueError("a group has rows of several clusters; give groups within clusters, or spanning=True")
    u, v = _centred_ranks(left, group), _centred_ranks(right, group)
    sums = np.stack([np.bincount(codes, weights=w) for w in (u * v, u * u, v * v)], 1)
    return RankSums(np.asarray(sums, dtype=np.float64), known, whole, u, v)


def products_by_cluster(figures: Sequence[RankSums]) -> Floats:
    """Return the sums of uv of figures of the same rows, one row a cluster that any of them has: [C, F], 0 where one lacks it."""
    count = max((int(one.clusters.max(initial=-1)) + 1 for one in figures), default=0)
    table = np.zeros((count, len(figures)))
    for column, one in enumerate(figures):
        table[one.clusters, column] = one.sums[:, 0]
    return table


def within_rank_correlation(
    x: Numbers,
    y: Numbers,
    groups: Iterable[Hashable],
    clusters: Iterable[Hashable],
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    spanning: bool = False,
) -> Estimate:
    """Return the rank correlation within groups, pooled over them, with an interval from resampling clusters.

    u and v are the mid-ranks of x and y within a group of m rows, less their mean and over m, so that a large group
    does not weigh as the cube of its size: rho = sum uv / sqrt(sum u^2 sum v^2) over all rows. Of one group it is
    Spearman's rho; of several, the partial correlation of ranks given the group, as in a fixed-effects regression:
    what differs between groups cannot explain it. A group in which one side is constant adds nothing to sum uv, but
    the squares of the other side: there the one varied and the other did not follow, which speaks against a relation.
    So where few groups vary on both sides rho is small, however strict the relation is in those.

    A resample is a ratio of the drawn clusters' sums. Where groups span clusters, ranks are those of all rows, not
    taken anew in each draw: the same to first order at rho = 0 (Hajek projection), and of normal data an interval
    that is 4 % too narrow at 0.6 and 10 % at 0.9.

    Args:
        x: [n], for instance a diversity figure; a row with nan on either side is left out before ranking.
        y: [n], for instance scores.
        groups: [n] within which to compare, for instance question and budget.
        clusters: [n] the image of each sample.
        seed: of the resampling.
        resamples: draws; those in which a side is constant are left out.
        level: of the interval.
        spanning: whether groups may span clusters.

    Returns:
        rho in [-1, 1]; value None of under three rows or a side that is constant in all groups, interval None of one
        cluster.

    Raises:
        ValueError: where the lengths differ, or a group has rows of several clusters and ``spanning`` is False.

    Source: Spearman 1904 with mid-ranks; Wooldridge 2010, section 10.5 (within transformation); Davison & Hinkley
    1997, section 3.8 (clusters).
    """
    return within_rank_sums(x, y, groups, clusters, spanning).correlation(seed, resamples, level)


def _codes(labels: Iterable[Hashable]) -> Whole:
    """Labels as 0..C-1; of integers in their order, of others in order of first appearance."""
    if not (isinstance(labels, np.ndarray) and labels.dtype.kind in "iu"):
        labels = cluster_codes(labels)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _centred_ranks(values: Floats, groups: Whole) -> Floats:
    """Mid-ranks within groups 0..G-1, less their mean (m + 1) / 2, over the group's size m: [n]; equal values give 0."""
    order = np.lexsort((values, groups))
    if not len(order):
        return np.zeros(0)
    value, group = values[order], groups[order]
    first = np.append(True, group[1:] != group[:-1])
    opens = np.flatnonzero(first | np.append(True, value[1:] != value[:-1]))  # where each run of equals starts
    lengths = np.diff(np.append(opens, len(order)))
    middle = np.repeat(opens + (lengths - 1) / 2, lengths)
    size = np.bincount(group)[group]
    ranks = np.empty(len(order))
    ranks[order] = (middle - np.flatnonzero(first)[group] - (size - 1) / 2) / size
    return ranks
