"""The search for break-even, on made-up speed-ups whose truth is known."""

from __future__ import annotations

import itertools
import json
import re
from math import exp

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.run.profiling.break_even import LEAST, BreakEvenSearch
from metrics.paired_ratio import ratio_interval
from reports.profile_words import break_even_words

VISUAL = 576


def search(can=lambda keep: True, rounds=6, step=16) -> BreakEvenSearch:
    return BreakEvenSearch(9, VISUAL - 1, step, can, ratio_interval, rounds)


def run(one: BreakEvenSearch, ratio, most=500) -> list[int]:
    """The counts that a search asked for, once each."""
    asked = []
    for _ in range(most):
        keep = one.next()
        if keep is None:
            return list(dict.fromkeys(asked))
        asked.append(keep)
        one.add(keep, ratio(keep))
    raise AssertionError("the search does not end")


def straight(crossing, slope=0.002):
    """A speed-up whose logarithm falls in a straight line and is 0 at a count of tokens."""
    return lambda keep: exp(slope * (crossing - keep))


@settings(deadline=None)
@example(crossing=292.0, step=1)
@given(crossing=st.floats(10.5, 574.4), step=st.integers(1, 60))
def test_a_straight_line_is_found_where_it_crosses(crossing, step):
    """Interpolation is exact there: the most tokens at which it still pays, and as many rounds as there may be at each count."""
    one = search(step=step)
    asked = run(one, straight(crossing))
    found = one.result()
    assert found.outcome == "at" and found.falling and not found.why and not found.cut
    assert found.tokens == pytest.approx(np.ceil(crossing) - 1, abs=1)
    assert found.lo < crossing <= found.hi
    even = any(trial.faster is None for trial in found.trials)  # as fast as none to the last digit: neither pays nor does not
    assert even or found.hi - found.lo <= max(step, 1)
    assert [trial.keep for trial in found.trials] == sorted(asked) and all(trial.rounds == 6 for trial in found.trials)
    assert found.interpolated == (found.tokens != found.lo)
    assert len(asked) <= 2 + np.ceil(np.log2(VISUAL / step)) + 1


def test_a_method_that_always_pays_takes_one_count():
    one = search()
    assert run(one, lambda keep: 1.3) == [VISUAL - 1]
    found = one.result()
    assert (found.outcome, found.tokens, found.lo, found.why) == ("always", VISUAL - 1, VISUAL - 1, "")


def test_a_method_that_never_pays_takes_two_counts():
    one = search()
    assert run(one, lambda keep: 0.8) == [VISUAL - 1, 9]
    found = one.result()
    assert (found.outcome, found.tokens, found.hi, found.why) == ("never", None, 9, "")


@pytest.mark.parametrize("rounds", range(1, LEAST))
@pytest.mark.parametrize("ratio", [lambda keep: 8.0, lambda keep: 0.1, straight(300)])
def test_of_few_rounds_nothing_is_known(rounds, ratio):
    """However large the ratio: neither always nor never, nor a count between."""
    one = search(rounds=rounds)
    run(one, ratio)
    found = one.result()
    assert (found.outcome, found.tokens, found.lo, found.hi) == ("unknown", None, None, None)
    assert re.search(rf"{rounds} rounds? at \d+ tokens (is|are) too few, of under 6 nothing is known", found.why)
    assert break_even_words(found.as_dict()) == ("unknown", found.why)


@pytest.mark.parametrize("cut", ["", "cut short by the time limit"])
@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_search_cut_short_in_its_first_rounds_says_nothing(rounds, cut):
    one = search(rounds=20)
    for _ in range(rounds):
        one.add(one.next(), 3.0)
    found = one.result(cut)
    assert (
        found.outcome == "unknown"
        and found.why
        and found.cut == cut
        and (found.why + (f"; {cut}" if cut else "")) == (break_even_words(found.as_dict())[1])
    )


def around_one(value):
    """Ratios with this median of which as many lie on this side of 1 as on the other, so that no interval leaves 1 out."""
    seen = itertools.count()
    return lambda: value * (1.2, 1 / 1.2, 1.0)[next(seen) % 3]


@pytest.mark.parametrize("rounds", [6, 7, 40])
def test_where_the_most_may_pay_it_is_told_up_to_where_it_does_for_certain(rounds):
    """The median lies above 1 at the most tokens, the interval on both sides: not always."""
    noise = around_one(1.004)
    one = search(rounds=rounds)
    run(one, lambda keep: noise() if keep > 400 else 1.5)
    found = one.result()
    assert found.outcome == "unknown" and found.tokens is None and found.hi is None and 250 <= found.lo <= 400
    said = break_even_words(found.as_dict())[1]
    assert said.startswith(f"at 575 tokens, the most that were tried, {rounds} rounds do not tell whether it pays (1.")
    assert said.endswith(f"; pays for certain up to {found.lo}")


