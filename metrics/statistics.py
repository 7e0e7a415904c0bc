"""Intervals and tests that respect clusters: the questions of one image are not independent samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Floats, Numbers, Reals, Whole
from metrics.clusters import aligned, cluster_codes
from metrics.resampling import CHUNK, resampled, sign_flip


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; what could not be computed is None."""

    value: float | None
    lo: float | None = None
    hi: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return the form that `summary.json` holds."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b, its interval, the two-sided p and the bootstrap standard error."""

    value: float | None
    lo: float | None
    hi: float | None
    p: float | None
    se: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return the form that `summary.json` holds."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi, "p": self.p}


def _resampled_ratios(totals: Reals, sizes: Reals, seed: int, resamples: int) -> Floats:
    """Sum of totals over sum of sizes for each draw of C clusters with replacement: [resamples]."""
    draws = resampled(np.stack([totals, sizes], 1), seed, resamples)
    ratios: Floats = draws[:, 0] / draws[:, 1]
    return ratios


def percentiles(draws: Floats, level: float) -> tuple[float, float]:
    """Return the interval that holds the middle ``level`` of the draws [n]."""
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


def bootstrap_mean(
    scores: Numbers,
    clusters: Iterable[Hashable],
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return the mean with a percentile interval from resampling clusters.

    A resample draws C clusters with replacement; its mean is the ratio of the sums of scores and of
    counts, since clusters differ in size.

    Args:
        scores: [n]; nan means not measured, and is left out.
        clusters: [n] any hashables; the image of each sample.
        seed: of the resampling.
        resamples: draws.
        level: of the interval.

    Returns:
        The mean in the unit of the scores; value None of no samples, interval None of one cluster.

    Raises:
        ValueError: where the lengths differ.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile); Davison & Hinkley 1997, section 3.8 (clusters).
    """
    codes, (values,) = aligned(clusters, scores)
    if not len(values):
        return Estimate(None)
    mean = float(values.mean())
    totals, sizes = np.bincount(codes, weights=values), np.bincount(codes)
    if len(totals) < 2:
        return Estimate(mean)
    return Estimate(mean, *percentiles(_resampled_ratios(totals, sizes, seed, resamples), level))


def bootstrap_means(
    table: Floats, clusters: Iterable[Hashable], seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> list[Estimate]:
    """Return `bootstrap_mean` of many columns at once, under the same draws of clusters.

    Args:
        table: [n, M]; nan means not measured, and is left out of its column.
        clusters: [n] the image of each sample.
        seed: of the resampling.
        resamples: draws; those without a single value of a column are left out of its interval.
        level: of the interval.

    Returns:
        M figures; value None of a column without values, interval None of one with a single cluster.

    Raises:
        ValueError: where the lengths differ.
    """
    table, codes = np.asarray(table, dtype=np.float64), cluster_codes(clusters)
    if table.ndim != 2 or len(table) != len(codes):
        raise ValueError(f"{len(codes)} clusters but a table of {table.shape}; give one cluster a row")
    if not table.size:
        return [Estimate(None)] * table.shape[1]
    known = ~np.isnan(table)
    count = int(codes.max()) + 1
    totals, sizes = np.zeros((count, table.shape[1])), np.zeros((count, table.shape[1]))
    np.add.at(totals, codes, np.where(known, table, 0.0))
    np.add.at(sizes, codes, known)
    above, below = np.split(resampled(np.concatenate([totals, sizes], 1), seed, resamples), 2, axis=1)
    draws = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    found = []
    for column in range(table.shape[1]):
        size = sizes[:, column]
        if not size.any():
            found.append(Estimate(None))
            continue
        mean = float(totals[:, column].sum() / size.sum())
        kept = draws[~np.isnan(draws[:, column]), column]
        found.append(Estimate(mean, *percentiles(kept, level)) if (size > 0).sum() > 1 else Estimate(mean))
    return found


def bootstrap_ratio(
    above: Numbers,
    below: Numbers,
    clusters: Iterable[Hashable],
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Return the sum of one column over the sum of another, with a percentile interval from resampling clusters.

    Args:
        above: [n]; a row with nan on either side is left out.
        below: [n].
        clusters: [n] the image of each sample.
        seed: of the resampling.
        resamples: draws; those whose lower sum is 0 are left out.
        level: of the interval.

    Returns:
        value None where the lower sum is 0; interval None of one cluster.

    Raises:
        ValueError: where the lengths differ.
    """
    codes, (upper, lower) = aligned(clusters, above, below)
    if not len(codes) or lower.sum() == 0:
        return Estimate(None)
    totals, sizes = np.bincount(codes, weights=upper), np.bincount(codes, weights=lower)
    value = float(totals.sum() / sizes.sum())
    if len(totals) < 2:
        return Estimate(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = _resampled_ratios(totals, sizes, seed, resamples)
    draws = draws[np.isfinite(draws)]
    return Estimate(value, *percentiles(draws, level)) if len(draws) else Estimate(value)


def paired_difference(
    a: Numbers,
    b: Numbers,
    clusters: Iterable[Hashable],
    seed: int = 0,
    resamples: int = 2000,
    permutations: int = 4000,
    level: float = 0.95,
) -> PairedDifference:
    """Return the mean of a - b on the same samples, with a cluster bootstrap interval and a sign-flip test.

    The test flips the sign of each cluster's summed difference at random; p is
    (hits + 1) / (permutations + 1), a hit being a total at least as far from 0 as the observed one.
    It holds for graded scores as for right and wrong.

    Args:
        a: [n] scores; a row with nan on either side is left out.
        b: [n] scores of the same samples.
        clusters: [n] the image of each sample.
        seed: of resampling and flips.
        resamples: bootstrap draws.
        permutations: sign flips.
        level: of the interval.

    Returns:
        The difference in the unit of the scores. All None of no samples; interval None of one cluster.

    Raises:
        ValueError: where the lengths differ.

    Source: Good 2005, Permutation, Parametric and Bootstrap Tests, section 3.2; Phipson & Smyth 2010 (the +1).
    """
    codes, (left, right) = aligned(clusters, a, b)
    if not len(left):
        return PairedDifference(None, None, None, None)
    differences = left - right
    totals, sizes = np.bincount(codes, weights=differences), np.bincount(codes)
    p = sign_flip(totals, seed, permutations)
    if len(totals) < 2:
        return PairedDifference(float(differences.mean()), None, None, p)
    draws = _resampled_ratios(totals, sizes, seed, resamples)
    return PairedDifference(float(differences.mean()), *percentiles(draws, level), p, float(draws.std(ddof=1)))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p values adjusted by Holm's step-down correction, each at most 1, in the order given.

    Args:
        p: raw p values; None (no test) stays None and does not count towards the number of tests.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    raw = {i: float(value) for i, value in enumerate(p) if value is not None}
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, i in enumerate(sorted(raw, key=raw.__getitem__)):
        highest = max(highest, min(1.0, (len(raw) - rank) * raw[i]))
        adjusted[i] = highest
    return adjusted


def mcnemar_exact(a: Numbers, b: Numbers) -> float:
    """Return the p of an exact two-sided McNemar test of two methods' right and wrong answers to the same questions.

    Valid where samples are independent (one question an image); see `paired_difference` otherwise.

    Args:
        a: [n] right or wrong; a score counts as right from 0.5.
        b: [n] of the same samples.

    Returns:
        p; 1.0 where the two never disagree.

    Raises:
        ValueError: where the lengths differ.

    Source: McNemar 1947, Psychometrika 12, in its exact binomial form.
    """
    from scipy.stats import binomtest

    left, right = np.asarray(a, dtype=np.float64) >= 0.5, np.asarray(b, dtype=np.float64) >= 0.5
    if left.shape != right.shape:
        raise ValueError(f"{left.shape} against {right.shape} answers; McNemar pairs the same questions")
    only_left, only_right = int((left & ~right).sum()), int((~left & right).sum())
    if only_left + only_right == 0:
        return 1.0
    return float(binomtest(only_left, only_left + only_right, 0.5).pvalue)


def bootstrap_median(values: Numbers, seed: int = 0, resamples: int = 2000, level: float = 0.95) -> Estimate:
    """Return the median with a percentile bootstrap interval.

    Args:
        values: [n] independent measurements; nan is left out.
        seed: of the resampling.
        resamples: draws.
        level: of the interval.

    Returns:
        The median in the unit of the values; value None of none, interval None of one.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    if not len(array):
        return Estimate(None)
    median = float(np.median(array))
    if len(array) < 2:
        return Estimate(median)
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(array))
    draws = [
        np.median(array[rng.integers(0, len(array), size=(min(rows, resamples - start), len(array)))], axis=1)
        for start in range(0, resamples, rows)
    ]
    return Estimate(median, *percentiles(np.concatenate(draws), level))


def rank_correlation(
    x: Numbers,
    y: Numbers,
    clusters: Iterable[Hashable],
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
) -> Estimate:
    """Return Spearman's rank correlation with an interval from resampling clusters.

    Args:
        x: [n], for instance a diversity figure; a row with nan on either side is left out.
        y: [n], for instance scores.
        clusters: [n] the image of each sample.
        seed: of the resampling.
        resamples: draws; those in which a side is constant are left out.
        level: of the interval.

    Returns:
        rho in [-1, 1]; value None of under three samples or a constant side, interval None of one cluster.

    Raises:
        ValueError: where the lengths differ.

    Source: Spearman 1904, with mid-ranks for ties; clusters as in `bootstrap_mean`.
    """
    codes, (left, right) = aligned(clusters, x, y)
    rho = _spearman(left, right)
    count = int(codes.max()) + 1 if len(codes) else 0
    if rho is None or count < 2:
        return Estimate(rho)
    return Estimate(rho, *_resampled_statistic(lambda rows: _spearman(left[rows], right[rows]), codes, seed, resamples, level))


def _spearman(x: Floats, y: Floats) -> float | None:
    from scipy.stats import rankdata

    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def _resampled_statistic(
    statistic: Callable[[Whole], float | None], codes: Whole, seed: int, resamples: int, level: float
) -> tuple[float | None, float | None]:
    """Interval of a statistic of rows under draws of whole clusters."""
    rng = np.random.default_rng(seed)
    count = int(codes.max()) + 1
    order = np.argsort(codes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(codes, minlength=count))[:-1])
    draws = [statistic(np.concatenate([members[c] for c in rng.integers(0, count, count)])) for _ in range(resamples)]
    kept = np.array([draw for draw in draws if draw is not None])
    return percentiles(kept, level) if len(kept) > 1 else (None, None)
