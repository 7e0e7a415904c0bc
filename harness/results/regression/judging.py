"""The step from what a rule found to its verdict. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.store.verdicts import Status, Unit, Verdict


@dataclass(frozen=True)
class VerdictMaker:
    """A maker of verdicts for one rule and one cell whose two figures are known; call it with a status and a sentence."""

    rule: str  # one of `harness.store.verdicts.RULES`
    cell: str  # as a reader names it: ``sts at 64``
    values: Sequence[float | None]  # of the baseline and of the candidate
    figure: str  # what the two numbers are
    unit: Unit

    def __call__(self, status: Status, text: str) -> Verdict:
        """Return the verdict.

        Args:
            status: what the finding means.
            text: one sentence about it.
        """
        before, after = self.values
        return Verdict(self.rule, self.cell, status, text, before, after, self.figure, self.unit)
