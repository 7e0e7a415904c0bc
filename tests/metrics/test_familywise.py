"""The max-T test against slow versions, its level, and its estimates."""

from itertools import combinations, product

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap, ttest_rel
from sklearn.metrics import f1_score

from harness.tasks.own_figures import F1OfYes, MeanScore, MmeScore, ScoredAnswers
from metrics import familywise
from metrics.arrays import Figure
from metrics.resampling import sign_flip


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
    found = familywise.paired(totals, sizes, 0.05)
    known = ttest_rel(*(scores.reshape(30, 4).mean(1) for scores in (before, after)))
    assert found.value[0] == pytest.approx((before - after).mean())
    assert found.se[0] == pytest.approx(found.value[0] / known.statistic)
    assert found.p[0] == pytest.approx(sign_flip(totals[:, 0], 0, 20_000) / 2, abs=0.01)
    assert found.interval(0) == pytest.approx(known.confidence_interval(), abs=0.02)


def test_estimates_of_unpaired_runs_whose_images_have_different_numbers_of_questions():
    rng = np.random.default_rng(6)
    sides = []
    for level in (0.7, 0.5):
        images = np.repeat(np.arange(40), rng.integers(1, 7, 40))
        sides.append((images, (rng.random(len(images)) < level).astype(float)))
    tables = [(np.bincount(i, weights=s)[:, None], np.bincount(i).astype(float)[:, None]) for i, s in sides]
    found = familywise.unpaired(*tables, 0.05)
    assert found.value[0] == pytest.approx(sides[0][1].mean() - sides[1][1].mean()) and found.p[0] < 0.05
    ratio = lambda totals, sizes, axis: totals.sum(axis) / sizes.sum(axis)
    again = [
        bootstrap((t[:, 0], n[:, 0]), ratio, paired=True, method="percentile", rng=np.random.default_rng(0)) for t, n in tables
    ]
    half = sum((one.confidence_interval.high - one.confidence_interval.low) ** 2 for one in again) ** 0.5
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
    """In a world where answers are lost as well as changed; where nothing changed, that takes images enough that change."""
    rng, tried, one_each = np.random.default_rng(8), 200, np.ones((60, 6))
    for churn in (0.2, 0.0):
        changed = lambda: rng.choice([-1.0, 0.0, 1.0], (60, 6), p=[churn / 2, 1 - churn, churn / 2])
        losses, found_ = [familywise.paired(changed(), one_each, 0.01, draws=4000) for _ in range(5)], 0
        loss = float(np.mean([known.detectable()[0] for known in losses]))
        for _ in range(tried):
            totals = changed()
            totals[rng.random(60) < loss, 0] = 1.0
            found_ += familywise.paired(totals, one_each, 0.01, draws=4000).p[0] <= 0.01
        assert 0.72 < found_ / tried < 0.95
    assert losses[0].critical == float("inf") and 7 / 60 < loss < 15 / 60 and (losses[0].piece == 1 / 60).all()
    assert losses[0].images_for(loss) == pytest.approx(60, rel=0.05)
    assert losses[0].images_for(loss / 4) == pytest.approx(240, rel=0.2)  # each image weighs a quarter, and as many must lose


def test_nothing_is_detectable_on_too_few_images():
    equal = familywise.paired(np.zeros((9, 2)), np.full((9, 2), 4.0), 0.0005)
    assert np.isnan(equal.detectable()).all()
    assert (equal.images_for(0.02) > 500).all() and np.isinf(equal.images_for(0.0001 / 1e9)).all()
    assert len(familywise.ColumnLosses.of_nothing(0.01).detectable()) == 0


def test_how_much_an_image_loses_follows_from_what_changed():
    """Without changes all answers of an image at once, with many single ones less; the same by the figure of the sums."""
    rng, sizes = np.random.default_rng(9), np.full((200, 4), 9.0)
    singles = rng.choice([-1.0, 0.0, 1.0], (200, 4), p=[0.2, 0.6, 0.2])
    assert (familywise.paired(0 * singles, sizes, 0.01).piece == 1 / 200).all()
    found = familywise.paired(singles, sizes, 0.01)
    assert (found.piece > 1 / 1800).all() and (found.piece < 0.5 / 200).all()
    before = 5 + singles
    figures = familywise.paired_figures(
        np.stack([before, sizes], 2), np.stack([before - singles, sizes], 2), MeanScore().value, 0.01
    )
    assert figures.piece == pytest.approx(found.piece)


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


