"""Samples that cannot be measured: a batch in which one raises is taken apart, and what still fails is stored with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch

from harness.engine.batch import EngineOutput
from harness.errors import RequestError, SampleError, readable, unexpected
from harness.run.batch_run import BatchRun
from harness.run.plan import Cell
from harness.store.cell_results import CellResult, SampleRow
from harness.store.layouts import ImageLayout
from harness.store.schema import ImageRow, QuestionRow
from harness.tasks.base import Question
from methods.types import BudgetError

_LONGEST = 240  # characters of a reason
_OF_DEVICE = ("CUDA error", "HIP error", "device-side assert")

T = TypeVar("T")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, on a device or here."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error).lower()


def of_sample(error: Exception) -> bool:
    """Return whether an error may be of one sample alone; after one of the device nothing that follows can be trusted."""
    return out_of_memory(error) or not any(text in str(error) for text in _OF_DEVICE)


def reason(error: Exception) -> str:
    """Return one line on why a sample has no answer.

    >>> reason(MemoryError("99 bytes"))
    'out of memory (99 bytes)'
    """
    if out_of_memory(error):
        said = readable(str(error)).partition("\n")[0]
        text = f"out of memory ({said})" if said else "out of memory"
    elif isinstance(error, (RequestError, SampleError)):
        text = readable(str(error)).replace("\n", "; ")
    else:
        text = unexpected(error).removeprefix("internal error: ")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


@dataclass
class IsolatedRun:
    """One image on its way through cells of which some may fail on it.

    Args:
        batch_run: the run of the image alone.
        none: the cell that others are compared with.
        make: makes the `BatchRun` of the image with one of its questions, which is given by its place.
    """

    batch_run: BatchRun
    none: Cell
    make: Callable[[int], BatchRun]
    shortened: set[str] = field(default_factory=set, init=False)  # as `BatchRun.shortened`
    references: dict[int | None, EngineOutput | None] = field(default_factory=dict, init=False)  # by question, None for all

    @cached_property
    def unreadable(self) -> str | None:
        """The reason why the image cannot be made ready for the vision tower; None where it can."""
        try:
            _ = self.batch_run.pixels
        except Exception as error:
            if not of_sample(error):
                raise
            return reason(error)
        return None

    def run(self, cell: Cell, seeds: tuple[int, ...]) -> Iterator[CellResult]:
        """Yield what a cell gives: on all questions at once, or question by question where that fails.

        Args:
            cell: what to run.
            seeds: further seeds under which its answers are scored.

        Raises:
            BudgetError: where the cell is impossible on the image.
        """
        if self.unreadable is not None:
            yield self._failed(range(len(self._questions)), self.unreadable)
            return
        if cell.method == "none" or self._referred(self.batch_run, None):
            try:
                yield self.batch_run.run(cell, seeds)
                self.shortened |= self.batch_run.shortened
                return
            except Exception as error:
                self._let_go(self.batch_run, error)
                if len(self._questions) == 1:
                    yield self._failed([0], reason(error))
                    return
        for place in range(len(self._questions)):
            yield self._one(self.make(place), place, cell, seeds)

    def _one(self, batch_run: BatchRun, place: int, cell: Cell, seeds: tuple[int, ...]) -> CellResult:
        if cell.method != "none":
            self._referred(batch_run, place)
        try:
            found = batch_run.run(cell, seeds)
            self.shortened |= batch_run.shortened
            return found
        except Exception as error:
            self._let_go(batch_run, error)
            return self._failed([place], reason(error))

    def _referred(self, batch_run: BatchRun, place: int | None) -> bool:
        """Give a batch run the answers of `none` to compare with; where that fails too, cells are measured without."""
        if place not in self.references:
            try:
                batch_run.refer_to(self.none)
            except Exception as error:
                self._let_go(batch_run, error)
            self.references[place] = batch_run.reference
        batch_run.reference = self.references[place]
        return batch_run.reference is not None

    @staticmethod
    def _let_go(batch_run: BatchRun, error: Exception) -> None:
        """Forget what may be half made; raise what is no failure of a sample."""
        if isinstance(error, BudgetError) or not of_sample(error):
            raise error
        batch_run.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _failed(self, places: Sequence[int], why: str) -> CellResult:
        return CellResult([SampleRow(self._questions[place].sample_id, "", None, failed=why) for place in places])

    @property
    def _questions(self) -> Sequence[Question]:
        return self.batch_run.samples[0].questions

    def image_rows(self, place: int) -> list[ImageRow]:
        """Return `BatchRun.image_rows`; without complexity where that fails, without a picture where the image cannot be read."""
        if self.unreadable is not None:
            return [(self.batch_run.samples[0].image_id, place, None, None, None, None)]
        plain = replace(self.batch_run, analysed=False)
        return self._or(lambda: self.batch_run.image_rows(place), lambda: plain.image_rows(place))

    def questions(self) -> list[QuestionRow]:
        """Return `BatchRun.questions`; without the evidence's place where that fails."""
        (sample,) = self.batch_run.samples
        rows: list[QuestionRow] = [
            (q.sample_id, sample.image_id, i, q.family, q.text, q.answer, None) for i, q in enumerate(sample.questions)
        ]
        return self._or(self.batch_run.questions, lambda: rows)

    def layouts(self) -> list[ImageLayout]:
        """Return `BatchRun.layouts`; nothing where that fails."""
        return self._or(self.batch_run.layouts, list)

    def _or(self, make: Callable[[], list[T]], otherwise: Callable[[], list[T]]) -> list[T]:
        try:
            return make()
        except Exception as error:
            self._let_go(self.batch_run, error)
            return otherwise()
