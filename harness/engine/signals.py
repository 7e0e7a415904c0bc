"""What selectors may look at, gathered from a model at work: one function a site, nothing computed unasked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from harness.engine.batch import Batch
from harness.engine.transfer import send
from harness.models.adapter import Adapter
from harness.models.prompt import ImageSpan
from methods.types import Signals, Step

_TensorMap = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class VisionOutput:
    """What left the vision tower for B prompts that are alike.

    Where the projector merges, or the tower sees an image in tiles, features and signals are arranged as the visual tokens
    are: averaged over those that form one, tile by tile. Where the projector reads several tower layers at once, features and
    signals are those of the deepest, and ``tile_states`` holds all.
    """

    features: torch.Tensor  # [B, N, Dv]
    source: torch.Tensor  # int64 [B, N0] the token that each original one ended in
    lowest: torch.Tensor  # int64 [B, N] lowest original token of each
    merged: bool  # whether tokens merged inside the tower
    grid: tuple[int, int] | None  # rows and columns of the N tokens, where they are a full grid
    full_grid: tuple[int, int]  # rows and columns of the N0 original tokens
    signals: dict[str, torch.Tensor]  # of the tower, those asked for, by `TowerRead.key`
    spans: tuple[ImageSpan, ...]  # of the images of each prompt
    coordinates: torch.Tensor | None = None  # [N, 2] row and column of each token in its image, where they are no full grid
    tile_states: torch.Tensor | None = None  # [B * tiles, n, Dv] where that is not what ``features`` holds
    projected: torch.Tensor | None = None  # [B, N, D] of a tower that holds its projector
    deepstack: tuple[torch.Tensor, ...] = ()  # [B, N, D] each, that are added behind the first LLM layers
    tile_places: torch.Tensor | None = None  # int64 [T, n], see `Signals.tile_places`
    tile_grids: tuple[tuple[int, int] | None, ...] | None = None  # see `Signals.tile_grids`
    carry: torch.Tensor | None = None  # [B, ...] what the last step inside the tower handed on
    # tower tokens of one tile, CLS included, at the attention of each block that is run, then at the MLP of each
    tower_counts: tuple[float, ...] = ()
    complete: bool = False  # no token left or merged inside the tower: each is its own original one, and nobody need look

    def select(self, prompts: torch.Tensor) -> VisionOutput:
        """Return the output of some prompts, int64 [B']."""
        tiles, source = self.tile_states, self.source[prompts]
        return replace(
            self,
            features=self.features[prompts],
            source=source,
            lowest=source if self.complete else self.lowest[prompts],
            signals={name: tensor[prompts] for name, tensor in self.signals.items()},
            tile_states=None if tiles is None else tiles.unflatten(0, (len(self.source), -1))[prompts].flatten(0, 1),
            projected=None if self.projected is None else self.projected[prompts],
            deepstack=tuple(table[prompts] for table in self.deepstack),
            carry=None if self.carry is None else self.carry[prompts],
        )


@dataclass(frozen=True)
class GroupedVisionOutput:
    """What left the vision tower for prompts that differ in their visual tokens: one output for each group of like ones."""

    outputs: tuple[VisionOutput, ...]
    groups: tuple[list[int], ...]  # indices of the prompts in each

    def select(self, prompts: torch.Tensor) -> VisionOutput | GroupedVisionOutput:
        """Return the output of some prompts, int64 [B']."""
        found: list[tuple[VisionOutput, list[int]]] = []
        for output, group in zip(self.outputs, self.groups, strict=True):
            here = [(i, group.index(prompt)) for i, prompt in enumerate(prompts.tolist()) if prompt in group]
            if here:
                found.append((output.select(torch.tensor([own for _, own in here])), [i for i, _ in here]))
        return found[0][0] if len(found) == 1 else GroupedVisionOutput(tuple(o for o, _ in found), tuple(g for _, g in found))


def projector_signals(
    adapter: Adapter,
    batch: Batch,
    step: Step,
    vision: VisionOutput,
    features: torch.Tensor | None,
    image: torch.Tensor,
    row_per_image: bool,
) -> Signals:
    """Return the signals of a step at the projector, for G rows.

    Args:
        adapter: the model.
        batch: images and questions.
        step: names the signals that it needs.
        vision: what left the tower.
        features: [G, N, D] projected tokens, None where a merger wants none.
        image: int64 [G] whose tokens they are.
        row_per_image: whether a row is an image; else it is a question. Tensors of images are then handed on as they are.
    """
    rows: _TensorMap = lambda table: table if row_per_image else table[image]
    positions = None
    if "positions" in step.needs and vision.grid is not None:
        positions = send([grid_coordinates(vision.grid, "cpu")], image.device)[0].expand(len(image), -1, -1)
    elif "positions" in step.needs and vision.coordinates is not None:
        positions = send([vision.coordinates.cpu()], image.device)[0].expand(len(image), -1, -1)
    words = None
    if "text_features" in step.needs:
        words = adapter.embed(send([torch.tensor(batch.questions)], image.device)[0])
    read = {read.signal: rows(vision.signals[read.key]) for read in step.tower_reads if read.key in vision.signals}
    return Signals.collected(
        **{"features": features, "vision_features": rows(vision.features)} | read,
        text_features=words,
        text_embeds=batch.text_embeds if "text_embeds" in step.needs else None,
        positions=positions,
        evidence=None if row_per_image else batch.evidence,
        seeds=batch.image_seeds[image] if row_per_image or not step.reads_text else batch.question_seeds,
        norm_scale=None,
        count=vision.lowest.shape[1],
        batch=len(image),
        device=image.device,
        grid=vision.grid,
        carry=None if vision.carry is None else rows(vision.carry),
        tile_places=vision.tile_places,
        tile_grids=vision.tile_grids,
    )


def grid_coordinates(grid: tuple[int, int], device: torch.device | str) -> torch.Tensor:
    """Return row and column of every token of a full grid of (h, w) tokens, in [0, 1]: [1, h * w, 2]."""
    lines = [(torch.arange(size, device=device) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).view(1, -1, 2)
