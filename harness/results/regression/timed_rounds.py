"""The rounds in which a run was timed, as the ratios by which cells compare between machines. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.results.types import Floats
from harness.store.open_runs import database
from harness.store.runs import RunFolder
from metrics import latency


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

    def ratios(self, cell: int, none: int | None) -> Floats | None:
        """Return the time to first token of `none` over that of a cell in each round of the first pass that timed the cell.

        Args:
            cell: its id in the run.
            none: the id of the cell without pruning; None where the run has none.

        Returns:
            [rounds]; None where the cell was not timed, nor `none` in the same pass.
        """
        passes = [number for number, timed in self.times if timed == cell and (number, none) in self.times]
        if not passes or none is None:
            return None
        mine, theirs = (_ttft(self.times[min(passes), ident]) for ident in (cell, none))
        return latency.paired_ratios(mine, theirs) if mine is None or theirs is None or len(mine) == len(theirs) else None


def _ttft(stages: Mapping[str, Floats]) -> Floats | None:
    """Seconds to the first token of each round; None where a stage was not timed in every round."""
    parts = [stages[stage] for stage in latency.FIRST_TOKEN if stage in stages]
    return latency.ttft(stages) if len(parts) == len(latency.FIRST_TOKEN) and len({len(part) for part in parts}) == 1 else None
