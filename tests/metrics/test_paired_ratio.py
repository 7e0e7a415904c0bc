from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import comb, log
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import paired_ratio
from metrics.intervals import students_t
from metrics.medians import median
from metrics.paired_ratio import RatioInterval, ratio_interval, ratio_p

SEED, WORLDS, ROUNDS, RUNS = 24, 250, 40, 12  # worlds of each kind; the most rounds of one; runs of a round
PROMISED = 0.93
SPREADS, WHERE_LOOKING_COUNTS = (0.01, 0.02, 0.05, 0.1), (0.03, 0.05)  # of single times, as standard deviations of logarithms
KINDS = ("normal", "student", "strays", "bursts", "walk", "steps", "linear", "autocorrelated")
ratios_of_rounds = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=40)


def made_up_times(kind: str, random: np.random.Generator, worlds: int, rounds: int, spreads=SPREADS):
    """Times of `none` and of a method, [worlds, rounds] each, and the true median of their ratios, [worlds].

    A round has `RUNS` runs in shuffled order, two of which are these; what the machine does goes on from run to run.
    """
    ratio, spread = np.exp(random.uniform(log(0.8), log(4), worlds)), random.choice(spreads, worlds)
    places = random.random((worlds, rounds, RUNS)).argsort(-1)[..., :2]
    shape = (worlds, rounds * RUNS)
    noise = random.normal(size=(worlds, rounds, 2))
    size = random.uniform(0.2, 1, (worlds, 1))
    machine = np.zeros(shape)
    if kind == "student":
        noise = random.standard_t(1.5, size=noise.shape)
    if kind == "walk":
        machine = np.cumsum(random.normal(size=shape) * 0.05 * size, 1)
    if kind == "steps":
        levels, jumps = random.choice([0, log(1.3), log(2)], shape), random.random(shape) < 0.06 * size
        last = np.maximum.accumulate(np.where(jumps, np.arange(shape[1]), 0), 1)
        machine = np.take_along_axis(levels, last, 1)
    if kind == "linear":
        machine = np.arange(shape[1]) * 0.01 * size
    if kind == "autocorrelated":
        fresh, kept = random.normal(size=(worlds, rounds, RUNS)), 0.5 + 0.45 * size
        for run in range(1, RUNS):
            fresh[..., run] = kept * fresh[..., run - 1] + (1 - kept**2) ** 0.5 * fresh[..., run]
        machine = (0.1 * fresh).reshape(shape)
    if kind == "bursts":  # another process takes its share of some runs in a row
        begun = random.random(shape) < 0.02 * size
        held = begun | np.roll(begun, 1, 1) | np.roll(begun, 2, 1)
        machine = np.where(held, random.uniform(log(2), log(8), shape), 0)
    logs = noise * spread[:, None, None] + np.take_along_axis(machine.reshape(worlds, rounds, RUNS), places, 2)
    logs[..., 0] += np.log(ratio)[:, None]
    if kind == "strays":  # as likely in each second, so that the longer run is hit more often
        hit = random.random(logs.shape) < 0.06 * size[..., None] * np.stack([ratio, np.ones(worlds)], 1)[:, None]
        logs += np.where(hit, random.uniform(log(2), log(50), logs.shape), 0)
        often = 0.06 * size[:, 0] * np.stack([ratio, np.ones(worlds)])
        clean = np.prod(1 - often, 0)
        above, below = often * (1 - often[::-1])
        ratio = ratio * np.exp(scipy.stats.norm.ppf((clean + above - below) / 2 / clean) * spread * 2**0.5)
    return *np.moveaxis(np.exp(logs), -1, 0), ratio


def the_pass(none: np.ndarray, mine: np.ndarray, budget: float, interval_of) -> RatioInterval:
    """What the latency pass ends with: looked at after every round from the third on, until it is known or time is used up."""
    used = np.cumsum(none + mine)
    for rounds in range(3, len(none) + 1):
        found = interval_of(none[:rounds] / mine[:rounds])
        if found.known or used[rounds - 1] >= budget:
            break
    return found