def test_of_a_mean_the_swap_of_images_is_the_flip_of_signs():
    rng = np.random.default_rng(11)
    before, after = rng.random((40, 3)) * 4, rng.random((40, 3)) * 3.4
    sizes = np.full(before.shape, 4.0)
    known = familywise.paired(before - after, sizes, 0.01)
    found = familywise.paired_figures(np.stack([before, sizes], 2), np.stack([after, sizes], 2), MeanScore().value, 0.01)
    assert found.value == pytest.approx(known.value) and found.se == pytest.approx(known.se)
    assert found.p == pytest.approx(known.p, abs=0.01) and found.critical == pytest.approx(known.critical, rel=0.03)
    apart = familywise.unpaired((before, sizes), (after, sizes), 0.01)
    found = familywise.unpaired_figures(np.stack([before, sizes], 2), np.stack([after, sizes], 2), MeanScore().value, 0.01)
    assert found.value == pytest.approx(apart.value) and found.se == pytest.approx(apart.se)
    assert found.p == pytest.approx(apart.p, abs=0.01) and found.critical == pytest.approx(apart.critical, rel=0.03)


def yes_or_no(rng, images: int, right: float, questions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """What is wanted and what was said, [images, questions]."""
    wanted = rng.integers(0, 2, (images, questions))
    return wanted, np.where(rng.random(wanted.shape) < right, wanted, 1 - wanted)


def f1_sums(wanted: np.ndarray, said: np.ndarray) -> np.ndarray:
    """The sums of F1, [images, 4]."""
    image = np.repeat(np.arange(len(wanted)), wanted.shape[1])
    answers = ScoredAnswers((wanted == said).ravel() * 1.0, image, np.zeros_like(image), ["all"], wanted.ravel() * 1.0,
                            said.ravel() * 1.0)  # fmt: skip
    return F1OfYes().by_image(answers, len(wanted))


def mme_sums(right: np.ndarray, category: np.ndarray, kinds: int) -> np.ndarray:
    """The sums of MME's score, [images, 2 kinds], of [images, 2] answers."""
    image = np.repeat(np.arange(len(right)), 2)
    nothing = np.full(len(image), np.nan)
    names = [str(i) for i in range(kinds)]
    return MmeScore().by_image(ScoredAnswers(right.ravel() * 1.0, image, category[image], names, nothing, nothing), len(right))


def test_swaps_of_answers_against_all_of_them_by_scikit_learn():
    rng = np.random.default_rng(12)
    wanted, sides = rng.integers(0, 2, (6, 6)), []
    for right in (0.9, 0.55):  # of two cells, on the same questions
        sides.append(np.stack([np.where(rng.random(wanted.shape) < right, wanted, 1 - wanted) for _ in range(2)]))
    before, after = (np.stack([side[0], side[1]]) for side in sides)  # [cells, images, questions]
    sums = [np.stack([f1_sums(wanted, cell) for cell in side], 1) for side in (before, after)]
    found = familywise.paired_figures(*sums, F1OfYes().value, 0.05, draws=60_000)

    def loss(swap: tuple[int, ...]) -> list[float]:
        chosen = np.array(swap, bool)[:, None]
        pairs = ((np.where(chosen, a, b), np.where(chosen, b, a)) for a, b in zip(after, before))
        return [f1_score(wanted.ravel(), b.ravel()) - f1_score(wanted.ravel(), a.ravel()) for b, a in pairs]

    every = np.array([loss(swap) for swap in product((0, 1), repeat=6)])
    own, scale = every[0], np.sqrt((every**2).mean(0))
    assert found.value == pytest.approx(own)
    assert found.p == pytest.approx([((every / scale).max(1) >= t - 1e-9).mean() for t in own / scale], abs=0.01)


def test_splits_of_images_against_all_of_them_by_pandas():
    rng = np.random.default_rng(13)
    right, category = rng.random((8, 2, 2)) < np.where(np.arange(8) < 4, 0.8, 0.5)[:, None, None], np.arange(8) % 2
    sums = np.stack([mme_sums(right[..., cell], category, 2) for cell in range(2)], 1)
    found = familywise.unpaired_figures(sums[:4], sums[4:], MmeScore().value, 0.05, draws=60_000)

    def score(rows: list[int], cell: int) -> float:
        table = pandas.DataFrame({"category": category[rows], "acc": right[rows, :, cell].mean(1),
                                  "plus": right[rows, :, cell].all(1)})  # fmt: skip
        return float(table.groupby("category")[["acc", "plus"]].mean().sum(axis=1).mean() / 2)

    def loss(rows: tuple[int, ...]) -> list[float]:
        rest = [i for i in range(8) if i not in rows]
        return [score(list(rows), cell) - score(rest, cell) for cell in range(2)]

    every = np.array([loss(rows) for rows in combinations(range(8), 4)])
    own, scale = every[0], np.sqrt((every**2).mean(0))
    assert found.value == pytest.approx(own)
    assert found.p == pytest.approx([((every / scale).max(1) >= t - 1e-9).mean() for t in own / scale], abs=0.01)


def test_the_standard_error_of_figures_is_that_of_drawing_images_again():
    rng = np.random.default_rng(14)
    wanted, said = yes_or_no(rng, 120, 0.85)
    one, other = f1_sums(wanted, said), f1_sums(wanted, np.where(rng.random(said.shape) < 0.8, said, 1 - said))
    found = familywise.paired_figures(one[:, None], other[:, None], F1OfYes().value, 0.05)
    figure, draws = F1OfYes().value, rng.integers(0, 120, (2000, 120))
    drawn = figure(one[draws].sum(1)) - figure(other[draws].sum(1))
    assert found.value[0] == pytest.approx(figure(one.sum(0)) - figure(other.sum(0)))
    assert found.se[0] == pytest.approx(drawn.std(), rel=0.08)
    apart = familywise.unpaired_figures(one[:60, None], other[60:, None], F1OfYes().value, 0.05)
    errors = [figure(sums[draws % 60][:, :60].sum(1)).std() for sums in (one[:60], other[60:])]
    assert apart.se[0] == pytest.approx(np.hypot(*errors), rel=0.1)


def equal_builds(kind: str, rng: np.random.Generator, images: int, cells: int) -> tuple[list[np.ndarray], Figure]:
    """Sums of two builds that answer alike but for chance, on the same images and on other ones; abilities of cells differ."""
    ability = np.linspace(-0.5, 2, cells)
    shared = rng.normal(0, 1, (2, images, 1, 1))  # how easy images are, of two sets of them
    own = lambda place, questions: ability + shared[place] + rng.normal(0, 1, (images, questions, cells)) > 0
    if kind == "f1":
        wanted = rng.integers(0, 2, (2, images, 6))
        said = lambda place: (np.where(right, wanted[place], 1 - wanted[place]) for right in np.moveaxis(own(place, 6), -1, 0))
        made = lambda place: np.stack([f1_sums(wanted[place], answers) for answers in said(place)], 1)
    else:
        category = rng.integers(0, 4, (2, images))
        made = lambda place: np.stack([mme_sums(right, category[place], 4) for right in np.moveaxis(own(place, 2), -1, 0)], 1)
    return [made(0), made(0), made(1)], F1OfYes().value if kind == "f1" else MmeScore().value


def false_alarms(kind: str, families: int, level: float, seed: int, draws: int) -> tuple[int, int]:
    """How many of so many pairs of equal builds have any significant loss in 6 cells: on the same images, and on others."""
    rng, paired, unpaired = np.random.default_rng(seed), 0, 0
    for _ in range(families):
        (one, same, other), figure = equal_builds(kind, rng, 24, 6)
        paired += familywise.paired_figures(one, same, figure, level, draws=draws).p.min() <= level
        unpaired += familywise.unpaired_figures(one, other, figure, level, draws=draws).p.min() <= level
    return int(paired), int(unpaired)


@pytest.mark.parametrize("kind", ["f1", "mme"])
def test_equal_builds_differ_in_their_own_figure_as_often_as_the_level_says(kind):
    for hits in false_alarms(kind, 60, 0.1, seed=15, draws=499):
        assert binomtest(hits, 60, 0.1).pvalue > 0.005


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f1", "mme"])
def test_of_a_thousand_pairs_of_equal_builds_as_many_differ_as_the_level_says(kind):
    """With exact binomial intervals: at 5 % as many as that, and at the level of `regress` surely fewer than one in a hundred."""
    for hits in false_alarms(kind, 1000, 0.05, seed=16, draws=499):
        low, high = binomtest(hits, 1000).proportion_ci(0.99, "exact")
        assert low <= 0.05 <= high
    for hits in false_alarms(kind, 1000, 0.0005, seed=17, draws=3999):
        print(f"{kind}: {hits} of 1000 at a level of 0.0005")
        assert binomtest(hits, 1000).proportion_ci(0.99, "exact").high < 0.01


def test_figures_of_columns_without_change_or_answers():
    rng = np.random.default_rng(17)
    wanted, said = yes_or_no(rng, 14, 0.9)
    one, worse = f1_sums(wanted, said), f1_sums(wanted, 1 - wanted)
    before, after = np.stack([one, one * 0, one], 1), np.stack([one, one * 0, worse], 1)
    for test in (familywise.paired_figures, familywise.unpaired_figures):
        found = test(before, after, F1OfYes().value, 0.01)
        assert found.value[0] == 0 and np.isnan(found.value[1]) and found.p[2] < 0.001 and found.p[1] == 1
        nothing = test(before[:0], after[:0], F1OfYes().value, 0.01)
        assert (nothing.p == 1).all() and np.isnan(nothing.value).all()
    assert familywise.paired_figures(before, after, F1OfYes().value, 0.01).p[0] == 1
    with pytest.raises(ValueError, match=r"both are \[images, columns, sums of the figure\]"):
        familywise.paired_figures(before, after[:, :2], F1OfYes().value, 0.01)
    with pytest.raises(ValueError, match="14 images against 13"):
        familywise.paired_figures(before, after[1:], F1OfYes().value, 0.01)


def test_no_outcome_is_rarer_than_the_images_that_differ_allow():
    """Against every swap of eight images: the rarest difference is as rare as the bound says, or commoner; of means, as rare."""
    rng = np.random.default_rng(23)
    signs = np.array(list(product((1, -1), repeat=8)))
    for equal in range(6):
        wanted, said = yes_or_no(rng, 8, 0.8)
        other = np.where((np.arange(8) < equal)[:, None], said, 1 - said)
        one, two = f1_sums(wanted, said), f1_sums(wanted, other)
        found = familywise.paired_figures(one[:, None], two[:, None], F1OfYes().value, 0.05)
        sides = [(one + two).sum(0) / 2 + sign * (signs @ (one - two)) / 2 for sign in (1, -1)]
        gaps = F1OfYes().value(sides[0]) - F1OfYes().value(sides[1])
        differ = int((one != two).any(1).sum())  # half of an image's answers turned round may count as before
        assert found.differing is not None and found.differing[0] == differ <= 8 - equal
        assert found.least_p(0) == 0.5**differ <= np.mean(gaps >= gaps.max() - 1e-9)
        totals = rng.normal(0, 1, (8, 1)) * (np.arange(8) >= equal)[:, None]
        sums = signs @ totals[:, 0]
        assert familywise.paired(totals, np.ones((8, 1)), 0.05).least_p(0) == np.mean(sums >= sums.max() - 1e-9)
    assert familywise.unpaired_figures(one[:, None], two[:, None], F1OfYes().value, 0.05).least_p(0) == 0


def test_a_loss_is_significant_where_it_is_more_than_is_needed():
    rng, level, seen = np.random.default_rng(24), 0.05, set()
    for _ in range(25):
        wanted, said = yes_or_no(rng, 20, 0.9)
        worse = np.where(rng.random(said.shape) < rng.choice([0.05, 0.2]), 1 - said, said)
        one, two = f1_sums(wanted, said)[:, None], f1_sums(wanted, worse)[:, None]
        scores = [(answers == wanted).sum(1, keepdims=True).astype(float) for answers in (said, worse)]
        sizes = np.full((20, 1), 6.0)
        for found in (
            familywise.paired_figures(one, two, F1OfYes().value, level, draws=2000),
            familywise.unpaired_figures(one, two, F1OfYes().value, level, draws=2000),
            familywise.paired(scores[0] - scores[1], sizes, level, draws=2000),
            familywise.unpaired((scores[0], sizes), (scores[1], sizes), level, draws=2000),
        ):
            significant, needed = bool(found.p[0] <= level), found.needed()[0]
            seen.add(significant)
            assert np.isnan(needed) == (found.value[0] <= 0)
            assert significant or not needed < found.value[0] - 1e-6
            assert not significant or needed <= found.value[0] + 1e-6
            assert significant or not found.detectable()[0] < needed
    assert seen == {True, False}
    totals = rng.normal(0.2, 1, (30, 1))
    found = familywise.paired(totals, np.full((30, 1), 4.0), level)
    assert found.needed()[0] == pytest.approx(found.critical * np.sqrt((totals**2).sum()) / 120)
