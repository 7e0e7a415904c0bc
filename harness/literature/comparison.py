"""One of our cells beside a published figure: whether its value lies inside our interval, and what keeps the two apart.

Nothing here decides that a paper is right or wrong. A verdict is a description by one 95 % interval, corrected for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.literature.figures import PublishedFigure

INSIDE, ABOVE, BELOW = "inside", "above", "below"
"""The verdicts: the published value touches our interval; our interval lies wholly above it, or wholly below."""
_SLACK = 1e-9
"""What dividing and multiplying by a scale may have rounded, as a share of the value."""


@dataclass(frozen=True)
class HeldAgainst:
    """A cell of a run beside one published figure; values are on the figure's scale, percent or points of a larger one."""

    method: str  # canonical expression of our cell
    keep: str  # its budget as --keep takes it, "64" or "33.3%"; "all" of the unpruned model
    mode: str  # what the run's budgets count: "average", "final" or "flops"
    figure: PublishedFigure
    value: float | None  # ours, of the same metric; None where the run has none
    lo: float | None  # of our 95 % interval; None where there is none
    hi: float | None
    verdict: str | None  # one of `INSIDE`, `ABOVE` and `BELOW`; None where nothing can be said
    why_none: str  # why there is no verdict, as a clause; empty where there is one
    differs: tuple[str, ...]  # what is known to be another here than there, a clause each
    unknown: tuple[str, ...]  # what the source does not say, or we cannot tell of ours, a clause each
    contradicted_by: int  # published figures that contradict this one; many may be copies of one value
    images: int | None  # of our cell
    questions: int | None
    whole: int | None  # questions of the whole benchmark; None where that is not known
    others: int  # other methods whose value the same table prints for this model, task, metric and budget
    others_inside: int  # those of them of which our interval holds a value too: it does not tell them from this one
    matched: str  # how the model was matched, as a clause; empty where both bear one name
    contradicting_values: int = 0  # how many different values those that contradict it print
    partial: bool = False  # whether our value is an estimate for the whole benchmark from a part of its questions

    @property
    def counts(self) -> bool:
        """Whether its verdict counts: there is one, and nothing is known to differ."""
        return self.verdict is not None and not self.differs

    @property
    def width(self) -> float | None:
        """The width of our interval; None where there is none."""
        return None if self.lo is None or self.hi is None else self.hi - self.lo


def verdict_of(number: float, rounding: float, lo: float, hi: float) -> str:
    """Return where our interval lies, given a published value: `INSIDE` where the two touch, else `ABOVE` or `BELOW`.

    The exact value lies anywhere within the rounding of the printed one, so the whole of that range counts.

    Args:
        number: the value as printed.
        rounding: half a unit of its last digit.
        lo: lower end of our interval, in the unit of the value.
        hi: its upper end.

    >>> [verdict_of(57.1, 0.05, lo, hi) for lo, hi in ((57.15, 60.0), (57.2, 60.0), (50.0, 57.0))]
    ['inside', 'above', 'below']
    """
    slack = _SLACK * max(1.0, abs(number))
    if lo > number + rounding + slack:
        return ABOVE
    return BELOW if hi < number - rounding - slack else INSIDE


def as_row(found: HeldAgainst) -> dict[str, Any]:
    """Return a comparison as one level of names and plain values, as JSON and tables hold it.

    Args:
        found: one comparison.
    """
    figure = found.figure
    return {
        "method": found.method, "keep": found.keep, "budget": found.mode, "model": figure.model, "task": figure.task,
        "metric": figure.metric, "ours": found.value, "lo": found.lo, "hi": found.hi, "width": found.width,
        "published": figure.value, "verdict": found.verdict, "why_none": found.why_none, "counts": found.counts,
        "source": figure.source, "origin": figure.origin, "version": figure.version, "table": figure.table, "line": figure.line,
        "contradicted_by": found.contradicted_by, "contradicting_values": found.contradicting_values, "partial": found.partial,
        "differs": list(found.differs), "unknown": list(found.unknown),
        "images": found.images, "questions": found.questions, "whole_questions": found.whole, "others": found.others,
        "others_inside": found.others_inside, "matched": found.matched,
    }  # fmt: skip