def by_student(ratios: np.ndarray) -> RatioInterval:
    """Student's interval of the mean of logarithms, for a number of rounds fixed in advance."""
    logs = np.log(ratios)
    half = students_t(len(logs)) * logs.std(ddof=1) / len(logs) ** 0.5
    return RatioInterval(*np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]), len(logs))


def by_order_statistics(ratios: np.ndarray) -> RatioInterval:
    """The interval of the median for a number of rounds fixed in advance."""
    return RatioInterval(**median(ratios).as_dict(), rounds=len(ratios))


def by_the_narrower(ratios: np.ndarray) -> RatioInterval:
    """Of both the one that reaches less far."""
    found = [by_student(ratios), by_order_statistics(ratios)]
    return min(found, key=lambda interval: np.inf if interval.reach is None else interval.reach)


def coverage(interval_of, spreads=SPREADS) -> dict[str, tuple[int, int, int, int]]:
    """By kind of world: intervals that hold the truth, intervals, and the same of ratios that ended as known."""
    counted = {}
    for number, kind in enumerate(KINDS):
        random = np.random.default_rng([SEED, number])
        none, mine, truth = made_up_times(kind, random, WORLDS, ROUNDS, spreads)
        budget = random.uniform(6, ROUNDS, WORLDS) * np.median(none + mine, 1)
        ends = [the_pass(*world, interval_of) for world in zip(none, mine, budget)]
        there = np.array([end.lo is not None for end in ends])
        held = np.array([end.lo is not None and end.lo <= true <= end.hi for end, true in zip(ends, truth)])
        known = np.array([end.known for end in ends])
        counted[kind] = int(held.sum()), int(there.sum()), int((held & known).sum()), int(known.sum())
    return counted


def shown(counted: dict[str, tuple[int, int, int, int]]) -> str:
    """Coverage of each kind with its Clopper-Pearson lower bound, a line each."""
    lines = []
    for kind, (held, there, sure, known) in (counted | {"all": tuple(np.sum(list(counted.values()), 0))}).items():
        least = scipy.stats.binomtest(int(held), int(there)).proportion_ci(0.95).low
        all_of_them = f"{held / there:.3f} of {there} intervals (at least {least:.3f})"
        lines.append(f"{kind:15} {all_of_them}, {sure / max(known, 1):.3f} of {known} known")
    return "\n".join(lines)


def share(counted: dict[str, tuple[int, int, int, int]]) -> float:
    held, there = np.sum(list(counted.values()), 0)[:2]
    return float(held / there)


@pytest.mark.parametrize("spreads", [SPREADS, WHERE_LOOKING_COUNTS], ids=str)
def test_it_holds_under_optional_stopping_heavy_tails_and_drift(spreads):
    """2,000 made-up worlds, 250 of each kind, with the stopping rule of the latency pass. Run with -rP to read the figures."""
    counted = coverage(ratio_interval, spreads)
    print(shown(counted))
    assert share(counted) >= PROMISED, shown(counted)
    assert all(held / there >= PROMISED for held, there, _, _ in counted.values()), shown(counted)


@pytest.mark.parametrize("interval_of", [by_student, by_the_narrower], ids=lambda f: f.__name__)
def test_intervals_of_a_fixed_number_of_rounds_are_stopped_while_short_by_accident(interval_of):
    counted = coverage(interval_of, WHERE_LOOKING_COUNTS)
    print(shown(counted))
    assert share(counted) < PROMISED, shown(counted)


def ever_wrong(interval_of) -> float:
    """Of equally fast runs: how often an interval leaves 1 out after any of the rounds, when one would stop and claim a gain."""
    none, mine, truth = made_up_times("normal", np.random.default_rng(SEED), WORLDS, ROUNDS)
    wrong = 0
    for ratios in none / mine / truth[:, None]:
        found = (interval_of(ratios[:rounds]) for rounds in range(3, ROUNDS + 1))
        wrong += any(interval.lo is not None and not interval.lo <= 1 <= interval.hi for interval in found)
    return wrong / WORLDS


