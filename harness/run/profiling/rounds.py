"""Timed runs of a profile: whole answers in one piece, token by token, and in other runs stage by stage.

A run in one piece goes from decoded pixels on the host to the last token's id there, with all devices of the model synchronised
before it and nothing between. A token's id on the host is a moment in it: the first one ends the time to first token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.engine.batch import Batch, EngineOutput
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.stopwatch import Stopwatch, synchronise
from harness.run.failures import out_of_memory, reason
from harness.run.plan import Cell
from harness.run.profiling.machine_rates import CountingWatch
from harness.run.profiling.memory import CellPeak, PeakMeter
from harness.run.profiling.model import ProfiledModel
from harness.store.arrays import packed_counts
from metrics.arrays import Floats

SLOW = 2.0
"""Seconds of one run from which on its first run counts as a round of stages: what a first run does besides is small there."""


class TokenMoments(frozenset[int]):
    """End tokens of which none ever comes: the engine asks whether a token is one, and the moment is noted."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __contains__(self, token: object) -> bool:
        """Note the moment at which a token is known on the host; it ends no answer."""
        self.moments.append(time.perf_counter())
        return False

    def known(self, groups: int, tokens: int) -> Floats:
        """Return when each token was known, float [groups, tokens].

        Args:
            groups: of prompts that ran one after the other; those of a group have their tokens at once.
            tokens: of every answer.
        """
        return np.array(self.moments).reshape(groups, tokens, -1)[:, :, 0]


@dataclass
class CellTimes:
    """What the rounds of one cell gave, in seconds for the whole batch."""

    first: list[float] = field(default_factory=list)  # to first token, by round: until every prompt of the batch has its own
    whole: list[float] = field(default_factory=list)  # to the last token, by round
    steps: list[float] = field(default_factory=list)  # of every token behind the first
    stages: list[dict[str, float]] = field(default_factory=list)  # by round of stages; decode is of one token
    operations: dict[str, int] = field(default_factory=dict)  # of torch, by stage, counted in the first run
    decoded: int = 1  # steps of decoding in that run
    peak: CellPeak | None = None
    kv_bytes: int = 0
    layer_counts: bytes = b""  # visual tokens of each LLM layer of the first prompt, packed
    block_counts: bytes = b""
    seconds: float = 0.0  # of the first run, with all that is done around it
    failed: str | None = None  # why it could not run

    def medians(self) -> dict[str, float]:
        """Return the median seconds of each stage."""
        return {name: float(np.median([one[name] for one in self.stages])) for name in (self.stages[0] if self.stages else ())}


