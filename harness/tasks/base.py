"""What a task is: typed facts, samples in groups of one image, and a scorer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.errors import RequestError

if TYPE_CHECKING:  # `list tasks` needs neither
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


@dataclass(frozen=True)
class TaskInfo:
    """The facts of a task that ``list tasks`` and reports show."""

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
    answer_tokens: int = 16  # tokens that an answer may have at the most, where the request does not say


@dataclass(frozen=True)
class Question:
    """One question on an image, or on several.

    ``text`` may say where the images stand: ``<image>`` marks, as many as there are images; without any, they come first.
    ``answer`` is the text that `Task.score` gets: of a task with several right answers, what `Target.text` writes.
    ``evidence`` marks the visual tokens that hold the answer: bool [h, w] on the model's token grid, or None where that is
    not known.
    """

    sample_id: str
    family: str
    text: str
    answer: str
    evidence: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class ImageSample:
    """An image, or the images of one prompt, with all questions about them.

    ``picture`` is the image, or a function that decodes it: with a function, a run over thousands of pages holds one
    batch of pixels at a time. A tuple of these is several images a prompt, an empty one none: the question is text alone.
    """

    image_id: str
    picture: Image.Image | Callable[[], Image.Image] | tuple[Image.Image | Callable[[], Image.Image], ...]
    questions: tuple[Question, ...]

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.picture) if isinstance(self.picture, tuple) else 1

    @property
    def images(self) -> list[Image.Image]:
        """The images in 8-bit RGB, in the order of the prompt; decoded anew at each call where they come from files."""
        from harness.tasks.pixels import UnreadablePixels, rgb

        pictures = self.picture if isinstance(self.picture, tuple) else (self.picture,)
        found = []
        for number, picture in enumerate(pictures):
            try:
                found.append(rgb(picture() if callable(picture) else picture))
            except UnreadablePixels as error:
                which = f"image {number + 1} of {self.image_id!r}" if len(pictures) > 1 else f"image {self.image_id!r}"
                raise RequestError(f"{which}: {error}") from None
        return found

    @property
    def image(self) -> Image.Image:
        """The image, where there is one; the first of several. See `images`."""
        found = self.images
        if not found:
            raise RequestError(f"{self.image_id!r} has no image")
        return found[0]


@dataclass(frozen=True)
class Answered:
    """One answer of one cell, as a task's ``aggregate`` gets it."""

    question: str  # the question's sample_id
    family: str
    image: str  # image_id
    target: str  # the question's answer
    prediction: str
    score: float


class Task(Protocol):
    """A benchmark: images with questions, and a score for each answer.

    A task may also have ``aggregate(rows: Sequence[Answered]) -> dict[str, float]``, for figures that are no mean of
    scores; see `aggregates`.
    """

    info: TaskInfo

    def samples(self, count: int, seed: int) -> Iterator[ImageSample]:
        """Yield ``count`` images with their questions, or all where there are fewer; a pure function of (count, seed)."""
        ...

    def score(self, prediction: str, answer: str) -> float:
        """Return the score of a prediction, from 0 to 1, given the question's ``answer``."""
        ...


def attribute(task: object, name: str) -> Any:
    """Return what a task may have, such as ``digest``; None where it has none.

    Raises:
        RequestError: where it has one that ends with an AttributeError: that is no way of not having it.
    """
    try:
        return getattr(task, name)
    except AttributeError as error:
        if inspect.getattr_static(task, name, None) is None:
            return None
        kind = type(task).__name__
        raise RequestError(f"task {kind}: its {name!r} cannot be read (AttributeError: {str(error)[:200]})") from error


def aggregates(task: Task, rows: Sequence[Answered]) -> dict[str, float]:
    """Return the task's own figures over the answers of one cell; none where it has no ``aggregate`` or there are no rows."""
    total = attribute(task, "aggregate")
    return dict(total(rows)) if total is not None and rows else {}