def test_it_holds_whenever_one_stops_and_those_of_a_fixed_number_of_rounds_do_not():
    found = {f.__name__: ever_wrong(f) for f in (ratio_interval, by_order_statistics, by_student)}
    print(found)
    assert found["ratio_interval"] <= 1 - PROMISED < 0.1 < min(found["by_order_statistics"], found["by_student"])


def test_the_made_up_truth_is_the_median_of_the_ratios():
    for number, kind in enumerate(KINDS):
        if kind != "linear":  # at its hundredth round a run takes so long that floats end
            none, mine, truth = made_up_times(kind, np.random.default_rng(number), 6, 8_000)
            assert np.abs(np.mean(none < mine * truth[:, None], 1) - 0.5).max() < 4 * 0.5 / 8_000**0.5, kind


def rounds_until_known(spread: float, strays: float, worlds: int = 300) -> np.ndarray:
    """Rounds after which a ratio is known, [worlds], `ROUNDS` + 1 where it is not: logarithms of ratios that spread so far."""
    random = np.random.default_rng([SEED, round(1000 * spread), round(1000 * strays)])
    shape = (worlds, ROUNDS)
    stray = np.where(random.random(shape) < strays, random.uniform(log(2), log(50), shape) * random.choice([-1, 1], shape), 0)
    ratios = np.exp(spread * random.normal(size=shape) + stray)
    known = lambda row: (n for n in range(6, ROUNDS + 1) if ratio_interval(row[:n]).known)
    return np.array([next(known(row), ROUNDS + 1) for row in ratios])


def test_the_documentation_says_how_many_rounds_it_takes():
    text = (Path(__file__).parents[2] / "docs" / "figures.md").read_text(encoding="utf-8")
    for strays in (0.0, 0.08):
        for spread in (0.02, 0.05, 0.1):
            rounds = rounds_until_known(spread, strays)
            half = int(np.quantile(rounds, 0.5, method="inverted_cdf"))
            shares = " | ".join(f"{np.mean(rounds <= limit):.0%}".replace("%", " %") for limit in (6, 12, 20, ROUNDS))
            row = f"| {spread:.0%}".replace("%", " %") + f" | {strays:.0%}".replace("%", " %")
            row += f" | {half if half <= ROUNDS else f'over {ROUNDS}'} | {shares} |"
            print(row)
            assert row in text, f"docs/figures.md, How far a paired ratio is known, lacks: {row}"


def slow_evidence(rounds: int, fewer: int) -> Fraction:
    """M(n, k) in whole numbers: 2^(1 - n) C(2k, k) C(2n - 2k, n - k) / C(n, k), times what (1 - 2p)^2 makes of it."""
    more = rounds - fewer
    arcsine = Fraction(2 * comb(2 * fewer, fewer) * comb(2 * more, more), 2**rounds * comb(rounds, fewer))
    return arcsine * (1 - Fraction((2 * fewer + 1) * (2 * more + 1), (rounds + 1) * (rounds + 2)))


def test_the_evidence_is_a_martingale_of_a_fair_coin():
    assert slow_evidence(1, 0) == slow_evidence(1, 1) == 1
    for n in range(1, 30):
        for k in range(n + 1):
            assert slow_evidence(n, k) == (slow_evidence(n + 1, k) + slow_evidence(n + 1, k + 1)) / 2
            assert paired_ratio._log_evidence(np.array(n), np.array(k)) == pytest.approx(log(slow_evidence(n, k)), abs=1e-9)


