"""Rounds of times by a clock that the test sets: what is in which time, who drops out when, and when the pass ends."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
import torch

from harness.engine.stopwatch import STAGES
from harness.models.adapter import Adapter
from harness.run.config import CompareConfig
from harness.run.latency_rounds import BOUNDING_ROUNDS, LEAST_ROUNDS, LatencyRounds, TimingPlan, time_cells
from harness.run.plan import Cell, make_cells
from harness.run.prompt_inputs import PromptOnHost
from harness.store.timings import by_stage
from harness.tasks.base import ImageSample
from harness.tasks.registry import create as task_of
from metrics.medians import median
from metrics.paired_ratio import ratio_interval
from tests.small_model import KEEP, small_model

TO_FIRST_TOKEN = ("preprocess", "vision", "projector", "layout", "selection", "prefill")


class Clock:
    """A clock that stands still but where it is told to move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


def cells_of(adapter: Adapter, *methods: str) -> list[Cell]:
    """`none` and these methods."""
    config = CompareConfig(methods=methods, keep=(KEEP,))
    made = make_cells(config, adapter.shape, False, adapter.gives, 20.0, adapter.cannot)
    by_name = {cell.method: cell for cell in made if cell.skipped is None}
    return [by_name[name] for name in ("none", *methods)]


def prompt_for(adapter: Adapter) -> PromptOnHost:
    sample = next(iter(task_of("shapes").samples(1, 0)))
    alone = ImageSample(sample.image_id, tuple(sample.images), sample.questions[:1])
    return PromptOnHost(adapter, alone, alone.images, 0)


def timed(clock: Clock, seconds: dict[str, list[float]], plan: TimingPlan) -> LatencyRounds:
    """Times of cells that take so long: seconds of their runs in turn, again and again."""
    adapter = small_model()
    cells, prompt = cells_of(adapter, *(name for name in seconds if name != "none")), prompt_for(adapter)
    runs = dict.fromkeys(seconds, 0)

    def prepare(cell: Cell):
        own, count = seconds[cell.method], runs[cell.method]
        runs[cell.method] += 1
        clock.wait(own[count % len(own)])
        return prompt.batch_for(cell)

    return time_cells(adapter, cells, [partial(prepare, cell) for cell in cells], plan)


def test_a_cell_drops_out_once_it_is_known_and_others_go_on_to_the_limit(clock):
    found = timed(clock, {"none": [1.0], "random": [0.5], "fastv": [0.25, 1.0]}, TimingPlan(100, 1, 2))
    none, random, fastv = (found.seconds(place)["ttft"] for place in range(3))
    whole = found.rounds("ttft")
    assert found.known == {1} and whole == len(none) == len(random) == len(fastv)
    known = next(n for n in range(1, whole) if ratio_interval(np.full(n, 2.0) + 1e-9 * np.arange(n)).known)
    assert known >= LEAST_ROUNDS and np.isnan(random).tolist() == [turn >= known for turn in range(whole)]
    assert not np.isnan(fastv).any() and not np.isnan(none).any() and (none == 1).all()
    assert np.array_equal(found.seconds(0, 1)["ttft"], none)  # A/A: twice in every round
    assert not ratio_interval(none / fastv).known
    assert found.used <= 100 < found.used + 2 + 0.25 + 1.0  # one round more and its neighbour would not have ended in time


def test_the_pass_ends_early_where_all_is_known(clock):
    found = timed(clock, {"none": [1.0], "random": [0.5]}, TimingPlan(1_000, 3, 2))
    assert found.known == {1} and found.rounds("decode") == 3 and found.used < 100
    assert ratio_interval(found.seconds(0)["ttft"] / found.seconds(1)["ttft"]).known


def test_the_least_is_timed_whatever_the_limit_is(clock):
    found = timed(clock, {"none": [1.0], "random": [0.5]}, TimingPlan(0, 3, 2))
    assert (found.rounds("ttft"), found.rounds("decode"), found.known) == (LEAST_ROUNDS, 1, frozenset())
    assert found.used == 2.5 * (1 + 1 + LEAST_ROUNDS)


