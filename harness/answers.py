"""The accuracy pass: batches of images through all cells that have no answers yet, one transaction a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from harness.config import CompareConfig
from harness.engine import Engine
from harness.errors import RequestError
from harness.measure import Work
from harness.progress import progress
from harness.runs import Findings, Layout, RunFolder, joined
from harness.tasks.base import ImageSample
from methods.types import BudgetError

if TYPE_CHECKING:
    from harness.comparison import Prepared
    from harness.plan import Cell

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass
class Stored:
    """What a batch gave, as `RunFolder.add_batch` takes it; cells go by their ids."""

    images: list[tuple] = field(default_factory=list)
    questions: list[tuple] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    findings: dict[int, list[Findings]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)  # reasons


class Answering:
    """Runs the cells of a request.

    Args:
        config: the request.
        run: where results go.
        ready: what the request needs, loaded.
        ids: of the cells in the run, by their keys.
    """

    def __init__(self, config: CompareConfig, run: RunFolder, ready: Prepared, ids: dict[str, int]) -> None:
        self.config, self.run, self.ready, self.ids = config, run, ready, ids
        self.cells, self.size = ready.active, config.batch_size
        self.engine = Engine(ready.adapter, ready.answer_tokens(config))
        self.wanted = frozenset().union(*(cell.needs for cell in self.cells))
        self.further = tuple(range(config.seed + 1, config.seed + config.seeds))

    def answer(self) -> None:
        """Answer what has no answer yet; the batch size that fitted is noted in the manifest."""
        samples, done, step = self.ready.samples, self.run.done(), self.config.batch_size
        with progress("answers", len(samples) * len(self.cells)) as self.advance:
            batches = []
            for place in range(0, len(samples), step):
                group = samples[place : place + step]
                todo = [cell for cell in self.cells if (self.ids[cell.key], place) not in done]
                self.advance(len(group) * (len(self.cells) - len(todo)))
                if todo:
                    batches.append((place, group, todo))
            made = one_ahead(lambda batch: self.work(batch[1][: self.size]), batches)
            for (place, group, todo), work in zip(batches, made, strict=True):
                here = [cell for cell in todo if cell in self.cells]
                found = self.fitting(place, group, here, work)
                self.run.add_batch(
                    place, found.images, found.questions, {i: joined(parts) for i, parts in found.findings.items()}, found.layouts
                )
                self.refuse(found.refused)
        if batches:
            manifest = self.run.manifest()
            manifest["batch_size_used"] = min(self.size, manifest.get("batch_size_used", self.size))
            self.run.write_json("manifest.json", manifest)

    def work(self, samples: list[ImageSample]) -> Work:
        """A batch, its images decoded and made ready for the tower, unless there is no memory for it now."""
        made = Work(self.engine, self.ready.task, samples, self.config.seed, self.config.sharing, self.wanted, self.config.prompt)
        try:
            _ = made.views
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        return made

    def fitting(self, place: int, samples: list[ImageSample], cells: list[Cell], ready: Work) -> Stored:
        """What a batch gave: at once where there is memory, else half as many images at a time, and as many from then on.

        Args:
            place: of its first image.
            samples: its images.
            cells: to run.
            ready: its first images, as many as fitted when they were made ready.
        """
        work = ready
        while True:
            stored = Stored()
            try:
                for start in range(0, len(samples), self.size):
                    some = samples[start : start + self.size]
                    work = ready if not start and len(some) == len(ready.samples) else self.work(some)
                    self.measure(work, place, start, cells, stored)
                return stored
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if min(self.size, len(samples)) == 1:
                    lines = str(error).strip().splitlines() or [type(error).__name__]
                    raise RequestError(f"--batch-size: one image alone does not fit into memory ({lines[0][:160]})") from None
                self.size = min(self.size, len(samples)) // 2
            work.forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def measure(self, work: Work, place: int, start: int, cells: list[Cell], stored: Stored) -> None:
        """Run cells on images that fit, ``start`` images behind the batch's first."""
        analysed = place < self.config.analyse
        if cells and cells[0].method != "none":
            work.refer_to(self.cells[0])
        for cell in cells:
            ident = self.ids[cell.key]
            if ident in stored.refused:
                continue
            try:
                found = work.run(cell, analysed, self.further if cell.method == "random" else ())
            except BudgetError as error:
                if cell.method == "none":
                    raise
                stored.refused[ident] = str(error)
                stored.findings.pop(ident, None)
                continue
            stored.findings.setdefault(ident, []).append(found)
            self.advance(len(work.samples))
        stored.images += work.image_rows(place + start, analysed)
        stored.questions += work.questions()
        stored.layouts += work.layouts()

    def refuse(self, refused: dict[int, str]) -> None:
        """Skip cells that turned out to be impossible on one of the images; what they have answered goes."""
        for place, cell in enumerate(self.ready.cells):
            reason = refused.get(self.ids[cell.key])
            if reason is not None:
                self.run.drop(self.ids[cell.key], reason)
                self.ready.cells[place] = replace(cell, steps=(), schedule=None, skipped=reason)
        self.cells = [cell for cell in self.cells if self.ids[cell.key] not in refused]


def one_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """What is made of each item, in turn: a thread makes the next while the caller has this one.

    Exceptions are raised where their item's turn comes.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on a device or here."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error).lower()
