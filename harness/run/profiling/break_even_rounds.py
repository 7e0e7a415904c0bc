"""Rounds in which break-even is looked for: `none`, and every method at the count that its search asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from harness.run.failures import out_of_memory, reason
from harness.run.plan import Cell, asked_for
from harness.run.profiling.break_even import LEAST, BreakEvenSearch
from harness.run.profiling.model import ProfiledModel
from harness.run.profiling.rounds import CellTimer
from methods.registry import create, is_reference
from metrics.paired_ratio import ratio_interval

_COUNTS = 6  # that a search tries, about: the most, the fewest, and halves
_APART = 36  # the part of all tokens that two counts may lie apart at the end
_FEWEST = 64  # the part of all tokens that is tried at the least


@dataclass
class BreakEvenRounds:
    """The searches of all methods of a request at one batch size and length of text.

    Args:
        model: that is profiled.
        none: the cell that the methods are timed against.
        count: prompts of the batch.
        text: tokens of a prompt beside the image.
        random: gives the orders.
        tick: is called after every run.
        short: whether runs are so short that the first one of each count is left untimed.
    """

    model: ProfiledModel
    none: Cell
    count: int
    text: int
    random: np.random.Generator
    tick: Callable[[], None]
    short: bool
    _timers: dict[tuple[str, int], CellTimer] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _searches: dict[str, BreakEvenSearch] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Those of the request that a break-even can be asked of: methods with a budget that are no yardsticks."""
        asked = asked_for(self.model.config.methods)
        return [name for name in asked if not is_reference(name) and create(name).budgeted]

    def run(self, seconds: float, left: Callable[[], float]) -> str:
        """Search until all break-evens are found or the time is over.

        Args:
            seconds: that one answer of `none` takes, about.
            left: tells the seconds that are left.

        Returns:
            What ended the search before its end, which `found` takes; empty where nothing did.
        """
        visual, methods = self.model.shape.visual_tokens, self.methods
        affordable = int(left() / max(1e-9, _COUNTS * seconds * (1 + len(methods))))
        rounds = min(self.model.config.rounds, max(LEAST, affordable))  # fewer would tell nothing of any count
        fewest = max(1, round(visual / _FEWEST))
        searches = self._searches = {
            name: BreakEvenSearch(fewest, visual - 1, visual // _APART, self._can(name), ratio_interval, rounds)
            for name in methods
        }  # fmt: skip
        none, lasted = CellTimer(self.model, self.none, self.count, self.text), seconds
        if rounds < LEAST:
            return f"of {rounds} round{'' if rounds == 1 else 's'} (--rounds) nothing is known, {LEAST} are the least"
        while True:
            wanted = {name: keep for name, search in searches.items() if name not in self._failed and (keep := search.next())}
            if not wanted:
                return ""
            if lasted * (1 + len(wanted)) > left():
                return "cut short by the time limit"
            lasted = self._round(none, wanted, searches)

    def found(self, cut: str) -> list[dict[str, Any]]:
        """Return what is known by now: of each method what `BreakEven.as_dict` holds, and where it was looked for.

        Args:
            cut: what ended the search before its end.
        """
        rows = []
        for name, search in self._searches.items():
            told = self._failed.get(name) or (cut if search.next() is not None else "")
            rows.append({"method": name, "batch_size": self.count, "text_tokens": self.text, **search.result(told).as_dict()})
        return rows

    def _round(self, none: CellTimer, wanted: dict[str, int], searches: dict[str, BreakEvenSearch]) -> float:
        """Time `none` and the wanted counts once, hand their ratios to the searches, and return the seconds of `none`."""
        names: list[str | None] = [None, *wanted]
        took = dict[str | None, float]()
        for choice in self.random.permutation(len(names)):
            name = names[choice]
            try:
                took[name] = (none if name is None else self._timer(name, wanted[name])).seconds()
            except Exception as error:
                if name is None or not out_of_memory(error):
                    raise
                self._failed[name] = reason(error)
            self.tick()
        for name, keep in wanted.items():
            if name in took:
                searches[name].add(keep, took[None] / took[name])
        return took[None]

    def _timer(self, name: str, keep: int) -> CellTimer:
        """What times a method at a count; where runs are short, the first one is not timed."""
        if (name, keep) not in self._timers:
            cell = self._cell(name, keep)
            assert cell is not None, "a search asks for counts that can be"
            timer = self._timers[name, keep] = CellTimer(self.model, cell, self.count, self.text)
            if self.short:
                timer.seconds()
        return self._timers[name, keep]

    def _can(self, name: str) -> Callable[[int], bool]:
        return cache(lambda keep: self._cell(name, keep) is not None)

    def _cell(self, name: str, keep: int) -> Cell | None:
        """A method's cell at a count; None where it cannot be."""
        cells = self.model.cells(self.text, (str(keep),), name)
        return next((cell for cell in cells if cell.method == name and cell.skipped is None), None)
