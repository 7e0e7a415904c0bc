"""The attention pattern of a decoder layer: causal or a sliding window, and whether an image's tokens all see each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionKind:
    """What some of the decoder's layers may look at."""

    name: str = "full_attention"  # as transformers calls the kind of layer
    window: int | None = None  # slots that a token sees, itself included, where the window slides; else None
    bidirectional_images: bool = False  # whether the visual tokens of one image see each other, later ones too
