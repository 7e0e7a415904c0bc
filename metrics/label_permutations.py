"""Whether a relation across methods is more than the methods' chance: their labels are permuted, the images stay as they are.

A test that draws images speaks of other images under the same methods. Where two methods differ in a figure and in accuracy,
it finds the relation on ever more images, though two methods differ in everything. Here the methods are the sample.

Source: Mantel 1967, Cancer Research 27 (permuted labels of objects that are measured together); Good 2005, section 3.2;
Westfall & Young 1993, algorithm 4.1 (step-down max-T).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial, prod

import numpy as np

from metrics.arrays import Flags, Floats, Whole
from metrics.ranks import RankSums
from metrics.step_down import step_down_draws

DRAWS = 4000
"""Random permutations where they are not all taken."""
_ENUMERATED = factorial(7)  # up to seven methods that can all change places, every permutation is taken
_LEAST = 24  # permutations of a test: with fewer, of under four methods, no p is small enough to be shown


@dataclass(frozen=True)
class LabelTest:
    """What permuting the methods' labels came to; F figures."""

    p: Floats  # [F] two-sided p of each figure by itself; nan of a figure whose methods have under 24 permutations
    p_adjusted: Floats  # [F] over all figures that are tested; nan likewise
    methods: int  # that have answers and a figure
    least: float | None  # the smallest p that these methods can give; None where no figure is tested


def permuted_labels(figures: Sequence[RankSums], groups: Whole, methods: Whole, seed: int = 0, draws: int = DRAWS) -> LabelTest:
    """Test rank correlations across methods against what the same methods would show under each other's labels.

    A permutation holds each method's scores against the figures of another method, on the same question and budget: with u and
    v the ranks of `within_rank_sums` and C = U'V over all groups [methods, methods], the sum of products of permutation s is
    sum_m C[s(m), m]. A pair of which one side is missing in a group adds nothing, and neither do its squares to the scale, so
    that the statistic is rho over the pairs that are there. All budgets of a method keep one label; methods that nowhere share a
    group are not exchanged. The same permutations serve all figures; a figure that some methods lack skips those. The adjusted
    p are step-down max-T over each figure's rho in root mean squares of its permutations.

    The test is exact where methods are exchangeable. Variants of one method, such as two layers of it, count as methods of their
    own, though they are not independent of each other: many of them make p too small.

    Args:
        figures: rank sums of figures with the score, of the same rows.
        groups: [n] the group of each of these rows, such as question and budget.
        methods: [n] the method of each row, codes 0..M-1.
        seed: of the permutations.
        draws: random permutations, where there are more than 5,040; otherwise all are taken.

    Source: see the module.
    """
    count = int(methods.max(initial=-1)) + 1
    slot = _slots(groups, methods, count)
    seen = np.zeros((int(slot.max(initial=-1)) + 1, count), bool)
    for figure in figures:
        seen[slot[figure.rows], methods[figure.rows]] = True
    blocks = _blocks(seen)
    labels = _permutations(blocks, count, seed, draws)
    drawn = np.zeros((len(labels), len(figures)))
    observed = np.zeros(len(figures))
    tested = np.zeros(len(figures), bool)
    for column, figure in enumerate(figures):
        rows = figure.rows
        mine = np.bincount(methods[rows], minlength=count) > 0
        if figure.value is None or prod(factorial(int(mine[block].sum())) for block in blocks) < _LEAST:
            continue
        tested[column], observed[column] = True, abs(figure.value)
        drawn[:, column] = _permuted(figure, slot[rows], methods[rows], seen.shape, _induced(labels, mine))
    found = step_down_draws(observed, drawn, tested)
    least = 1 / (len(labels) + 1) if tested.any() else None
    return LabelTest(np.where(tested, found.p, np.nan), found.p_adjusted, int(seen.any(0).sum()), least)


def _slots(groups: Whole, methods: Whole, count: int) -> Whole:
    """Code of group and place among the rows of one method there, so that a method has one row a slot: [n]."""
    pair = groups * max(count, 1) + methods
    order = np.argsort(pair, kind="stable")
    starts = np.flatnonzero(np.append(True, pair[order][1:] != pair[order][:-1])) if len(order) else order
    place = np.empty(len(pair), np.int64)
    place[order] = np.arange(len(pair)) - np.repeat(starts, np.diff(np.append(starts, len(pair))))
    codes: Whole = np.unique(groups * (int(place.max(initial=0)) + 1) + place, return_inverse=True)[1].reshape(-1)
    return codes


def _blocks(seen: Flags) -> list[Whole]:
    """The methods that may be exchanged: those linked by slots that they share, of which ``seen`` [slots, methods] tells."""
    linked = (seen.T.astype(np.float64) @ seen) > 0
    for _ in range(len(linked).bit_length()):
        linked = (linked.astype(np.float64) @ linked) > 0
    rows = {tuple(np.flatnonzero(row)) for row in linked if row.any()}
    return [np.array(row, dtype=np.int64) for row in sorted(rows)]


def _permutations(blocks: Sequence[Whole], count: int, seed: int, draws: int) -> Whole:
    """Permutations within blocks, [D, methods]: all but the one that changes nothing, or ``draws`` random ones."""
    same = np.arange(count)
    if prod(factorial(len(block)) for block in blocks) <= _ENUMERATED:
        found = np.array([np.concatenate([same[:0], *order]) for order in product(*map(permutations, blocks))], dtype=np.int64)
        where = np.concatenate([same[:0], *blocks])
        labels = np.tile(same, (len(found), 1))
        labels[:, where] = found
        changed: Whole = labels[(labels != same).any(1)]
        return changed
    rng, labels = np.random.default_rng([seed, 4]), np.tile(same, (draws, 1))
    for block in blocks:
        labels[:, block] = rng.permuted(labels[:, block], axis=1)
    return labels


def _induced(labels: Whole, mine: Flags) -> Whole:
    """What permutations [D, methods] do to some methods, bool [methods], where each cycle skips the others: [D, methods]."""
    found, rows = labels.copy(), np.arange(len(labels))[:, None]
    places = np.flatnonzero(mine)
    went = labels[:, places]
    while (outside := ~mine[went]).any():
        went = np.where(outside, labels[rows, went], went)
    found[:, places] = went
    return found


def _permuted(figure: RankSums, slot: Whole, methods: Whole, shape: tuple[int, ...], labels: Whole) -> Floats:
    """abs(rho) of each permutation [D]; infinite where no pair is left, which counts as a hit."""
    u, v, known = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    u[slot, methods], v[slot, methods], known[slot, methods] = figure.x_ranks, figure.y_ranks, 1.0
    own = np.unique(methods)
    products, left, right = (table[labels[:, own], own].sum(1) for table in (u.T @ v, (u * u).T @ known, known.T @ (v * v)))
    scale = np.sqrt(left * right)
    rho: Floats = np.divide(np.abs(products), scale, out=np.full(len(labels), np.inf), where=scale > 0)
    return rho
