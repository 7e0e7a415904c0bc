"""What the embedded model is asked when a machine is checked: every bundled method, on a few questions about fixed scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from harness.engine.batch import EngineOutput
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.tower_signals import reads_of
from harness.models import hf
from harness.models.adapter import Adapter
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.plan import Cell, make_cells
from harness.tasks.base import ImageSample, Task
from harness.tasks.registry import create
from methods.loading import BUNDLED
from methods.types import SIGNAL_NAMES, Step

MODEL, TASK, SEED, KEEP = "tiny", "shapes", 24, "160"
"""The embedded model and its task, the same everywhere; 160 of 576 visual tokens stay, which every method can do."""
SCENES, QUESTIONS = 2, ((0, 4), (2,))
"""Scenes, and which questions about each."""
ANSWER_TOKENS = 3
LEVEL = "mustdrop[total=0.0012,single=0.001]"
"""Mustdrop at thresholds of its own: by itself it would look for them on other images first."""
METHODS = (*(LEVEL if name == "mustdrop" else name for name in BUNDLED), "divprune+fastv", "visionzip+pyramiddrop")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AskedAnswer:
    """The answer to one question under one method."""

    output: EngineOutput
    logits: list[torch.Tensor]  # float32 [vocabulary], on the host, of each answer token, the end token's among them

    @property
    def tokens(self) -> list[int]:
        """Answer tokens, with the end token where there is one."""
        end = self.output.ended[0]
        return [*self.output.tokens[0], *([] if end is None else [end])]


class ReferenceQuestions:
    """The embedded model with its questions, each a batch of its own; what is in the images is computed once for all methods.

    Args:
        device: such as ``cpu`` or ``cuda:1``.
        dtype: one of `DTYPES`.
    """

    def __init__(self, device: str, dtype: str) -> None:
        self.adapter = hf.load(MODEL, device, dtype)
        self.engine = Engine(self.adapter, ANSWER_TOKENS)
        self.task: Task = create(TASK)

    @cached_property
    def cells(self) -> list[Cell]:
        """One cell a method; those that cannot be have their reason."""
        config = CompareConfig(model=MODEL, task=TASK, methods=METHODS, keep=(KEEP,), references=False)
        return make_cells(config, self.adapter.shape, True, self.adapter.gives, 20.0, self.adapter.cannot)

    @cached_property
    def runs(self) -> list[BatchRun]:
        """A batch for every question."""
        wanted = frozenset[str]().union(*(cell.needs for cell in self.cells)) & SIGNAL_NAMES
        made = []
        for sample, places in zip(self.task.samples(SCENES, SEED), QUESTIONS, strict=True):
            for place in places:
                alone = ImageSample(sample.image_id, tuple(sample.images), sample.questions[place : place + 1])
                made.append(BatchRun(self.engine, self.task, [alone], SEED, wanted=wanted, cells=tuple(self.cells)))
        return made

    @torch.inference_mode()
    def answer(self, run: BatchRun, cell: Cell, change: Callable[[tuple[Step, ...]], tuple[Step, ...]]) -> AskedAnswer:
        """Answer a question under a method.

        Args:
            run: one of `runs`.
            cell: one of `cells`.
            change: makes the steps that are run of the cell's own.
        """
        apart = cell.grid is not None or cell.in_tower or not reads_of(cell.steps) <= run.gathered
        shared = None if apart else run.shared.without_checkpoints
        request = EngineRequest(run.batch_for(cell), change(cell.steps), cell.object.positions, shared, cell.blind)
        with heard_logits(self.adapter) as heard:
            output = self.engine.run(request)
        return AskedAnswer(output, heard)


@contextmanager
def heard_logits(adapter: Adapter) -> Iterator[list[torch.Tensor]]:
    """Note the logits by which an answer is chosen, token by token; for batches of one question.

    Args:
        adapter: the model, which runs inside the block.
    """
    heard: list[torch.Tensor] = []
    logits = adapter.logits

    def noted(hidden: torch.Tensor) -> torch.Tensor:
        found = logits(hidden)
        heard.append(found[0].detach().cpu())
        return found

    vars(adapter)["logits"] = noted
    try:
        yield heard
    finally:
        del vars(adapter)["logits"]
