"""Which methods are worth their cost: the Pareto front of accuracy and cost, and how firm it is."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.resampling import pooled
from metrics.statistics import cluster_codes

_CHUNK = 4_000_000  # numbers held at once


@dataclass(frozen=True)
class FrontShare:
    """The front by the point values, and how often each cell is on it when data are drawn anew."""

    on: np.ndarray  # bool [C]
    share: np.ndarray  # float64 [C] in [0, 1]


def front(accuracy: Sequence[float] | np.ndarray, cost: Sequence[float] | np.ndarray) -> np.ndarray:
    """Cells that no other cell dominates, being no dearer and no less accurate, and better in one of the two.

    Args:
        accuracy: [..., C], higher is better.
        cost: [..., C] of any unit, lower is better; equal cells do not dominate each other.

    Returns:
        bool [..., C]; a cell with nan on either side is never on the front, and dominates none.

    Raises:
        ValueError: where the shapes differ.

    Source: Pareto efficiency in the weak form, as in Kung, Luccio & Preparata 1975 (maxima of a set of vectors).
    """
    accuracy, cost = np.asarray(accuracy, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if accuracy.shape != cost.shape:
        raise ValueError(f"accuracy is {accuracy.shape}, cost {cost.shape}; give one of each a cell")
    rival, own = (..., None, slice(None)), (..., slice(None), None)
    no_worse = (cost[rival] <= cost[own]) & (accuracy[rival] >= accuracy[own])
    better = (cost[rival] < cost[own]) | (accuracy[rival] > accuracy[own])
    return ~(no_worse & better).any(-1) & ~np.isnan(accuracy) & ~np.isnan(cost)


def front_share(
    scores: np.ndarray, images: Sequence[Hashable], costs: np.ndarray, seed: int = 0, resamples: int = 1000
) -> FrontShare:
    """How often each cell is on the front when images, and rounds where costs were timed, are drawn with replacement.

    All cells see the same draw, so that what is common to them (a hard image, a slow round) does not blur their order.

    Args:
        scores: [C, n]; nan means not measured.
        images: [n] the image of each sample.
        costs: [C] fixed, such as FLOPs; or [C, rounds] timed in common rounds, of which the median counts, nan left out.
        seed: of the draws.
        resamples: draws.

    Returns:
        ``on`` by mean score and cost, ``share`` of the draws.

    Raises:
        ValueError: where the lengths differ.

    Source: Efron & Tibshirani 1993, chapter 8 (resampling of the units that are independent).
    """
    scores, costs = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    codes = cluster_codes(images)
    if scores.ndim != 2 or scores.shape[1] != len(codes) or costs.ndim not in (1, 2) or len(costs) != len(scores):
        raise ValueError(
            f"scores {scores.shape}, {len(codes)} images, costs {costs.shape}; give [C, n], [n] and [C] or [C, rounds]"
        )
    measured = np.flatnonzero(np.bincount(codes[~np.isnan(scores).all(0)])) if scores.size else codes[:0]
    totals, sizes = (_by_image(columns, codes)[measured] for columns in (np.nan_to_num(scores), ~np.isnan(scores)))
    means = _means(totals.sum(0), sizes.sum(0))
    totals, sizes = pooled(totals), pooled(sizes)
    timed = costs if costs.ndim == 2 else costs[:, None]
    on = front(means, _medians(timed))
    if not len(measured) or not resamples:
        return FrontShare(on, on.astype(np.float64))
    rng, count, rounds = np.random.default_rng(seed), len(totals), timed.shape[1]
    rows = max(1, _CHUNK // max(1, count, len(scores) * max(len(scores), rounds)))
    hits = np.zeros(len(scores))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
        cost = _medians(timed[:, rng.integers(0, rounds, size=(size, rounds))]).T if rounds > 1 else _medians(timed)
        accuracy = _means(drawn @ totals, drawn @ sizes)
        hits += front(accuracy, np.broadcast_to(cost, accuracy.shape)).sum(0)
    return FrontShare(on, hits / resamples)


def _by_image(columns: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums over the samples of each image: [C, n] to [images, C]."""
    count = int(codes.max()) + 1 if len(codes) else 0
    return np.stack([np.bincount(codes, weights=column, minlength=count) for column in columns], 1)


def _means(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Means without the rounding that would rank equal cells; nan of none."""
    return np.round(np.divide(totals, sizes, out=np.full(totals.shape, np.nan), where=sizes > 0), 12)


def _medians(rounds: np.ndarray) -> np.ndarray:
    """Medians over the last axis, nan left out; nan of none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows that are all nan
        return np.nanmedian(rounds, axis=-1)
