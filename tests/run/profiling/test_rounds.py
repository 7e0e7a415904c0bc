"""Timed runs of a profile: moments of tokens, rounds, and the seconds that are shared out."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from harness.engine.engine import Engine
from harness.run.plan import Cell
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.figures import quantiles, ratio_figure
from harness.run.profiling.memory import PeakMeter
from harness.run.profiling.model import ProfiledModel
from harness.run.profiling.rounds import CellTimer, TimeBudget, TokenMoments, shuffled_rounds


@pytest.fixture(scope="module")
def model() -> ProfiledModel:
    methods = ("fastv", "prumerge[adaptive=true]")
    return ProfiledModel.loaded(ProfileConfig(model="tiny", methods=methods, keep=("64",), answer_tokens=3, self_check=False))


def cell_of(model: ProfiledModel, method: str) -> Cell:
    return next(cell for cell in model.cells(8) if cell.method == method)


@pytest.mark.parametrize("method", ["none", "blind", "fastv", "prumerge[adaptive=true]"])
def test_noting_moments_changes_no_answer(model, method):
    """Whole answers in one piece: as many moments as tokens, in order, and the answers of an engine without them."""
    timer = CellTimer(model, cell_of(model, method), 2, 8)
    batch, moments = timer._prepare(), TokenMoments()
    start = time.perf_counter()
    noted = Engine(model.adapter, 3, ends=moments).run(timer._request(batch))
    known = moments.known(timer.groups, 3)
    end = time.perf_counter()
    assert noted.tokens == Engine(model.adapter, 3, ends=frozenset()).run(timer._request(batch)).tokens
    assert known.shape == (2 if "adaptive" in method else 1, 3)
    assert (np.diff(known.ravel()) > 0).all() and start < known[0, 0] and known[-1, -1] <= end
    timer.in_one_piece()
    assert 0 < timer.times.first[0] < timer.times.whole[0] and len(timer.times.steps) == 2 * timer.groups
    assert sum(timer.times.steps) < timer.times.whole[0]


def test_a_first_run_counts_and_weighs(model):
    timer = CellTimer(model, cell_of(model, "none"), 1, 8)
    timer.first_run(PeakMeter(list(model.adapter.devices)))
    times = timer.times
    assert times.failed is None and times.seconds > 0 and times.kv_bytes > 0
    assert {"vision", "projector", "layout", "prefill", "decode"} <= set(times.operations) and times.decoded == 2
    timer.stage_round()
    assert times.medians()["decode"] < times.medians()["prefill"] and times.medians()["preprocess"] > 0


def test_a_cell_that_does_not_fit_says_so(model, monkeypatch):
    timer = CellTimer(model, cell_of(model, "none"), 1, 8)

    def full(*arguments):
        raise MemoryError("99 bytes")

    monkeypatch.setattr(timer, "_prepare", full)
    timer.first_run(PeakMeter(list(model.adapter.devices)))
    assert timer.times.failed == "out of memory (99 bytes)"
    timer.in_one_piece = lambda: pytest.fail("a cell that failed runs no more")
    timer.guarded(timer.in_one_piece)
    timer = CellTimer(model, cell_of(model, "none"), 1, 8)
    monkeypatch.setattr(timer, "_prepare", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        timer.first_run(PeakMeter(list(model.adapter.devices)))


def test_time_is_shared_out_by_weight_and_what_is_not_used_goes_on(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    budget = TimeBudget(60.0, [1.0, 1.0, 4.0])
    assert budget.part() == pytest.approx(10)
    now[0] += 2  # eight seconds are left over
    assert budget.part() == pytest.approx(2 + 58 / 5)
    now[0] += 50
    assert budget.left == pytest.approx(8) and budget.part() == pytest.approx(60)
    now[0] += 50
    assert budget.left == 0 and budget.used == pytest.approx(102)


def test_rounds_run_all_in_new_orders_and_stop_when_told():
    order = []
    runs = [lambda name=name: order.append(name) for name in "abcde"]
    assert shuffled_rounds(runs, np.random.default_rng(0), 6, lambda lasts: True) == 6
    rounds = ["".join(order[i : i + 5]) for i in range(0, 30, 5)]
    assert all(sorted(one) == list("abcde") for one in rounds) and len(set(rounds)) > 3
    order.clear()
    assert shuffled_rounds(runs, np.random.default_rng(0), 6, lambda lasts: len(order) < 10) == 2
    assert shuffled_rounds(runs, np.random.default_rng(0), 6, lambda lasts: False) == 1  # one at the least


@pytest.mark.parametrize(
    ("milliseconds", "p50", "p95"), [([7], 7, 7), (range(1, 20), 10, 19), (range(1, 21), 10.5, 19), (range(1, 101), 50.5, 95)]
)
def test_quantiles(milliseconds, p50, p95):
    found = quantiles([value / 1e3 for value in milliseconds])
    assert (found["p50"], found["p95"], found["times"]) == (pytest.approx(p50), pytest.approx(p95), len(milliseconds))
    assert quantiles([]) == {"p50": None, "p95": None, "times": 0}


def test_ratios_are_paired_by_round():
    found = ratio_figure([2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 16, 32])
    assert found == {"value": 2.0, "lo": 2.0, "hi": 2.0, "rounds": 6}
    assert ratio_figure([2, 4], [1]) == {"value": 2.0, "lo": None, "hi": None, "rounds": 1}
    assert ratio_figure([], [1]) == {"value": None, "lo": None, "hi": None, "rounds": 0}


def test_what_will_not_be_done_gives_its_share_to_what_is_under_way(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    budget = TimeBudget(80.0, [1.0, 1.0, 3.0, 3.0])
    assert budget.part() == pytest.approx(10)
    now[0] = 8
    assert budget.drop([1, 2], 0.0) == pytest.approx(40)  # this part and the next alone are left
    now[0] = 40
    assert budget.part() == pytest.approx(80)
    now[0] = 60
    assert budget.part() == pytest.approx(70), "what was dropped and is begun all the same has as much as any other"


def test_memory_that_ends_in_a_later_round_fails_that_cell_alone(model):
    timer = CellTimer(model, cell_of(model, "fastv"), 1, 8)
    timer.first_run(PeakMeter(list(model.adapter.devices)))
    timer.guarded(timer.in_one_piece)

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    timer.guarded(full)
    assert timer.times.failed == "out of memory (CUDA out of memory)" and len(timer.times.whole) == 1
