"""Permuted labels of methods, against permutations of whole tables; missing answers, budgets of one label, unlike groups."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from metrics.label_permutations import _permutations, permuted_labels
from metrics.ranks import within_rank_sums


def _rows(seed, methods=5, questions=12, budgets=2, effect=0.0):
    """Every method on every question and budget: groups, methods, figure and score, [n] each."""
    rng = np.random.default_rng(seed)
    group, method = (part.ravel() for part in np.indices((questions * budgets, methods)))
    level = rng.normal(size=methods)[method]
    figure = level + rng.normal(size=len(group))
    return group, method, figure, effect * level + rng.normal(size=len(group))


def _rho(group, method, figure, score, order):
    """rho where the scores of method m are held against the ranks of the figures of method order[m]."""
    sums = within_rank_sums(figure, score, group, group)
    u, v = {}, {}
    for row, x, y in zip(sums.rows, sums.x_ranks, sums.y_ranks):
        u[group[row], method[row]], v[group[row], method[row]] = x, y
    pairs = [(u[g, order[m]], v[g, m]) for g, m in v if (g, order[m]) in u]
    x, y = np.array(pairs).T
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


@pytest.mark.parametrize("missing", [0, 15])
def test_all_permutations_are_those_of_the_tables(missing):
    group, method, figure, score = _rows(3, effect=0.7)
    score[np.random.default_rng(0).permutation(len(score))[:missing]] = np.nan
    found = permuted_labels([within_rank_sums(figure, score, group, group)], group, method)
    values = [abs(_rho(group, method, figure, score, order)) for order in permutations(range(5))]
    assert values[0] == pytest.approx(abs(within_rank_sums(figure, score, group, group).value))
    assert found.p[0] == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-9)) and found.least == 1 / 120
    assert found.p[0] == found.p_adjusted[0] and found.methods == 5


def test_random_permutations_estimate_the_same():
    group, method, figure, score = _rows(5, methods=8, effect=0.4)
    sums = [within_rank_sums(figure, score, group, group)]
    found = permuted_labels(sums, group, method, draws=20000)
    values = [abs(_rho(group, method, figure, score, order)) for order in list(permutations(range(8)))[::40]]
    assert found.p[0] == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-9), abs=0.04)
    assert permuted_labels(sums, group, method, draws=20000).p[0] == found.p[0]  # of one seed
    assert found.least == 1 / 20001


@pytest.mark.parametrize("seed", range(5))
def test_a_figure_that_some_methods_lack_permutes_the_others(seed):
    group, method, figure, score = _rows(seed, methods=6)
    other = np.where(method < 4, figure, np.nan)
    both = permuted_labels([within_rank_sums(x, score, group, group) for x in (figure, other)], group, method)
    inside = method < 4
    alone = permuted_labels([within_rank_sums(other[inside], score[inside], group[inside], group[inside])],
                            group[inside], method[inside])  # fmt: skip
    assert both.p[1] == pytest.approx(alone.p[0]) and alone.least == 1 / 24
    assert (both.p_adjusted >= both.p).all()


def test_a_permutation_that_leaves_no_pair_speaks_for_no_relation():
    group, method = np.repeat(np.arange(20), 2), np.tile([0, 1], 20)
    method[20:] += 1  # methods 0 and 1, then 1 and 2, then 2 and 3: 0 and 3 nowhere meet 2 and 0
    method[30:] += 1
    figure, score = np.random.default_rng(0).normal(size=(2, 40))
    sums = within_rank_sums(figure, score, group, group)
    values = []
    for order in permutations(range(4)):
        known = {(g, m) for g, m in zip(group, method)}
        met = any((g, order[m]) in known for g, m in known)
        values.append(abs(_rho(group, method, figure, score, order)) if met else np.inf)
    found = permuted_labels([sums], group, method)
    assert found.p[0] == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-9))
    assert np.isinf(values).any()


def test_under_four_methods_there_is_no_test():
    group, method, figure, score = _rows(7, methods=3, effect=2.0)
    found = permuted_labels([within_rank_sums(figure, score, group, group)], group, method)
    assert np.isnan(found.p[0]) and np.isnan(found.p_adjusted[0]) and found.least is None and found.methods == 3
    nothing = permuted_labels([], group[:0], method[:0])
    assert len(nothing.p) == 0 and nothing.methods == 0 and nothing.least is None


def test_methods_that_share_no_group_are_not_exchanged():
    group, method, figure, score = _rows(8, methods=8, effect=0.5)
    apart = group * 2 + (method >= 4)  # such as methods that keep other numbers of tokens
    found = permuted_labels([within_rank_sums(figure, score, apart, apart)], apart, method)
    assert found.least == 1 / 24**2
    rows = [(*order, *(4 + i for i in last)) for order in permutations(range(4)) for last in permutations(range(4))]
    values = np.array([abs(_rho(apart, method, figure, score, order)) for order in rows])
    assert found.p[0] == pytest.approx(np.mean(values >= values[0] - 1e-9))


@pytest.mark.parametrize("half", [3, 6])  # all permutations; random ones
def test_permutations_stay_within_what_shares_groups(half):
    blocks = [np.arange(half), np.arange(half, 2 * half)]
    labels = _permutations(blocks, 2 * half + 1, seed=0, draws=500)  # the last method is in no block
    assert (labels[:, :half] < half).all() and (np.sort(labels, axis=1) == np.arange(2 * half + 1)).all()
    assert len(labels) == (35 if half == 3 else 500) and (labels[:, half : 2 * half] != blocks[1]).any()


def test_two_rows_of_a_method_in_a_group_stay_apart():
    group, method, figure, score = _rows(9, methods=5, effect=0.5)
    twice = permuted_labels([within_rank_sums(figure, score, group // 2, group // 2)], group // 2, method)
    sums = within_rank_sums(figure, score, group // 2, group // 2)
    products = np.zeros((5, 5))
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        products += np.outer(sums.x_ranks[rows], sums.y_ranks[rows])
    totals = np.array([abs(sum(products[order[m], m] for m in range(5))) for order in permutations(range(5))])
    assert twice.p[0] == pytest.approx(np.mean(totals >= totals[0] - 1e-9))


def test_the_largest_of_many_figures_is_corrected():
    group, method, figure, score = _rows(10, methods=8, effect=0.0)
    rng = np.random.default_rng(1)
    many = [within_rank_sums(rng.normal(size=8)[method] + 0.1 * figure, score, group, group) for _ in range(30)]
    copies = permuted_labels([many[0]] * 30, group, method)
    assert copies.p_adjusted == pytest.approx(copies.p)  # copies are one test
    found = permuted_labels(many, group, method)
    order = np.argsort(found.p_adjusted)
    assert (found.p_adjusted >= found.p).all() and found.p_adjusted[order[0]] > 2 * found.p[order[0]]
    assert found.p_adjusted.min() <= min(1, 30 * found.p.min())
