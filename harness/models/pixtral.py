"""Pixtral's vision tower, which takes images of any size: each image alone, whatever stands beside it in a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from harness.models.probes import Rotary, probing
from harness.models.prompt import ImageSpan, PixelBatch
from harness.models.tiling import side
from harness.models.tower_probes import TowerProbe
from harness.models.towers import StageClock, WholeTower, WholeTowerOutput


class PixtralTower(WholeTower):
    """The tower of Mistral 3 and Pixtral, with the projector behind it.

    transformers packs all images of a call into one row under a mask of their blocks, a table of all patches squared. Here
    the images that stand in one place of their prompts, which are of one size, are a batch: what each comes to is the same.

    Args:
        module: the tower, of transformers.
        config: its configuration, of transformers.
        blocks: how many of its blocks are run.
        projector: of transformers; Mistral 3's merges neighbouring patches.
    """

    def __init__(self, module: Any, config: Any, blocks: int, projector: Any) -> None:
        super().__init__(module, config)
        self.layers, self.projector = list(module.transformer.layers)[:blocks], projector
        self.unread = list(module.transformer.layers)[blocks:]

    @property
    def blocks(self) -> int:
        """How many blocks are run."""
        return len(self.layers)

    def run(
        self, pixels: PixelBatch, clock: StageClock, probes: Mapping[int, TowerProbe], behind: frozenset[int]
    ) -> WholeTowerOutput:
        """Run the tower and the projector on images of B prompts; see `WholeTower.run`."""
        spans = pixels.spans[0]
        patches = pixels.stack().unflatten(0, (len(pixels), -1))  # [B, patches, C]
        parts = patches.split([span.cut[0] * span.cut[1] for span in spans], 1)
        encoded = [self._encode(part, span, probes, behind) for part, span in zip(parts, spans, strict=True)]
        for probe in probes.values():
            probe.join()
        together: Callable[[list[torch.Tensor]], torch.Tensor] = lambda tables: torch.cat(tables, 1).flatten(0, 1)
        states = together([states for states, _ in encoded])
        noted = {index: together([own[index] for _, own in encoded]) for index in behind}
        with clock.stage("projector"):
            projected = self._project(states, spans * len(pixels))
        return WholeTowerOutput(states, projected, (), noted, lambda table: table.flatten(0, 1))

    def _encode(
        self, patches: torch.Tensor, span: ImageSpan, probes: Mapping[int, TowerProbe], behind: frozenset[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """States behind the last block that is read, and behind others, [B, n, Dv], of images of one size, [B, n, C]."""
        rows, columns = span.cut
        patch = side(self.config.patch_size)
        cut = patches.unflatten(2, (-1, patch, patch)).unflatten(1, (rows, columns))  # [B, rows, columns, 3, patch, patch]
        images = cut.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
        hidden: torch.Tensor = self.module.ln_pre(self.module.patch_conv(images).flatten(2).transpose(1, 2))
        rotary = self._rotary(hidden, rows, columns)
        noted: dict[int, torch.Tensor] = {}
        read, deepest = hidden, max([*probes, *behind], default=-1)
        for index, layer in enumerate((*self.layers, *self.unread)):
            if index >= len(self.layers) and index > deepest:
                break
            with probing(layer.attention, probes.get(index)):
                if index >= len(self.layers) and index == deepest and index not in behind:  # nobody reads its states
                    layer.attention(layer.attention_norm(hidden), None, position_embeddings=rotary)
                    break
                hidden = layer(hidden, None, position_embeddings=rotary)
            if index < len(self.layers):
                read = hidden
            if index in behind:
                noted[index] = hidden
        return read, noted

    def _rotary(self, hidden: torch.Tensor, rows: int, columns: int) -> Rotary:
        """Cosines and sines of the rotary angles of patches in reading order, by their row and column."""
        down, across = torch.arange(rows, device=hidden.device), torch.arange(columns, device=hidden.device)
        places = torch.stack([down.repeat_interleave(columns), across.repeat(rows)], -1)
        cosines, sines = self.module.patch_positional_embedding(hidden, places)
        return cosines, sines

    def _project(self, states: torch.Tensor, spans: tuple[ImageSpan, ...]) -> torch.Tensor:
        """Visual tokens in the space of the LLM, [B * N, D], of the patches of all images in turn."""
        projected: torch.Tensor
        if not hasattr(self.projector, "patch_merger"):
            projected = self.projector(states)
            return projected
        patch = side(self.config.patch_size)
        projected = self.projector(states, [(span.cut[0] * patch, span.cut[1] * patch) for span in spans])
        return projected
