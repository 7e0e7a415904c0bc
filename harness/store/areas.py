"""Parts of an image that grids of visual tokens cover. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """A part of an image, and the grid of visual tokens that covers it row by row; edges are in [0, 1]."""

    rows: int
    columns: int
    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    @property
    def count(self) -> int:
        return self.rows * self.columns
