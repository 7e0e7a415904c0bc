"""How one shard is answered: a batch of images through all cells that have no answers on it yet."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise

import torch

from harness import notices
from harness.engine.engine import Engine
from harness.errors import RequestError
from harness.models.devices import names_of
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig, load_plugins
from harness.run.failures import IsolatedRun, of_sample, out_of_memory
from harness.run.manifest import beside_weights, code_digest
from harness.run.plan import Cell
from harness.run.prepare import Levels, PreparedRun, prepare, set_levels
from harness.run.selection_kernels import kernel_facts
from harness.run.shards import Shard, ShardResult
from harness.run.twins import MeasuredCounts, original_of
from harness.store.cell_results import CellResult
from harness.tasks.base import ImageSample, attribute
from methods.kernels import observed, using
from methods.similarity import shared_similarity
from methods.types import BudgetError

_PROBES = 3  # images beyond the first batch that are tried before a run is given up


class ShardRunner:
    """Runs the cells of a request on shards.

    Args:
        config: the request.
        prepared: what the request needs, loaded.
        advance: is told how many images a cell has answered.
    """

    def __init__(
        self, config: CompareConfig, prepared: PreparedRun, advance: Callable[[int], None] = lambda images: None
    ) -> None:
        self.config, self.prepared, self.advance = config, prepared, advance
        self.cells, self.size = {cell.key: cell for cell in prepared.active}, config.batch_size
        self.engine = Engine(prepared.adapter, prepared.answer_tokens(config), strict=True)
        self.wanted = frozenset[str]().union(*(cell.needs for cell in prepared.active))
        self.further = tuple(range(config.seed + 1, config.seed + config.seeds))
        self.refused: set[str] = set()
        self.measured: MeasuredCounts = {}  # of the shard that is answered

    def samples(self, shard: Shard) -> list[ImageSample]:
        """Return the images of a shard with their questions."""
        return self.prepared.samples[shard.place : shard.place + self.config.batch_size]

    def make_ready(self, shard: Shard) -> BatchRun:
        """Return the first images of a shard, as many as fit into memory, decoded and made ready for the vision tower."""
        samples = self.samples(shard)
        measured = {key: dict(counts) for key, counts in shard.measured.items()}
        return self._batch_run(samples[: self._edges(shard.place, samples)[1]], shard.place, measured)

    def _edges(self, place: int, samples: list[ImageSample]) -> list[int]:
        """Where samples, the first of which stands at ``place``, are cut: as many as fit, analysed ones and text apart."""
        count, bound = len(samples), self.config.analyse - place
        changes = {i for i in range(1, count) if (samples[i].count == 0) != (samples[i - 1].count == 0)}
        return sorted({*range(0, count, self.size), count, *changes, *([bound] if 0 < bound < count else [])})

    def _batch_run(self, samples: list[ImageSample], place: int, measured: MeasuredCounts | None = None) -> BatchRun:
        """Images, the first of which stands at ``place``, decoded and made ready for the vision tower."""
        analysed = place < self.config.analyse
        batch_run = BatchRun(
            self.engine, self.prepared.task, samples, self.config.seed, self.config.sharing, self.wanted, self.config.prompt,
            tuple(self.prepared.active), analysed, self.measured if measured is None else measured,
        )  # fmt: skip
        with suppress(Exception):  # an image that cannot be read raises again, where a cell first wants it
            _ = batch_run.pixels
        return batch_run

    def answer(self, shard: Shard, ready: BatchRun | None = None) -> ShardResult:
        """Answer a shard; out of memory, halve the number of images at a time, and keep it halved for later shards.

        Where that fails too, images are run one by one, so that one that cannot be measured costs no other its answer.

        Args:
            shard: the batch and its cells.
            ready: what `make_ready` made of the shard.

        Raises:
            BudgetError: where not even the unpruned model can be run.
            RequestError: where all fails for one reason, and so would all that follows; see `_check_hope`.
        """
        with observed() as loops:
            result = self._answer(shard, ready)
        result.loops |= loops
        return result

    def _answer(self, shard: Shard, ready: BatchRun | None) -> ShardResult:
        samples, ready = self.samples(shard), ready or self.make_ready(shard)
        self.measured = ready.measured  # which all parts of the shard share
        cells = [self.cells[key] for key in shard.cells if key not in self.refused]
        batch_run = ready
        while True:
            result = ShardResult(size=self.size)
            try:
                for start, end in pairwise(self._edges(shard.place, samples)):
                    some, place = samples[start:end], shard.place + start
                    batch_run = ready if not start and len(some) == len(ready.samples) else self._batch_run(some, place)
                    self._measure(batch_run, place, cells, result)
                break
            except BudgetError:
                raise
            except Exception as error:
                if not of_sample(error):
                    raise
                scarce = out_of_memory(error)
            batch_run.forget()
            ready.forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not scarce or min(self.size, len(samples)) == 1:
                if shard.first:
                    self._check_hope(shard, samples)
                result = self._apart(shard, samples, cells)
                break
            self.size = min(self.size, len(samples)) // 2
        self.refused |= result.refused.keys()
        if any(device.type == "cuda" for device in self.prepared.adapter.devices):
            result.devices = names_of(self.prepared.adapter.devices)
        return result

    def _measure(self, batch_run: BatchRun, place: int, cells: list[Cell], result: ShardResult) -> None:
        """Run cells on images that fit, the first of which stands at ``place``."""
        if cells and cells[0].method != "none":
            batch_run.refer_to(self.none)
        with using(self.config.kernels), shared_similarity() if self.config.sharing else nullcontext():
            self._each(cells, lambda cell: [batch_run.run(cell, self._seeds(cell))], len(batch_run.samples), result)
        result.images += batch_run.image_rows(place)
        result.questions += batch_run.questions()
        result.layouts += batch_run.layouts()
        result.shortened |= batch_run.shortened

    def _apart(self, shard: Shard, samples: list[ImageSample], cells: list[Cell]) -> ShardResult:
        """Answer a shard image by image; samples that fail are among the results, with the reason."""
        result = ShardResult(size=self.size)
        for place, sample in enumerate(samples, shard.place):
            isolated = self._isolated(sample, place)
            with using(self.config.kernels):
                self._each(cells, partial(self._run_isolated, isolated), 1, result)
            result.images += isolated.image_rows(place)
            result.questions += isolated.questions()
            result.layouts += isolated.layouts()
            result.shortened |= isolated.shortened
        return result

    def _check_hope(self, shard: Shard, samples: list[ImageSample]) -> None:
        """Raise a `RequestError` where trying every sample alone would only repeat one failure that is not of the samples.

        That is so where the unpruned model fails on every question of the run's first batch, each alone, for one reason, and
        on those of up to three more images that are spread over the run. One question alone proves nothing, and neither does
        an image that cannot be read.
        """
        beyond = range(shard.place + len(samples), len(self.prepared.samples))
        further = sorted({beyond[len(beyond) * part // _PROBES - 1] for part in range(1, _PROBES + 1) if len(beyond) >= part})
        asked = [*enumerate(samples, shard.place), *((place, self.prepared.samples[place]) for place in further)]
        kinds, reasons = set[str](), list[str]()
        for place, sample in asked:
            isolated = self._isolated(sample, place)
            rows = [row for result in isolated.run(self.none, ()) for row in result.samples]
            failed = [row.failed for row in rows if row.failed is not None]
            kinds |= {re.sub(r"\d[\d.,]*", "N", reason) for reason in failed}
            if isolated.unreadable is not None or len(failed) < len(rows) or len(kinds) > 1:
                return
            reasons += failed
        if len(reasons) > 1:
            where = f" and of {len(further)} images further on" if further else ""
            raise RequestError(
                f"no method can be measured: the unpruned model fails on all {len(reasons)} questions of the first "
                f"{len(samples)} images{where}, each alone, for one reason: {reasons[0]}\n"
                "once that is mended, --resume goes on with the run"
            )

    def _isolated(self, sample: ImageSample, place: int) -> IsolatedRun:
        def one_question(number: int) -> BatchRun:
            return self._batch_run([replace(sample, questions=(sample.questions[number],))], place)

        return IsolatedRun(self._batch_run([sample], place), self.none, one_question)

    def _run_isolated(self, isolated: IsolatedRun, cell: Cell) -> list[CellResult]:
        return list(isolated.run(cell, self._seeds(cell)))

    def _seeds(self, cell: Cell) -> tuple[int, ...]:
        """Further seeds, under which the cell's answers are scored too."""
        return self.further if cell.method == "random" else ()

    def _each(self, cells: list[Cell], run: Callable[[Cell], list[CellResult]], images: int, result: ShardResult) -> None:
        """Store what cells give; one that is impossible on an image is refused, and what it gave before goes."""
        for cell in cells:
            if cell.key in result.refused:
                continue
            try:
                if cell.copies is not None and (reason := result.refused.get(original_of(cell, self.prepared.active).key)):
                    raise BudgetError(f"takes the counts of {cell.copies}, which is impossible: {reason}")
                cell_results = run(cell)
            except BudgetError as error:
                if cell.method == "none":
                    raise
                result.refused[cell.key] = str(error)
                result.cell_results.pop(cell.key, None)
                continue
            result.cell_results.setdefault(cell.key, []).extend(cell_results)
            self.advance(images)

    @property
    def none(self) -> Cell:
        """The cell of the unpruned model, which other cells are compared with."""
        return next(iter(self.cells.values()))


