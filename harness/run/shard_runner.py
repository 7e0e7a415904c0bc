"""Answers one shard: a batch of images through all cells that have no answers on it yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise

import torch

from harness.engine.engine import Engine
from harness.errors import RequestError
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig, load_plugins
from harness.run.failures import IsolatedRun, of_sample, out_of_memory
from harness.run.manifest import code_digest
from harness.run.plan import Cell
from harness.run.prepare import PreparedRun, prepare
from harness.run.shards import Shard, ShardResult
from harness.store.findings import CellResult
from harness.tasks.base import ImageSample
from methods.similarity import shared_similarity
from methods.types import BudgetError


class ShardRunner:
    """Runs the cells of a request on shards.

    Args:
        config: the request.
        ready: what the request needs, loaded.
        advance: told how many images a cell has answered.
    """

    def __init__(self, config: CompareConfig, ready: PreparedRun, advance: Callable[[int], None] = lambda images: None) -> None:
        self.config, self.ready, self.advance = config, ready, advance
        self.cells, self.size = {cell.key: cell for cell in ready.active}, config.batch_size
        self.engine = Engine(ready.adapter, ready.answer_tokens(config), strict=True)
        self.wanted = frozenset().union(*(cell.needs for cell in ready.active))
        self.further = tuple(range(config.seed + 1, config.seed + config.seeds))
        self.refused: set[str] = set()

    def samples(self, shard: Shard) -> list[ImageSample]:
        return self.ready.samples[shard.place : shard.place + self.config.batch_size]

    def work(self, shard: Shard) -> BatchRun:
        """The first images of a shard, as many as fit, decoded and made ready for the tower."""
        samples = self.samples(shard)
        return self._work(samples[: self._edges(shard.place, len(samples))[1]], shard.place)

    def _edges(self, place: int, count: int) -> list[int]:
        """Where images, the first of which stands at ``place``, are cut: as many as fit, and analysed ones by themselves."""
        bound = self.config.analyse - place
        return sorted({*range(0, count, self.size), count, *([bound] if 0 < bound < count else [])})

    def _work(self, samples: list[ImageSample], place: int) -> BatchRun:
        """Images, the first of which stands at ``place``, decoded and made ready for the tower."""
        analysed = place < self.config.analyse
        made = BatchRun(
            self.engine, self.ready.task, samples, self.config.seed, self.config.sharing, self.wanted, self.config.prompt,
            tuple(self.ready.active), analysed,
        )  # fmt: skip
        with suppress(Exception):  # what is wrong with an image shows where it is wanted
            _ = made.views
        return made

    def answer(self, shard: Shard, ready: BatchRun | None = None) -> ShardResult:
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
            stored = ShardResult(size=self.size)
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

    def _measure(self, work: BatchRun, place: int, cells: list[Cell], stored: ShardResult) -> None:
        """Run cells on images that fit, the first of which stands at ``place``."""
        if cells and cells[0].method != "none":
            work.refer_to(self.none)
        with shared_similarity() if self.config.sharing else nullcontext():
            self._each(cells, lambda cell: [work.run(cell, self._seeds(cell))], len(work.samples), stored)
        stored.images += work.image_rows(place)
        stored.questions += work.questions()
        stored.layouts += work.layouts()
        stored.areas += work.areas()

    def _apart(self, shard: Shard, samples: list[ImageSample], cells: list[Cell]) -> ShardResult:
        """What a shard gives image by image; samples that fail are among it, with the reason."""
        stored = ShardResult(size=self.size)
        for place, sample in enumerate(samples, shard.place):
            image = self._alone(sample, place)
            self._each(cells, partial(self._run_alone, image), 1, stored)
            stored.images += image.image_rows(place)
            stored.questions += image.questions()
            stored.layouts += image.layouts()
            stored.areas += image.areas()
        return stored

    def _alone(self, sample: ImageSample, place: int) -> IsolatedRun:
        one = lambda number: self._work([replace(sample, questions=(sample.questions[number],))], place)
        return IsolatedRun(self._work([sample], place), self.none, one)

    def _run_alone(self, image: IsolatedRun, cell: Cell) -> list[CellResult]:
        return list(image.run(cell, self._seeds(cell)))

    def _seeds(self, cell: Cell) -> tuple[int, ...]:
        """Further ones, under which its answers are scored too."""
        return self.further if cell.method == "random" else ()

    def _each(self, cells: list[Cell], run: Callable[[Cell], list[CellResult]], images: int, stored: ShardResult) -> None:
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


@dataclass
class ShardRunnerSource:
    """Makes a `ShardRunner` in whichever process answers shards; it is sent there without the model.

    Args:
        config: the request.
        prepared: what the request needs, loaded; a process that has none of it loads it again.
        expected: `fingerprints` where the run began, which a machine of a cluster must agree with; None asks for nothing.
    """

    config: CompareConfig
    prepared: PreparedRun | None = None
    expected: dict[str, str] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "prepared": None}

    def make(self, device: str | None = None) -> ShardRunner:
        """Load plug-ins, model and samples where they are not loaded yet, and return what answers shards with them.

        Raises:
            RequestError: where something is missing here, or is not what it was where the run began.
        """
        config = self.config if device is None else replace(self.config, device=device)
        prepared = self.prepared
        if prepared is None:
            load_plugins(config.plugin)
            prepared = prepare(config)
        for name, wanted in (self.expected or {}).items():
            if (found := fingerprints(config, prepared)[name]) != wanted:
                raise RequestError(f"has other {name} ({found}) than where the run began ({wanted})")
        return ShardRunner(config, prepared)


def fingerprints(config: CompareConfig, ready: PreparedRun) -> dict[str, str]:
    """Return what must agree between machines for their answers to be of one run, each by what a message calls it."""
    asked = hashlib.sha256()
    for sample in ready.samples:
        asked.update(repr((sample.image_id, [(q.sample_id, q.text, q.answer) for q in sample.questions])).encode())
    return {
        "code of prunescope or a plug-in": code_digest(config.plugin),
        "weights": str(ready.adapter.digest),
        "data": str(getattr(ready.task, "digest", None)),
        "questions": asked.hexdigest()[:16],
        "versions": f"torch {version('torch').partition('+')[0]}, transformers {version('transformers')}",
    }
