"""What the engine is asked to do with a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.engine.batch import Batch
from harness.engine.recorder import Recorder
from harness.engine.sharing import SharedPrefill
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
        blind: leave the image out.
        share: compute what the questions of one image share only once.
        watch: takes the time of each stage.
        recorder: notes tokens, attention and scores.
        rows: of the questions, rising, where only some are to be answered; selections may then be made for these alone.
    """

    batch: Batch
    steps: Steps = ()
    positions: PositionMode = "original"
    shared: SharedPrefill | None = None
    blind: bool = False
    share: bool = True
    watch: Stopwatch | None = None
    recorder: Recorder | None = None
    rows: list[int] | None = None