def test_none_alone_is_timed_until_its_median_has_an_interval_or_time_is_up(clock):
    for limit, rounds in ((100, BOUNDING_ROUNDS), (0, LEAST_ROUNDS)):
        found = timed(clock, {"none": [1.0]}, TimingPlan(limit, 1, 2))
        assert found.rounds("ttft") == rounds and found.known == frozenset()
        assert (median(found.seconds(0)["ttft"]).lo is not None) == (rounds == BOUNDING_ROUNDS)


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_a_cell_that_fails_is_left_out_and_the_others_are_timed(fails_at):
    """In the warm-up, in a round of stages, or behind it: of its times nothing is left."""
    adapter = small_model()
    cells, prompt = cells_of(adapter, "random", "fastv"), prompt_for(adapter)
    runs: list[int] = []

    def prepare(cell: Cell, place: int):
        runs.append(place)
        if place == 1 and runs.count(1) > fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return prompt.batch_for(cell)

    found = time_cells(adapter, cells, [partial(prepare, cell, place) for place, cell in enumerate(cells)], TimingPlan(0, 1, 2))
    assert found.failed == {1: "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB)"} and 1 not in found.known
    assert runs.count(1) == fails_at + 1 and found.rounds("ttft") == LEAST_ROUNDS
    assert {row[0] for row in found.rows} == set(found.kv_bytes) == set(found.text_tokens) == {0, 2}
    assert len(found.seconds(2)["ttft"]) == LEAST_ROUNDS and not np.isnan(found.seconds(2)["ttft"]).any()


@pytest.mark.parametrize(("place", "error"), [(0, MemoryError()), (1, RuntimeError("CUDA error: device-side assert triggered"))])
def test_without_none_or_on_a_device_that_failed_nothing_is_timed(place, error):
    adapter = small_model()
    cells, prompt = cells_of(adapter, "random"), prompt_for(adapter)

    def fails():
        raise error

    prepares = [fails if number == place else partial(prompt.batch_for, cell) for number, cell in enumerate(cells)]
    with pytest.raises(type(error)):
        time_cells(adapter, cells, prepares, TimingPlan(0, 1, 2))


def test_rounds_of_stages_leave_the_time_that_a_ratio_needs_to_be_bounded(clock):
    """A round of anything takes 2.5 s here: a warm-up, so many rounds of stages, and six to first token."""
    for limit, rounds in ((22.4, 1), (22.5, 2), (25.0, 3), (100.0, 3)):
        assert timed(clock, {"none": [1.0], "random": [0.5]}, TimingPlan(limit, 3, 2)).rounds("decode") == rounds


class Waiting(Adapter):
    """An adapter that takes a second for one of its parts."""

    clock: Clock
    part = ""

    def _wait(self, part: str) -> None:
        if part == self.part:
            self.clock.wait(1.0)

    def prompt_pixels(self, *given, **named):
        self._wait("pixels")
        return super().prompt_pixels(*given, **named)

    def prompt(self, *given, **named):
        self._wait("prompt")
        return super().prompt(*given, **named)

    def project(self, *given, **named):
        self._wait("projector")
        return super().project(*given, **named)

    def enter(self, *given, **named):
        self._wait("entry")
        return super().enter(*given, **named)

    def logits(self, *given, **named):
        self._wait("logits")
        return super().logits(*given, **named)


@pytest.mark.parametrize(("limit", "rounds"), [(53.9, 1), (54.0, 2)])
def test_what_is_left_for_first_tokens_does_not_hold_the_time_of_those_behind_them(clock, limit, rounds):
    """A token takes a second, and a round is three runs: 6 s of warm-up, 15 s for a round of stages, 18 s for six behind them."""
    bare = small_model()
    adapter = Waiting(bare.model, bare.processor, bare.name)
    adapter.clock, adapter.part = clock, "logits"
    cells, prompt = cells_of(adapter, "random"), prompt_for(adapter)
    found = time_cells(adapter, cells, [partial(prompt.batch_for, cell) for cell in cells], TimingPlan(limit, 2, 5))
    assert found.rounds("decode") == rounds


PARTS = {"pixels": "preprocess", "prompt": "preprocess", "projector": "projector", "entry": "layout", "logits": "prefill"}


