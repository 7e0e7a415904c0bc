"""Losses between two runs in many cells at once, tested as one family: max-T over whole images. Needs no torch.

All cells of a run answer the same questions, so their chance differences go together. Drawing one set of signs (or one
split of the images) for all cells keeps that, where Holm's correction would give it away; the level is exact for any
number of cells, and 20 000 draws resolve it.

Means flip signs of image totals (`paired`, `unpaired`). A figure that is no mean, such as F1, is computed again from the sums
of the images on either side of every draw (`paired_figures`, `unpaired_figures`).

Source: Westfall & Young 1993, Resampling-Based Multiple Testing, section 2.6 (single-step max-T).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

from metrics.arrays import Figure, Flags, Floats, Whole
from metrics.intervals import RARE, students_t
from metrics.loss_power import fewest_images, found_loss, images_that_find, lost_by_an_image
from metrics.resampling import in_root_mean_squares

_CHUNK = 2_000_000  # numbers held at once
DRAWS = 20_000


@dataclass(frozen=True)
class ColumnLosses:
    """What each column lost from the baseline to the candidate; above 0 is a loss. All are float64 [M]."""

    value: Floats  # difference of means or of figures, baseline - candidate; nan where nothing was measured
    se: Floats  # cluster-robust standard error
    p: Floats  # one-sided, adjusted over all columns
    critical: float  # the statistic (in standard errors under no change) that is significant at the level
    statistic: Floats  # of each column; 0 where it has no change or no answers
    differing: Whole | None  # [M] images that differ between paired runs, the only ones whose swap changes anything
    level: float  # at which `critical` is given
    piece: Floats  # of paired runs, what a loss consists of: what one image loses, as a rule; 0 of unpaired runs
    images: Whole  # [M] that have answers; of unpaired runs, of both together

    @classmethod
    def of_nothing(cls, level: float) -> ColumnLosses:
        """Return the test of no column."""
        nothing, none = np.zeros(0), np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing, float("inf"), nothing, None, level, nothing, none)

    def interval(self, column: int) -> tuple[float, float]:
        """Return the 95 % interval of a column of shares, for display; the test does not use it.

        Student's t times the standard error, and of paired runs at least what images that were not seen to change may lose: see
        `metrics.intervals.difference_width`.
        """
        half = max(students_t(int(self.images[column])) * self.se[column], RARE * self.piece[column])
        return max(-1.0, float(self.value[column] - half)), min(1.0, float(self.value[column] + half))

    def detectable(self) -> Floats:
        """Return the loss that the test finds with a power of 80 %, by column, in a world where that is lost.

        With `metrics.loss_power.found_loss`. Equal builds tell how many images must lose (`_critical`) and how much that is, if
        all answers of an image are lost at once. Of a column whose loss is not significant, it is at least what `needed` says;
        nan where the images are too few for any.
        """
        critical, found = self._critical(), np.full(len(self.value), np.nan)
        for column, (se, piece, images) in enumerate(zip(self.se, self.piece, self.images, strict=True)):
            loss = found_loss(float(se), float(piece), int(images), critical)
            found[column] = np.nan if loss is None else loss
        needed = np.where(self.statistic <= self.critical, self.needed(), np.nan)
        return np.where(np.isnan(found), np.nan, np.fmax(found, needed))

    def images_for(self, loss: float) -> Floats:
        """Return about how many images it takes to find a loss with a power of 80 %, by column; of unpaired runs, of each run.

        Args:
            loss: above 0, in the unit of ``value``.
        """
        critical, sides = self._critical(), 2 if self.differing is None else 1
        return np.array([
            images_that_find(float(se), float(piece), int(images), critical, loss) / sides
            for se, piece, images in zip(self.se, self.piece, self.images, strict=True)
        ])  # fmt: skip

    def _critical(self) -> float:
        """The statistic that a lost column must reach, also where no other column changes, so that none was drawn.

        With n images that all lose alike it is sqrt(n), which is significant from as many on as `least_p` says, and surely from
        one more: random signs tell a p at the very level from one below it by luck alone.
        """
        if self.differing is None:
            return self.critical
        alone = float(np.sqrt(fewest_images(self.level) + 1))
        return max(self.critical, alone) if np.isfinite(self.critical) else alone

    def needed(self) -> Floats:
        """Return the loss that would be significant, spread over the images as the observed one is; nan where none is lost."""
        found = np.full(len(self.value), np.nan)
        lost = self.statistic > 0
        found[lost] = self.value[lost] * self.critical / self.statistic[lost]
        return found

    def least_p(self, column: int) -> float:
        """Return a bound under the p of one column, however the images that differ between paired runs lost; 0 of unpaired runs.

        What is equal in both runs is so under any swap.
        """
        return 0.0 if self.differing is None else least_p(int(self.differing[column]))


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
    changed, columns = totals.any(1), totals.any(0)  # what is equal on both sides is so under any sign
    moving = totals[changed][:, columns]

    def signs(rng: np.random.Generator, rows: int) -> Floats:
        drawn = rng.integers(0, 2, size=(rows, len(moving)), dtype=np.int8)
        return np.multiply(drawn, 2.0, dtype=np.float64) - 1.0

    p, statistic = np.ones(totals.shape[1]), np.zeros(totals.shape[1])
    p[columns], critical, statistic[columns] = _max_t(
        moving, np.sqrt((moving**2).sum(0)), moving.sum(0), signs, level, seed, draws
    )
    images = (sizes > 0).sum(0)
    piece = lost_by_an_image(totals / np.maximum(sizes.sum(0), 1), images, level)
    return ColumnLosses(value, se, p, critical, statistic, (totals != 0).sum(0), level, piece, images)


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
        return _splits(rng, rows, count, own)

    tested = _max_t(centred, scale, centred[:own].sum(0), splits, level, seed, draws)
    images = (sizes > 0).sum(0)
    return ColumnLosses(mean_b - mean_c, np.hypot(se_b, se_c), *tested, None, level, np.zeros(len(images)), images)


def paired_figures(
    baseline: Floats, candidate: Floats, figure: Figure, level: float, seed: int = 0, draws: int = DRAWS
) -> ColumnLosses:
    """Test losses of a figure on the same questions: the two runs' sums of whole images change sides.

    With F the figure, T = (F(baseline) - F(candidate)) / s, where s is the root mean square of that difference over all draws
    and what was observed; p is the share of draws whose largest T over all columns reaches it. What was observed is one of
    the draws, and s is of all of them alike, so that the level is exact. Of a mean, T is that of `paired`.

    Args:
        baseline: [I, M, k] what each image adds to the sums of each column; zeros where nothing was measured.
        candidate: the same.
        figure: of sums over images.
        level: at which `ColumnLosses.critical` is given.
        seed: of the swaps.
        draws: of swaps.

    Raises:
        ValueError: where the shapes differ.

    Source: Hemerik & Goeman 2018, Exact testing with random permutations, TEST 27, theorem 2.
    """
    before, after = _figure_tables(baseline, candidate)
    if len(before) != len(after):
        raise ValueError(f"{len(before)} images against {len(after)}; paired runs need the same")
    change = (before - after) / 2
    middle = after.sum(0) + change.sum(0)
    images, moving = change.any((1, 2)), change.any(0)  # what is equal on both sides is so under any swap
    table = change[images][:, moving]

    def swapped(rng: np.random.Generator, rows: int) -> Floats:
        moved = np.zeros((rows, *moving.shape))
        moved[:, moving] = (2.0 * rng.integers(0, 2, size=(rows, len(table)), dtype=np.int8) - 1.0) @ table
        return figure(middle + moved) - figure(middle - moved)

    value = figure(before.sum(0)) - figure(after.sum(0))
    left_out = _without_one(before, figure) - _without_one(after, figure)
    se = _jackknife(left_out - value, (before.any(2) | after.any(2)).sum(0))
    tested = _max_t_of_figures(value, swapped, max(before.shape[0], moving.size), level, seed, draws)
    images = (before.any(2) | after.any(2)).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = figure(before.sum(0)) - figure(before.sum(0) - before + after)  # by each image alone
    return ColumnLosses(value, se, *tested, change.any(2).sum(0), level, lost_by_an_image(lost, images, level), images)


def unpaired_figures(
    baseline: Floats, candidate: Floats, figure: Figure, level: float, seed: int = 0, draws: int = DRAWS
) -> ColumnLosses:
    """Test losses of a figure between runs on different images of one population: images change sides at random.

    T is that of `paired_figures`, over random splits of all images into sides of the same numbers of images.

    Args:
        baseline: [Ib, M, k] what each image adds to the sums of each column.
        candidate: the same, [Ic, M, k].
        figure: of sums over images.
        level: at which `ColumnLosses.critical` is given.
        seed: of the splits.
        draws: of splits.

    Raises:
        ValueError: where the shapes differ.
    """
    before, after = _figure_tables(baseline, candidate)
    both, own = np.concatenate([before, after]), len(before)
    total = both.sum(0)
    table = both.reshape(len(both), total.size)

    def split(rng: np.random.Generator, rows: int) -> Floats:
        mine = (_splits(rng, rows, len(both), own) @ table).reshape(rows, *total.shape)
        return figure(mine) - figure(total - mine)

    value = figure(before.sum(0)) - figure(after.sum(0))
    errors = [_jackknife(_without_one(t, figure) - figure(t.sum(0)), t.any(2).sum(0)) for t in (before, after)]
    tested = _max_t_of_figures(value, split, max(len(both), total.size), level, seed, draws)
    images = before.any(2).sum(0) + after.any(2).sum(0)
    return ColumnLosses(value, np.hypot(*errors), *tested, None, level, np.zeros(len(images)), images)


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


def _figure_tables(baseline: Floats, candidate: Floats) -> tuple[Floats, Floats]:
    before, after = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
    if before.ndim != 3 or before.shape[1:] != after.shape[1:]:
        raise ValueError(f"sums {before.shape} and {after.shape} differ; both are [images, columns, sums of the figure]")
    return before, after


def _splits(rng: np.random.Generator, rows: int, count: int, own: int) -> Floats:
    """Return 1 for images that a draw puts on the first side, [rows, count], ``own`` of them a row."""
    chosen = rng.random((rows, count)).argpartition(own - 1, axis=1)[:, :own]
    side = np.zeros((rows, count))
    np.put_along_axis(side, chosen, 1.0, axis=1)
    return side


def _without_one(sums: Floats, figure: Figure) -> Floats:
    """Return the figure of each column without each image, [I, M]."""
    return figure(sums.sum(0) - sums)


def _jackknife(changes: Floats, images: Whole) -> Floats:
    """Return the standard error [M] from what leaving out each image changes, [I, M]: sqrt((C - 1) / C sum change^2).

    Images that tell nothing of a column change nothing, and do not count.

    Source: Efron & Stein 1981, The jackknife estimate of variance, Annals of Statistics 9.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.sqrt((images - 1) / images * (changes**2).sum(0))
    return np.where(images > 1, se, np.nan)


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
) -> tuple[Floats, float, Floats]:
    """Adjusted p [M] of the observed sums, the critical value and the statistics [M], from the largest one of every draw."""
    still = scale == 0  # a column without any change is no loss
    unit = np.where(still, 1.0, scale)
    reached = np.where(still, 0.0, observed / unit) - 1e-9  # sums in another order differ by rounding; ties are hits
    if not table.size:
        return np.ones(table.shape[1]), float("inf"), np.zeros(table.shape[1])
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // max(table.shape))
    largest = np.concatenate([(draw(rng, min(rows, draws - start)) @ (table / unit)).max(1) for start in range(0, draws, rows)])
    return _adjusted(largest, reached, still, level)


