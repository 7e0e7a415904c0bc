"""Which methods are worth their cost: the Pareto front of accuracy and cost, and how firm it is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Clusters, Figure, Flags, Floats, Numbers, Whole
from metrics.clusters import cluster_codes
from metrics.resampling import pooled

_CHUNK = 4_000_000  # numbers held at once


@dataclass(frozen=True)
class FrontShare:
    """The front by the point values, and how often each cell is on it when data are drawn anew."""

    on: Flags  # bool [C]
    share: Floats  # float64 [C] in [0, 1]


def front(accuracy: Numbers, cost: Numbers) -> Flags:
    """Return the cells that no other cell dominates, being no dearer and no less accurate, and better in one of the two.

    Args:
        accuracy: [..., C], higher is better.
        cost: [..., C] of any unit, lower is better; equal cells do not dominate each other.

    Returns:
        bool [..., C]; a cell with nan on either side is never on the front, and dominates none.

    Raises:
        ValueError: where the shapes differ.

    Source: Pareto efficiency in the weak form, as in Kung, Luccio & Preparata 1975 (maxima of a set of vectors).
    """
    scores, costs = np.asarray(accuracy, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if scores.shape != costs.shape:
        raise ValueError(f"accuracy is {scores.shape}, cost {costs.shape}; give one of each a cell")
    rival, own = (..., None, slice(None)), (..., slice(None), None)
    no_worse = (costs[rival] <= costs[own]) & (scores[rival] >= scores[own])
    better = (costs[rival] < costs[own]) | (scores[rival] > scores[own])
    on: Flags = ~(no_worse & better).any(-1) & ~np.isnan(scores) & ~np.isnan(costs)
    return on


def front_share(scores: Numbers, images: Clusters, costs: Numbers, seed: int = 0, resamples: int = 1000) -> FrontShare:
    """Return how often each cell is on the front when images, and rounds where costs were timed, are drawn with replacement.

    All cells see the same draw, so that what is common to them (a hard image, a slow round) does not blur their order.

    Args:
        scores: [C, n]; nan means not measured.
        images: [n] the image of each sample.
        costs: [C] fixed, such as FLOPs; or [C, rounds] timed in common rounds, of which the median counts. nan is a round that
            the cell was left out of: of such a cell, as many of its own rounds are drawn as it has.
        seed: of the draws.
        resamples: draws.

    Returns:
        ``on`` by mean score and cost, ``share`` of the draws.

    Raises:
        ValueError: where the lengths differ.

    Source: Efron & Tibshirani 1993, chapter 8 (resampling of the units that are independent).
    """
    answers, prices = np.asarray(scores, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    codes = cluster_codes(images)
    if answers.ndim != 2 or answers.shape[1] != len(codes) or prices.ndim not in (1, 2) or len(prices) != len(answers):
        raise ValueError(
            f"scores {answers.shape}, {len(codes)} images, costs {prices.shape}; give [C, n], [n] and [C] or [C, rounds]"
        )
    measured = np.flatnonzero(np.bincount(codes[~np.isnan(answers).all(0)])) if answers.size else codes[:0]
    totals, sizes = (_by_image(columns, codes)[measured] for columns in (np.nan_to_num(answers), ~np.isnan(answers)))
    return figure_front_share(np.stack([totals, sizes], -1), _means, prices, seed, resamples)


def figure_front_share(sums: Floats, figure: Figure, costs: Numbers, seed: int = 0, resamples: int = 1000) -> FrontShare:
    """Return `front_share` of a figure of sums over images, in place of the mean score.

    Args:
        sums: [images, C, k] what each image adds under each cell.
        figure: of sums [..., k] the figure [...], higher is better; nan is not measured.
        costs: [C] fixed, or [C, rounds]; see `front_share`.
        seed: of the draws.
        resamples: draws.
    """
    prices = np.asarray(costs, dtype=np.float64)
    timed = prices if prices.ndim == 2 else prices[:, None]
    on = front(_level(figure, sums.sum(0)), _medians(timed))
    if not len(sums) or not resamples:
        return FrontShare(on, on.astype(np.float64))
    by_sum = [np.ascontiguousarray(column) for column in np.moveaxis(pooled(sums), -1, 0)]
    rng, count, rounds, cells = np.random.default_rng(seed), len(by_sum[0]), timed.shape[1], len(timed)
    rows = max(1, _CHUNK // max(1, count, cells * max(cells, rounds, len(by_sum))))
    hits = np.zeros(cells)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        cost = _drawn_medians(timed, rng.integers(0, rounds, size=(size, rounds)), rng).T if rounds > 1 else _medians(timed)
        level = _level(figure, np.stack([drawn @ column for column in by_sum], -1))
        hits += front(level, np.broadcast_to(cost, level.shape)).sum(0)
    return FrontShare(on, hits / resamples)


def _by_image(columns: Floats | Flags, codes: Whole) -> Floats:
    """Sums over the samples of each image: [C, n] to [images, C]."""
    count = int(codes.max()) + 1 if len(codes) else 0
    return np.stack([np.bincount(codes, weights=column, minlength=count) for column in columns], 1)


def _means(sums: Floats) -> Floats:
    """Means of totals and sizes [..., 2]; nan of none."""
    totals, sizes = sums[..., 0], sums[..., 1]
    means: Floats = np.divide(totals, sizes, out=np.full(totals.shape, np.nan), where=sizes > 0)
    return means


def _level(figure: Figure, sums: Floats) -> Floats:
    """The figure without the rounding that would rank equal cells."""
    return np.round(figure(sums), 12)


def _drawn_medians(timed: Floats, drawn: Whole, rng: np.random.Generator) -> Floats:
    """Medians of rounds drawn with replacement, [C, draws]; of a cell that was left out of some, of its own rounds alone.

    Args:
        timed: [C, rounds], nan where a cell was left out.
        drawn: [draws, rounds] the rounds of each draw, common to all cells that have all rounds.
        rng: from which cells that have fewer rounds draw theirs, those that have as many the same.
    """
    known = ~np.isnan(timed)
    counts, found = known.sum(1), np.full((len(timed), len(drawn)), np.nan)
    for count in np.unique(counts[counts > 0]):
        cells = np.flatnonzero(counts == count)
        own = timed[cells][known[cells]].reshape(len(cells), count)
        places = drawn if count == timed.shape[1] else rng.integers(0, count, size=(len(drawn), count))
        found[cells] = np.median(own[:, places], axis=-1)
    return found


def _medians(rounds: Floats) -> Floats:
    """Medians over the last axis, nan left out; nan of none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows that are all nan
        medians: Floats = np.nanmedian(rounds, axis=-1)
    return medians
