"""A uniform grid: the baseline that knows nothing of the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.types import Budget, Method, ModelShape, Selection, Signals, Step


@register("grid", site="projector", ranks_by="place")
@dataclass(frozen=True)
class Grid(Method):
    """Tokens at even distances over rows and columns, exactly K of them. It reads no signal."""

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return at_projector(budget, shape, select, frozenset())


def select(signals: Signals, keep: int) -> Selection:
    """Return the same places for every image; without a full grid, even steps along the sequence."""
    places = even_places(signals.grid or (1, signals.count), keep).to(signals.device)
    return Selection(places.expand(signals.batch, -1))


@lru_cache(maxsize=64)
def even_places(grid: tuple[int, int], keep: int) -> torch.Tensor:
    """Return ``keep`` places of an h x w grid in row-major order: even rows, and in each even columns.

    The number of rows is that whose lattice is nearest to square; rows differ by one place at most.
    """
    height, width = grid
    rows = min(height, max(1, round((keep * height / width) ** 0.5), -(-keep // width)))
    place = torch.arange(keep)
    line = ((place + 1) * rows - 1) // keep  # row i holds the places from i * keep // rows on
    low, high = line * keep // rows, (line + 1) * keep // rows
    row, column = (2 * line + 1) * height // (2 * rows), (2 * (place - low) + 1) * width // (2 * (high - low))
    places: torch.Tensor = row * width + column
    return places
