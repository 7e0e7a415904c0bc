"""The cells of a run held against published figures of the same model, task, method and budget. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from harness.literature.comparison import INSIDE, HeldAgainst, as_row, verdict_of
from harness.literature.contradictions import contradictions, different_values
from harness.literature.figures import OPEN_METRICS, UNKNOWN, PublishedFigure
from harness.literature.tables import published
from harness.results.published_match import Apart, RunFacts, apart
from harness.results.types import JsonObject
from harness.store.runs import RunFolder
from methods.expressions import bare
from methods.keep import Keep
from reports.cells import dig, imitated, interval, number

_ALL = "all"


class _Ours(NamedTuple):
    """Our value on a figure's scale, the ends of its interval, and why there is no verdict: empty where there can be one."""

    value: float | None
    lo: float | None
    hi: float | None
    why: str
    partial: bool = False
    other: bool = False  # whether the run has another metric


def held_against(run: RunFolder, summary: JsonObject, figures: Iterable[PublishedFigure] | None = None) -> list[HeldAgainst]:
    """Return every cell of a run beside every published figure of its model, task, method and budget.

    Budgets must be equal as they are written: a count is a count, a share a share, and the unpruned model is ``all``.

    Args:
        run: the folder of a finished run.
        summary: of it, by the rules of this version.
        figures: to hold it against, all that the package has where not given; contradictions are sought among them.

    Returns:
        In the order of the run's cells; of a cell first what has a verdict that counts, then what differs in something known,
        then what has no verdict, each in the order of the figures. Empty where nothing is published of the cells.
    """
    facts, pool = RunFacts.of(run.manifest(), summary["cells"]), tuple(published() if figures is None else figures)
    how = {model: facts.matched(model) for model in dict.fromkeys(figure.model for figure in pool)}
    fitting = [figure for figure in pool if figure.task == facts.task and how[figure.model] is not None]
    if not fitting:
        return []
    by_cell: dict[tuple[str, Keep | str | None], list[PublishedFigure]] = defaultdict(list)
    for figure in fitting:
        if figure.keep != UNKNOWN:
            by_cell[figure.method, figure.budget or _ALL].append(figure)
    by_column: dict[tuple[str, ...], list[PublishedFigure]] = defaultdict(list)
    for figure in fitting:
        if figure.method != "none" and figure.number is not None:
            by_column[_column(figure)].append(figure)
    contradicted = contradictions(fitting)  # of one model and task, as whatever contradicts them is
    found = []
    for cell in summary["cells"]:
        name = str(cell.get("method"))
        if cell.get("skipped") or imitated(name) is not None:
            continue
        here = []
        for figure in by_cell.get((bare(name), Keep.stored(cell) or _ALL), ()):
            rivals = [other for other in by_column[_column(figure)] if other.method != figure.method]
            here.append(_held(cell, figure, facts, rivals, contradicted.get(figure, ()), how[figure.model] or ""))
        found += sorted(here, key=lambda one: (one.verdict is None, not one.counts))
    return found


def _column(figure: PublishedFigure) -> tuple[str, ...]:
    """What figures have in common that stand under each other in a table: all but the method."""
    return tuple(getattr(figure, name) for name in ("table", "source", "model", "task", "metric", "split", "tokens", "keep"))


def _held(
    cell: JsonObject,
    figure: PublishedFigure,
    facts: RunFacts,
    rivals: Sequence[PublishedFigure],
    against: Sequence[PublishedFigure],
    matched: str,
) -> HeldAgainst:
    ours = _ours(cell, figure, facts)
    told, lo, hi = _with_metric(apart(figure, cell, facts), cell, figure, ours), ours.lo, ours.hi
    verdict, inside = None, set()
    if not ours.why and figure.number is not None and lo is not None and hi is not None:
        verdict = verdict_of(figure.number, figure.rounding, lo, hi)
        inside = {o.method for o in rivals if o.number is not None and verdict_of(o.number, o.rounding, lo, hi) == INSIDE}
    counts = [None if (n := number(cell, path)) is None else int(n) for path in ("n_images", "n")]
    whole = number(facts.manifest, "whole.questions")
    keep = Keep.stored(cell)
    return HeldAgainst(
        method=str(cell["method"]), keep=_ALL if keep is None else str(keep), mode=str(cell.get("budget")), figure=figure,
        value=ours.value, lo=lo, hi=hi, verdict=verdict, why_none=ours.why, differs=told.differs, unknown=told.unknown,
        contradicted_by=len(against), images=counts[0], questions=counts[1], whole=None if whole is None else int(whole),
        others=len({o.method for o in rivals}) if verdict else 0, others_inside=len(inside), matched=matched,
        contradicting_values=different_values(against), partial=ours.partial,
    )  # fmt: skip


