"""The family test of differences against all flips of a few images in a loop, and against scipy's permutations of samples."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tasks.own_figures import CircularAccuracy, F1OfYes, MeanScore, MmeScore
from metrics import resampling, step_down
from metrics.arrays import Figure, Floats
from metrics.step_down import FamilyTest, step_down_figures

FIGURES = {"f1": F1OfYes(), "mme": MmeScore(), "circular": CircularAccuracy(), "mean": MeanScore()}


@pytest.fixture
def every_flip(monkeypatch):
    """Signs are not drawn: each combination comes once."""

    def signs(clusters, units, seed, permutations):
        yield np.array(list(product((-1.0, 1.0), repeat=units)))

    monkeypatch.setattr(step_down, "random_signs", signs)


def slow(
    statistic: Figure, observed: Floats, images: int, members: list[int], level: float = 0.05
) -> tuple[Floats, Floats, float]:
    """All flips, one after the other: raw p, the p of each member in the order of what was observed, and the critical value.

    Args:
        statistic: of signs [images] the absolute statistic of each column.
        observed: of each column.
        images: that flip.
        members: columns of the family.
        level: of the critical value.
    """
    draws = [statistic(np.array(signs)) for signs in product((-1.0, 1.0), repeat=images)]
    near, many = 1e-7, len(draws) + 1
    raw = [(1 + sum(draw[m] >= observed[m] - near for draw in draws)) / many for m in range(len(observed))]
    adjusted, left, worst = np.full(len(observed), np.nan), list(members), 0.0
    while left:
        first = max(left, key=lambda m: observed[m])
        worst = max(worst, (1 + sum(max(draw[m] for m in left) >= observed[first] - near for draw in draws)) / many)
        adjusted[first] = worst
        left.remove(first)
    largest = sorted(max(draw[m] for m in members) for draw in draws)
    return np.array(raw), adjusted, largest[-1 - int(level * (len(draws) - 1))]


def of_means(totals: Floats) -> tuple[Figure, Floats]:
    """T of a table of totals [I, M] under signs, and as observed."""
    scale = np.sqrt((totals**2).sum(0))

    def statistic(signs):
        return np.array([abs(signs @ column) / size if size else 0.0 for column, size in zip(totals.T, scale)])

    return statistic, statistic(np.ones(len(totals)))


def same(found: FamilyTest, raw: Floats, adjusted: Floats) -> None:
    assert found.p == pytest.approx(raw)
    assert found.p_adjusted == pytest.approx(adjusted, nan_ok=True)


@pytest.mark.parametrize("members", [[0, 1, 2, 3, 4], [0, 2, 3], [4], [1, 3]])
@pytest.mark.parametrize("seed", range(4))
def test_of_few_images_against_all_flips(every_flip, seed, members):
    """Whole numbers, so that many sums are equal; a column without any change, and another that is the first turned round."""
    rng = np.random.default_rng(seed)
    totals = rng.integers(-1, 4, (8, 5)).astype(float)
    totals[:, 3], totals[:, 4] = 0.0, -totals[:, 0]
    raw, adjusted, critical = slow(*of_means(totals), 8, members)
    found = step_down.step_down(totals, np.isin(range(5), members))
    same(found, raw, adjusted)
    assert found.members == len(members) and found.p[3] == 1.0 and found.p[0] == found.p[4]
    assert np.isnan(found.p_adjusted).tolist() == [m not in members for m in range(5)]
    assert found.critical == pytest.approx(critical)


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_by_chance_the_largest_passes_the_critical_value_at_most_at_the_level(every_flip, level):
    totals = np.random.default_rng(11).normal(size=(9, 4))
    statistic, _ = of_means(totals)
    largest = np.array([statistic(np.array(signs)).max() for signs in product((-1.0, 1.0), repeat=9)])
    critical = step_down.step_down(totals, level=level).critical
    assert np.mean(largest > critical + 1e-9) <= level < np.mean(largest >= critical - 1e-9) + 1 / len(largest)


@pytest.mark.parametrize("kind", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("members", [[0, 1, 2, 3], [1, 3]])
def test_of_figures_against_all_swaps_of_images(every_flip, kind, members):
    """The answers of two methods about an image change sides, for all columns at once; the third column is equal on both."""
    rng, images = np.random.default_rng(5), 7
    shape = (images, 4, 4 if kind is FIGURES["f1"] else 2)
    mine, theirs = (rng.integers(0, high, shape).astype(float) for high in (5, 3))
    if shape[2] == 2:
        mine[..., 1], theirs[..., 1] = 4.0, 4.0
    mine[:, 2] = theirs[:, 2]
    table = []
    for signs in product((False, True), repeat=images):
        one, other = mine.copy(), theirs.copy()
        for image in np.flatnonzero(signs):
            one[image], other[image] = theirs[image], mine[image]
        table.append([float(kind.value(one[:, m].sum(0)) - kind.value(other[:, m].sum(0))) for m in range(4)])
    every, seen = np.array(table), np.array(table[0])
    unit = np.sqrt(((every**2).sum(0) + seen**2) / (len(every) + 1))
    unit[unit == 0] = 1.0
    draws = iter(np.abs(every / unit))
    raw, adjusted, critical = slow(lambda signs: next(draws), np.abs(seen / unit), images, members)
    found = step_down_figures(mine, theirs, kind.value, np.isin(range(4), members))
    same(found, raw, adjusted)
    assert found.p[2] == 1.0 and found.members == len(members) and found.critical == pytest.approx(critical)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_p_is_scipys(seed):
    """Of eleven images scipy makes every permutation of samples; ours are drawn."""
    rng = np.random.default_rng(seed)
    a, b = rng.random((11, 3)).round(1) + 0.15, rng.random((11, 3)).round(1)
    found, draws = step_down.step_down(a - b, seed=seed, draws=40_000), 40_000
    for m in range(3):
        exact = scipy.stats.permutation_test(
            (a[:, m], b[:, m]),
            lambda x, y, axis: np.mean(x - y, axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        ).pvalue
        assert found.p[m] == pytest.approx(exact, abs=4 * (exact * (1 - exact) / draws) ** 0.5 + 2 / draws)


def test_drawn_flips_come_near_to_all_of_them():
    totals = np.random.default_rng(6).integers(-2, 5, (10, 4)).astype(float)
    raw, adjusted, critical = slow(*of_means(totals), 10, [0, 1, 2, 3])
    found = step_down.step_down(totals, seed=3, draws=40_000)
    assert found.p == pytest.approx(raw, abs=0.01) and found.p_adjusted == pytest.approx(adjusted, abs=0.01)
    assert found.critical == pytest.approx(critical, abs=0.02)


def test_of_a_mean_the_test_of_figures_is_nearly_that_of_means():
    """Their statistics differ by what is observed among the draws alone."""
    rng = np.random.default_rng(9)
    mine, theirs = (np.stack([rng.integers(0, 10, (40, 3)), np.full((40, 3), 9)], 2).astype(float) for _ in range(2))
    mine[:, 0, 0] += 2
    means = step_down.step_down(mine[..., 0] - theirs[..., 0])
    figures = step_down_figures(mine, theirs, MeanScore().value)
    assert figures.p == pytest.approx(means.p, abs=2e-4) and figures.p_adjusted == pytest.approx(means.p_adjusted, abs=0.01)
    assert figures.critical == pytest.approx(means.critical, rel=0.03)


def test_many_images_are_flipped_in_groups_and_say_the_same(monkeypatch):
    rng = np.random.default_rng(8)
    totals = rng.integers(-1, 2, (6000, 3)) + rng.integers(-1, 2, (6000, 1)) + np.array([0.0, 0.03, 0.05])
    groups = step_down.step_down(totals)
    known = step_down.step_down(resampling.pooled(totals))
    assert groups.p == pytest.approx(known.p, abs=0.02) and groups.critical == pytest.approx(known.critical, abs=0.05)
    monkeypatch.setattr(resampling, "GROUPS", 10_000)
    each = step_down.step_down(totals)
    assert groups.p == pytest.approx(each.p, abs=0.05) and groups.critical == pytest.approx(each.critical, abs=0.05)
    assert each.p[2] < 0.02 < each.p[0]


def test_many_images_change_sides_in_groups(monkeypatch):
    rng, kind = np.random.default_rng(2), F1OfYes()
    mine, theirs = (rng.integers(0, 3, (3000, 3, 4)).astype(float) for _ in range(2))
    mine[:, 2, 0] += rng.random(3000) < 0.1
    groups = step_down_figures(mine, theirs, kind.value)
    pooled = step_down_figures(resampling.pooled(mine), resampling.pooled(theirs), kind.value, seed=1)
    monkeypatch.setattr(resampling, "GROUPS", 10_000)
    each = step_down_figures(mine, theirs, kind.value, draws=2000)
    for other in (pooled, each):
        assert groups.p == pytest.approx(other.p, abs=0.06) and groups.critical == pytest.approx(other.critical, abs=0.08)
    assert groups.p[2] < 0.01 < groups.p[0]


def test_chunks_do_not_change_the_signs(monkeypatch):
    totals = np.random.default_rng(5).normal(size=(48, 3))
    whole = step_down.step_down(totals)
    monkeypatch.setattr(resampling, "CHUNK", 4800)
    parts = step_down.step_down(totals)
    assert parts.p.tolist() == whole.p.tolist() and parts.p_adjusted.tolist() == whole.p_adjusted.tolist()
    assert parts.critical == pytest.approx(whole.critical)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-2, 3)] * 4), min_size=1, max_size=12), st.permutations(range(4)), st.randoms())
def test_the_order_of_images_and_columns_and_the_sides_do_not_matter(rows, columns, random):
    """Of all flips; those that are drawn fall on other images, of course."""
    totals = np.array(rows, dtype=float)
    with pytest.MonkeyPatch.context() as patch:
        every = lambda clusters, units, seed, draws: iter([np.array(list(product((-1.0, 1.0), repeat=min(units, 12))))])
        patch.setattr(step_down, "random_signs", every)
        found = step_down.step_down(totals)
        mixed = list(range(len(rows)))
        random.shuffle(mixed)
        turned = step_down.step_down(-totals[mixed][:, columns])
    assert turned.p == pytest.approx(found.p[columns]) and turned.p_adjusted == pytest.approx(found.p_adjusted[columns])
    assert (found.p_adjusted >= found.p - 1e-12).all() and (found.p > 0).all() and (found.p_adjusted <= 1).all()
    moved = (totals != 0).any(0)
    assert (found.p[~moved] == 1).all() and np.isnan(found.critical) == (not moved.any())


def test_a_column_alone_is_corrected_for_nothing_and_many_alike_for_little():
    totals = np.random.default_rng(12).normal(0.4, 1, (40, 1))
    alone = step_down.step_down(totals)
    assert alone.p_adjusted == pytest.approx(alone.p)
    same_thing = step_down.step_down(np.repeat(totals, 60, axis=1))
    assert same_thing.p_adjusted == pytest.approx(np.repeat(alone.p, 60))  # Holm would multiply by sixty
    apart = step_down.step_down(np.concatenate([totals, np.random.default_rng(13).normal(size=(40, 59))], 1))
    assert apart.p_adjusted[0] > 5 * alone.p[0] and apart.critical > alone.critical + 0.5


def test_images_prove_what_they_can():
    nine_times = np.full((3, 1), 50.0)
    assert step_down.step_down(nine_times).p[0] > 0.2  # three images prove nothing, however many their questions
    assert step_down.step_down(np.ones((150, 1))).p[0] < 0.001
    assert step_down.step_down(np.ones((60, 2)), draws=99).p.tolist() == [1 / 100] * 2  # and p is never nothing


def test_false_alarms_are_at_the_level_of_the_family():
    rng, alone, family = np.random.default_rng(8), 0, 0
    for seed in range(400):
        common = rng.integers(-1, 2, (20, 1))
        found = step_down.step_down((rng.integers(-1, 2, (20, 6)) + common).astype(float), seed=seed, draws=400)
        alone, family = alone + (found.p[0] <= 0.05), family + (found.p_adjusted.min() <= 0.05)
    for hits in (alone, family):
        assert scipy.stats.binomtest(hits, 400).proportion_ci(0.99).low <= 0.05 and hits >= 4


def test_nothing_and_little():
    mean = MeanScore().value
    nothing = FamilyTest.of_nothing()
    assert nothing.members == 0 and np.isnan(nothing.critical) and not len(nothing.p)
    ones, none = np.ones((5, 2, 2)), np.zeros((0, 2, 2))
    still = [step_down.step_down(table) for table in (np.zeros((5, 2)), np.zeros((0, 2)))]
    for found in (*still, step_down_figures(ones, ones, mean), step_down_figures(none, none, mean)):
        assert found.p.tolist() == found.p_adjusted.tolist() == [1.0, 1.0] and np.isnan(found.critical)
    empty = step_down.step_down(np.zeros((4, 0)))
    assert empty.members == 0 and not len(empty.p)
    no_member = step_down.step_down(np.ones((9, 2)), np.zeros(2, bool))
    assert (no_member.p < 0.02).all() and np.isnan(no_member.p_adjusted).all()
    assert no_member.members == 0 and np.isnan(no_member.critical)


@pytest.mark.parametrize("images", [9, 3000])
def test_where_no_member_changes_there_is_no_critical_value(images):
    """What changes is a control, in no race."""
    totals = np.zeros((images, 3))
    totals[:, 2] = 1.0
    found = step_down.step_down(totals, np.array([True, True, False]))
    assert np.isnan(found.critical) and found.p_adjusted[:2].tolist() == [1.0, 1.0] and found.p[2] < 0.02
    sums = np.stack([totals, np.ones(totals.shape)], 2)
    found = step_down_figures(sums, sums * np.array([0.0, 1.0]), MeanScore().value, np.array([True, True, False]))
    assert np.isnan(found.critical) and found.p_adjusted[:2].tolist() == [1.0, 1.0] and found.p[2] < 0.02


def test_a_column_without_answers_says_nothing():
    mine, theirs = np.ones((9, 2, 2)), np.zeros((9, 2, 2))
    theirs[..., 1] = 1.0
    mine[:, 1] = theirs[:, 1] = 0.0  # no image has an answer of both
    found = step_down_figures(mine, theirs, MeanScore().value)
    assert found.p[0] < 0.02 and found.p[1] == found.p_adjusted[1] == 1.0
    assert found.p_adjusted[0] == found.p[0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a family has"):
        step_down.step_down(np.zeros(3))
    with pytest.raises(ValueError, match="3 members but 2 columns"):
        step_down.step_down(np.zeros((4, 2)), np.ones(3, bool))
    with pytest.raises(ValueError, match="differ"):
        step_down_figures(np.zeros((4, 2, 2)), np.zeros((3, 2, 2)), MeanScore().value)
    with pytest.raises(ValueError, match="differ"):
        step_down_figures(np.zeros((4, 2)), np.zeros((4, 2)), MeanScore().value)
