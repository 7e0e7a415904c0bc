"""What became of the evidence in the cells of a run: recall, evidence swap, and their tests over all cells. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.answer_figures import evidence_figures
from harness.results.difference_families import MeanFamily
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.sample_columns import RunQuestions
from harness.results.types import Floats, Integers, JsonObject
from methods.keep import Keep
from metrics import evidence
from metrics.design_effect import IntraclassCorrelation
from metrics.differences import mean_difference
from metrics.intervals import PRIOR


@dataclass(frozen=True, eq=False)
class EvidenceColumns:
    """The columns about evidence of one cell, kept in few bytes until all cells are read.

    Recall is kept in half the bytes. Scores with the evidence swapped in are not: they are held against other scores, and what
    is equal has to stay so.
    """

    place: Integers  # [n] of the questions
    recall: NDArray[np.float32]  # [n]; nan is missing
    recall_before: NDArray[np.float32]  # [n]
    swapped: Integers  # [s] rows that have a score with the evidence swapped in
    swap_score: Floats  # [s]

    @classmethod
    def of(cls, columns: Mapping[str, Floats], place: Integers) -> EvidenceColumns | None:
        """Return the columns of a cell; None where no question names its evidence.

        Args:
            columns: [n] each, of `sample_columns.NUMBER_COLUMNS`.
            place: [n] of the questions.
        """
        if not np.isfinite(columns["recall"]).any():
            return None
        recall, before = (columns[name].astype(np.float32) for name in ("recall", "recall_before"))
        swapped = np.flatnonzero(np.isfinite(columns["swap_score"]))
        same = np.array_equal(recall, before, equal_nan=True)
        return cls(place, recall, recall if same else before, swapped, columns["swap_score"][swapped])

    def table(self) -> dict[str, Floats]:
        """Return ``recall``, ``recall_before`` and ``swap_score`` as columns [n]."""
        swap_score = np.full(len(self.place), np.nan)
        swap_score[self.swapped] = self.swap_score
        before = self.recall_before.astype(np.float64)
        return {"recall": self.recall.astype(np.float64), "recall_before": before, "swap_score": swap_score}


class EvidenceFamilies:
    """The figures about evidence of all cells of a run, and their two families of tests.

    Args:
        leading: with what is known of the answers of an image.
        questions: of the run.
        cells: the columns of all its cells, of which the correlation of the recalls of an image is pooled.
        seed: of the sign flips.
    """

    def __init__(self, leading: LeadingFigure, questions: RunQuestions, cells: Sequence[EvidenceColumns], seed: int) -> None:
        self.leading, self.questions, self.of_recalls = leading, questions, IntraclassCorrelation()
        for cell in cells:
            self.of_recalls.add(cell.recall, questions.image[cell.place])
        images = 1 + int(questions.image.max(initial=-1))
        self.gains, self.recalls = MeanFamily(images, seed), MeanFamily(images, seed)
        self.by_name: dict[tuple[str, Keep | None], NDArray[np.float32]] = {}
        self.waiting: list[tuple[JsonObject, JsonObject, NDArray[np.float32]]] = []

    def add(
        self, facts: JsonObject, own: CellScores, none: CellScores | None, columns: EvidenceColumns | None
    ) -> JsonObject | None:
        """Return ``evidence`` of a cell, to be completed by `test`; None where there is nothing to say.

        Args:
            facts: of the cell.
            own: its scores.
            none: scores of the cell without pruning, where the run has one.
            columns: of the cell.
        """
        if columns is None:
            return None
        table = columns.table()
        out = evidence_figures(table, own, self.leading, self.of_recalls.rho)
        if out is None:
            return None
        recall = np.full(len(self.questions.image), np.nan, dtype=np.float32)
        recall[columns.place[own.answered]] = columns.recall[own.answered]
        self.by_name[facts["method"], Keep.stored(facts)] = recall
        self.waiting.append((out, facts, recall))
        swapped = np.where(own.answered, table["swap_score"], np.nan)
        if none is not None and np.isfinite(swapped).any():
            found = evidence.swap(swapped, own.score, none.score, own.image, self.leading.of_changes.rho, self.leading.margin)
            if found is not None:
                known = np.where(np.isfinite(none.score), swapped - own.score, np.nan)
                out["swap_gain"] = self.gains.add(known, own.image, facts, found.gain)
                out["swap_loss"] = {"value": found.loss.value, "lo": found.loss.lo, "hi": found.loss.hi}
                out["swap_share"] = found.share
        return out

    def test(self) -> None:
        """Hold every cell's recall against that of its control, and fill in all p values."""
        for out, facts, recall in self.waiting:
            control = self.by_name.get((facts["like"], Keep.stored(facts))) if facts["like"] else None
            if control is not None:
                mine, theirs, image = recall.astype(np.float64), control.astype(np.float64), self.questions.image
                differ = np.unique(image[np.nan_to_num(mine - theirs) != 0])
                # where few images differ, their spread does not tell what the others would do
                few = mean_difference(mine, theirs, image, self.of_recalls.rho) if len(differ) < PRIOR else None
                out["recall_over_control"] = self.recalls.add(mine - theirs, image, facts, few)
        self.gains.test()
        self.recalls.test()
