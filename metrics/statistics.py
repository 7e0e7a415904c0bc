"""Tests, corrections and rank correlations that respect clusters: the questions of one image are not independent samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Floats, Numbers, Whole
from metrics.clusters import aligned


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; what could not be computed is None."""

    value: float | None
    lo: float | None = None
    hi: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return the form that `summary.json` holds."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}


def percentiles(draws: Floats, level: float) -> tuple[float, float]:
    """Return the interval that holds the middle ``level`` of the draws [n]."""
    lo, hi = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(lo), float(hi)


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

    Valid where samples are independent (one question an image); see `step_down` otherwise.

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

    Source: Spearman 1904, with mid-ranks for ties; clusters drawn again as a whole: Davison & Hinkley 1997, section 3.8.
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
