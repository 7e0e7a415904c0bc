"""What cells gave on samples, on its way to the tables of a run. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.store.layouts import ImageLayout
from harness.store.schema import NUMBERS, SAMPLE_COLUMNS

Value = str | int | float | bytes | None
"""What a column of a table holds."""


@dataclass(frozen=True)
class SampleRow:
    """One answer of one cell. Figures that a cell does not have are None."""

    question: str
    prediction: str
    score: float | None
    agree: float | None = None
    kl: float | None = None  # nats
    kept: bytes | None = None  # packed bool [h * w] of the tokens in the last layer
    kept_count: int | None = None
    recall: float | None = None  # of the evidence, in the last layer
    recall_before: float | None = None  # of the evidence, on entering the LLM
    swap_score: float | None = None  # with the evidence forced into the kept set; None where there is none, or not measured
    failed: str | None = None  # the reason why there is no answer: its prediction is empty then
    read: str | None = None  # what the rule that leads took for the answer; None where it found none, or reads none
    undecided: int | None = None  # 1 where the code of that rule could not decide, and the answer counts as wrong
    ours: float | None = None  # the score by our rule; None of a task with one rule, or without answers
    official: float | None = None
    authors: float | None = None
    layer_counts: bytes | None = None  # int32 visual tokens in each LLM layer, where they follow from the image
    tower_counts: bytes | None = None  # int32 tokens of a tile in each tower block's attention, then in each one's MLP

    def values(self) -> tuple[Value, ...]:
        """Return what `SAMPLE_COLUMNS` hold, in their order."""
        return tuple(getattr(self, name) for name in SAMPLE_COLUMNS)


@dataclass(frozen=True)
class TokenFigures:
    """What the kept tokens of some questions of one cell are like."""

    questions: Sequence[str]  # [R]
    numbers: Mapping[str, np.ndarray]  # float [R] each; nan or absent where a cell has no such figure
    layers: np.ndarray  # float32 [R, layers, LAYERS]; nan is not measured

    def rows(self, cell: int) -> Iterable[tuple[Value, ...]]:
        """Yield the rows of the table ``analysis``.

        Args:
            cell: the cell's id in the run.
        """
        columns = [self.numbers.get(name) for name in NUMBERS]
        for i, question in enumerate(self.questions):
            numbers = (None if column is None or column[i] != column[i] else float(column[i]) for column in columns)
            yield cell, question, *numbers, self.layers[i].astype("<f4").tobytes()


@dataclass(frozen=True)
class SelectionTrace:
    """Why a cell kept what it kept, by the N original tokens of a question's image."""

    question: str
    scores: np.ndarray | None  # float16 [N] that the first step which ranked by attention saw; nan for tokens that were gone
    source: np.ndarray | None  # int16 [N] the merged token, before the LLM, that each went into; -1 for none

    def values(self) -> tuple[Value, ...]:
        """Return the row of the table ``traces``, without the cell."""
        made = ((self.scores, "<f2"), (self.source, "<i2"))
        return (self.question, *(None if table is None else table.astype(kind).tobytes() for table, kind in made))


@dataclass
class CellResult:
    """What one cell gave on one batch."""

    samples: list[SampleRow]
    analysis: TokenFigures | None = None
    repeats: list[tuple[str, int, float, str | None]] = field(
        default_factory=list
    )  # question, further seed, score, what was read
    layouts: list[ImageLayout] = field(default_factory=list)  # of images that were shrunk, each to a grid of its own
    traces: list[SelectionTrace] = field(default_factory=list)


def joined(parts: Sequence[CellResult]) -> CellResult:
    """Return what one cell gave on the parts of a batch as one result, part after part."""
    if len(parts) == 1:
        return parts[0]
    analyses = [part.analysis for part in parts if part.analysis is not None]
    return CellResult(
        [row for part in parts for row in part.samples],
        joined_analyses(analyses) if analyses else None,
        [row for part in parts for row in part.repeats],
        [layout for part in parts for layout in part.layouts],
        [trace for part in parts for trace in part.traces],
    )


def joined_analyses(parts: Sequence[TokenFigures], order: np.ndarray | None = None) -> TokenFigures:
    """Return the analyses of different questions as one; a figure that a part lacks is nan there.

    Args:
        parts: the analyses, of R questions together.
        order: int [R] the places, part after part, in the order wanted; part after part where not given.
    """
    questions = [question for part in parts for question in part.questions]
    order = np.arange(len(questions)) if order is None else order
    names = dict.fromkeys(name for part in parts for name in part.numbers)
    missing = [np.full(len(part.questions), np.nan) for part in parts]
    columns = {n: np.concatenate([p.numbers.get(n, none) for p, none in zip(parts, missing)])[order] for n in names}
    return TokenFigures([questions[i] for i in order], columns, np.concatenate([part.layers for part in parts])[order])
