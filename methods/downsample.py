"""A smaller image in place of fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from methods.registry import register
from methods.types import Budget, Method, ModelShape, Step


@register("downsample", paper="baseline of arXiv:2510.07143", site="image", reference=True)
@dataclass(frozen=True)
class Downsample(Method):
    """The image shrunk until the tower yields K tokens: the baseline that embarrasses many methods."""

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return ()

    def image_grid(self, shape: ModelShape, budget: Budget) -> tuple[int, int] | None:
        return grid_within(budget.tokens, shape.grid)


def grid_within(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """The h x w with h * w <= tokens that wastes least, then is nearest to the grid's aspect, wider first.

    Of all grids that hold at least 95 % of the best count the one of nearest aspect is taken, so that
    192 on a square gives 12 x 16 and 128 gives 8 x 16, while a prime number does not give one row.
    """
    rows, columns = grid
    fitting = [(h, min(columns, tokens // h)) for h in range(1, min(rows, tokens) + 1)]
    best = max(h * w for h, w in fitting)
    near = [(h, w) for h, w in fitting if h * w >= 0.95 * best]
    return min(near, key=lambda hw: (round(abs(log(hw[0] / hw[1]) - log(rows / columns)), 9), hw[0]))
