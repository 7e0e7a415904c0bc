"""How decoder layers attend: over everything before, or within a sliding window; and whether images see themselves whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionKind:
    """How some of the decoder's layers attend."""

    name: str = "full_attention"
    window: int | None = None  # slots, where it slides
    together: bool = False  # whether the visual tokens of one image see each other
