"""The max-T test against slow versions, its level, and its estimates."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import familywise
from metrics.statistics import bootstrap_mean, paired_difference


def test_signs_of_few_images_against_all_of_them():
    rng = np.random.default_rng(3)
    totals = rng.integers(-2, 4, (9, 3)).astype(float)
    found = familywise.paired(totals, np.full(totals.shape, 4.0), 0.05, draws=60_000)
    statistic = lambda t: (t.sum(0) / np.sqrt((t**2).sum(0))).max()
    every = np.array([statistic(totals * np.array(signs)[:, None]) for signs in product((-1, 1), repeat=9)])
    own = totals.sum(0) / np.sqrt((totals**2).sum(0))
    assert found.p == pytest.approx([(every >= t - 1e-9).mean() for t in own], abs=0.01)


def test_splits_of_few_images_against_all_of_them():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.6, 1, (5, 2)), rng.normal(0, 1, (6, 2))
    size = lambda table: np.ones(table.shape)
    found = familywise.unpaired((first, size(first)), (second, size(second)), 0.05, draws=60_000)
    centred = np.concatenate([first, second])
    centred = centred - centred.mean(0)
    scale = np.sqrt((centred**2).sum(0) * 5 * 6 / (11 * 10))
    every = np.array([(centred[list(rows)].sum(0) / scale).max() for rows in combinations(range(11), 5)])
    own = centred[:5].sum(0) / scale
    assert found.p == pytest.approx([(every >= t - 1e-9).mean() for t in own], abs=0.01)


def test_one_column_is_the_one_sided_sign_flip_test():
    rng = np.random.default_rng(5)
    images, before, after = np.repeat(np.arange(30), 4), rng.random(120), rng.random(120) - 0.12
    totals, sizes = np.bincount(images, weights=before - after)[:, None], np.full((30, 1), 4.0)
    found, known = familywise.paired(totals, sizes, 0.05), paired_difference(before, after, images)
    assert found.value[0] == pytest.approx(known.value) and found.se[0] == pytest.approx(known.se, rel=0.06)
    assert found.p[0] == pytest.approx(known.p / 2, abs=0.01)
    assert found.interval(0) == pytest.approx((known.lo, known.hi), abs=0.02)


def test_estimates_of_unpaired_runs_whose_images_have_different_numbers_of_questions():
    rng = np.random.default_rng(6)
    sides = []
    for level in (0.7, 0.5):
        images = np.repeat(np.arange(40), rng.integers(1, 7, 40))
        sides.append((images, (rng.random(len(images)) < level).astype(float)))
    tables = [(np.bincount(i, weights=s)[:, None], np.bincount(i).astype(float)[:, None]) for i, s in sides]
    found = familywise.unpaired(*tables, 0.05)
    assert found.value[0] == pytest.approx(sides[0][1].mean() - sides[1][1].mean()) and found.p[0] < 0.05
    half = sum(((f := bootstrap_mean(s, i)).hi - f.lo) ** 2 for i, s in sides) ** 0.5
    low, high = found.interval(0)
    assert high - low == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("kind", ["paired", "unpaired"])
def test_the_level_is_that_of_the_whole_family(kind):
    rng, hits, families, level = np.random.default_rng(7), 0, 400, 0.1
    ability = np.linspace(-1, 2, 12)
    for _ in range(families):
        shared = rng.normal(0, 1, (16, 5, 1))
        draw = lambda s: (ability + s + rng.normal(0, 1, (16, 5, 12)) > 0).sum(1).astype(float)
        sizes = np.full((16, 12), 5.0)
        if kind == "paired":
            found = familywise.paired(draw(shared) - draw(shared), sizes, level, draws=1000)
        else:
            found = familywise.unpaired((draw(shared), sizes), (draw(rng.normal(0, 1, (16, 5, 1))), sizes), level, draws=1000)
        hits += found.p.min() <= level
    assert 0.05 < hits / families < 0.14


def test_detectable_is_found_four_times_in_five():
    rng, found_, tried = np.random.default_rng(8), 0, 200
    loss = None
    for _ in range(tried):
        noise = rng.normal(0, 1, (60, 6))
        if loss is None:
            loss = float(familywise.paired(noise, np.ones(noise.shape), 0.01, draws=4000).detectable()[0])
        noise[:, 0] += loss
        found_ += familywise.paired(noise, np.ones(noise.shape), 0.01, draws=4000).p[0] <= 0.01
    assert 0.68 < found_ / tried < 0.9


def test_columns_without_change_or_answers():
    totals = np.array([[0.0, 0.0, 1.0]] * 12)
    sizes = np.array([[3.0, 0.0, 3.0]] * 12)
    found = familywise.paired(totals, sizes, 0.01)
    assert found.p[0] == found.p[1] == 1.0 and found.p[2] < 0.001
    assert found.value[0] == 0 and np.isnan(found.value[1]) and found.value[2] == pytest.approx(1 / 3)
    nothing = familywise.paired(np.zeros((0, 2)), np.zeros((0, 2)), 0.01)
    assert (nothing.p == 1).all() and np.isnan(nothing.value).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 5), st.integers(0, 10))
def test_other_columns_never_make_a_loss_more_significant(images, columns, seed):
    totals = np.random.default_rng(seed).normal(0.4, 1, (images, columns))
    sizes = np.ones(totals.shape)
    alone = familywise.paired(totals[:, :1], sizes[:, :1], 0.05, draws=500).p[0]
    assert alone <= familywise.paired(totals, sizes, 0.05, draws=500).p[0]


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"\(3, 2\) and sizes \(3, 1\)"):
        familywise.paired(np.zeros((3, 2)), np.zeros((3, 1)), 0.05)
    with pytest.raises(ValueError, match="the runs need the same cells"):
        familywise.unpaired((np.zeros((3, 2)),) * 2, (np.zeros((3, 1)),) * 2, 0.05)