def _with_metric(told: Apart, cell: JsonObject, figure: PublishedFigure, ours: _Ours) -> Apart:
    """The same with the metric, where the source does not say it, leaves open which of several it is, or ours is another."""
    leads = dig(cell, "score.name")
    if figure.metric == UNKNOWN:
        return Apart(told.differs, ("metric", *told.unknown))
    if leads in OPEN_METRICS.get(figure.metric, ()):
        others = " or ".join(name for name in OPEN_METRICS[figure.metric] if name != leads)
        return Apart(told.differs, (f"whether it is {leads}, as ours, or {others}", *told.unknown))
    if ours.other and leads is not None:
        return Apart((f"metric: {leads} here, {figure.metric} there", *told.differs), told.unknown)
    return told


def _ours(cell: JsonObject, figure: PublishedFigure, facts: RunFacts) -> _Ours:
    """Our value of a figure's metric: that which leads, the accuracy of single answers, or a figure of the task."""
    scale, score = figure.scale, cell.get("score")
    if scale is None:
        return _Ours(None, None, None, "metric unknown")
    if not isinstance(score, dict):
        return _Ours(None, None, None, "this run has no scores")
    name, kind = score.get("name"), dig(facts.manifest, "scoring.figure.kind")
    if lacking := _lacking(cell, figure, facts.task):
        return _Ours(None, None, None, lacking)
    if name in (figure.metric, *OPEN_METRICS.get(figure.metric, ())):
        found, factor = interval(cell, "score"), scale / float(score.get("scale") or scale)
    elif figure.metric == "accuracy" and (kind in ("f1", "mme") or name == "OCRBench total"):
        found, factor = interval(cell, "accuracy"), scale  # of these, plain accuracy is a figure of papers too
    else:
        value = _of_the_task(cell, figure)
        why = "our figure has no interval" if value is not None else f"this run reports {name}"
        return _Ours(value, None, None, why, other=value is None)
    if found is None:
        return _Ours(None, None, None, "our cell has no value")
    why = "" if found.known else "our figure has no interval"
    why = "the source’s value is unknown" if figure.number is None else why
    lo, hi = (found.lo * factor, found.hi * factor) if found.known else (None, None)
    return _Ours(found.value * factor, lo, hi, why, bool(score.get("partial")))


def _lacking(cell: JsonObject, figure: PublishedFigure, task: str) -> str:
    """Say how many categories were asked where a figure is made of all of them; empty where all were, and of other figures.

    Images are drawn at random over a benchmark, so a mean over questions or images of a part estimates that of the whole, and
    so does OCRBench's total, which is such a mean on another scale. What is made category by category has no estimate where
    one lacks, and a category of POPE or MME lacks only where the files do not hold it or hardly any image was asked.
    """
    from harness.tasks.benchmarks.yes_no import COGNITION, PERCEPTION, POPE

    if task not in ("mme", "pope"):
        return ""
    of_mme = {"MME perception": PERCEPTION, "MME cognition": COGNITION}
    wanted = POPE.info.families if task == "pope" else of_mme.get(figure.metric, PERCEPTION + COGNITION)
    told = [name.removeprefix("f1_") for name in cell.get("task_figures") or cell.get("families") or ()]
    asked = sum(category in told for category in wanted)
    return "" if asked == len(wanted) else f"{asked} of the {len(wanted)} categories were asked here, and it is made of all"


def _of_the_task(cell: JsonObject, figure: PublishedFigure) -> float | None:
    """A figure that the task computes beside its leading one, without an interval."""
    told: JsonObject = dict(cell.get("task_figures") or {})
    if figure.metric == "F1 by category":
        kinds = [float(value) for name, value in told.items() if name.startswith("f1_")]
        return None if not kinds or figure.scale is None else figure.scale * fmean(kinds)
    name = {"MME perception": "perception", "MME cognition": "cognition"}.get(figure.metric)
    return None if name is None else number(told, name)


def as_rows(found: Sequence[HeldAgainst]) -> list[dict[str, Any]]:
    """Return comparisons as JSON holds them, a mapping each.

    Args:
        found: by `held_against`.
    """
    return [as_row(one) for one in found]