@pytest.mark.parametrize("part", PARTS)
def test_time_to_first_token_holds_every_part_and_a_stage_its_own(clock, part):
    bare = small_model()
    adapter = Waiting(bare.model, bare.processor, bare.name)
    adapter.clock, adapter.part = clock, part
    cells, prompt = cells_of(adapter, "fastv", "divprune"), prompt_for(adapter)
    prepares = [partial(prompt.batch_for, cell) for cell in cells]
    found = time_cells(adapter, cells, prepares, TimingPlan(0, 1, 5))
    for place in range(len(cells)):
        seconds = found.seconds(place)
        assert seconds["ttft"].tolist() == [1.0] * LEAST_ROUNDS  # decoding is not in it
        by_token = float(part in ("entry", "logits"))  # what a token that is decoded takes too
        expected = {stage: float(stage == PARTS[part]) for stage in STAGES} | {"decode": by_token, "total": 1 + 4 * by_token}
        assert {stage: values.tolist() for stage, values in seconds.items() if stage != "ttft"} == {
            stage: [value] for stage, value in expected.items()
        }


class SlowImages:
    """An image processor that takes its time."""

    def __init__(self, inner, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def __call__(self, *given, **named):
        time.sleep(self.seconds)
        return self.inner(*given, **named)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


class WithImages:
    """A processor with another image processor."""

    def __init__(self, inner, images) -> None:
        self.inner, self.image_processor = inner, images

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


def test_a_slow_image_processor_makes_the_first_token_late_but_where_no_image_is_asked_for():
    bare, slow = small_model(), 0.2
    adapter = Adapter(bare.model, WithImages(bare.processor, SlowImages(bare.processor.image_processor, slow)), bare.name)
    cells = cells_of(adapter, "blind", "random", "downsample")
    medians = []
    for one in (bare, adapter):
        prompt = prompt_for(one)
        found = time_cells(one, cells, [partial(prompt.batch_for, cell) for cell in cells], TimingPlan(0, 1, 2))
        medians.append([found.medians(place) for place in range(len(cells))])
    for cell, before, after in zip(cells, *medians, strict=True):
        if cell.blind:
            assert after["preprocess"] < slow and after["ttft"] - before["ttft"] < slow
        else:
            assert after["preprocess"] >= slow and after["ttft"] - before["ttft"] > slow / 2


def test_stages_add_up_to_the_whole_and_to_nearly_the_time_in_one_piece():
    adapter, tokens = small_model(), 4
    cells, prompt = cells_of(adapter, "fastv", "tome"), prompt_for(adapter)
    passed: list[int] = []
    prepares = [partial(prompt.batch_for, cell) for cell in cells]
    found = time_cells(adapter, cells, prepares, TimingPlan(0.5, 2, tokens), passed.append)
    runs = (1 + found.rounds("decode") + found.rounds("ttft")) * (len(cells) + 1)
    assert len(passed) <= runs and sum(passed) <= found.used < sum(passed) + 1.5
    for place in range(len(cells)):
        seconds = found.seconds(place)
        assert set(seconds) == {*STAGES, "total", "ttft"} and seconds["layout"].min() > 0 and seconds["preprocess"].min() > 0
        whole = sum(seconds[stage] for stage in TO_FIRST_TOKEN) + (tokens - 1) * seconds["decode"]
        assert np.allclose(whole, seconds["total"])


def test_arrays_of_what_was_taken_are_those_that_are_stored():
    rng = np.random.default_rng(0)
    rows = [
        (cell, repeat, turn, stage, float(rng.random()))
        for cell in range(3) for repeat in (0, 1) for stage in ("ttft", "decode") for turn in range(6)
        if (repeat == 0 or cell == 0) and (stage == "decode" or cell == 0 or turn < 2 + cell)
    ]  # fmt: skip
    found = LatencyRounds([rows[place] for place in rng.permutation(len(rows))])
    for repeat in (0, 1):
        stored = by_stage([(4, *row) for row in rows], repeat)
        assert set(stored) == {(4, cell) for cell in (range(3) if repeat == 0 else (0,))}
        for (_, cell), stages in stored.items():
            own = found.seconds(cell, repeat)
            assert set(own) == set(stages)
            for stage, values in stages.items():
                slow = [next((r[4] for r in rows if r[:4] == (cell, repeat, turn, stage)), np.nan) for turn in range(6)]
                assert np.array_equal(values, slow, equal_nan=True) and np.array_equal(own[stage], slow, equal_nan=True)
    assert found.medians(1)["ttft"] == np.median(by_stage([(4, *row) for row in rows], 0)[4, 1]["ttft"][:3])