@dataclass
class ShardRunnerSource:
    """Makes a `ShardRunner` in whichever process answers shards; it is sent there without the model.

    Args:
        config: the request.
        prepared: what the request needs, loaded; a process that has none of it loads it again.
        expected: `fingerprints` where the run began, which a machine of a cluster must agree with; None asks for nothing.
        levels: of the cells of tuned methods, as `levels_of` returns them.
    """

    config: CompareConfig
    prepared: PreparedRun | None = None
    expected: dict[str, str] | None = None
    levels: Levels = ()

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
            with notices.collecting(silent=True):  # the process that began the run has said them
                prepared = prepare(config)
            set_levels(prepared, self.levels)
        found = {} if self.expected is None else fingerprints(config, prepared)
        for name, wanted in (self.expected or {}).items():
            if found[name] != wanted:
                raise RequestError(f"has other {name} ({found[name]}) than where the run began ({wanted})")
        return ShardRunner(config, prepared)


def fingerprints(config: CompareConfig, prepared: PreparedRun) -> dict[str, str]:
    """Return what must agree between machines for their answers to be of one run, each by what a message calls it."""
    asked, kernels = hashlib.sha256(), kernel_facts(config.kernels, str(prepared.adapter.device))
    for sample in prepared.samples:
        asked.update(repr((sample.image_id, [(q.sample_id, q.text, q.answer) for q in sample.questions])).encode())
    return {
        "code of prunescope or a plug-in": code_digest(config.plugin),
        "weights": str(prepared.adapter.digest),
        "companion or chat template": str(beside_weights(prepared.adapter)),
        "data": str(attribute(prepared.task, "digest")),
        "questions": asked.hexdigest()[:16],
        "code of greedy selections": " ".join(str(part) for part in (kernels["chosen"], kernels["triton"]) if part),
        "versions": f"torch {version('torch').partition('+')[0]}, transformers {version('transformers')}",
    }
