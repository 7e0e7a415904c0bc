"""Rules that look at one cell alone: schedule, FLOPs, KV bytes, drift, failures, agreement. Needs no torch.

Each takes a pair of runs, one cell that both measured and the thresholds, and returns a verdict, or None where it has nothing
to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.results.regression.judging import VerdictMaker
from harness.results.regression.pairing import MatchedCell, RunPair
from harness.results.regression.thresholds import Thresholds
from harness.results.types import JsonObject
from harness.store.verdicts import Verdict

_PARTS = ("vision", "projector", "selection", "llm_prefill", "decode_per_token")
_BY_TEXT = ("selection", "llm_prefill")  # what a longer prompt makes dearer, before the first answer token
_BUT_TEXT = "the same but for the length of the questions"
_OTHER_TEXT = "the runs asked other questions, and prompts differ in length"
_OTHER_SIZES = "a mean over images of several sizes, and the runs saw other images"
_EXACT = 1e-9  # relative: what the order of a sum may change
_PLANNED = {"schedule": "LLM layer", "grid": "side of the grid", "tower": "tower block"}


def schedule(pair: RunPair, cell: MatchedCell, thresholds: Thresholds) -> Verdict | None:
    """Compare the visual tokens at every layer, exactly; of methods that count by the image, their mean.

    Schedules that are means over images of several sizes compare where the images are the same ones; else what was kept of
    images of equal size does.
    """
    sides = cell.baseline.facts, cell.candidate.facts
    tokens = [_get(facts, "tokens", "average") for facts in sides]
    make = VerdictMaker("schedule", cell.label, tokens, "tokens on average", "count")
    if cell.adaptive:
        if not pair.same_questions:
            return make("not judged", "counts follow from the images, and the runs saw other images")
        change = _change(*tokens)
        if change is not None and abs(change) <= thresholds.schedule.adaptive:
            return make("passed", "counts follow from the images; their mean is within the tolerance")
        return make(
            thresholds.status("schedule"), f"counts follow from the same images, but their mean changed by {_percent(change)}"
        )
    if (name := cell.replanned) is not None:
        return make(thresholds.status("schedule"), _first_difference(sides[0][name], sides[1][name], _PLANNED[name]))
    if cell.recounted:
        return make(
            thresholds.status("schedule"), f"planned alike, but {cell.recounted} of {cell.common} questions kept other counts"
        )
    if cell.resized:
        text = f"other counts were kept of images of {cell.resized} of the {cell.sizes_of_both} sizes that both runs saw"
        return make(thresholds.status("schedule"), text)
    if cell.means and not cell.sizes_of_both:
        return make("not judged", _OTHER_SIZES)
    if cell.means:
        return make("passed", f"as many tokens of images of equal size ({cell.sizes_of_both} sizes); means are over other images")
    return make("passed", "the same tokens at every layer")


def flops(pair: RunPair, cell: MatchedCell, thresholds: Thresholds) -> Verdict | None:
    """Compare FLOPs exactly, part by part, on the same questions; else what visual tokens cost beside those of `none`."""
    sides = cell.baseline.facts["flops"], cell.candidate.facts["flops"]
    if None in sides:
        return None
    totals = [side["total"] for side in sides]
    make = VerdictMaker("flops", cell.label, totals, "FLOPs to the first token", "number")
    if not cell.same_schedule:
        return make("not judged", "the schedule differs, and FLOPs with it")
    if cell.adaptive:
        return _adaptive(pair, thresholds, make, totals)
    if cell.means:
        return make("not judged", _OTHER_SIZES)
    exact = _PARTS if pair.same_questions else ("vision", "projector")
    parts = [name for name in exact if _differ(sides[0][name], sides[1][name])]
    if parts:
        told = ", ".join(f"{name} {sides[0][name]:.6g} → {sides[1][name]:.6g}" for name in parts)
        return make(thresholds.status("flops"), f"on an equal schedule: {told}")
    if pair.same_questions:
        return make("passed", "the same in every part")
    shares = [_above_blind(pair, side, cell, lambda f: sum(f["flops"][part] for part in _BY_TEXT)) for side in (0, 1)]
    change = _change(*shares)
    if change is None:
        return make("not judged", _OTHER_TEXT)
    if abs(change) <= thresholds.flops.other_questions:
        return Verdict("flops", cell.label, "passed", _BUT_TEXT)
    return make(
        thresholds.status("flops"), f"on an equal schedule, what visual tokens cost beside none changed by {_percent(change)}"
    )


def kv_bytes(pair: RunPair, cell: MatchedCell, thresholds: Thresholds) -> Verdict | None:
    """Compare the bytes of the KV cache exactly: by formula, and measured where the same prompt was timed."""
    sides = cell.baseline.facts["flops"], cell.candidate.facts["flops"]
    if None in sides:
        return None
    values = [side["kv_bytes"] for side in sides]
    make = VerdictMaker("kv_bytes", cell.label, values, "KV bytes", "count")
    if not cell.same_schedule:
        return make("not judged", "the schedule differs, and KV bytes with it")
    if cell.adaptive:
        return _adaptive(pair, thresholds, make, values)
    if cell.means:
        return make("not judged", _OTHER_SIZES)
    if not pair.same_questions:
        visual = [_above_blind(pair, side, cell, lambda f: f["flops"]["kv_bytes"], relative=False) for side in (0, 1)]
        before, after = visual
        if before is None or after is None:
            return make("not judged", _OTHER_TEXT)
        if not _differ(before, after):
            return Verdict("kv_bytes", cell.label, "passed", _BUT_TEXT)
        return make(thresholds.status("kv_bytes"), f"of visual tokens, on an equal schedule: {before:,.0f} → {after:,.0f}")
    if _differ(*values):
        return make(thresholds.status("kv_bytes"), f"on an equal schedule: {values[0]:,.0f} → {values[1]:,.0f}")
    measured = [_get(facts, "kv", "measured") for facts in (cell.baseline.facts, cell.candidate.facts)]
    if None not in measured and measured[0] != measured[1]:
        return make(thresholds.status("kv_bytes"), f"measured on the same prompt: {measured[0]:,} → {measured[1]:,}")
    return make("passed", "the same")


def drift(pair: RunPair, cell: MatchedCell, thresholds: Thresholds) -> Verdict | None:
    """Compare the kept tokens on the same questions, by their mean Jaccard index."""
    facts = cell.baseline.facts
    if cell.key.method in ("none", "blind") or facts["grid"]:
        return None  # they choose no tokens
    values = [None if cell.jaccard is None else 1.0, cell.jaccard]
    make = VerdictMaker("drift", cell.label, values, "Jaccard of kept tokens", "number")
    if facts["merges"]:
        return make("not judged", "merged tokens are no subset of the image's tokens")
    if cell.jaccard is None:
        return make("not judged", "the runs have no kept tokens of the same questions")
    if cell.baseline.depends_on_seed and not pair.same_seed:
        return make("not judged", "its choice depends on the seed, and the seeds differ")
    if not cell.same_schedule:
        return make("not judged", f"the schedule differs, and the kept tokens with it (Jaccard {cell.jaccard:.3f})")
    told = f"kept tokens of {cell.common} questions agree to {cell.jaccard:.3f}"
    if cell.jaccard < thresholds.drift.jaccard:
        return make(thresholds.status("drift"), f"{told}; at least {thresholds.drift.jaccard:g} is asked")
    return make("passed", told)


def failures(pair: RunPair, cell: MatchedCell, thresholds: Thresholds) -> Verdict | None:
    """Compare the shares of samples that failed; None where there are none."""
    before, after = cell.failed
    if not before and not after:
        return None
    make = VerdictMaker("failures", cell.label, [before, after], "failed samples", "share")
    told = f"{100 * before:.1f} % → {100 * after:.1f} % of the samples failed"
    return make(thresholds.status("failures") if after - before > thresholds.failures.tolerance else "passed", told)


def agreement(pair: RunPair, cell: MatchedCell, thresholds: Thresholds) -> Verdict | None:
    """Note the share of equal answers to the same questions; it fails nothing."""
    if cell.agreement is None:
        return None
    text = f"{100 * cell.agreement:.1f} % of {cell.common} answers are equal"
    return Verdict("agreement", cell.label, "noted", text, 1.0, cell.agreement, "equal answers", "share")


CELL_RULES: tuple[Callable[[RunPair, MatchedCell, Thresholds], Verdict | None], ...] = (
    schedule, flops, kv_bytes, drift, failures, agreement,
)  # fmt: skip
"""All rules of this file, in the order of a report."""


def _adaptive(pair: RunPair, thresholds: Thresholds, make: VerdictMaker, values: list[float | None]) -> Verdict:
    """Cost of a method whose counts follow from the images: as exact as its counts."""
    change = _change(*values)
    if not pair.same_questions or change is None:
        return make("not judged", "counts follow from the images, and the runs saw other images")
    if abs(change) <= thresholds.schedule.adaptive:
        return make("passed", "counts follow from the images; the mean is within the tolerance")
    return make(thresholds.status(make.rule), f"the mean on the same images changed by {_percent(change)}")


def _above_blind(
    pair: RunPair, side: int, cell: MatchedCell, cost: Callable[[JsonObject], float], relative: bool = True
) -> float | None:
    """What visual tokens cost: above the same prompt without an image, and relative to what all tokens cost so.

    Both runs' prompts differ in length; blind pays for the text alone, which leaves.
    """
    run = (pair.baseline, pair.candidate)[side]
    none, blind = run.reference(cell.key, "none"), run.reference(cell.key, "blind")
    if none is None or blind is None or None in (none.facts["flops"], blind.facts["flops"]):
        return None
    own = cost((cell.baseline, cell.candidate)[side].facts) - cost(blind.facts)
    if not relative:
        return own
    whole = cost(none.facts) - cost(blind.facts)
    return own / whole if whole > 0 else None


def _differ(before: float, after: float) -> bool:
    return abs(after - before) > _EXACT * max(abs(before), abs(after))


def _change(before: float | None, after: float | None) -> float | None:
    """Relative change; none from 0 to 0."""
    if before is None or after is None:
        return None
    return 0.0 if before == after else (after / before - 1 if before else float("inf"))


def _percent(change: float | None) -> str:
    return "an unknown amount" if change is None else f"{100 * change:+.1f} %"


def _first_difference(before: Any, after: Any, what: str) -> str:
    if not isinstance(before, list) or not isinstance(after, list) or len(before) != len(after):
        return f"{what}s: {before} → {after}" if what != "LLM layer" else "another number of LLM layers"
    place = next(i for i, (a, b) in enumerate(zip(before, after)) if a != b)
    changed = sum(a != b for a, b in zip(before, after))
    return f"tokens at {what} {place}: {before[place]:g} → {after[place]:g}; {changed} of {len(before)} differ"


def _get(tree: Any, *path: str) -> Any:
    """What stands at a path of nested tables, or None where any part of it is missing."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree
