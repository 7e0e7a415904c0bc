"""What a task is: typed facts, samples in groups of one image, and a scorer."""

from __future__ import annotations

from collections.abc import Iterator
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


@dataclass(frozen=True)
class Question:
    """One question on an image; ``evidence`` is bool [h, w] on the model's token grid, or None."""

    sample_id: str
    family: str
    text: str
    answer: str
    evidence: np.ndarray | None = None


@dataclass(frozen=True)
class ImageSample:
    """An image with all of its questions."""

    image_id: str
    image: Image.Image
    questions: tuple[Question, ...]


class Task(Protocol):
    """A benchmark. Samples are a pure function of (count, seed)."""

    info: TaskInfo

    def samples(self, count: int, seed: int) -> Iterator[ImageSample]: ...

    def score(self, prediction: str, answer: str) -> float: ...
