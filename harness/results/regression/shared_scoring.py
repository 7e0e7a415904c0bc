"""The rule and the figure by which two runs are scored alike, or why their accuracies do not compare. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.errors import RequestError
from harness.results.leading_figure import LeadingFigure
from harness.results.types import JsonObject
from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.rule_names import OURS


@dataclass(frozen=True)
class SharedScoring:
    """How the answers of two runs compare: the figure that both report, and what a reader must know of it."""

    figure: OwnFigure
    notes: tuple[str, ...] = ()
    refusal: str | None = None  # why they do not compare, and what would make them; one line
    whole: Mapping[str, int | None] = field(default_factory=dict)  # questions and images of the benchmark; empty: it is endless
    scored_by: str | None = None  # the rule, for readers; None where neither run tells one

    @classmethod
    def of(cls, baseline: JsonObject, candidate: JsonObject, names: tuple[str, str]) -> SharedScoring:
        """Return how two runs compare.

        Args:
            baseline: its manifest.
            candidate: the same.
            names: of the runs, for messages.

        Raises:
            RequestError: where a manifest holds a figure that this version cannot make.
        """
        first, second = baseline.get("scoring"), candidate.get("scoring")
        for manifest, role, name, other in zip((baseline, candidate), ("baseline", "candidate"), names, (second, first)):
            if manifest.get("scoring", other) is None and other is not None:  # an older version has no such entry at all
                told = f"the task of the {role} {name} has no right answers, and the other run's answers are scored"
                return cls(ACCURACY, refusal=f"{told}; compare runs of one task")
        whole = _whole(baseline, candidate)
        if first is None or second is None:
            return _with_older(first, second, names, whole)
        mine, theirs = (_figure(manifest, name) for manifest, name in zip((baseline, candidate), names))
        if first["rule"] != second["rule"]:
            return cls(theirs, refusal=_other_rule(first, second, names))
        if (mine.kind, mine.scale, mine.options) != (theirs.kind, theirs.scale, theirs.options):
            told = f"the figure of the candidate {names[1]} is {_told(theirs)}, that of the baseline {names[0]} {_told(mine)}"
            return cls(theirs, refusal=f"{told}; measure the baseline again with this version")
        functions = [told["rules"].get(told["rule"]) for told in (first, second)]
        note = f"The rule that scores answers differs ({functions[0]} → {functions[1]}): what differs may be the rule's."
        return cls(theirs, (note,) if functions[0] != functions[1] else (), None, whole, f"{second['rule']} ({functions[1]})")

    def is_partial(self, questions: int) -> bool:
        """Return whether a figure of so many questions may estimate that of more: so it does where the whole is not counted."""
        if not self.whole:
            return False
        whole = self.whole.get("questions")
        return whole is None or questions < whole

    def part_in_words(self, questions: int, images: int) -> str | None:
        """Return of what part of the benchmark a figure of so many questions and images is; None where it is of the whole."""
        if not self.is_partial(questions):
            return None
        if self.whole.get("questions") is None:
            return f"{questions:,} questions; how many the whole benchmark has is not known"
        counts = (("questions", questions), ("images", images))
        return " and ".join(f"{n:,} of {every:,} {what}" for what, n in counts if (every := self.whole.get(what)) is not None)


def _whole(baseline: JsonObject, candidate: JsonObject) -> Mapping[str, int | None]:
    """How many questions and images the benchmark has by the runs that tell of it: the larger count, None where one lacks it."""
    told = [whole for manifest in (baseline, candidate) if (whole := manifest.get("whole")) is not None]
    if not told:
        return {}
    counts = {name: [whole.get(name) for whole in told] for name in ("questions", "images")}
    return {name: None if None in both else max(both) for name, both in counts.items()}


def _figure(manifest: JsonObject, name: str) -> OwnFigure:
    try:
        return LeadingFigure.of(manifest, ()).figure
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from None


def _with_older(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None, names: tuple[str, str], whole: Mapping[str, int | None]
) -> SharedScoring:
    """Two runs of which one, or both, are of a version that stored neither a rule nor a figure, nor how large the whole is."""
    if first is None and second is None:
        return SharedScoring(ACCURACY)
    newer = first or second or {}
    older, known = ("candidate", "baseline") if second is None else ("baseline", "candidate")
    folders = dict(zip(("baseline", "candidate"), names))
    function = newer["rules"].get(newer["rule"])
    if newer["rule"] != OURS:
        told = f"the {known} {folders[known]} is scored by the rule {newer['rule']} ({function})"
        other = f"the {older} {folders[older]} is of an older version that scored by our own"
        remedy = f"measure the {older} again, or the {known} with --scoring ours"
        return SharedScoring(ACCURACY, refusal=f"{told}, and {other}; {remedy}")
    figure = newer["figure"]["name"]
    instead = "" if newer["figure"]["kind"] == "mean" else f"; accuracy is compared, since it stored too little for {figure}"
    note = f"The {older} is of an older version, whose rule that scores answers may differ{instead}."
    scored_by = f"{newer['rule']} ({function}); the {older} does not tell its rule"
    return SharedScoring(ACCURACY, (note,), None, whole, scored_by)


def _other_rule(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> str:
    """The refusal of two runs under two rules: what would make them one."""
    told = f"the candidate {names[1]} is scored by the rule {second['rule']}, the baseline {names[0]} by {first['rule']}"
    if first["rule"] in second["rules"]:
        return f"{told}; measure the candidate again with --scoring {first['rule']}"
    if second["rule"] in first["rules"]:
        return f"{told}; measure the baseline again with --scoring {second['rule']}"
    both = sorted(set(first["rules"]) & set(second["rules"]))
    return f"{told}; " + (f"measure both again with --scoring {both[0]}" if both else "they have no rule in common")


def _told(figure: OwnFigure) -> str:
    """A figure and what sets it apart: ``F1 of 100 (unread_missed False)``."""
    options = ", ".join(f"{name} {value}" for name, value in figure.options)
    return f"{figure.name} of {figure.scale:,.6g}" + (f" ({options})" if options else "")
