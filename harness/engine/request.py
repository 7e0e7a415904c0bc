"""What the engine is asked to do with a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.engine.batch import Batch
from harness.engine.recorder import Recorder
from harness.engine.sharing import CellPath, SharedPrefill
from harness.engine.signals import VisionOutput
from harness.engine.stopwatch import Stopwatch
from methods.types import ModelShape, PositionMode, Step

Steps = tuple[Step, ...] | Callable[[ModelShape], tuple[Step, ...]]
"""A method's steps, or how they follow from the shape that an image's tokens have."""


@dataclass(frozen=True)
class EngineRequest:
    """One pass of a batch through the model under a method's steps.

    Args:
        batch: images and questions.
        steps: where tokens leave; a function of the shape is asked once for every group of images that are alike.
        positions: whether tokens keep their original positions or are renumbered.
        shared: what is known of the batch already: the tower's output, and checkpoints from which other cells went on.
        blind: whether to leave the image out.
        share_questions: whether to compute what the questions of one image share only once.
        stopwatch: takes the time of each stage.
        recorder: notes tokens, attention and scores.
        rows: indices of the questions to answer, rising, where only some are; selections may then be made for these alone.
    """

    batch: Batch
    steps: Steps = ()
    positions: PositionMode = "original"
    shared: SharedPrefill | None = None
    blind: bool = False
    share_questions: bool = True
    stopwatch: Stopwatch | None = None
    recorder: Recorder | None = None
    rows: list[int] | None = None

    @property
    def asked(self) -> list[int]:
        """Indices of the questions to answer."""
        return list(range(len(self.batch.questions))) if self.rows is None else self.rows


@dataclass(frozen=True)
class UniformPass:
    """A request in the form in which the engine runs it: images that are alike, steps that are known, a tower that has run."""

    batch: Batch
    path: CellPath
    vision: VisionOutput | None  # None where the image is left out
    shared: SharedPrefill | None
    share_questions: bool
    stopwatch: Stopwatch
    recorder: Recorder | None

    def of_rows(self, rows: list[int], entered: bool) -> UniformPass:
        """Return the pass for some of the questions; nothing is shared, since what is computed depends on which they are.

        Args:
            rows: indices of the questions.
            entered: whether it goes on from a checkpoint inside the decoder; then the tower's output is not read any more.
        """
        batch, images = self.batch.rows(rows)
        vision = self.vision if self.vision is None or entered else self.vision.select(images)
        return replace(self, batch=batch, vision=vision, shared=None)


def steps_of_rows(steps: Steps, rows: list[int]) -> Steps:
    """Return a method's steps for some of the questions, where they were made for all of them.

    Args:
        steps: of all questions; what was made for particular questions has a method ``of`` (rows).
        rows: indices of the questions.
    """
    if callable(steps):
        made: Steps = steps.of(rows) if hasattr(steps, "of") else steps
        return made
    return tuple(replace(step, select=step.select.of(rows)) if hasattr(step.select, "of") else step for step in steps)
