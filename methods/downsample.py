"""A smaller image in place of fewer tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from methods.registration import register
from methods.types import Budget, Method, ModelShape, Step


@register("downsample", paper="baseline of arXiv:2510.07143", site="image", reference=True, ranks_by="none")
@dataclass(frozen=True)
class Downsample(Method):
    """The image shrunk until the tower yields K tokens: the baseline that embarrasses many methods."""

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return ()

    def image_grid(self, shape: ModelShape, budget: Budget) -> tuple[int, int] | None:
        return grid_within(budget.tokens, shape.grid)


def grid_within(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Return the h x w of most tokens with h * w <= tokens, at most 2.1 times narrower or wider than the grid's aspect.

    Of equals the nearest to the aspect, then the wider: on a square 192 gives 12 x 16, 128 gives 8 x 16.
    """
    rows, columns = grid

    def stretch(hw: tuple[int, int]) -> float:
        return round(abs(log(hw[0] / hw[1]) - log(rows / columns)), 9)

    fitting = [(h, min(columns, tokens // h)) for h in range(1, min(rows, tokens) + 1)]
    fair = [hw for hw in fitting if stretch(hw) <= log(2.1)] or fitting
    return min(fair, key=lambda hw: (-hw[0] * hw[1], stretch(hw), hw[0]))
