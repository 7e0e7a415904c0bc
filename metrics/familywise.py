"""Losses between two runs in many cells at once, tested as one family: max-T over whole images. Needs no torch.

All cells of a run answer the same questions, so their chance differences go together. Drawing one set of signs (or one
split of the images) for all cells keeps that, where Holm's correction would give it away; the level is exact for any
number of cells, and 20 000 draws resolve it.

Source: Westfall & Young 1993, Resampling-Based Multiple Testing, section 2.6 (single-step max-T).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

from metrics.arrays import Floats

_CHUNK = 2_000_000  # numbers held at once
DRAWS = 20_000
_POWER = 0.8416  # the normal quantile of a power of 80 %


@dataclass(frozen=True)
class ColumnLosses:
    """What each column lost from the baseline to the candidate; above 0 is a loss. All are float64 [M]."""

    value: Floats  # difference of means, baseline - candidate; nan where nothing was measured
    se: Floats  # cluster-robust standard error
    p: Floats  # one-sided, adjusted over all columns
    critical: float  # the statistic (in standard errors under no change) that is significant at the level

    def interval(self, column: int) -> tuple[float, float]:
        """Return the normal 95 % interval of one column, for display; the test does not use it."""
        half = 1.96 * self.se[column]
        return float(self.value[column] - half), float(self.value[column] + half)

    def detectable(self) -> Floats:
        """Return the loss that the test finds with a power of 80 %, by column: (critical + z) se."""
        return (self.critical + _POWER) * self.se


def paired(totals: Floats, sizes: Floats, level: float, seed: int = 0, draws: int = DRAWS) -> ColumnLosses:
    """Test losses on the same questions: signs of whole images are flipped.

    With t the summed loss of image i in column m, T = sum_i t / sqrt(sum_i t^2), which has mean 0 and variance 1 under
    random signs; p is the share of draws whose largest T over all columns reaches it.

    Args:
        totals: [I, M] sum over an image's questions of baseline - candidate; 0 where nothing was measured.
        sizes: [I, M] how many questions that sums.
        level: at which `ColumnLosses.critical` is given.
        seed: of the signs.
        draws: of signs.

    Raises:
        ValueError: where the shapes differ.
    """
    totals, sizes = _tables(totals, sizes)
    value, se = _mean(totals, sizes)
    scale = np.sqrt((totals**2).sum(0))

    def signs(rng: np.random.Generator, rows: int) -> Floats:
        drawn = rng.integers(0, 2, size=(rows, len(totals)), dtype=np.int8)
        return np.multiply(drawn, 2.0, dtype=np.float64) - 1.0

    return ColumnLosses(value, se, *_max_t(totals, scale, totals.sum(0), signs, level, seed, draws))


def unpaired(
    baseline: tuple[Floats, Floats],
    candidate: tuple[Floats, Floats],
    level: float,
    seed: int = 0,
    draws: int = DRAWS,
) -> ColumnLosses:
    """Test losses between runs on different images of one population: images change sides at random.

    With e = total - (mean of all) size of each image, T = sum of e over the baseline's images, in standard deviations of
    that sum over random splits into sides of the same numbers of images.

    Args:
        baseline: totals and sizes, [Ib, M] each: sum over an image's questions, and how many that sums.
        candidate: the same, [Ic, M].
        level: at which `ColumnLosses.critical` is given.
        seed: of the splits.
        draws: of splits.

    Raises:
        ValueError: where the shapes differ.
    """
    first, second = _tables(*baseline), _tables(*candidate)
    if first[0].shape[1:] != second[0].shape[1:]:
        raise ValueError(f"{first[0].shape[1]} columns against {second[0].shape[1]}; the runs need the same cells")
    (mean_b, se_b), (mean_c, se_c) = _mean(*first), _mean(*second)
    totals, sizes = (np.concatenate([a, b]) for a, b in zip(first, second))
    pooled, _ = _mean(totals, sizes)
    residuals = totals - np.nan_to_num(pooled) * sizes
    count, own = len(residuals), len(first[0])
    centred = residuals - residuals.mean(0)  # splits are blind to a constant
    scale = np.sqrt((centred**2).sum(0) * own * (count - own) / max(count * (count - 1), 1))

    def splits(rng: np.random.Generator, rows: int) -> Floats:
        chosen = rng.random((rows, count)).argpartition(own - 1, axis=1)[:, :own]
        side = np.zeros((rows, count))
        np.put_along_axis(side, chosen, 1.0, axis=1)
        return side

    tested = _max_t(centred, scale, centred[:own].sum(0), splits, level, seed, draws)
    return ColumnLosses(mean_b - mean_c, np.hypot(se_b, se_c), *tested)


def least_p(images: int, others: int | None = None) -> float:
    """Return the smallest p that so many images can give: 2^-I of paired ones, one split in C(Ib + Ic, Ib) of unpaired ones.

    >>> least_p(8)
    0.00390625
    """
    return 0.5**images if others is None else 1 / comb(images + others, images)


def _tables(totals: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    totals, sizes = np.asarray(totals, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    if totals.ndim != 2 or totals.shape != sizes.shape:
        raise ValueError(f"totals {totals.shape} and sizes {sizes.shape} differ; both are [images, columns]")
    return totals, sizes


def _mean(totals: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Ratio of sums and its standard error, sqrt(C / (C - 1) sum r^2) / n with r the images' residuals.

    Source: Cochran 1977, Sampling Techniques, section 6.3 (linearised ratio).
    """
    counts, images = sizes.sum(0), (sizes > 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = totals.sum(0) / counts
        spread = ((totals - np.nan_to_num(mean) * sizes) ** 2).sum(0)
        se = np.sqrt(images / (images - 1) * spread) / counts
    return mean, np.where(images > 1, se, np.nan)


def _max_t(
    table: Floats,
    scale: Floats,
    observed: Floats,
    draw: Callable[[np.random.Generator, int], Floats],
    level: float,
    seed: int,
    draws: int,
) -> tuple[Floats, float]:
    """Adjusted p [M] of the observed sums, and the critical value, from the largest statistic of every draw."""
    still = scale == 0  # a column without any change is no loss
    unit = np.where(still, 1.0, scale)
    reached = np.where(still, 0.0, observed / unit) - 1e-9  # sums in another order differ by rounding; ties are hits
    if not table.size:
        return np.ones(table.shape[1]), float("inf")
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // max(table.shape))
    largest = np.concatenate([(draw(rng, min(rows, draws - start)) @ (table / unit)).max(1) for start in range(0, draws, rows)])
    ordered = np.sort(largest)
    hits = draws - np.searchsorted(ordered, reached, side="left")
    critical = float(ordered[min(draws - 1, int(np.ceil((1 - level) * draws)))])
    return np.where(still, 1.0, (hits + 1) / (draws + 1)), critical
