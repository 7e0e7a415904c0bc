"""Preparing a run: task, model and images are loaded, and the cells are planned on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from harness import interrupts
from harness.errors import RequestError
from harness.run.config import CompareConfig
from harness.run.selection_kernels import resolved
from harness.store.budgets import read_keep
from harness.tasks.rules import scored_by

if TYPE_CHECKING:
    from harness.models.hf import Adapter
    from harness.models.prompt import ImageSpan
    from harness.run.plan import Cell
    from harness.tasks.base import ImageSample, Task
    from methods.types import ModelShape

    Spans = tuple[ImageSpan, ...]

Levels = tuple[tuple[str, float], ...]
"""Keys of cells of tuned methods, and their levels."""


@dataclass(frozen=True)
class PreparedRun:
    """A request with everything loaded that its cells need."""

    task: Task
    adapter: Adapter
    samples: list[ImageSample]
    text_tokens: float  # of a prompt beside the visual tokens, on average
    cells: list[Cell]
    shapes: list[ModelShape | None] = field(
        default_factory=list
    )  # on each image, where they differ; None of an unreadable one, and of text alone
    notes: list[str] = field(default_factory=list)
    marks: float = 0.0  # newline and mark tokens of an image, which always stay; mean over the questions

    def answer_tokens(self, config: CompareConfig) -> int:
        """Return how many tokens an answer may have at the most.

        Args:
            config: the request.
        """
        return self.task.info.answer_tokens if config.max_new_tokens is None else config.max_new_tokens

    def shape_on(self, place: int) -> ModelShape:
        """Return the model's shape on an image.

        Args:
            place: of the image among the samples.
        """
        return (self.shapes[place] if self.shapes else None) or self.adapter.shape

    @property
    def asked(self) -> Counter[ModelShape]:
        """How many questions are asked about images of each shape, where images differ."""
        return _asked(self.shapes, self.samples)

    @property
    def active(self) -> list[Cell]:
        """The cells that are not skipped."""
        return [cell for cell in self.cells if cell.skipped is None]


def levels_of(prepared: PreparedRun) -> Levels:
    """Return the levels of the cells of tuned methods, by their keys.

    Args:
        prepared: whose levels have been found.
    """
    return tuple((cell.key, cell.level) for cell in prepared.active if cell.level is not None)


def set_levels(prepared: PreparedRun, levels: Levels) -> None:
    """Give the cells of tuned methods the levels that were found elsewhere.

    Args:
        prepared: a request, loaded anew.
        levels: as `levels_of` returns them.
    """
    known = dict(levels)
    prepared.cells[:] = [cell.at_level(known[cell.key]) if cell.key in known else cell for cell in prepared.cells]


def prepare(config: CompareConfig, samples: int | None = None, task: Task | None = None) -> PreparedRun:
    """Load task, model and samples, and plan the cells.

    Args:
        config: the request, its plug-ins loaded.
        samples: images that can be read to make ready; all that the request asks for where not given.
        task: of the request, where it is made already.

    Raises:
        RequestError: where the request cannot be met.
    """
    from harness.models import hf
    from harness.models.devices import pick_device, placed_on
    from harness.run.plan import asked_for, make_cells
    from harness.tasks import registry

    interrupts.check()
    asked_for(config.methods)
    task = task if task is not None else scored_by(registry.create(config.task), config.scoring)
    device = pick_device(config.device)
    resolved(config.kernels, placed_on(device, config.loading.placing))
    adapter = hf.load(config.model, device, config.dtype, options=config.loading)
    adapter.check_template()
    interrupts.check()
    drawn = task.samples(config.samples, config.seed)
    found = list(islice(drawn, config.samples) if samples is None else islice(filter(_readable, drawn), samples))
    spans = _spans(config, adapter, found)
    known = [own for own in spans if own]
    alike = adapter.tiler.fixed and all(len(own) == 1 for own in known)
    text_tokens = _text_tokens(adapter, found, config, spans)
    shapes = [] if alike else [adapter.shape_for(own) if own else None for own in spans]
    notes = _notes(config, task, found, known, not alike) if samples is None else []
    knows = task.info.knows_evidence and all(_grid(own) is not None for own in known)
    asked = _asked(shapes, found) or None
    cells = make_cells(config, adapter.shape, knows, adapter.gives, text_tokens, adapter.cannot, asked)
    return PreparedRun(task, adapter, found, text_tokens, cells, shapes, notes, _marks(found, spans))


def _asked(shapes: list[ModelShape | None], samples: list[ImageSample]) -> Counter[ModelShape]:
    return Counter(shape for shape, sample in zip(shapes, samples) if shape is not None for _ in sample.questions)


def _grid(spans: Spans) -> tuple[int, int] | None:
    """Rows and columns of the visual tokens of a prompt where they are one full grid."""
    return spans[0].grid if len(spans) == 1 else None


def _spans(config: CompareConfig, adapter: Adapter, samples: list[ImageSample]) -> list[Spans | None]:
    """The visual tokens of each sample's images; None of one that cannot be read. `RequestError` where none can.

    Where all images of a model are alike, they are not decoded but for the first that can be.
    """
    from harness.run.failures import reason

    spans: list[Spans | None] = []
    first, decoded = "", False
    for sample in samples:
        own: Spans | None = None
        try:
            if decoded and adapter.tiler.fixed:
                own = adapter.prompt_spans([(1, 1)] * sample.count)
            else:
                own = adapter.prompt_spans([image.size for image in sample.images])
                decoded |= bool(own)
        except Exception as error:
            first = first or reason(error)
        spans.append(own)
    if not any(spans):
        if not first:
            raise RequestError(
                f"task {config.task!r}: none of its {len(samples)} questions has an image, so nothing can be pruned"
            )
        raise RequestError(f"task {config.task!r}: none of its {len(samples)} images can be read; the first: {first}")
    return spans


def _readable(sample: ImageSample) -> bool:
    try:
        return bool(sample.images)
    except Exception:
        return False


def _notes(config: CompareConfig, task: Task, samples: list[ImageSample], spans: list[Spans], differ: bool) -> list[str]:
    """What is to be said of images that differ, or are missing; `RequestError` where none has as many tokens as a budget."""
    counts, notes = [sum(span.count for span in own) for own in spans], []
    if not config.references:
        notes.append(
            "reference cells that were not asked for are left out, all but `none`: nothing here says what random tokens on a "
            "method's schedule, a smaller image or no image would have reached"
        )
    for keep in dict.fromkeys(map(read_keep, config.keep if differ else ())):
        fewer = 0 if keep.share else sum(count < keep.value for count in counts)
        if fewer == len(counts):
            raise RequestError(f"--keep {keep}: these images yield {max(counts)} visual tokens at the most")
        if fewer:
            notes.append(f"{fewer} of {len(counts)} images have fewer than {keep} visual tokens; they keep all of them there")
    tiled = sum(_grid(own) is None for own in spans)
    if tiled and task.info.knows_evidence:
        notes.append(f"evidence is left out on {tiled} of {len(spans)} images, whose visual tokens are no one full grid")
    asked = [len(sample.questions) for sample in samples]
    alone = sum(count for count, sample in zip(asked, samples) if not sample.count)
    if alone:
        notes.append(
            f"{alone} of {sum(asked)} questions have no image: nothing can leave there, every method answers them as `none` "
            "does, and they count in no figure"
        )
    return notes


def _marks(samples: list[ImageSample], spans: list[Spans | None]) -> float:
    """Mean over the questions of the tokens of images that are not visual: row ends, separators, start and end marks."""
    asked = [(sum(span.marks for span in own), len(sample.questions)) for sample, own in zip(samples, spans) if own]
    return sum(marks * questions for marks, questions in asked) / max(1, sum(questions for _, questions in asked))


def _text_tokens(adapter: Adapter, samples: list[ImageSample], config: CompareConfig, spans: list[Spans | None]) -> float:
    """Mean tokens of a prompt that are not visual: before, after and among the visual ones.

    Questions that cannot be put to the model are left out; `RequestError` where none can.
    """
    from harness.errors import SampleError
    from harness.run.asked_prompts import ask, prompt, text_length

    lengths, first = [], ""
    asked = ((sample, own) for sample, own in zip(samples, spans) if own)
    for sample, own in islice(asked, 50):
        for question in sample.questions:
            try:
                before, after = prompt(adapter, ask(config.prompt, question.text), sample.count)
                lengths.append(text_length(before, own, after))
            except SampleError as error:
                first = first or f"{question.sample_id}: {error}"
    if not lengths:
        raise RequestError(f"task {config.task!r}: no question can be put to model {adapter.name!r}; {first}")
    return sum(lengths) / len(lengths)
