"""Results that are remembered: made once, the latest alone, and none of a failure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest

from harness.results.remembered import MOST, RecentResults


def test_only_the_latest_are_remembered():
    made, recent = [], RecentResults()

    def make(key: int) -> str:
        made.append(key)
        return f"result {key}"

    for key in (*range(2 * MOST), 2 * MOST - 1, MOST):
        assert recent.get(key, lambda key=key: make(key)) == f"result {key}" and len(recent) <= MOST
    assert made == list(range(2 * MOST)), "the latest are at hand"
    recent.get(0, lambda: make(0))
    assert made[-1] == 0 and len(recent) == MOST, "the first was let go"


def test_many_threads_make_it_once():
    made, recent = [], RecentResults()

    def make() -> int:
        sleep(0.02)
        made.append(1)
        return 7

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: recent.get("one", make), range(16))) == {7}
    assert len(made) == 1


def test_a_failure_is_passed_on_and_not_remembered():
    recent = RecentResults()
    with pytest.raises(ZeroDivisionError):
        recent.get("one", lambda: 1 // 0)
    assert recent.get("one", lambda: 2) == 2
