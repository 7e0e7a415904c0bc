"""What is said of times, held against simulated clocks: rounds drift together, spread log-normally and stray now and then."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.regression.thresholds import default_thresholds
from metrics import latency
from metrics.medians import median
from metrics.paired_ratio import ratio_interval
from metrics.statistics import holm

pytestmark = pytest.mark.simulation
ROUNDS = (6, 8, 12, 24)


def rounds(rng: np.random.Generator, shape: tuple[int, ...], cv: float, stray: float = 0.03) -> np.ndarray:
    """Times [..., rounds] but for what all cells of a round have in common; a share of rounds takes 1.3 to 3 times as long."""
    spread = np.sqrt(np.log1p(cv**2))
    return rng.lognormal(0, spread, shape) * np.where(rng.random(shape) < stray, rng.uniform(1.3, 3, shape), 1.0)


def drift(rng: np.random.Generator, worlds: int, count: int) -> np.ndarray:
    """What all cells of a round have in common, [worlds, rounds]: a walk of 5 % a round."""
    return np.exp(rng.normal(0, 0.05, (worlds, count)).cumsum(1))


@pytest.mark.parametrize("shape", ["log-normal", "stray", "exponential"])
def test_the_interval_of_a_median_holds_it_as_often_as_it_says(promise, shape):
    worlds, rng = 4000, np.random.default_rng(0)
    for count in (*ROUNDS, 9, 40):
        if shape == "exponential":
            times, true = rng.exponential(1, (worlds, count)), np.log(2)
        else:
            times, true = rounds(rng, (worlds, count), 0.1, 0.05 if shape == "stray" else 0.0), 1.0
            true = float(np.median(rounds(rng, (10**6,), 0.1, 0.05))) if shape == "stray" else true
        held = 0
        for row in times:
            found = median(row)
            assert found.lo is not None and found.hi is not None
            held += found.lo <= true <= found.hi
        promise("interval of a median", f"{count} rounds, {shape}", held, worlds, at_least=0.95)


@pytest.mark.parametrize("stray", [0.0, 0.03, 0.08])
def test_the_interval_of_a_realised_gain_of_few_rounds_holds_it(tell, promise, stray):
    """Stages are timed in few rounds, whose number is fixed: Student's interval under six of them, the median's from there on."""
    worlds, rng = 3000, np.random.default_rng(0)
    for count in (3, 4, 5, 6, 12):
        held = claimed = 0
        for cv in (0.03, 0.1, 0.2):
            common, widths = drift(rng, worlds, count), []
            none, mine = (common * rounds(rng, (worlds, count), cv, stray) for _ in range(2))
            for row in none / mine:
                found = latency.realised_gain(row, 1.0)
                held += found["lo"] <= 1 <= found["hi"]
                claimed += found["p"] <= 0.05
                widths.append(found["hi"] / found["lo"])
            design = f"{count} rounds, spread {100 * cv:g} %, {100 * stray:g} % stray"
            tell("upper end over lower of a realised gain", design, "told", f"{np.median(widths):.2f}")
        design = f"{count} rounds, {100 * stray:g} % stray, all spreads"
        promise("interval of a realised gain", design, held, 3 * worlds, at_least=0.945)
        promise("p <= 0.05 of a gain as promised", design, claimed, 3 * worlds, at_most=0.055)


def wandering(rng: np.random.Generator, shape: tuple[int, int], following: float) -> np.ndarray:
    """Times [worlds, rounds] whose logarithms follow the round before (first-order autoregression) and spread by 5 %."""
    logs = rng.normal(0, 0.05, shape)
    for place in range(1, shape[1]):
        logs[:, place] = following * logs[:, place - 1] + np.sqrt(1 - following**2) * logs[:, place]
    return np.exp(logs)


@pytest.mark.parametrize("count", [6, 24])
@pytest.mark.parametrize("following", [0.5, 0.8])
def test_what_independence_of_rounds_is_worth(count, following, promise):
    """Rounds are shuffled, so that a drift of the machine is common to all cells and cancels; one of a cell alone does not."""
    worlds, rng = 4000, np.random.default_rng(0)
    none, mine = (wandering(rng, (worlds, count), 0.0) for _ in range(2))
    own, common = (wandering(rng, (worlds, count), following) for _ in range(2))
    for claim, ratios, most in (
        ("p <= 0.05 of equally fast cells, times drift in common", common * none / (common * mine), 0.05),
        ("p <= 0.05 of equally fast cells, the ratio drifts by itself", own, None),
    ):
        hits = sum((p := latency.mean_log_p(row)) is not None and p <= 0.05 for row in ratios)
        promise(claim, f"{count} rounds, autocorrelation {following:g}", hits, worlds, at_most=most)


def alarms(count: tuple[int, int], cv: float, worlds: int, stray: float, slower: float = 1.0) -> tuple[int, int]:
    """In how many pairs of runs any of 59 cells that are as fast as before is called slower, and in how many the slower one."""
    rng, level, cells, false, found = np.random.default_rng(0), default_thresholds().latency.level, 60, 0, 0
    for _ in range(worlds):
        sides = []
        for rounds_of in count:
            common = drift(rng, 1, rounds_of)
            sides.append(common * rounds(rng, (1, rounds_of), cv, stray) / (common * rounds(rng, (cells, rounds_of), cv, stray)))
        sides[1][0] /= slower
        changes = [latency.speed_change(before, after) for before, after in zip(*sides)]
        p = np.array(holm([None if change is None else change.p for change in changes]), dtype=float)
        false += bool((p[1:] <= level).any())
        found += bool(p[0] <= level and changes[0].change < -default_thresholds().latency.tolerance)
    return false, found


@pytest.mark.parametrize("count", [(6, 6), (12, 12), (12, 6), (6, 12)])
def test_equal_builds_are_called_slower_as_rarely_as_the_level_says(promise, count):
    """By the test alone: the tolerance of 15 % is on top of that. All cells of a run share the times of `none`."""
    worlds, level = 2000, default_thresholds().latency.level
    for cv, stray in ((0.05, 0.0), (0.05, 0.03)):
        false, _ = alarms(count, cv, worlds, stray)
        design = f"60 cells, {count[0]} and {count[1]} rounds, spread {100 * cv:g} %, {100 * stray:g} % stray"
        promise("equal builds called slower", design, false, worlds, at_most=level)


def until_known(ratios: np.ndarray) -> np.ndarray:
    """The rounds after which the latency pass leaves a cell out: its ratio is known, or time is up."""
    return next((ratios[:n] for n in range(6, len(ratios)) if ratio_interval(ratios[:n]).known), ratios)


def test_rounds_that_end_when_a_ratio_is_known_make_no_equal_builds_slower(promise, tell):
    """Yuen's t is for numbers of rounds that were fixed; the tolerance makes up for what ending early adds to its level."""
    worlds, rules, cells = 300, default_thresholds().latency, 20
    for cv, stray, most in ((0.02, 0.0, 40), (0.05, 0.03, 40), (0.05, 0.03, 12), (0.1, 0.03, 20)):
        rng, alone, false = np.random.default_rng(1), 0, 0
        for _ in range(worlds):
            sides = []
            for _side in range(2):
                none = rounds(rng, (most,), cv, stray)
                sides.append([until_known(none / rounds(rng, (most,), cv, stray)) for _ in range(cells)])
            changes = [latency.speed_change(before, after) for before, after in zip(*sides)]
            slower = np.array(holm([change.p for change in changes]), dtype=float) <= rules.level
            alone += bool(slower.any())
            false += bool((slower & (np.array([change.change for change in changes]) < -rules.tolerance)).any())
        design = f"{cells} cells, until known or {most} rounds, spread {100 * cv:g} %, {100 * stray:g} % stray"
        tell("equal builds called slower before the tolerance", design, "told", f"{alone / worlds:.4f}")
        promise("equal builds called slower", design, false, worlds, at_most=rules.level)


def test_a_method_that_is_30_percent_slower_is_found(promise):
    """Four times in five where no round strays and there are rounds enough; single rounds that stray cost what they cost."""
    worlds = 400
    designs = ((6, 0.02, 0.0, 0.8), (12, 0.03, 0.0, 0.8), (12, 0.05, 0.0, 0.8), (24, 0.08, 0.0, 0.8), (6, 0.05, 0.0, None),
               (12, 0.03, 0.03, None), (24, 0.03, 0.03, None))  # fmt: skip
    for count, cv, stray, promised in designs:
        _, found = alarms((count, count), cv, worlds, stray, slower=1.3)
        design = f"{count} rounds, spread {100 * cv:g} %, {100 * stray:g} % stray"
        promise("30 % slower found", design, found, worlds, at_least=promised)
