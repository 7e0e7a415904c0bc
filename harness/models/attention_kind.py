"""The attention pattern of a decoder layer: causal or a sliding window, and whether images or prompts see themselves whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AttentionKind:
    """What some of the decoder's layers may look at."""

    name: str = "full_attention"  # as transformers calls the kind of layer
    window: int | None = None  # slots that a token sees, itself included, where the window slides; else None
    bidirectional_images: bool = False  # whether the visual tokens of one image see each other, later ones too
    bidirectional_prompt: bool = False  # whether all tokens of a prompt see each other, whatever the window


def attention_kinds(text: Any, bidirectional_images: bool, bidirectional_prompt: bool = False) -> list[AttentionKind]:
    """Return how every decoder layer attends.

    Args:
        text: a text configuration of transformers; its fields differ by backbone.
        bidirectional_images: whether the visual tokens of one image see each other.
        bidirectional_prompt: whether all tokens of a prompt see each other.
    """
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    names = getattr(text, "layer_types", None)
    if names is None:
        names = ["full_attention" if window is None else "sliding_attention"] * text.num_hidden_layers
    windows = [window if name == "sliding_attention" else None for name in names]
    both_ways = bidirectional_images, bidirectional_prompt
    return [AttentionKind(name, own, *both_ways) for name, own in zip(names, windows, strict=True)]
