"""The accuracy pass: batches of images through all cells that have no answers yet, one transaction a batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch

from harness.config import CompareConfig
from harness.engine import Engine
from harness.failures import Alone, of_sample, out_of_memory
from harness.findings import Findings, Layout, joined
from harness.measure import Work
from harness.progress import progress
from harness.runs import RunFolder
from harness.tasks.base import ImageSample
from methods.similarity import shared_similarity
from methods.types import BudgetError

if TYPE_CHECKING:
    from harness.plan import Cell
    from harness.prepare import Prepared

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Shard:
    """A batch of images, and the cells that have no answers on it yet."""

    place: int  # of its first image
    cells: tuple[str, ...]  # keys


@dataclass
class Stored:
    """What a shard gave, as `RunFolder.add_batch` takes it; cells go by their keys."""

    images: list[tuple] = field(default_factory=list)
    questions: list[tuple] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    areas: list[tuple] = field(default_factory=list)
    findings: dict[str, list[Findings]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # reasons
    size: int = 0  # images that fitted into memory at a time


class Answerer:
    """Runs the cells of a request on shards.

    Args:
        config: the request.
        ready: what the request needs, loaded.
        advance: told how many images a cell has answered.
    """

    def __init__(self, config: CompareConfig, ready: Prepared, advance: Callable[[int], None] = lambda images: None) -> None:
        self.config, self.ready, self.advance = config, ready, advance
        self.cells, self.size = {cell.key: cell for cell in ready.active}, config.batch_size
        self.engine = Engine(ready.adapter, ready.answer_tokens(config), strict=True)
        self.wanted = frozenset().union(*(cell.needs for cell in ready.active))
        self.further = tuple(range(config.seed + 1, config.seed + config.seeds))
        self.refused: set[str] = set()

    def samples(self, shard: Shard) -> list[ImageSample]:
        return self.ready.samples[shard.place : shard.place + self.config.batch_size]

    def work(self, shard: Shard) -> Work:
        """The first images of a shard, as many as fit, decoded and made ready for the tower."""
        samples = self.samples(shard)
        return self._work(samples[: self._edges(shard.place, len(samples))[1]], shard.place)

    def _edges(self, place: int, count: int) -> list[int]:
        """Where images, the first of which stands at ``place``, are cut: as many as fit, and analysed ones by themselves."""
        bound = self.config.analyse - place
        return sorted({*range(0, count, self.size), count, *([bound] if 0 < bound < count else [])})

    def _work(self, samples: list[ImageSample], place: int) -> Work:
        """Images, the first of which stands at ``place``, decoded and made ready for the tower."""
        analysed = place < self.config.analyse
        made = Work(
            self.engine, self.ready.task, samples, self.config.seed, self.config.sharing, self.wanted, self.config.prompt,
            tuple(self.ready.active), analysed,
        )  # fmt: skip
        with suppress(Exception):  # what is wrong with an image shows where it is wanted
            _ = made.views
        return made

    def answer(self, shard: Shard, ready: Work | None = None) -> Stored:
        """What a shard gives: at once where there is memory, else half as many images at a time, and as many from then on.

        Where that fails, it is taken apart, so that one sample that cannot be measured costs no other its answer.

        Args:
            shard: the batch and its cells.
            ready: what `work` made of it.
        """
        samples, ready = self.samples(shard), ready or self.work(shard)
        cells = [self.cells[key] for key in shard.cells if key not in self.refused]
        work = ready
        while True:
            stored = Stored(size=self.size)
            try:
                for start, end in pairwise(self._edges(shard.place, len(samples))):
                    some, place = samples[start:end], shard.place + start
                    work = ready if not start and len(some) == len(ready.samples) else self._work(some, place)
                    self._measure(work, place, cells, stored)
                break
            except BudgetError:
                raise
            except Exception as error:
                if not of_sample(error):
                    raise
                scarce = out_of_memory(error)
            work.forget()
            ready.forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not scarce or min(self.size, len(samples)) == 1:
                stored = self._apart(shard, samples, cells)
                break
            self.size = min(self.size, len(samples)) // 2
        self.refused |= stored.refused.keys()
        return stored

    def _measure(self, work: Work, place: int, cells: list[Cell], stored: Stored) -> None:
        """Run cells on images that fit, the first of which stands at ``place``."""
        if cells and cells[0].method != "none":
            work.refer_to(self.none)
        with shared_similarity() if self.config.sharing else nullcontext():
            self._each(cells, lambda cell: [work.run(cell, self._seeds(cell))], len(work.samples), stored)
        stored.images += work.image_rows(place)
        stored.questions += work.questions()
        stored.layouts += work.layouts()
        stored.areas += work.areas()

    def _apart(self, shard: Shard, samples: list[ImageSample], cells: list[Cell]) -> Stored:
        """What a shard gives image by image; samples that fail are among it, with the reason."""
        stored = Stored(size=self.size)
        for place, sample in enumerate(samples, shard.place):
            image = self._alone(sample, place)
            self._each(cells, partial(self._run_alone, image), 1, stored)
            stored.images += image.image_rows(place)
            stored.questions += image.questions()
            stored.layouts += image.layouts()
            stored.areas += image.areas()
        return stored

    def _alone(self, sample: ImageSample, place: int) -> Alone:
        one = lambda number: self._work([replace(sample, questions=(sample.questions[number],))], place)
        return Alone(self._work([sample], place), self.none, one)

    def _run_alone(self, image: Alone, cell: Cell) -> list[Findings]:
        return list(image.run(cell, self._seeds(cell)))

    def _seeds(self, cell: Cell) -> tuple[int, ...]:
        """Further ones, under which its answers are scored too."""
        return self.further if cell.method == "random" else ()

    def _each(self, cells: list[Cell], run: Callable[[Cell], list[Findings]], images: int, stored: Stored) -> None:
        """Store what cells give; one that is impossible on an image is refused, and what it gave before goes."""
        for cell in cells:
            if cell.key in stored.refused:
                continue
            try:
                found = run(cell)
            except BudgetError as error:
                if cell.method == "none":
                    raise
                stored.refused[cell.key] = str(error)
                stored.findings.pop(cell.key, None)
                continue
            stored.findings.setdefault(cell.key, []).extend(found)
            self.advance(images)

    @property
    def none(self) -> Cell:
        """What other cells are compared with."""
        return next(iter(self.cells.values()))


def answer(config: CompareConfig, run: RunFolder, ready: Prepared, ids: dict[str, int]) -> None:
    """Answer what has no answer yet; the batch size that fitted is noted in the manifest.

    Args:
        config: the request.
        run: where results go.
        ready: what the request needs, loaded. Cells that turn out to be impossible on an image become skipped ones.
        ids: of the cells in the run, by their keys.
    """
    from harness.distributed import crew

    _refuse({key: facts["skipped"] for _, key, facts in run.cells() if facts["skipped"] is not None}, run, ready, ids)
    samples, done = ready.samples, run.done()
    with progress("answers", len(samples) * len(ready.active)) as advance:
        shards = []
        for place in range(0, len(samples), config.batch_size):
            todo = [cell.key for cell in ready.active if (ids[cell.key], place) not in done]
            images = min(config.batch_size, len(samples) - place)
            advance(images * (len(ready.active) - len(todo)))
            if todo:
                shards.append(Shard(place, tuple(todo)))
        size = config.batch_size
        with closing(crew(config, ready, shards, advance)) as answered:
            for shard, found in answered:
                refused = {cell.key for cell in ready.cells if cell.skipped is not None}
                findings = {ids[key]: joined(parts) for key, parts in found.findings.items() if key not in refused}
                run.add_batch(shard.place, found.images, found.questions, findings, found.layouts, found.areas)
                _refuse(found.refused, run, ready, ids)
                size = min(size, found.size)
    if shards:
        manifest = run.manifest()
        manifest["batch_size_used"] = min(size, manifest.get("batch_size_used", size))
        run.write_json("manifest.json", manifest)


def _refuse(reasons: dict[str, str], run: RunFolder, ready: Prepared, ids: dict[str, int]) -> None:
    """Skip cells that turned out to be impossible on one of the images; what they have answered goes."""
    for place, cell in enumerate(ready.cells):
        if cell.key in reasons and cell.skipped is None:
            run.drop(ids[cell.key], reasons[cell.key])
            ready.cells[place] = replace(cell, steps=(), schedule=None, skipped=reasons[cell.key])


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
