"""What the vision tower gave for the visual tokens that entered the decoder, as a step inside it may still read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.engine.signals import VisionOutput
from methods.types import Selection, TowerRead

_OF_THE_IMAGE = frozenset(
    {"cls_feature", "cls_key", "cls_feature_first", "cls_query", "cls_key_full", "cls_value_full", "cls_attention_tiles"}
)
"""Signals of the tower that are of the whole image, not of its tokens."""
_BY_HEAD = ("cls_attention", "received_attention")
"""What the names of signals begin with that are [B, H, N]; all others are [B, N, ...]."""


@dataclass(frozen=True)
class EnteredTokens:
    """Where to find what the tower gave for the K visual tokens of G sequences; nothing is gathered before it is read."""

    vision: VisionOutput
    image: torch.Tensor  # int64 [G] whose tokens they are
    chosen: torch.Tensor  # int64 [G, K] which of those that left the tower; -1 of no single place
    selection: Selection | None = None  # what chose them, where it may have merged

    def signal(self, read: TowerRead, sequences: torch.Tensor) -> torch.Tensor:
        """Return a signal of the tower for the tokens of some sequences, in their order.

        A token that was merged at the projector has the mean of its sources where they are known, else what its own place
        has; one of no single place and no known source has nothing: zero.

        Args:
            read: which signal, and where in the tower it is read.
            sequences: int64 [B].

        Returns:
            [B, K, ...], or [B, H, K] of attention; what is of the whole image is as it left the tower.
        """
        device, given = sequences.device, self.vision.signals
        sequences = sequences.to(self.image.device)
        whole = self.vision.features if read.key == "vision_features" and read.key not in given else given[read.key]
        table, by_head = whole[self.image[sequences]], read.signal.startswith(_BY_HEAD)
        if read.signal in _OF_THE_IMAGE or table.shape[2 if by_head else 1] != self.vision.lowest.shape[1]:
            return table.to(device)
        source = None if self.selection is None else self.selection.source
        own = None if source is None else Selection(self.chosen[sequences], source=source[sequences])
        if by_head:
            return of_chosen(table.transpose(1, 2), self.chosen[sequences], own).transpose(1, 2).to(device)
        return of_chosen(table, self.chosen[sequences], own).to(device)


def of_chosen(table: torch.Tensor, chosen: torch.Tensor, selection: Selection | None = None) -> torch.Tensor:
    """Return what a table has for the visual tokens that are left.

    A merged token has the mean of its sources where they are known, else what its own place has; one of no single place and
    no known source has nothing.

    Args:
        table: [G, K, D] what it has for all.
        chosen: int64 [G, K'] into the K; -1 of no single place.
        selection: what chose them, where it may have merged.

    Returns:
        [G, K', D].
    """
    if selection is not None and selection.source is not None:
        weights = selection.source.to(table.dtype)
        mean: torch.Tensor = weights @ table / weights.sum(-1, keepdim=True).clamp_min(1)
        return mean
    found = table.gather(1, chosen.clamp_min(0)[..., None].expand(-1, -1, table.shape[-1]))
    return found.masked_fill((chosen < 0)[..., None], 0)
