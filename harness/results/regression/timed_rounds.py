"""The rounds in which a run was timed, as the ratios by which cells compare between machines. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.results.types import Floats
from harness.store.open_runs import database
from harness.store.runs import RunFolder
from metrics import latency


@dataclass(frozen=True, eq=False)
class CellRounds:
    """The speed-up of a cell in the rounds in which it was timed."""

    ratios: Floats  # [rounds] time to first token of `none` over that of the cell
    in_one_piece: bool  # whether those times were taken so, or summed from stages as in runs of older versions


@dataclass(frozen=True)
class TimedRounds:
    """The times of a run by latency pass and cell, then by stage, in seconds [rounds]; of cells timed twice, the first run."""

    times: Mapping[tuple[int, int], Mapping[str, Floats]]

    @classmethod
    def of(cls, run: RunFolder) -> TimedRounds:
        """Read the times of a run, once for all of its cells.

        Args:
            run: finished, and open to read.
        """
        with database(run):
            return cls(run.timings())

    @property
    def kinds(self) -> frozenset[bool]:
        """Whether times to first token were taken in one piece, of all passes; empty of a run without times."""
        return frozenset(latency.in_one_piece(times) for times in self.times.values())

    def of_cell(self, cell: int, none: int | None) -> CellRounds | None:
        """Return the rounds of the first pass that timed a cell.

        Args:
            cell: its id in the run.
            none: the id of the cell without pruning; None where the run has none.

        Returns:
            None where the cell was not timed, nor `none` in the same pass.
        """
        passes = [number for number, timed in self.times if timed == cell and (number, none) in self.times]
        if not passes or none is None:
            return None
        times = self.times[min(passes), cell]
        mine, theirs = latency.known_ttft(times), latency.known_ttft(self.times[min(passes), none])
        paired = mine is not None and theirs is not None and len(mine) == len(theirs)
        ratios = latency.paired_ratios(mine, theirs) if paired else None
        return None if ratios is None else CellRounds(ratios, latency.in_one_piece(times))
