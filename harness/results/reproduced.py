"""The finished runs of a reproduction held against the table that they repeat. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from statistics import fmean

from harness.literature.comparison import HeldAgainst
from harness.literature.contradictions import contradictions, different_values
from harness.literature.figures import PublishedFigure
from harness.literature.retention import unpruned_alike
from harness.literature.tables import PublishedTable, published
from harness.results.against_published import held_against
from harness.results.current_summary import current_summary
from harness.results.published_match import RunFacts
from harness.results.types import JsonObject
from harness.store.open_runs import reading
from harness.store.runs import RunFolder
from methods.expressions import bare
from methods.keep import Keep
from reports.reproduction import MeanRetention, ReproducedTask, ReproductionPage

_SAID = "{} is taken for these weights because --model says so"
_RIVAL = "another method: "


@dataclass(frozen=True)
class StoredRun:
    """Where the run of a task lies, finished or not, and the figures that its cells repeat."""

    name: str
    task: str  # as the table has it
    budget: str
    folder: Path
    figures: tuple[PublishedFigure, ...]  # each with the canonical expression of its cell
    foreign: bool = False  # whether what lies there is a run of another request


def hold(
    table: PublishedTable, model: str, runs: Sequence[StoredRun], notes: tuple[str, ...], left_out: tuple[str, ...] = ()
) -> ReproductionPage:
    """Return what the finished runs of a reproduction come to beside its table.

    Contradictions of its figures are sought among those of the table and all that others printed.

    Args:
        table: that is repeated.
        model: of the table.
        runs: all that the table asks for, in its order.
        notes: what was settled, in sentences.
        left_out: what cannot be run, or is not held against the table, in sentences.
    """
    against = contradictions(dict.fromkeys((*table.figures, *published())))
    contradicted = {figure.line: against.get(figure, ()) for figure in table.figures}
    tasks = tuple(_task(table, model, run, contradicted) for run in runs)
    return ReproductionPage(table, model, tasks, mean_retention(tasks), notes, left_out)


_ByLine = Mapping[int, tuple[PublishedFigure, ...]]
"""The figures that contradict one of the table, by its line."""


def _task(table: PublishedTable, model: str, run: StoredRun, contradicted: _ByLine) -> ReproducedTask:
    if run.foreign or not (run.folder.is_dir() and RunFolder(run.folder, read_only=True).finished):
        return ReproducedTask(run.task, run.name, run.budget, (), False)
    with reading(run.folder) as (stored,):
        summary = current_summary(stored)
        held = tuple(_with_contradictions(one, contradicted) for one in _held(stored, summary, table, model, run))
        manifest = stored.manifest()
    none: JsonObject = next((cell for cell in summary["cells"] if cell.get("method") == "none"), {})
    images, questions = none.get("n_images"), none.get("n")
    device = f"{manifest.get('device')}, {manifest.get('dtype')}"
    return ReproducedTask(run.task, run.name, run.budget, held, True, images, questions, device, str(manifest.get("task")))


def _with_contradictions(one: HeldAgainst, contradicted: _ByLine) -> HeldAgainst:
    against = contradicted.get(one.figure.line, ())
    return replace(one, contradicted_by=len(against), contradicting_values=different_values(against))


def _held(run: RunFolder, summary: JsonObject, table: PublishedTable, model: str, planned: StoredRun) -> Iterator[HeldAgainst]:
    """Every figure of a run once, in the order of the table: what its own cell has beside it, or why it has nothing.

    The cell of a figure is that of the expression with which the table is repeated, whatever the table calls the method, the task
    and the weights; so figures are renamed for the comparison, and get their names back.
    """
    facts = RunFacts.of(run.manifest(), summary["cells"])
    asked, how = str(run.manifest().get("model")), facts.matched(model)
    here = [replace(figure, task=facts.task, model=asked) for figure in table.figures if figure.task == planned.task]
    found: dict[int, HeldAgainst] = {}
    for expression in dict.fromkeys(figure.expression for figure in planned.figures):
        cells = [cell for cell in summary["cells"] if cell.get("method") in ("none", expression)]
        own = {figure.line: figure for figure in planned.figures if figure.expression == expression}
        figures = [
            replace(figure, method=bare(expression), expression="" if expression == bare(expression) else expression)
            if figure.line in own
            else replace(figure, method=f"{_RIVAL}{figure.method}")
            for figure in here
            if figure.line in own or figure.method != "none"
        ]
        for one in held_against(run, summary | {"cells": cells}, figures):
            if one.figure.line in own and one.method == expression and one.mode == planned.budget:
                matched = _SAID.format(asked) if how is None else how
                found[one.figure.line] = replace(one, figure=own[one.figure.line], matched=matched)
    for figure in planned.figures:
        yield found.get(figure.line) or _without_cell(summary, figure, planned.budget)


def _without_cell(summary: JsonObject, figure: PublishedFigure, mode: str) -> HeldAgainst:
    """A figure whose cell was skipped or is not there, with the reason."""
    cells = [cell for cell in summary["cells"] if cell.get("method") == figure.expression]
    cell: JsonObject = next((one for one in cells if Keep.stored(one) == figure.budget), {})
    reason = f"skipped: {cell['skipped']}" if cell.get("skipped") else "this run has no such cell"
    return HeldAgainst(
        method=figure.expression, keep=str(figure.budget or figure.keep), mode=mode, figure=figure, value=None, lo=None, hi=None,
        verdict=None, why_none=reason, differs=(), unknown=(), contradicted_by=0, images=None, questions=None, whole=None,
        others=0, others_inside=0, matched="",
    )  # fmt: skip


def mean_retention(tasks: Sequence[ReproducedTask]) -> tuple[MeanRetention, ...]:
    """Return the mean over tasks of value over the unpruned model's, of every method, budget and mode, ours and the published.

    Both means are over the same tasks: those for which ours and the published value are known, of the method and of that ``none``
    which was measured alike. Runs of one task answer the same questions, so one value of ``none`` is that of all.

    Args:
        tasks: of one reproduction.
    """
    whole: dict[str, dict[PublishedFigure, HeldAgainst]] = {}
    for task in tasks:
        known = {one.figure: one for one in task.held if one.figure.method == "none" and one.value and one.figure.number}
        whole.setdefault(task.task, {}).update(known)
    shares: dict[tuple[str, str, str, str], dict[str, tuple[float, float]]] = {}
    for task in tasks:
        for one in task.held:
            if one.figure.budget is None or one.value is None or one.figure.number is None:
                continue
            if isinstance(figure := unpruned_alike(one.figure, whole[task.task]), PublishedFigure):
                none = whole[task.task][figure]
                told = shares.setdefault((one.figure.method, one.method, one.keep, one.mode), {})
                told.setdefault(task.task, (one.value / (none.value or nan), one.figure.number / (figure.number or nan)))
    return tuple(
        MeanRetention(
            method, expression, keep, mode, fmean(v[0] for v in by_task.values()), fmean(v[1] for v in by_task.values()),
            tuple(by_task),
        )
        for (method, expression, keep, mode), by_task in shares.items()
    )  # fmt: skip
