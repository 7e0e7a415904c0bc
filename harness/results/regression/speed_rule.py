"""The rule that tests the speed of all cells of two runs as one family. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.results.regression.judging import VerdictMaker
from harness.results.regression.pairing import MatchedCell, RunPair
from harness.results.regression.thresholds import Thresholds
from harness.results.types import Floats
from harness.store.verdicts import Verdict
from metrics.latency import LEAST_ROUNDS, SpeedChange, speed_change
from metrics.medians import median
from metrics.statistics import Estimate, holm


@dataclass(frozen=True, eq=False)
class TimedCell:
    """A cell that either run timed: the speed-up of its time to first token over `none`, round by round."""

    cell: MatchedCell
    ratios: tuple[Floats | None, Floats | None]  # [rounds] of the baseline and of the candidate; None where it was not timed

    @property
    def medians(self) -> tuple[Estimate, Estimate]:
        """The median ratios of both runs; without a value where a run has no times."""
        before, after = (Estimate(None) if ratios is None else median(ratios) for ratios in self.ratios)
        return before, after

    @property
    def change(self) -> SpeedChange | None:
        """The test of the change; None where there is none."""
        before, after = self.ratios
        return None if before is None or after is None else speed_change(before, after)

    @property
    def unmeasured(self) -> str | None:
        """The reason why nothing compares; None where both runs timed the cell in rounds enough that differ."""
        for name, ratios in zip(("baseline", "candidate"), self.ratios):
            if ratios is None:
                return f"the {name} has no times"
            if len(ratios) < LEAST_ROUNDS:
                many = _rounds(len(ratios))
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
        before, after = found.medians
        make = VerdictMaker("latency", found.cell.label, (before.value, after.value), "speed-up over none", "ratio")
        if (reason := found.unmeasured) is not None:
            yield make("not judged", reason)
        elif change is None or p is None or before.value is None or after.value is None:
            yield make("not judged", "the runs were timed on images of different sizes")
        else:
            loss = 1 - after.value / before.value
            told = f"speed-up over none {_interval(before)} → {_interval(after)}"
            if loss > tolerance and p <= thresholds.latency.level:
                tested = f"{told}, p = {p:.1g} over all cells; a loss of {_percent(tolerance)} is tolerated"
                yield make(thresholds.status("latency"), tested)
            elif loss > tolerance:
                lost = f"a loss of {_percent(loss)} that chance gives in some cell with p = {p:.2g}"
                yield make("not judged", f"{told}, {lost}; more rounds would tell")
            elif change.half > tolerance:
                noise = f"timing was noisy: the change is known to {_percent(change.half)}"
                yield make("not judged", f"{noise}, and a loss of {_percent(tolerance)} is tolerated")
            else:
                yield make("passed", told)


def _timed(pair: RunPair, cell: MatchedCell) -> TimedCell | None:
    """The times of a cell; None of one that is none of a method, or that neither run timed."""
    if cell.key.method in ("none", "blind"):
        return None
    found: list[Floats | None] = []
    for side, own in ((pair.baseline, cell.baseline), (pair.candidate, cell.candidate)):
        none = side.reference(cell.key, "none")
        found.append(side.rounds.ratios(own.ident, None if none is None else none.ident))
    return None if found[0] is None and found[1] is None else TimedCell(cell, (found[0], found[1]))


def _tolerance(pair: RunPair, thresholds: Thresholds) -> float:
    """The loss that is tolerated, relative: at least what `none` differs from itself in the same rounds of either run."""
    checks = [(side.summary.get("checks") or {}).get("aa") or {} for side in (pair.baseline, pair.candidate)]
    apart: list[float] = [abs(aa["value"] - 1) for aa in checks if aa.get("value") is not None]
    return max(thresholds.latency.tolerance, *apart, 0.0)


def _interval(ratio: Estimate) -> str:
    if ratio.lo is None or ratio.hi is None:
        return f"{ratio.value:.2f}×"
    return f"{ratio.value:.2f}× [{ratio.lo:.2f} to {ratio.hi:.2f}]"


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"{count} rounds"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
