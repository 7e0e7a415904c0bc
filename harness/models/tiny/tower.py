"""Stage 1: the tower learns what stands where (dense heads) and what the caption says (contrastive).

Small canvases of 12 x 12 tokens lie at random places of the 24 x 24 position grid, so that a cheap
picture trains the very position embeddings that a full scene uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from harness.models.tiny.build import WIDTH, CompanionText, words
from harness.tasks.shapes.questions import caption
from harness.tasks.shapes.scene import COLOURS, GRID, PATCH, SHAPES, Scene, generator, make_scene, paint

KINDS = ("nothing", "distractor", "frame", "strip", "dot", *SHAPES)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def half_precision() -> torch.autocast:
    """Return autocast to bfloat16, on where the processor multiplies it natively: elsewhere it is several times slower."""
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(can.get("amx_bf16") or can.get("avx512_bf16")))


def pixels(scene: Scene, grid: int | None = None, *, varied: bool = False) -> torch.Tensor:
    """Return the painted scene as uint8 [3, side, side], shrunk to ``grid`` tokens a side if given."""
    image = paint(scene, varied=varied)
    if grid is not None and grid != scene.grid:
        image = image.resize((grid * PATCH, grid * PATCH), 3)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def normalise(batch: torch.Tensor) -> torch.Tensor:
    """Return images, uint8 [B, 3, H, W], as the image processor gives them: float32 [B, 3, H, W]."""
    return (batch.float() / 255 - MEAN[:, None, None]) / STD[:, None, None]


def dense_labels(scene: Scene) -> torch.Tensor:
    """Return the classes of every token, int64 [grid * grid, 4]: kind, colour, digit, place in the strip (0 = none)."""
    labels = np.zeros((scene.grid, scene.grid, 4), dtype=np.int64)
    colours = list(COLOURS)
    for item in scene.items:
        mask = item.tokens(scene.grid)
        labels[mask, 0] = KINDS.index(item.shape or item.kind)
        if item.colour:
            labels[mask, 1] = 1 + colours.index(item.colour)
        if item.digits:
            left, _, width, height = item.box
            border = (height - 16) // 2 if item.kind == "strip" else 3
            cell = (width - 2 * border) / len(item.digits)
            rows, columns = np.nonzero(mask)
            place = np.clip(((columns + 0.5) * PATCH - left - border) // cell, 0, len(item.digits) - 1).astype(int)
            labels[rows, columns, 2] = 1 + np.array(item.digits)[place]
            labels[rows, columns, 3] = (1 + place) if item.kind == "strip" else 0
    return torch.from_numpy(labels.reshape(-1, 4))


def caption_ids(text: str, length: int = 40) -> torch.Tensor:
    """Return the token ids of a caption, padded: int64 [length], ending in the end token."""
    table = {word: i for i, word in enumerate(words())}
    ids = [1, *(table[word] for word in text.split())][: length - 1] + [2]
    return torch.tensor(ids + [0] * (length - len(ids)))


class Canvases(Dataset[tuple[torch.Tensor, ...]]):
    """Training pictures with labels and captions; item i is a pure function of (seed, i)."""

    def __init__(self, seed: int, start: int, count: int, grid: int) -> None:
        self.seed, self.start, self.count, self.grid = seed, start, count, grid

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[torch.Tensor, ...]:
        index = self.start + i
        scene = make_scene("train", self.seed, index, self.grid)
        rng = generator("train", self.seed, index, 7)
        offset = torch.from_numpy(rng.integers(0, GRID - self.grid + 1, 2))
        return pixels(scene, varied=index % 3 > 0), dense_labels(scene), caption_ids(caption(scene, rng)), offset


class TowerTask(nn.Module):
    """Tower, heads and losses; the heads are thrown away after training.

    Args:
        tower: a CLIP tower of transformers.
        companion: the text side of the contrastive loss.
    """

    tower: Any  # its parts are modules that `nn.Module` does not type

    def __init__(self, tower: nn.Module, companion: CompanionText) -> None:
        super().__init__()
        self.tower, self.companion = tower, companion
        self.heads = nn.ModuleList([nn.Linear(WIDTH, n) for n in (len(KINDS), 7, 11, 5)])
        self.where = nn.Linear(WIDTH, 2)
        weights = [torch.ones(n) for n in (len(KINDS), 7, 11, 5)]
        for weight in weights:
            weight[0] = 0.15
        weights[0][4] = weights[1].max() * 2
        for i, weight in enumerate(weights):
            self.register_buffer(f"weight{i}", weight)

    def states(self, images: torch.Tensor, offset: torch.Tensor | None) -> list[torch.Tensor]:
        """Return the hidden states before and after every block.

        Args:
            images: float32 [B, 3, H, W], normalised.
            offset: int64 [B, 2] where canvases lie in the position grid; None for images that fill it, or are resized.
        """
        tower = self.tower
        if offset is None:
            hidden = tower.embeddings(images, interpolate_pos_encoding=True)
        else:
            patches = tower.embeddings.patch_embedding(images).flatten(2).transpose(1, 2)
            side = int(patches.shape[1] ** 0.5)
            steps = torch.arange(side)
            index = (offset[:, 0, None, None] + steps[:, None]) * GRID + offset[:, 1, None, None] + steps + 1
            places = tower.embeddings.position_embedding.weight
            first = (tower.embeddings.class_embedding + places[0]).expand(len(images), 1, -1)
            hidden = torch.cat([first, patches + places[index.flatten(1)]], dim=1)
        hidden = tower.pre_layrnorm(hidden)
        states = [hidden]
        for layer in tower.encoder.layers:
            hidden = layer(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        return states

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, captions: torch.Tensor, offset: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Return the losses by name, their weighted sum ``loss``, and the heads' hit rates.

        Args:
            images: float32 [B, 3, H, W], normalised.
            labels: int64 [B, n, 4], as `dense_labels` gives them.
            captions: int64 [B, length].
            offset: as for `states`.
        """
        states = self.states(images, offset)
        read = states[-2][:, 1:]
        logits = [head(read).float() for head in self.heads]
        losses = {
            name: F.cross_entropy(logits[i].flatten(0, 1), labels[..., i].flatten(), getattr(self, f"weight{i}"))
            for i, name in enumerate(("kind", "colour", "digit", "place"))
        }
        with torch.no_grad():
            for i, name in enumerate(("kind", "colour", "digit", "place")):
                some = labels[..., i] > 0
                losses[f"acc_{name}"] = (logits[i].argmax(-1) == labels[..., i])[some].float().mean()
        side = int(read.shape[1] ** 0.5)
        steps = (torch.arange(side) + 0.5) / GRID if offset is not None else (torch.arange(side) + 0.5) / side
        start = offset / GRID if offset is not None else torch.zeros(len(images), 2)
        target = torch.stack(
            [
                (start[:, 0, None] + steps).repeat_interleave(side, dim=1),
                (start[:, 1, None] + steps).repeat(1, side),
            ],
            dim=-1,
        )
        losses["where"] = 20 * F.mse_loss(self.where(read).float(), target.float())
        image = F.normalize(self.companion.visual_projection(self.tower.post_layernorm(states[-1][:, 0])).float(), dim=-1)
        text = self.companion.text(input_ids=captions, attention_mask=(captions != 0).long()).text_embeds
        text = F.normalize(text.float(), dim=-1)
        similarity = image @ text.T * self.companion.logit_scale.exp().clamp(max=100)
        truth = torch.arange(len(images))
        losses["contrast"] = (F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)) / 2
        losses["loss"] = (
            losses["kind"] + losses["colour"] + losses["digit"] + losses["place"] + losses["where"] + 0.3 * losses["contrast"]
        )
        return losses
