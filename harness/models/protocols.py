"""Protocols of the engine's objects that an adapter receives: a KV cache and the output of a vision tower."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from harness.models.prompt import ImageSpan


class LayerCache(Protocol):
    """What a decoder layer sees as its cache."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new columns [G, Hkv, columns, head_dim] to a layer, and return all of its keys and values."""
        ...


class VisionOutputLike(Protocol):
    """What `Adapter.projected` needs of a vision tower's output for B prompts that are alike."""

    @property
    def features(self) -> torch.Tensor:
        """Tower tokens as the visual tokens are arranged: [B, N, Dv]."""
        ...

    @property
    def tile_states(self) -> torch.Tensor | None:
        """Tower tokens tile by tile, [B * tiles, n, Dv], where that is not what ``features`` holds."""
        ...

    @property
    def projected(self) -> torch.Tensor | None:
        """Visual tokens in the space of the LLM, [B, N, D], where the tower holds its projector."""
        ...

    @property
    def spans(self) -> tuple[ImageSpan, ...]:
        """Tokens that the images of each prompt put into it."""
        ...