def _max_t_of_figures(
    observed: Floats, draw: Callable[[np.random.Generator, int], Floats], width: int, level: float, seed: int, draws: int
) -> tuple[Floats, float, Floats]:
    """Adjusted p [M] of the observed differences of figures, the critical value and the statistics [M].

    A draw gives differences [rows, M].
    """
    if not width or not len(observed):
        return np.ones(len(observed)), float("inf"), np.zeros(len(observed))
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // width)
    found = np.concatenate([draw(rng, min(rows, draws - start)) for start in range(0, draws, rows)])
    reached, statistics, still = in_root_mean_squares(observed, found)  # what stands still is no loss
    return _adjusted(statistics.max(1), reached - 1e-9, still, level)


def _adjusted(largest: Floats, reached: Floats, still: Flags, level: float) -> tuple[Floats, float, Floats]:
    """Adjusted p [M] of the observed statistics [M], the critical value and the statistics, from the largest of every draw."""
    ordered, draws = np.sort(largest), len(largest)
    hits = draws - np.searchsorted(ordered, reached, side="left")
    critical = float(ordered[min(draws - 1, int(np.ceil((1 - level) * draws)))])
    return np.where(still, 1.0, (hits + 1) / (draws + 1)), critical, np.where(still, 0.0, reached)
