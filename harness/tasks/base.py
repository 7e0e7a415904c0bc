"""What a task is: typed facts, samples in groups of one image, and a scorer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class TaskInfo:
    """Validated facts of a task, shown by ``list tasks`` and in reports."""

    name: str
    summary: str
    source: str
    licence: str
    metric: str
    split: str
    families: tuple[str, ...]
    knows_evidence: bool
    scored: bool = True  # False where there are no answers: such a task ranks by loyalty alone, its accuracy is null
    prompt: str = "{question}"  # how a question is put to the model
    answer_tokens: int = 16  # that an answer may need


@dataclass(frozen=True)
class Question:
    """One question on an image; ``evidence`` is bool [h, w] on the model's token grid, or None.

    ``answer`` is the text that `Task.score` gets: of a task with several right answers, what `Target.text` writes.
    """

    sample_id: str
    family: str
    text: str
    answer: str
    evidence: np.ndarray | None = None


@dataclass(frozen=True)
class ImageSample:
    """An image with all of its questions.

    ``picture`` is the image, or a function that decodes it: a run over thousands of pages then holds one batch of
    pixels at a time.
    """

    image_id: str
    picture: Image.Image | Callable[[], Image.Image]
    questions: tuple[Question, ...]

    @property
    def image(self) -> Image.Image:
        """The image in RGB; decoded anew at each call where it comes from a file."""
        return self.picture() if callable(self.picture) else self.picture


@dataclass(frozen=True)
class Answered:
    """One answer of one cell, as `aggregate` sees it."""

    question: str  # the question's sample_id
    family: str
    image: str  # image_id
    target: str  # the question's answer
    prediction: str
    score: float


class Task(Protocol):
    """A benchmark. Samples are a pure function of (count, seed).

    A task may also have ``aggregate(rows: Sequence[Answered]) -> dict[str, float]``, for figures that are no mean of
    scores; see `aggregates`.
    """

    info: TaskInfo

    def samples(self, count: int, seed: int) -> Iterator[ImageSample]: ...

    def score(self, prediction: str, answer: str) -> float: ...


def aggregates(task: Task, rows: Sequence[Answered]) -> dict[str, float]:
    """The task-level figures of one cell; none where the task has no ``aggregate`` or there are no rows."""
    total = getattr(task, "aggregate", None)
    return dict(total(rows)) if total is not None and rows else {}
