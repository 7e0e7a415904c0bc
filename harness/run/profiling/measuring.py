"""All that a profile measures, setting by setting: a batch size with a length of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import numpy as np

from harness.run.plan import Cell
from harness.run.profiling.bounds import MachineRates, StageBound
from harness.run.profiling.break_even_rounds import BreakEvenRounds
from harness.run.profiling.figures import as_it_ran, cell_bounds, cell_figures, identity, ratio_figure
from harness.run.profiling.machine_rates import measured_rates
from harness.run.profiling.memory import SPARED, LargestBatch, PeakMeter, computed_bytes, free_bytes, largest_batch
from harness.run.profiling.model import ProfiledModel, named
from harness.run.profiling.rounds import SLOW, CellTimer, TimeBudget, shuffled_rounds
from harness.run.profiling.sharing_gain import QUESTIONS, planned, sharing_gain
from methods.keep import keep_facts
from metrics.flops import flops

_WARMING = 0.45  # the part of a setting's time after which no further cell begins: its rounds take as long again
_HOPELESS = 0.6  # the part of all time that is left which a later setting may need at the least, so that this one spares it
_STAGE_ROUNDS = 3


def of_setting(batch: int, text: int) -> str:
    """Return a setting in words.

    Args:
        batch: prompts.
        text: tokens of a prompt beside the image.
    """
    return f"batch {batch} with {text} tokens of text"


@dataclass
class Measuring:
    """All that was measured so far, setting by setting: a batch size with a length of text."""

    model: ProfiledModel
    budget: TimeBudget
    tick: Callable[[], None]
    calibrations: list[MachineRates] = field(default_factory=list)  # before all, and where nothing interrupts behind all
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    sharing: dict[str, dict[str, float]] = field(default_factory=dict)  # of the first setting that tells

    def __post_init__(self) -> None:
        model = self.model
        self.meter = PeakMeter(list(model.adapter.devices))
        self.free = free_bytes(list(model.adapter.devices))  # beside the weights, which are there by now
        self.calibrate()
        self.random = np.random.default_rng(model.config.seed)
        self._peaks: dict[tuple[int, str], dict[int, dict[str, int]]] = {}  # by text and cell, by batch and device
        self._failed: dict[tuple[int, str], dict[int, str]] = {}
        self._caches: dict[tuple[int, str], float] = {}  # bytes of one prompt's keys and values
        self._unbound: dict[tuple[int, int], list[tuple[dict[str, Any], Callable[[MachineRates], list[StageBound]]]]] = {}
        self._seconds: dict[int, float] = {}  # of `none` a prompt, by text, at the largest batch so far

    @property
    def rates(self) -> MachineRates:
        """The best of each rate that was measured."""
        return reduce(MachineRates.best, self.calibrations)

    def calibrate(self) -> None:
        """Measure what the machine can do, once more."""
        self.calibrations.append(measured_rates(self.model.adapter.device, self.model.adapter.dtype))

    def warm_up(self, batch: int, text: int, cells: Sequence[Cell]) -> None:
        """Run `blind` twice, so that no cell is timed or weighed with what is done once, and say where `none` is slow.

        Args:
            batch: prompts of the first setting.
            text: tokens of a prompt beside the image.
            cells: of the request.
        """
        shape, limit = self.model.shape, self.budget.limit
        blind = next((cell for cell in cells if cell.blind and cell.skipped is None), None)
        none = next(cell for cell in cells if cell.method == "none")
        if blind is None:
            return
        timer = CellTimer(self.model, blind, batch, text)
        for _ in range(2):
            timer.guarded(timer.in_one_piece)
        if timer.times.failed is not None:
            return
        counted = [flops(shape, planned(cell), text + (0 if cell.blind else self.model.marks)) for cell in (none, blind)]
        per_flop = timer.times.first[-1] / counted[1].total
        expected = per_flop * counted[0].total + (timer.times.whole[-1] - timer.times.first[-1])
        if expected < SLOW:  # what is done once is large beside such a run, of the tower too
            again = CellTimer(self.model, none, batch, text)
            again.guarded(again.in_one_piece)
        elif 3 * expected > limit:
            print(
                f"a run of none takes some {expected:.0f} s here, by FLOPs and a run without an image: three of them take longer "
                f"than the time limit of {limit:g} s, and one round is taken whatever it is",
                file=sys.stderr,
            )

    def setting(self, batch: int, text: int, cells: Sequence[Cell], waiting: Sequence[tuple[int, int]]) -> None:
        """Time all cells at a batch size and a length of text, then look for break-even there.

        Args:
            batch: prompts.
            text: tokens of a prompt beside the image.
            cells: of the request.
            waiting: settings still to be done, whose time is given to this one where theirs will not suffice.

        Raises:
            KeyboardInterrupt: where it was interrupted, after what was measured is kept.
        """
        until, none = self.budget.part(), next(cell for cell in cells if cell.method == "none")
        reason = self._not_tried(batch, text, none)
        if reason is not None:
            self.left_out.append(f"{of_setting(batch, text)}: {reason}")
            self.rows += [identity(cell, batch, text) | {"left_out": reason} for cell in cells if not cell.skipped]
            if self.model.config.break_even:
                self.budget.part()
            return
        timers = list[CellTimer]()
        try:
            self._measure(timers, batch, text, cells, until, waiting)
        except KeyboardInterrupt:
            self.left_out.append(f"{of_setting(batch, text)}: interrupted")
            begun = [timer for timer in timers if timer.times.seconds or timer.times.failed]
            if begun:
                self._figures(begun, cells, batch, text, "interrupted")
            raise
        self._figures(timers, cells, batch, text, "no time was left in its share of the time limit")
        if self.model.config.break_even:
            self._break_even(timers[0], batch, text, waiting)

    def _measure(
        self, timers: list[CellTimer], batch: int, text: int, cells: Sequence[Cell], until: float,
        waiting: Sequence[tuple[int, int]],
    ) -> None:  # fmt: skip
        """Run all cells for the first time, then in rounds, and put their timers into a list."""
        until = self._first_runs(timers, batch, text, cells, until, waiting)
        none = timers[0].cell
        ran = [timer for timer in timers if timer.times.failed is None]
        again = CellTimer(self.model, none, batch, text)
        if timers[0].times.failed is None:
            self._rounds(timers[0], [*ran, again], until)
            self.checks.append({
                "batch_size": batch, "text_tokens": text, "aa": ratio_figure(timers[0].times.whole, again.times.whole),
            })  # fmt: skip
            if timers[0].times.whole:  # without what the first run does besides
                self._seconds[text] = float(np.median(timers[0].times.whole)) / batch

    def bound(self) -> None:
        """Add to every cell what bounds its stages, by the best rates that were measured."""
        for rows in self._unbound.values():
            blind = next((bounds(self.rates) for row, bounds in rows if row["method"] == "blind"), [])
            floor = next((one for one in blind if one.stage == "decode"), None)
            rates = self.rates if floor is None else self.rates.calling(floor)
            for row, bounds in rows:
                row["bounds"] = [one.as_dict() for one in bounds(rates)]
                row["operation_us"] = 1e6 * rates.launch

    def largest(self, cells: dict[int, list[Cell]]) -> list[dict[str, Any]]:
        """Return the largest batch of every cell that was not skipped, by length of text."""
        found = []
        for text, own in cells.items():
            for cell in own:
                key = text, cell.key
                if cell.skipped is None and (key in self._peaks or key in self._failed):
                    most = self._largest(key)
                    found.append({"method": cell.method, **keep_facts(cell.keep), "text_tokens": text, **most.as_dict()})
        return found

    def _largest(self, key: tuple[int, str]) -> LargestBatch:
        peaks, failed = self._peaks.get(key, {}), self._failed.get(key, {})
        return largest_batch(peaks, self.free, failed, self.meter.kind, self._caches.get(key, 0.0))

    def _not_tried(self, batch: int, text: int, none: Cell) -> str | None:
        """Why a setting is not begun: no time is left for `none` alone, or a CPU has not the memory."""
        model, left, needed = self.model, self.budget.left, self._needed(batch, text)
        if left <= 0:
            return f"the time limit of {self.budget.limit:g} s was reached"
        if needed is not None and needed > left:
            return (
                f"three runs of none take some {needed:.0f} s there, and {left:.0f} s of the time limit of "
                f"{self.budget.limit:g} s were left"
            )
        if self.meter.on_gpu or not self.free:
            return None
        if (text, none.key) in self._peaks:
            most = self._largest((text, none.key)).batch
            short = most is not None and most < batch
        else:
            number = model.adapter.dtype.itemsize
            need = computed_bytes(model.shape, planned(none), text + model.marks, batch, number)
            short = need > SPARED * sum(self.free.values())
        return "it is predicted not to fit into the memory of this machine" if short else None

    def _needed(self, batch: int, text: int) -> float | None:
        """Seconds of three runs of `none`, by the largest batch that ran; of another length of text by the tokens of a prompt."""
        if not self._seconds:
            return None
        visual, near = self.model.shape.visual_tokens, min(self._seconds, key=lambda known: abs(known - text))
        return 3 * self._seconds[near] * batch * (visual + text) / (visual + near)

    def _first_runs(
        self, timers: list[CellTimer], batch: int, text: int, cells: Sequence[Cell], until: float,
        waiting: Sequence[tuple[int, int]],
    ) -> float:  # fmt: skip
        """Run every cell once, `none` first, and return until when the setting may go on.

        Cells for which no time is left are told as left out. Where `none` shows that later settings will not be begun, this one
        has their time.
        """
        begun = self.budget.used
        for cell in cells:
            if cell.skipped is not None:
                continue
            late = self.budget.used - begun > _WARMING * (until - begun)
            if late and len(timers) > 1:
                said = f"{named(cell)} at {of_setting(batch, text)}"
                share = f"no time was left in its share of the time limit of {self.budget.limit:g} s"
                self.left_out.append(f"{said}: {share}")
                continue
            timer = CellTimer(self.model, cell, batch, text)
            timers.append(timer)
            timer.first_run(self.meter)
            times, key = timer.times, (text, cell.key)
            if times.failed is not None:
                self._failed.setdefault(key, {})[batch] = times.failed
            elif times.peak is not None:
                self._peaks.setdefault(key, {})[batch] = times.peak.working
                self._caches[key] = times.kv_bytes / batch
            if len(timers) == 1 and times.seconds:
                self._seconds[text] = times.seconds / batch
                until = self._with_time_of(waiting, begun, until, int(self.model.config.break_even))
            self.tick()
        return until

    def _with_time_of(self, waiting: Sequence[tuple[int, int]], begun: float, until: float, own: int) -> float:
        """Return until when a part may go on that has its share of what later settings will not use.

        Args:
            waiting: the later settings.
            begun: which of the seconds used it began at.
            until: until when it may go on without that.
            own: parts of its own setting that are still to come.
        """
        hopeless = [place for place, one in enumerate(waiting) if (self._needed(*one) or 0.0) > _HOPELESS * self.budget.left]
        if not hopeless:
            return until
        parts = 1 + self.model.config.break_even
        return self.budget.drop([own + place * parts + part for place in hopeless for part in range(parts)], begun)

    def _rounds(self, none: CellTimer, timers: list[CellTimer], until: float) -> None:
        """Take rounds of stages where runs are short, then rounds in one piece."""
        goes_on: Callable[[float], bool] = lambda lasts: self.budget.used + lasts <= until
        one_round = sum(timer.times.seconds for timer in timers)
        if any(not timer.times.stages for timer in timers[:-1]):
            often = max(1, min(_STAGE_ROUNDS, int(0.25 * (until - self.budget.used) / max(1e-9, one_round))))
            staged = [timer for timer in timers[:-1] if not timer.times.stages]
            shuffled_rounds([self._told(timer, timer.stage_round) for timer in staged], self.random, often, goes_on)
        runs = [self._told(timer, timer.in_one_piece) for timer in timers]
        shuffled_rounds(runs, self.random, self.model.config.rounds, goes_on)

    def _told(self, timer: CellTimer, run: Callable[[], None]) -> Callable[[], None]:
        def told() -> None:
            timer.guarded(run)
            self.tick()

        return told

    def _figures(self, timers: list[CellTimer], cells: Sequence[Cell], batch: int, text: int, why: str) -> None:
        """Keep the figures of a setting's cells, and why those that have none were not begun."""
        model, shape = self.model, self.model.shape
        length, known = text + model.marks, {timer.cell.key: timer for timer in timers}
        counted, schedules = {}, {}
        for timer in timers:
            ran = timer.times.failed is None
            schedules[timer.cell.key] = as_it_ran(timer.cell, timer.times, shape) if ran else planned(timer.cell)
            counted[timer.cell.key] = flops(shape, schedules[timer.cell.key], text if timer.cell.blind else length)
        none = timers[0]
        for cell in cells:
            row, timer_of = identity(cell, batch, text) | {"left_out": None}, known.get(cell.key)
            if timer_of is None:
                self.rows.append(row if cell.skipped else row | {"left_out": why})
                continue
            own, key = counted[cell.key], cell.key
            row |= cell_figures(timer_of, none, own, counted[none.cell.key], schedules[key])
            self.rows.append(row)
            bounds = partial(cell_bounds, timer_of, schedules[key], shape, own, text if cell.blind else length)
            self._unbound.setdefault((batch, text), []).append((row, bounds))
        sharing = [timer for timer in timers if timer.times.stages and not timer.cell.blind]
        complete = len(timers) == sum(cell.skipped is None for cell in cells)
        if complete and sharing and sharing[0] is none:
            stages = {place: timer.times.medians() for place, timer in enumerate(sharing)}
            own_cells = [timer.cell for timer in sharing]
            gains = {str(q): sharing_gain(own_cells, stages, shape.visual_tokens, text, q) for q in QUESTIONS}
            self.sharing = self.sharing or gains

    def _break_even(self, none: CellTimer, batch: int, text: int, waiting: Sequence[tuple[int, int]]) -> None:
        begun = self.budget.used
        until = self._with_time_of(waiting, begun, self.budget.part(), 0)
        rounds = BreakEvenRounds(
            self.model, none.cell, batch, text, self.random, self.tick, none.times.seconds < SLOW
        )  # fmt: skip
        if none.times.failed is not None or not none.times.whole:
            self.left_out.append(f"break-even at {of_setting(batch, text)}: none could not be run there")
            return
        cut = "interrupted"
        try:
            cut = rounds.run(float(np.median(none.times.whole)), lambda: until - self.budget.used)
        finally:
            found = rounds.found(cut)
            self.found += found
            methods = [one["method"] for one in found if one["cut"]]
            if methods:
                whys = "; ".join(sorted({one["cut"] for one in found if one["cut"]}))
                self.left_out.append(f"break-even of {', '.join(methods)} at {of_setting(batch, text)}: {whys}")