@pytest.mark.parametrize("value", [0.99, 1.01])
def test_where_the_fewest_may_pay_it_is_not_never(value):
    noise = around_one(value)
    one = search(rounds=20)
    run(one, lambda keep: noise() if keep < 100 else 0.5)
    found = one.result()
    assert found.outcome == "unknown" and found.lo is None and found.hi >= 100
    assert "at 9 tokens, the fewest that were tried, 20 rounds do not tell" in found.why


def test_where_only_the_most_were_timed_nothing_is_said_of_fewer():
    one = search()
    for _ in range(6):
        one.add(one.next(), 0.5)
    found = one.result("cut short")
    assert (found.outcome, found.hi, found.why) == ("unknown", 575, "fewer tokens were not timed")


def test_what_a_count_pays_for_certain_is_not_taken_back_by_a_median_below_it():
    """The median at 292 says no, the interval at 430 yes: the count lies above 430."""
    one, noise = search(rounds=20, step=80), around_one(0.999)
    run(one, lambda keep: {575: 0.8, 9: 2.0, 292: noise()}.get(keep, 1.1))
    for _ in range(6):
        one.add(430, 1.1)
    found = one.result()
    assert found.outcome == "at" and found.lo == 430 <= found.tokens < found.hi == 575


def test_a_count_is_settled_once_its_interval_leaves_out_one():
    one = search(rounds=200)
    run(one, straight(300.5, slope=0.01))
    assert {trial.rounds for trial in one.result().trials} == {6}  # the interval's least, though 200 were allowed
    assert LEAST <= 6


def test_counts_that_cannot_be_are_passed_over():
    one = search(can=lambda keep: keep % 50 == 0)
    asked = run(one, straight(330))
    found = one.result()
    assert all(keep % 50 == 0 for keep in asked) and asked[:2] == [550, 50]
    assert (found.lo, found.hi) == (300, 350) and 300 < found.tokens < 350 and found.interpolated


def test_a_method_that_can_keep_nothing_says_so():
    one = search(can=lambda keep: False)
    assert one.next() is None and one.result().outcome == "unknown"
    assert one.result().why == "the method can keep no count from 9 to 575 tokens"


@pytest.mark.parametrize("rounds", [0, 1, 6, 7, 13, 19])
def test_a_search_that_was_cut_short_says_what_it_knows(rounds):
    one = search()
    for _ in range(rounds):
        keep = one.next()
        one.add(keep, straight(200)(keep))
    found = one.result("cut short by the time limit")
    assert found.cut == "cut short by the time limit" and len(found.trials) == (rounds + 5) // 6
    assert found.outcome == ("unknown" if rounds < 12 else "at")
    if rounds == 7:
        assert (found.lo, found.hi) == (None, VISUAL - 1)


def test_a_count_that_pays_above_one_that_does_not_is_told():
    ratios = {VISUAL - 1: 0.9, 9: 2.0, 292: 0.8, 150: 1.5, 221: 1.2}
    one = search(step=80)
    run(one, lambda keep: ratios[keep])
    assert one.result().falling and one.result().outcome == "at"
    for _ in range(6):
        one.add(400, 1.4)  # for certain faster above 292, where it is for certain slower
    found = one.result()
    assert not found.falling and (found.outcome, found.tokens) == ("unknown", None)
    assert "400 tokens pay for certain and 292 do not" in break_even_words(found.as_dict())[1]


def test_noise_moves_the_break_even_by_little():
    """Rounds of 3 % noise and one in ten that is twice as long: the interval holds the truth in nearly all of 100 worlds."""
    random, held, off = np.random.default_rng(0), 0, []
    for _ in range(100):
        noisy = lambda keep: straight(300)(keep) * exp(random.normal(0, 0.03)) * (2 if random.random() < 0.1 else 1)
        one = search(rounds=20)
        run(one, noisy)
        found = one.result()
        held += (found.lo is None or found.lo <= 300) and (found.hi is None or found.hi >= 300)
        off.append(abs(found.tokens - 300) if found.outcome == "at" else VISUAL)
    assert held >= 93 and np.median(off) < 16


@pytest.mark.parametrize(
    ("ratio", "words", "trust"),
    [
        (lambda keep: 1.2, "always", "for certain, by 6 rounds: the most that was tried is 575"),
        (lambda keep: 0.9, "never", "for certain, by 6 rounds: the fewest that were tried are 9"),
        (straight(300), "299 tokens", "interpolated between medians; pays for certain up to 2"),
    ],
)
def test_words_of_a_break_even(ratio, words, trust):
    one = search()
    run(one, ratio)
    said, known = break_even_words(json.loads(json.dumps(one.result().as_dict())))
    assert said == words and known.startswith(trust)
