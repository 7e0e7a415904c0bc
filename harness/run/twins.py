"""Random tokens on the counts that another cell had: as many tokens as it left, layer by layer, question by question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import SampleError
from harness.store.arrays import unpacked_counts
from methods.random import at_random
from methods.schedule import schedule
from methods.types import BudgetError, ModelShape, Step

if TYPE_CHECKING:
    from harness.engine.batch import EngineOutput
    from harness.engine.request import Steps
    from harness.run.plan import Cell
    from harness.store.cell_results import SampleRow
    from harness.store.runs import RunFolder

MeasuredCounts = dict[str, dict[str, bytes]]
"""By the key of a cell and by question, the visual tokens of each LLM layer, as `packed_counts` writes them."""
Runs = Callable[..., "EngineOutput"]
"""Answers the questions of some ``rows`` under given steps."""


def stored_counts(run: RunFolder, cell: int, questions: Sequence[str]) -> dict[str, bytes]:
    """Return by question the counts of a cell that a run holds.

    Args:
        run: the run.
        cell: id of the cell there.
        questions: those to read.
    """
    columns = run.columns(cell, questions)
    return {name: counts for name, counts in zip(columns["question"], columns["layer_counts"]) if counts is not None}


def original_of(cell: Cell, cells: Sequence[Cell]) -> Cell:
    """Return the cell whose counts another takes.

    Args:
        cell: random tokens on the counts of another method.
        cells: of the request.

    Raises:
        BudgetError: where there is none that runs.
    """
    found = next((one for one in cells if (one.method, one.keep) == (cell.copies, cell.keep) and one.skipped is None), None)
    if found is None:
        raise BudgetError(f"takes the counts of {cell.copies}, which does not run")
    return found


def note_counts(measured: MeasuredCounts, cell: Cell, rows: Sequence[SampleRow]) -> None:
    """Note the counts of a cell whose counts follow from the image, for the cells that take them.

    Args:
        measured: takes the counts.
        cell: that has answered.
        rows: its answers.
    """
    if cell.adaptive:
        own = measured.setdefault(cell.key, {})
        own.update((row.question, row.layer_counts) for row in rows if row.layer_counts is not None)


def answer_like(cell: Cell, cells: Sequence[Cell], measured: MeasuredCounts, questions: Sequence[str], run: Runs) -> EngineOutput:
    """Answer questions with random tokens, as many as another cell had on each; those with equal counts run together.

    Args:
        cell: random tokens on the counts of another method.
        cells: of the request.
        measured: the counts that are known.
        questions: ids of all questions, in the order of their rows.
        run: answers some of the rows.

    Raises:
        BudgetError: where the other cell does not run.
        SampleError: where it has none on one of the questions.
    """
    from harness.engine.batch import join

    original = original_of(cell, cells)
    known = measured.get(original.key, {})
    rows: dict[bytes, list[int]] = {}
    for row, question in enumerate(questions):
        if question not in known:
            raise SampleError(f"takes the counts of {original.method}, which has no answer to this question")
        rows.setdefault(known[question], []).append(row)
    outputs = [run(_steps(original, unpacked_counts(counts)), rows=those) for counts, those in rows.items()]
    return join(outputs, list(rows.values()))


def _steps(original: Cell, counts: Sequence[int]) -> Steps:
    if not original.varies:
        return at_random(original.steps, counts)

    def on(shape: ModelShape) -> tuple[Step, ...]:
        return at_random(original.steps_for(shape), counts)

    return on


def on_question(cell: Cell, cells: Sequence[Cell], known: Mapping[str, bytes], question: str, shape: ModelShape) -> Cell:
    """Return a cell of random tokens with the counts of one question planned, for what is run on that question alone.

    Args:
        cell: random tokens on the counts of another method.
        cells: of the request.
        known: the counts of that method's cell by question.
        question: the id of the question.
        shape: of its image.
    """
    if question not in known:
        return cell
    steps = at_random(original_of(cell, cells).steps_for(shape), unpacked_counts(known[question]))
    planned = schedule(shape, steps)
    return replace(cell, steps=steps, schedule=planned, plans={shape: (steps, planned, None)})