def ever(enough: Fraction, rounds: int) -> tuple[Fraction, Fraction]:
    """The chance that a fair coin reaches the evidence within so many rounds, and the most that is added behind them."""
    left, crossed = {0: Fraction(1)}, Fraction(0)
    for n in range(1, rounds + 1):
        grown: dict[int, Fraction] = {}
        for heads, chance in left.items():
            for now in (heads, heads + 1):
                grown[now] = grown.get(now, Fraction(0)) + chance / 2
        left = {heads: chance for heads, chance in grown.items() if slow_evidence(n, heads) < enough}
        crossed += sum(grown.values()) - sum(left.values())
    return crossed, sum(chance * slow_evidence(rounds, heads) for heads, chance in left.items()) / enough


@pytest.mark.parametrize("n, k", [(3, 0), (6, 0), (11, 1), (22, 4), (30, 3)])
def test_the_chance_of_evidence_is_that_of_fair_coins(n, k):
    """Between what is exact for 60 rounds and that with Ville's inequality behind them."""
    enough = slow_evidence(n, k)
    crossed, behind = ever(enough, 60)
    assert float(crossed) <= paired_ratio._chance(log(enough)) <= float(crossed + behind) + 1e-9


def test_the_critical_evidence_is_the_least_that_keeps_the_promise():
    needed = paired_ratio._needed(0.95)
    assert paired_ratio._chance(needed) <= 0.05 < paired_ratio._chance(needed - 1e-3)
    assert np.exp(needed) == pytest.approx(12.0, abs=0.02)
    assert ratio_interval(np.exp(np.random.default_rng(0).normal(size=40))).lo and paired_ratio._looks(0.95)[:10] == [
        *(6, 11, 15, 18, 22, 25, 28, 32, 35, 38)
    ]


