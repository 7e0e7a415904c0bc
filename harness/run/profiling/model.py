"""The model that is profiled, and the prompts that it is timed on: one image and one question of random tokens each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from harness.engine.batch import Batch
from harness.models import hf
from harness.models.adapter import Adapter
from harness.models.devices import dtype_on, pick_device, placed_on, whole_float32
from harness.models.load_options import LoadOptions
from harness.run.plan import Cell, asked_for, make_cells
from harness.run.profiling.config import ProfileConfig
from harness.run.selection_kernels import resolved
from harness.run.streams import stream
from methods.registry import is_reference
from methods.types import ModelShape

if TYPE_CHECKING:
    from harness.engine.self_check import SelfCheck

_CONTROLS = ("random", "oracle")


@dataclass(frozen=True)
class ProfiledModel:
    """A loaded model with the one image that all prompts show it."""

    config: ProfileConfig
    adapter: Adapter
    image: Image.Image
    shape: ModelShape  # for that image
    marks: int  # newline and mark tokens of the image, which always stay

    @classmethod
    def loaded(cls, config: ProfileConfig) -> ProfiledModel:
        """Return the model of a request, trained or with random weights, and a picture of random pixels.

        Raises:
            RequestError: where there is no such model or device.
        """
        from harness.models.published import random_model

        device = pick_device(config.device)
        resolved(config.kernels, placed_on(device, LoadOptions.of(config).placing))
        if config.random_weights:
            whole_float32()
            adapter = random_model(config.model, device, dtype_on(device, config.dtype), config.layers, config.seed)
        else:
            adapter = hf.load(config.model, device, config.dtype, options=LoadOptions.of(config))
        side = _side(adapter)
        image = Image.fromarray(np.random.default_rng(config.seed).integers(0, 256, (side, side, 3), dtype=np.uint8))
        spans = adapter.pixels([image]).spans[0]
        return cls(config, adapter, image, adapter.shape_for(spans), sum(span.marks for span in spans))

    def self_check(self) -> SelfCheck:
        """Return what the self-check came to; a model with random weights has no processor to be asked with."""
        from harness.engine.self_check import SelfCheck
        from harness.run.self_check import run_self_check

        if self.config.random_weights and self.config.self_check:
            return SelfCheck("skipped", "with random weights the engine is not checked against generate of transformers")
        return run_self_check(self.config.model, self.adapter, self.config.self_check, self.config.plugin)

    @property
    def devices(self) -> list[str]:
        """The names of all devices that the model lies on."""
        return [str(device) for device in self.adapter.devices]

    def cells(self, text: int, keep: tuple[str, ...] | None = None, method: str | None = None) -> list[Cell]:
        """Return the cells of the request: `none` first, then `blind`, smaller images, and its methods at its budgets.

        Random tokens in the place of a method tell of accuracy, and are here only where they were asked for.

        Args:
            text: tokens of a prompt beside the image.
            keep: other budgets than the request's.
            method: one method in the place of the request's.
        """
        config, adapter = self.config, self.adapter
        asked = config.asked(config.keep if keep is None else keep, None if method is None else (method,))
        wanted = asked_for(asked.methods)
        made = make_cells(asked, self.shape, False, adapter.gives, text + self.marks, adapter.cannot)
        return [
            cell for cell in made
            if cell.copies is None  # its counts are measured question by question, which compare does
            and (cell.method in wanted or not cell.method.startswith(_CONTROLS))
            and not (cell.skipped and is_reference(cell.method) and cell.method not in wanted)
        ]  # fmt: skip

    def prepare(self, count: int, text: int, cell: Cell) -> Callable[[], Batch]:
        """Return what makes a batch of equal prompts anew: the image as often as it is large, with questions of random tokens.

        Pixels are made ready for the tower in it, from the decoded image; without an image there is nothing to make ready, and
        what the engine is handed in its place is made here, once. Words are token ids, so that no tokenizer runs, and the
        embedding of a text for methods that ask for one is random.

        Args:
            count: prompts.
            text: tokens of a prompt beside the image.
            cell: whose image may be smaller, and whose signals may be needed.
        """
        adapter, seed = self.adapter, self.config.seed
        words = np.random.default_rng(seed).integers(3, adapter.shape.vocabulary // 2, text).tolist()
        before = min(text // 2, 35)
        unseen = adapter.pixels([self.image] * count) if cell.blind else None

        def made() -> Batch:
            device = adapter.device
            seeds = torch.tensor([stream(seed, i) for i in range(count)], device=device)
            embeds = None
            if "text_embeds" in cell.needs:  # the same in every run and for every prompt, since counts may follow from it
                drawn = torch.randn(1, 1, adapter.shape.joint_width, generator=torch.Generator().manual_seed(seed))
                embeds = drawn.to(device, adapter.dtype).expand(count, -1, -1).contiguous()
            return Batch(
                pixels=adapter.pixels([self.image] * count, cell.grid) if unseen is None else unseen, prefix=words[:before],
                questions=[words[before:]] * count, image=torch.arange(count, device=device), image_seeds=seeds,
                question_seeds=seeds, text_embeds=embeds, question_words=[words[before:]] * count,
            )  # fmt: skip

        return made


def named(cell: Cell) -> str:
    """Return a cell as a sentence names it, such as fastv at 64."""
    return cell.method if cell.keep is None else f"{cell.method} at {cell.keep}"


def tell_skipped(cells: list[Cell]) -> None:
    """Say on stderr which cells are skipped, and why, before minutes are spent on the others."""
    for cell in cells:
        if cell.skipped is not None:
            print(f"{named(cell)}: skipped, {cell.skipped}", file=sys.stderr)


def _side(adapter: Adapter) -> int:
    """Pixels a side of a square image that the model takes as it is."""
    from harness.models.published import SIDE

    size = getattr(adapter.config.vision_config, "image_size", None) or 448
    return SIDE.get(adapter.name, size[0] if isinstance(size, (list, tuple)) else int(size))
