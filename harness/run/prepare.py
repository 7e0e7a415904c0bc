"""Preparing a run: task, model and images are loaded, and the cells are planned on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from harness import interrupts
from harness.errors import RequestError
from harness.run.config import CompareConfig
from harness.store.budgets import read_keep

if TYPE_CHECKING:
    from harness.models.hf import Adapter
    from harness.models.prompt import ImageSpan
    from harness.run.plan import Cell
    from harness.tasks.base import ImageSample, Task
    from methods.types import ModelShape


@dataclass(frozen=True)
class PreparedRun:
    """A request with everything loaded that its cells need."""

    task: Task
    adapter: Adapter
    samples: list[ImageSample]
    text_tokens: float  # of a prompt beside the visual tokens, on average
    cells: list[Cell]
    shapes: list[ModelShape | None] = field(default_factory=list)  # on each image, where they differ; None of an unreadable one
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
    from harness.run.plan import asked_for, make_cells
    from harness.tasks import registry

    interrupts.check()
    asked_for(config.methods)
    task = task if task is not None else registry.create(config.task)
    adapter = hf.load(config.model, pick_device(config.device), config.dtype, options=config.loading)
    adapter.check_template()
    interrupts.check()
    drawn = task.samples(config.samples, config.seed)
    found = list(islice(drawn, config.samples) if samples is None else islice(filter(_readable, drawn), samples))
    fixed = adapter.tiler.fixed
    spans = _spans(config, adapter, found)
    known = [span for span in spans if span is not None]
    text_tokens = _text_tokens(adapter, found, config.prompt, spans)
    shapes = [] if fixed else [None if span is None else adapter.shape_for((span,)) for span in spans]
    notes = _notes(config, task, known, not fixed) if samples is None else []
    knows = task.info.knows_evidence and all(span.grid is not None for span in known)
    asked = _asked(shapes, found) or None
    cells = make_cells(config, adapter.shape, knows, adapter.gives, text_tokens, adapter.cannot, asked)
    return PreparedRun(task, adapter, found, text_tokens, cells, shapes, notes, _marks(found, spans))


def _asked(shapes: list[ModelShape | None], samples: list[ImageSample]) -> Counter[ModelShape]:
    return Counter(shape for shape, sample in zip(shapes, samples) if shape is not None for _ in sample.questions)


def _spans(config: CompareConfig, adapter: Adapter, samples: list[ImageSample]) -> list[ImageSpan | None]:
    """The visual tokens of each image; None of one that cannot be read. `RequestError` where none can.

    Where all images of a model are alike, they are not decoded but for the first that can be.
    """
    from harness.run.failures import reason

    spans: list[ImageSpan | None] = []
    span, first = None, ""
    for sample in samples:
        if span is None or not adapter.tiler.fixed:
            try:
                span = adapter.image_span(sample.image.size)
            except Exception as error:
                span, first = None, first or reason(error)
        spans.append(span)
    if not any(spans):
        raise RequestError(f"task {config.task!r}: none of its {len(samples)} images can be read; the first: {first}")
    return spans


def _readable(sample: ImageSample) -> bool:
    try:
        return sample.image is not None
    except Exception:
        return False


def _notes(config: CompareConfig, task: Task, spans: list[ImageSpan], differ: bool) -> list[str]:
    """What is to be said of images that differ; `RequestError` where none has as many tokens as a budget."""
    counts, notes = [span.count for span in spans], []
    for keep in dict.fromkeys(map(read_keep, config.keep if differ else ())):
        fewer = 0 if keep.share else sum(count < keep.value for count in counts)
        if fewer == len(counts):
            raise RequestError(f"--keep {keep}: these images yield {max(counts)} visual tokens at the most")
        if fewer:
            notes.append(f"{fewer} of {len(counts)} images have fewer than {keep} visual tokens; they keep all of them there")
    tiled = sum(span.grid is None for span in spans)
    if tiled and task.info.knows_evidence:
        notes.append(f"evidence is left out on {tiled} of {len(spans)} images, whose visual tokens are no one full grid")
    return notes


def _marks(samples: list[ImageSample], spans: list[ImageSpan | None]) -> float:
    """Mean over the questions of the tokens of an image that are not visual: row ends, separators, start and end marks."""
    asked = [(span.marks, len(sample.questions)) for sample, span in zip(samples, spans) if span is not None]
    return sum(marks * questions for marks, questions in asked) / max(1, sum(questions for _, questions in asked))


def _text_tokens(adapter: Adapter, samples: list[ImageSample], template: str, spans: list[ImageSpan | None]) -> float:
    """Mean tokens of a prompt that are not visual: before, after and among the visual ones."""
    from harness.run.batch_run import ask

    lengths = []
    for sample, span in islice(((sample, span) for sample, span in zip(samples, spans) if span is not None), 50):
        for question in sample.questions:
            before, after = adapter.prompt(ask(template, question.text))
            lengths.append(len(before) + span.marks + len(after))
    return sum(lengths) / len(lengths)


_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "npu")


def pick_device(text: str) -> str:
    """Return the device that ``--device`` asks for; ``auto`` is a GPU where there is one.

    Raises:
        RequestError: where there is no such device, or no model can run there.
    """
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise RequestError(f"--device {text!r}: no such device; use auto, cpu or cuda") from None
    if device.type not in _DEVICES:
        raise RequestError(f"--device {text!r}: no model can run there; use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"--device {text}: no CUDA device is usable here; use cpu")
    return text