class CellTimer:
    """Runs one cell on a batch of equal prompts.

    Args:
        model: that is profiled.
        cell: what to run.
        count: prompts of the batch.
        text: tokens of a prompt beside the image.
    """

    def __init__(self, model: ProfiledModel, cell: Cell, count: int, text: int) -> None:
        self.model, self.cell, self.count, self.text = model, cell, count, text
        self.tokens = model.config.answer_tokens
        self.groups = count if cell.adaptive else 1
        self.times = CellTimes()
        self._prepare = model.prepare(count, text, cell)

    def first_run(self, meter: PeakMeter) -> None:
        """Run the cell once: weigh its memory, count its operations and its tokens; note why it cannot run, if memory is why."""
        self.guarded(lambda: self._first_run(meter))

    def _first_run(self, meter: PeakMeter) -> None:
        watch, times = CountingWatch(*self.model.devices), self.times
        start = time.perf_counter()
        meter.begin()
        with watch.counting():
            output = self._staged(watch)
        times.peak = meter.end()
        times.seconds = time.perf_counter() - start
        times.operations, times.decoded = dict(watch.operations), self.groups * (self.tokens - 1)
        times.kv_bytes = output.kv_bytes
        times.layer_counts, times.block_counts = (
            packed_counts(counts[0]) for counts in (output.layer_counts, output.block_counts)
        )
        if times.seconds > SLOW:
            self._note(watch)

    def guarded(self, run: Callable[[], None]) -> None:
        """Run something of this cell unless it failed before; where memory does not suffice, note that and go on.

        What fits once need not fit again: other cells have left memory in pieces by then.
        """
        if self.times.failed is not None:
            return
        try:
            run()
        except Exception as error:
            if not out_of_memory(error):
                raise
            self.times.failed = reason(error)

    def stage_round(self) -> None:
        """Run the cell once with a stopwatch."""
        watch = Stopwatch(*self.model.devices)
        self._staged(watch)
        self._note(watch)

    def in_one_piece(self) -> None:
        """Run the cell once from pixels to the last token, and note when each token was known."""
        moments, times = TokenMoments(), self.times
        engine = Engine(self.model.adapter, self.tokens, ends=moments)
        synchronise(self.model.devices)
        start = time.perf_counter()
        engine.run(self._request(self._prepare()))
        known = moments.known(self.groups, self.tokens) - start
        times.first.append(float(known[-1, 0]))
        times.whole.append(float(known[-1, -1]))
        times.steps += np.diff(known, axis=1).ravel().tolist()

    def seconds(self) -> float:
        """Run the cell once in one piece, and return its seconds to the last token alone."""
        engine = Engine(self.model.adapter, self.tokens, ends=frozenset())
        synchronise(self.model.devices)
        start = time.perf_counter()
        engine.run(self._request(self._prepare()))
        synchronise(self.model.devices)
        return time.perf_counter() - start

    def _staged(self, watch: Stopwatch) -> EngineOutput:
        engine = Engine(self.model.adapter, self.tokens, ends=frozenset())
        watch.seconds.setdefault("preprocess", 0.0)
        with watch.stage("preprocess"):
            batch = self._prepare()
        return engine.run(self._request(batch, watch))

    def _request(self, batch: Batch, watch: Stopwatch | None = None) -> EngineRequest:
        cell = self.cell
        return EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind, False, watch)

    def _note(self, watch: Stopwatch) -> None:
        found = dict(watch.seconds)
        found["decode"] /= self.groups * (self.tokens - 1)
        self.times.stages.append(found)


class TimeBudget:
    """The seconds that a profile may take, shared out among what is still to be done.

    Args:
        limit: of all together.
        weights: of the parts, in the order in which they are done.
    """

    def __init__(self, limit: float, weights: list[float]) -> None:
        self._own = 0.0  # weight of the part under way
        self.limit, self._weights, self.started = limit, list(weights), time.perf_counter()

    @property
    def used(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left for all that is still to be done; none is 0."""
        return max(0.0, self.limit - self.used)

    def drop(self, parts: Sequence[int], since: float) -> float:
        """Give the shares of parts that will hardly be done to the others, and return until when the one under way may go on.

        Args:
            parts: places among those that are still to be begun, the next one 0.
            since: which of the seconds `used` the part under way began at.
        """
        for part in parts:
            self._weights[part] = 0.0
        return since + max(0.0, self.limit - since) * self._own / (self._own + sum(self._weights))

    def part(self) -> float:
        """Return until which of the seconds `used` the next part may go on: its share of what is left.

        A part that was dropped and is begun all the same has as much as any other.
        """
        self._own, *others = self._weights or [0.0]
        share = self._own / (self._own + sum(others)) if self._own else 1 / (1 + len(others))
        self._weights = others
        return self.used + share * self.left


def shuffled_rounds(
    runs: list[Callable[[], None]], random: np.random.Generator, most: int, goes_on: Callable[[float], bool]
) -> int:
    """Run all once a round, in a new order each round, and return how many rounds there were: one at the least.

    Args:
        runs: what to run.
        random: gives the orders.
        most: rounds at the most.
        goes_on: is asked before every further round whether one that takes so many seconds may begin.
    """
    lasted = 0.0
    for done in range(most):
        if done and not goes_on(lasted):
            return done
        start = time.perf_counter()
        for choice in random.permutation(len(runs)):
            runs[choice]()
        lasted = time.perf_counter() - start
    return most
