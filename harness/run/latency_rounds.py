"""Rounds in which cells are timed: first their stages and decoding, then the time to first token in one piece, until it is known.

All cells run once a round, in a new order, so that drift of the machine hits all alike; `none` runs twice, and what its two runs
differ by is what the machine cannot tell apart (A/A check). Nothing is shared between cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from harness.engine.batch import Batch, EngineOutput
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.stopwatch import Stopwatch, synchronise
from harness.models.adapter import Adapter
from harness.run.asked_prompts import text_length
from harness.run.failures import of_sample, reason
from harness.run.plan import Cell
from harness.store.arrays import packed_counts
from metrics.memory import device_peaks, reset_device_peaks
from metrics.paired_ratio import ratio_interval

Prepare = Callable[[], Batch]
"""Makes of what lies on the host, decoded pixels and a text, what a cell is run on; called anew, and timed, in every run."""
LEAST_ROUNDS = 3
"""Rounds of times to first token that are taken whatever the limit of the pass is."""
BOUNDING_ROUNDS = 6
"""Rounds from which on a paired ratio has an interval (`metrics.paired_ratio`): more of stages leave the time for them."""


@dataclass(frozen=True)
class TimingPlan:
    """How long cells are timed, and what of.

    Args:
        time_limit: seconds that the whole pass may take: the warm-up, rounds of stages, and rounds of times to first token. A
            round is begun where it is likely to end in time; to `BOUNDING_ROUNDS` rounds of times to first token theirs is left.
        stage_rounds: rounds of stages and of decoding at most; one is taken whatever the limit is.
        decode_tokens: answer tokens in a round of stages, 2 at least; no end token ends an answer sooner.
        seed: of the order of the cells in each round.
        least: rounds of times to first token whatever the limit is.
    """

    time_limit: float = 15.0
    stage_rounds: int = 3
    decode_tokens: int = 16
    seed: int = 0
    least: int = LEAST_ROUNDS


@dataclass
class LatencyRounds:
    """What the rounds gave. Cells go by their place in the list that was timed."""

    rows: list[tuple[int, int, int, str, float]] = field(default_factory=list)  # (cell, repeat, round, stage, seconds)
    kv_bytes: dict[int, int] = field(default_factory=dict)  # of the caches after the prompt, measured
    # the most that the allocator of each GPU handed out for the prompt and all tokens that are decoded; empty on a CPU
    peak_bytes: dict[int, dict[str, int]] = field(default_factory=dict)
    text_tokens: dict[int, int] = field(default_factory=dict)  # of the prompt that was timed
    layer_counts: dict[int, bytes] = field(default_factory=dict)  # visual tokens of each LLM layer on its first question, packed
    block_counts: dict[int, bytes] = field(default_factory=dict)  # tower tokens of each block there, as `EngineOutput` has them
    failed: dict[int, str] = field(default_factory=dict)  # cells that failed here, of which there are no times, and why
    known: frozenset[int] = frozenset()  # cells beside `none` whose paired ratio is known
    used: float = 0.0  # seconds of the whole pass

    def rounds(self, stage: str) -> int:
        """Return how many rounds a stage was timed in, over all cells.

        Args:
            stage: such as ``ttft`` or ``decode``.
        """
        return 1 + max((turn for _, _, turn, name, _ in self.rows if name == stage), default=-1)

    def seconds(self, cell: int, repeat: int = 0) -> dict[str, np.ndarray]:
        """Return the seconds of each stage of a cell, float [rounds of the stage] each, nan where it was left out of a round.

        Args:
            cell: its place in the list that was timed.
            repeat: 1 for its second run in the same rounds.
        """
        own = [(turn, stage, value) for place, again, turn, stage, value in self.rows if (place, again) == (cell, repeat)]
        found = {stage: np.full(self.rounds(stage), np.nan) for stage in dict.fromkeys(stage for _, stage, _ in own)}
        for turn, stage, value in own:
            found[stage][turn] = value
        return found

    def medians(self, cell: int) -> dict[str, float]:
        """Return the median seconds of each stage of a cell.

        Args:
            cell: its place in the list that was timed.
        """
        return {stage: float(np.nanmedian(values)) for stage, values in self.seconds(cell).items()}


def time_cells(
    adapter: Adapter,
    cells: Sequence[Cell],
    prepares: Sequence[Prepare],
    plan: TimingPlan,
    advance: Callable[[int], None] = lambda seconds: None,
) -> LatencyRounds:
    """Time cells, and `none` among them, by stage and to the first token; weigh their caches and the memory of GPUs.

    A round of stages gives by cell the seconds of each of `STAGES`, decoding by token, and their ``total``. A round of times to
    first token gives ``ttft``: from what `prepares` begin with to the first token's id on the host, all devices of the model
    synchronised before and after, and no stage told apart. A cell is left out of the rounds behind the one in which its paired
    ratio to `none` became known, and one that fails is left out altogether: nothing is shared here, so that it may take more
    memory than where its answers came from.

    Args:
        adapter: the model.
        cells: what to time.
        prepares: of each cell what makes its batch.
        plan: how long.
        advance: is called after every run of a cell, with the whole seconds that have passed since it was called before.

    Raises:
        Exception: what `none` raises, and any error after which a device is not to be trusted.
    """
    return _Timing(adapter, cells, prepares, plan, advance).run()


Slot = tuple[int, int]
"""A run of a cell in a round: the place of the cell, and 1 where it is the second one of `none`."""


class _Timing:
    """A pass on its way through its rounds; see `time_cells`."""

    def __init__(
        self,
        adapter: Adapter,
        cells: Sequence[Cell],
        prepares: Sequence[Prepare],
        plan: TimingPlan,
        advance: Callable[[int], None],
    ) -> None:
        self.started, self.told = time.perf_counter(), 0
        self.cells, self.prepares, self.plan, self.advance = cells, prepares, plan, advance
        self.devices, self.random = adapter.devices, np.random.default_rng(plan.seed)
        self.names = [str(device) for device in adapter.devices]
        self.to_first, self.to_last = Engine(adapter, 1), Engine(adapter, plan.decode_tokens, ends=frozenset())
        weighed = any(device.type != "cpu" for device in adapter.devices)
        self.warming = self.to_last if weighed else Engine(adapter, 2, ends=frozenset())
        self.none = next(place for place, cell in enumerate(cells) if cell.method == "none")
        self.timed = LatencyRounds()
        self.lasted: dict[Slot, float] = {}  # seconds of the last run of a slot, with all that is done around it
        self.decoded: dict[Slot, float] = {}  # of those in a round of stages, the seconds behind the first token
        self.taken: dict[Slot, dict[int, float]] = {}  # seconds to first token by round

    def run(self) -> LatencyRounds:
        """Take the warm-up and all rounds."""
        plan, others = self.plan, {place for place in range(len(self.cells)) if place != self.none}
        others = self._round(others, self._warm_up)
        for number in range(max(1, plan.stage_rounds)):
            left = BOUNDING_ROUNDS * (self._predicted(others) - sum(self.decoded.get(slot, 0.0) for slot in self._slots(others)))
            if number and not self._fits(self._predicted(others) + left, plan.time_limit):
                break
            others = self._round(others, lambda slot: self._stages(slot, number))
        number, waiting = 0, others
        least = (
            plan.least if others else BOUNDING_ROUNDS
        )  # of `none` alone nothing becomes known: its median has an interval then
        while number < plan.least or ((waiting or number < least) and self._fits(self._predicted(waiting), plan.time_limit)):
            waiting = self._round(waiting, lambda slot: self._first_token(slot, number))
            number += 1
            if number >= plan.least:
                waiting = {place for place in waiting if not self._is_known(place)}
        self.timed.known, self.timed.used = frozenset(others - waiting - self.timed.failed.keys()), self._used
        return self.timed

    def _round(self, places: set[int], run: Callable[[Slot], None]) -> set[int]:
        """Run some cells once and `none` twice, in a random order; return those cells that did not fail."""
        slots = self._slots(places)
        for choice in self.random.permutation(len(slots)):
            began = time.perf_counter()
            try:
                run(slots[choice])
            except Exception as error:
                self._leave_out(slots[choice][0], error)
            self.lasted[slots[choice]] = time.perf_counter() - began
            passed = int(self._used) - self.told
            self.told += passed
            self.advance(passed)
        return places - self.timed.failed.keys()

    def _leave_out(self, place: int, error: Exception) -> None:
        """Forget what was measured of a cell that failed, and note why; raise what is no failure of a cell alone."""
        if place == self.none or not of_sample(error):
            raise error
        timed = self.timed
        timed.failed[place] = reason(error)
        timed.rows = [row for row in timed.rows if row[0] != place]
        for table in (timed.kv_bytes, timed.peak_bytes, timed.text_tokens, timed.layer_counts, timed.block_counts):
            table.pop(place, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _slots(self, places: set[int]) -> list[Slot]:
        return [(place, 0) for place in sorted({*places, self.none})] + [(self.none, 1)]

    @property
    def _used(self) -> float:
        return time.perf_counter() - self.started

    def _fits(self, seconds: float, limit: float) -> bool:
        """Whether what is likely to last so long ends before the pass has used so much."""
        return self._used + seconds <= limit

    def _predicted(self, places: set[int]) -> float:
        """How long a round is likely to last: as long as these cells did when they were run last."""
        return sum(self.lasted[slot] for slot in self._slots(places))

    def _is_known(self, place: int) -> bool:
        none, own = self.taken[self.none, 0], self.taken[place, 0]
        return ratio_interval(np.array([none[turn] / seconds for turn, seconds in own.items()])).known

    def _pass(self, engine: Engine, place: int, batch: Batch, watch: Stopwatch | None = None) -> EngineOutput:
        cell = self.cells[place]
        return engine.run(EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind, False, watch))

    def _warm_up(self, slot: Slot) -> None:
        """Run a cell untimed, on a GPU with all the tokens that are decoded; weigh what it holds, and count its tokens."""
        (place, _), timed = slot, self.timed
        reset_device_peaks(self.devices)
        batch = self.prepares[place]()
        output = self._pass(self.warming, place, batch)
        timed.kv_bytes[place] = output.kv_bytes
        timed.layer_counts[place], timed.block_counts[place] = (
            packed_counts(counts[0]) for counts in (output.layer_counts, output.block_counts)
        )
        spans = () if self.cells[place].blind else batch.pixels.spans[0]
        timed.text_tokens[place] = text_length(batch.prefix, spans, batch.questions[0])
        if by_device := device_peaks(self.devices):
            timed.peak_bytes[place] = by_device

    def _stages(self, slot: Slot, number: int) -> None:
        """Time the stages of a cell one by one, and decoding by token."""
        place, repeat = slot
        watch = Stopwatch(*self.names)
        with watch.stage("preprocess"):
            batch = self.prepares[place]()
        self._pass(self.to_last, place, batch, watch)
        seconds = dict(watch.seconds)
        total = sum(seconds.values())
        self.decoded[slot] = seconds["decode"]
        seconds["decode"] /= watch.counts["decode"]
        self.timed.rows += [(place, repeat, number, stage, value) for stage, value in {**seconds, "total": total}.items()]

    def _first_token(self, slot: Slot, number: int) -> None:
        """Time a cell from pixels and a text on the host to the id of the first token there, in one piece."""
        place, repeat = slot
        synchronise(self.names)
        started = time.perf_counter()
        self._pass(self.to_first, place, self.prepares[place]())
        synchronise(self.names)
        seconds = time.perf_counter() - started
        self.taken.setdefault(slot, {})[number] = seconds
        self.timed.rows.append((place, repeat, number, "ttft", seconds))
