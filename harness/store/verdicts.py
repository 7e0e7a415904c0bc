"""What a comparison of two builds says: one verdict for each cell and rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["failed", "passed", "noted", "not judged"]
Unit = Literal["share", "points", "ratio", "number", "count", "milliseconds", ""]

RULES: Mapping[str, str] = {
    "accuracy": "a drop of accuracy, or of the benchmark's own figure, that is over the tolerance and significant",
    "schedule": "visual tokens at every layer, planned and counted",
    "flops": "vision, projector, selection, prefill and decode",
    "kv_bytes": "cache after the prompt",
    "latency": "a loss of speed-up over none in the same run that is over the tolerance and significant",
    "diversity": "a loss of diversity of the kept tokens that is over the tolerance and significant",
    "drift": "mean Jaccard index of the kept tokens on the same questions",
    "failures": "samples that failed",
    "vanished": "cells of the baseline that the candidate has not",
    "skipped": "cells that the baseline measured and the candidate skipped",
    "agreement": "share of equal answers to the same questions; information alone",
    "new": "cells that the candidate alone measured; information alone",
    "benchmarks": "median over that of the floor, where there is one",
}  # fmt: skip
"""What each rule looks at, in the order of a report."""


@dataclass(frozen=True)
class Verdict:
    """What one rule says of one cell of two builds."""

    rule: str  # one of RULES
    cell: str  # as a reader names it: ``sts at 64``
    status: Status
    text: str  # one sentence
    baseline: float | None = None
    candidate: float | None = None
    figure: str = ""  # what the two numbers are
    unit: Unit = ""

    @property
    def changed(self) -> bool:
        """Whether the two numbers differ; two missing ones do not."""
        return self.baseline != self.candidate


@dataclass(frozen=True)
class Comparison:
    """All verdicts on a candidate build against its baseline."""

    baseline: str  # where it came from
    candidate: str
    verdicts: tuple[Verdict, ...]
    facts: tuple[tuple[str, str], ...] = ()  # what was compared with what
    notes: tuple[str, ...] = ()  # what a reader must know before trusting it

    @property
    def failed(self) -> list[Verdict]:
        """The verdicts for which the candidate is refused."""
        return self.of("failed")

    @property
    def exit_code(self) -> int:
        """The exit code of ``regress``: 1 where a rule failed."""
        return 1 if self.failed else 0

    def of(self, status: Status) -> list[Verdict]:
        """Return the verdicts of one status."""
        return [v for v in self.verdicts if v.status == status]

    def counts(self) -> dict[str, int]:
        """Return how many verdicts there are of each status."""
        found = Counter(v.status for v in self.verdicts)
        return {status: found[status] for status in ("failed", "passed", "noted", "not judged")}

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as ``--json`` prints it."""
        return {
            "baseline": self.baseline, "candidate": self.candidate, "failed": bool(self.failed), "counts": self.counts(),
            "facts": dict(self.facts), "notes": list(self.notes), "verdicts": [asdict(v) for v in self.verdicts],
        }  # fmt: skip