def slow_interval(ratios: list[float]) -> tuple[float, float] | None:
    """Every number that no round so far gave enough evidence against, of all prefixes and candidates."""
    enough, lo, hi = Fraction(12.0079), 0.0, np.inf
    for n in range(1, len(ratios) + 1):
        ordered = sorted(ratios[:n])
        for rank in range((n + 1) // 2):
            if slow_evidence(n, rank) >= enough:  # numbers below this ratio have at most `rank` ratios on their lower side
                lo, hi = max(lo, ordered[rank]), min(hi, ordered[-rank - 1])
    return None if lo == 0 else (lo, hi)


@settings(max_examples=60, deadline=None)
@given(ratios_of_rounds)
def test_it_equals_the_slow_version(ratios):
    found, slow, middle = ratio_interval(ratios), slow_interval(ratios), float(np.median(ratios))
    if all(ratio == 1 for ratio in ratios):
        slow = (1.0, 1.0)
    assert found.value == middle and found.rounds == len(ratios)
    expected = slow and (min(*slow, middle), max(*slow, middle))
    assert (found.lo, found.hi) == (expected or (None, None))


@settings(max_examples=60, deadline=None)
@given(ratios_of_rounds, st.floats(0.1, 10.0))
def test_p_is_at_most_a_twentieth_just_where_the_interval_leaves_the_number_out(ratios, against):
    found = ratio_interval(ratios)
    if any(ratio != 1 for ratio in ratios):
        assert (ratio_p(ratios, against) <= 0.05) == (found.lo is not None and not found.lo <= against <= found.hi)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_smallest_level_that_leaves_the_number_out(seed):
    ratios = np.exp(np.random.default_rng(seed).normal(0.05, 0.1, 8 + 4 * seed))
    p = ratio_p(ratios, 1.0)
    out = lambda level: (found := ratio_interval(ratios, level)).lo is not None and not found.lo <= 1 <= found.hi
    assert p == 1 or (out(1 - p * 1.001) and not out(1 - p * 0.999))


def test_more_rounds_never_widen_what_they_agree_with():
    ratios = 1.5 * np.exp(np.random.default_rng(3).normal(size=60) * 0.05)
    ratios[[7, 20, 21]] = 0.05, 40.0, 70.0
    found = [ratio_interval(ratios[:n]) for n in range(6, 61)]
    assert all(b.lo >= a.lo and b.hi <= a.hi for a, b in pairwise(found))
    p = [ratio_p(ratios[:n], 1.3) for n in range(1, 61)]
    assert all(later <= earlier for earlier, later in pairwise(p)) and p[0] == 1 and p[-1] < 1e-6
    levels = [ratio_interval(ratios, level) for level in (0.8, 0.9, 0.95, 0.99, 0.999)]
    assert all(b.lo <= a.lo and b.hi >= a.hi for a, b in pairwise(levels))
    assert sorted(p := [ratio_p(ratios, against) for against in (1.5, 1.45, 1.4, 1.3)], reverse=True) == p


@given(st.lists(st.floats(0.1, 10.0), min_size=6, max_size=30))
def test_the_reverse_ratio_has_the_reverse_interval(ratios):
    there, back = ratio_interval(ratios), ratio_interval(1 / np.array(ratios))
    assert back.lo == pytest.approx(1 / there.hi) and back.hi == pytest.approx(1 / there.lo)
    assert there.lo <= there.value <= there.hi


def test_of_few_rounds_nothing_is_known():
    assert ratio_interval([]) == ratio_interval([np.nan]) == RatioInterval(None, None, None, 0)
    assert ratio_p([]) is None and not ratio_interval([]).known
    few = ratio_interval([2.0, 2.0, 2.0, np.nan, 2.0, 2.0])
    assert few == RatioInterval(2.0, None, None, 5) and few.reach is None and not few.known
    assert 0.05 < ratio_p([2.0] * 5) < 0.1 and ratio_p([2.0] * 6) < 0.05 and ratio_p([2.0]) == 1
    assert ratio_interval([2.0] * 6) == RatioInterval(2.0, 2.0, 2.0, 6)


def test_none_to_itself_is_exactly_1():
    for rounds in (1, 3, 30):
        found = ratio_interval([1.0] * rounds)
        assert found == RatioInterval(1.0, 1.0, 1.0, rounds) and found.known and found.reach == 0 and ratio_p([1.0] * rounds) == 1


def test_reach_is_that_of_the_further_end():
    assert RatioInterval(2.0, 1.9, 2.5, 9).reach == pytest.approx(0.25)
    assert RatioInterval(2.0, 1.0, 2.5, 9).reach == pytest.approx(1.0)
    assert RatioInterval(1.0, 0.96, 1.04, 9).known and not RatioInterval(1.0, 0.95, 1.04, 9).known
    assert RatioInterval(2.0, 1.9, 2.5, 9).as_dict() == {"value": 2.0, "lo": 1.9, "hi": 2.5}


def test_rounds_that_contradict_each_other_are_shown_as_wide_as_they_are_apart():
    drifted = [1.0, 1.01, 1.02, 1.03, 1.04, 1.05] + [2.0 + 0.01 * round for round in range(30)]
    found = ratio_interval(drifted)
    assert found.lo == 1.05 and found.hi > 2 and found.lo <= found.value <= found.hi and not found.known


@pytest.mark.parametrize(
    "ratios, against, said",
    [
        ([1.0, 0.0, 2.0], 1.0, "a ratio of 0.0"),
        ([1.0, -2.0], 1.0, "a ratio of -2.0"),
        ([1.0, np.inf], 1.0, "a ratio of inf"),
        ([[1.0, 2.0]], 1.0, "shape (1, 2)"),
        ([1.0], 0.0, "against 0.0"),
        ([1.0], np.nan, "against nan"),
    ],
)
def test_wrong_input(ratios, against, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        ratio_p(ratios, against)
    if "against" not in said:
        with pytest.raises(ValueError):
            ratio_interval(ratios)


def test_a_level_is_a_share():
    with pytest.raises(ValueError, match="a level of 95"):
        ratio_interval([1.0, 2.0], 95)
