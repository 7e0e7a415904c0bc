"""Many paired differences tested as one family: two-sided step-down max-T over whole images, on one set of sign flips.

All cells of a run answer the same questions, so their chance differences go together. Flipping each image's sign for all of
them at once keeps that, where Holm's correction would give it away, and no number of cells makes a true difference untestable.

Source: Westfall & Young 1993, Resampling-Based Multiple Testing, algorithm 4.1 (step-down max-T); Phipson & Smyth 2010 (the +1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Figure, Flags, Floats
from metrics.resampling import TIE, in_root_mean_squares, random_signs, swapped_units

DRAWS = 10_000
"""Sign flips of a family; the smallest p is one over one more than that."""
LEVEL = 0.05


@dataclass(frozen=True)
class FamilyTest:
    """What a family of tests came to; M columns, of which some are its members."""

    p: Floats  # [M] two-sided p of each column by itself
    p_adjusted: Floats  # [M] over all members; nan of a column that is none
    critical: float  # what the members' largest statistic passes by chance at the level, in standard errors; nan: none changes
    members: int

    @classmethod
    def of_nothing(cls) -> FamilyTest:
        """Return the test of no column."""
        return cls(np.zeros(0), np.zeros(0), float("nan"), 0)


def step_down(
    totals: Floats, members: Flags | None = None, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> FamilyTest:
    """Test differences of means on the same questions.

    With t the summed difference of image i in column m, T = sum_i t / sqrt(sum_i t^2), which under random signs has mean 0 and
    variance 1. The member with the largest abs(T) is held against the largest of all members in every draw, the next against
    the largest of the others, and so on; no p is smaller than one before it.

    Args:
        totals: [I, M] sum over an image's questions of one method's score less the other's; 0 where nothing was measured.
        members: [M] the columns that are corrected for each other; by default all.
        seed: of the signs.
        draws: of signs.
        level: at which `FamilyTest.critical` is given.

    Raises:
        ValueError: where the shapes differ.
    """
    table = np.asarray(totals, dtype=np.float64)
    chosen = _members(members, table.shape)
    if not table.size:
        return _unmoved(chosen)
    moving = swapped_units(table)
    scale = np.sqrt((moving**2).sum(0))
    unit = np.where(scale > 0, scale, 1.0)
    reached = np.abs(moving.sum(0)) / unit - TIE * (np.abs(moving).sum(0) / unit)
    if not len(moving):
        return _unmoved(chosen)
    parts = moving / unit
    statistics = (np.abs(signs @ parts) for signs in random_signs(len(table), len(moving), seed, draws))
    return _family(statistics, reached, chosen, level)


def step_down_figures(
    mine: Floats,
    theirs: Floats,
    figure: Figure,
    members: Flags | None = None,
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> FamilyTest:
    """Test differences of a figure that is no mean, such as F1: the two methods' answers about an image change sides.

    With F the figure, T = (F(mine) - F(theirs)) / s, where s is the root mean square of that difference over all draws and what
    was observed, as in `familywise.paired_figures`.

    Args:
        mine: [I, M, k] what each image adds to the sums of each column; zeros where nothing was measured.
        theirs: the same of what each column is compared with.
        figure: of sums over images.
        members: [M] the columns that are corrected for each other; by default all.
        seed: of the swaps.
        draws: of swaps.
        level: at which `FamilyTest.critical` is given.

    Raises:
        ValueError: where the shapes differ.

    Source: Hemerik & Goeman 2018, Exact testing with random permutations, TEST 27, theorem 2.
    """
    one, other = np.asarray(mine, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if one.ndim != 3 or one.shape != other.shape:
        raise ValueError(f"sums {one.shape} and {other.shape} differ; both are [images, columns, sums of the figure]")
    chosen = _members(members, one.shape[:2])
    units = swapped_units(one - other)
    if not units.size or not len(units):
        return _unmoved(chosen)
    middle, width = (one.sum(0) + other.sum(0)) / 2, units.shape[1] * units.shape[2]
    observed = figure(one.sum(0)) - figure(other.sum(0))
    found = []
    for signs in random_signs(len(one), len(units), seed, draws):
        step = max(1, 2_000_000 // width)
        for start in range(0, len(signs), step):
            half = (signs[start : start + step] @ units.reshape(len(units), width)).reshape(-1, *units.shape[1:]) / 2
            found.append(figure(middle + half) - figure(middle - half))
    return step_down_draws(observed, np.concatenate(found), chosen, level)


def step_down_draws(observed: Floats, drawn: Floats, members: Flags, level: float = LEVEL) -> FamilyTest:
    """Test figures against what they are under draws of any kind, each in root mean squares of its own draws.

    Args:
        observed: [M].
        drawn: [draws, M]; a draw without a figure, which is not finite, counts as a hit.
        members: [M] the columns that are corrected for each other.
        level: at which `FamilyTest.critical` is given.

    Source: see `resampling.in_root_mean_squares`.
    """
    reached, statistics, _ = in_root_mean_squares(observed, drawn)
    return _family(iter([np.abs(statistics)]), np.abs(reached) - TIE * 10, members, level)


def _unmoved(members: Flags) -> FamilyTest:
    """The test of columns in which nothing changes."""
    return FamilyTest(np.ones(len(members)), np.where(members, 1.0, np.nan), float("nan"), int(members.sum()))


def _members(members: Flags | None, shape: tuple[int, ...]) -> Flags:
    if len(shape) != 2:
        raise ValueError(f"totals are {shape}; a family has [images, columns]")
    chosen: Flags = np.ones(shape[1], bool) if members is None else np.asarray(members, dtype=bool)
    if chosen.shape != shape[1:]:
        raise ValueError(f"{len(chosen)} members but {shape[1]} columns; say of each column whether it is one")
    return chosen


def _family(statistics: Iterator[Floats], reached: Floats, members: Flags, level: float) -> FamilyTest:
    """The p values from absolute statistics of draws [rows, M], and those observed [M]."""
    place = np.flatnonzero(members)
    place = place[np.argsort(-reached[place], kind="stable")]  # the largest first
    alone, together, draws = np.zeros(len(reached)), np.zeros(len(place)), 0
    largest: list[Floats] = []
    for drawn in statistics:
        draws += len(drawn)
        alone += (drawn >= reached).sum(0)
        if len(place):
            rest = np.maximum.accumulate(drawn[:, place[::-1]], axis=1)[:, ::-1]  # the largest of each member and those behind it
            together += (rest >= reached[place]).sum(0)
            largest.append(rest[:, 0])
    adjusted = np.full(len(reached), np.nan)
    adjusted[place] = np.maximum.accumulate((together + 1) / (draws + 1))
    moves = any(part.any() for part in largest)  # else no member changes at all
    critical = float(np.quantile(np.concatenate(largest), 1 - level, method="higher")) if moves else float("nan")
    return FamilyTest((alone + 1) / (draws + 1), adjusted, critical, len(place))
