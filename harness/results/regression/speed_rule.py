"""The rule that tests the speed of all cells of two runs as one family. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.results.regression.judging import VerdictMaker
from harness.results.regression.pairing import MatchedCell, RunPair
from harness.results.regression.thresholds import Thresholds
from harness.results.regression.timed_rounds import CellRounds
from harness.store.verdicts import Verdict
from metrics.latency import LEAST_ROUNDS, SpeedChange, speed_change
from metrics.paired_ratio import RatioInterval, ratio_interval
from metrics.statistics import holm


@dataclass(frozen=True, eq=False)
class TimedCell:
    """A cell that either run timed: the speed-up of its time to first token over `none`, round by round."""

    cell: MatchedCell
    rounds: tuple[CellRounds | None, CellRounds | None]  # of the baseline and of the candidate; None where it was not timed

    @property
    def speed_ups(self) -> tuple[RatioInterval | None, RatioInterval | None]:
        """The speed-ups of both runs as their pages print them; None where a run has no times."""
        before, after = (None if rounds is None else ratio_interval(rounds.ratios) for rounds in self.rounds)
        return before, after

    @property
    def comparable(self) -> bool:
        """Whether both runs took time to first token alike: in one piece, or summed from stages as older versions did."""
        before, after = self.rounds
        return before is None or after is None or before.in_one_piece == after.in_one_piece

    @property
    def change(self) -> SpeedChange | None:
        """The test of the change; None where there is none."""
        before, after = self.rounds
        return None if before is None or after is None or not self.comparable else speed_change(before.ratios, after.ratios)

    @property
    def unmeasured(self) -> str | None:
        """The reason why nothing compares; None where both runs timed the cell alike, in rounds enough that differ."""
        before, after = self.rounds
        if before is not None and after is not None and not self.comparable:
            summed, whole = ("baseline", "candidate") if after.in_one_piece else ("candidate", "baseline")
            return (
                f"the {summed} sums its time to first token from stages, as older versions did, and the {whole} took it in one "
                f"piece: they are not comparable; make the {summed} anew"
            )
        for name, found in (("baseline", before), ("candidate", after)):
            if found is None:
                return f"the {name} has no times"
            if len(found.ratios) < LEAST_ROUNDS:
                many = _rounds(len(found.ratios))
                return f"the {name} was timed in {many}, too few to tell a loss from chance; use {LEAST_ROUNDS} or more"
        return None if self.change is not None else "the times are the same in every round, so that chance is not known"


def latency(pair: RunPair, thresholds: Thresholds) -> Iterator[Verdict]:
    """Judge the speed-up of time to first token over `none` in the same run, of all cells as one family.

    A loss fails where it is over the tolerance and significant: Yuen's t on the logarithms of the ratios of single rounds,
    one-sided, corrected by Holm over all cells. The tolerance is widened to what `none` differs from itself in either run.

    Args:
        pair: of the runs.
        thresholds: of which the table ``latency`` decides.
    """
    timed = [found for cell in pair.matched if (found := _timed(pair, cell)) is not None]
    first = [side.sizes.get(side.images[0]) for side in (pair.baseline, pair.candidate)]
    changes = [found.change if first[0] == first[1] else None for found in timed]
    adjusted = holm([None if change is None else change.p for change in changes])
    tolerance = _tolerance(pair, thresholds)
    for found, change, p in zip(timed, changes, adjusted, strict=True):
        before, after = found.speed_ups if found.comparable else (None, None)
        was, now = (None if speed_up is None else speed_up.value for speed_up in (before, after))
        make = VerdictMaker("latency", found.cell.label, (was, now), "speed-up over none", "ratio")
        if (reason := found.unmeasured) is not None:
            yield make("not judged", reason)
        elif change is None or p is None or was is None or now is None:
            yield make("not judged", "the runs were timed on images of different sizes")
        else:
            loss = 1 - now / was
            told = f"speed-up over none {_interval(before)} → {_interval(after)}"
            if loss > tolerance and p <= thresholds.latency.level:
                tested = f"{told}, p = {p:.1g} over all cells; a loss of {_percent(tolerance)} is tolerated"
                yield make(thresholds.status("latency"), tested)
            elif loss > tolerance:
                lost = f"a loss of {_percent(loss)} that chance gives in some cell with p = {p:.2g}"
                yield make("not judged", f"{told}, {lost}; more rounds would tell")
            elif change.half > tolerance:
                known = f"{told}: the change is known to {_percent(change.half)} only"
                yield make("not judged", f"{known}, and a loss of {_percent(tolerance)} is tolerated; more rounds would tell")
            else:
                yield make("passed", told)


def _timed(pair: RunPair, cell: MatchedCell) -> TimedCell | None:
    """The times of a cell; None of one that is none of a method, or that neither run timed."""
    if cell.key.method in ("none", "blind"):
        return None
    found: list[CellRounds | None] = []
    for side, own in ((pair.baseline, cell.baseline), (pair.candidate, cell.candidate)):
        none = side.reference(cell.key, "none")
        found.append(side.rounds.of_cell(own.ident, None if none is None else none.ident))
    return None if found[0] is None and found[1] is None else TimedCell(cell, (found[0], found[1]))


def _tolerance(pair: RunPair, thresholds: Thresholds) -> float:
    """The loss that is tolerated, relative: at least what `none` differs from itself in the same rounds of either run."""
    checks = [(side.summary.get("checks") or {}).get("aa") or {} for side in (pair.baseline, pair.candidate)]
    apart: list[float] = [abs(aa["value"] - 1) for aa in checks if aa.get("value") is not None]
    return max(thresholds.latency.tolerance, *apart, 0.0)


def _interval(ratio: RatioInterval | None) -> str:
    if ratio is None:
        return "unknown"
    if ratio.lo is None or ratio.hi is None:
        return f"{ratio.value:.2f}×"
    return f"{ratio.value:.2f}× [{ratio.lo:.2f} to {ratio.hi:.2f}]"


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"{count} rounds"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
