"""Average pooling of the tower's grid: the baseline that keeps everything, blurred."""

from __future__ import annotations

from dataclasses import dataclass

from methods.downsample import grid_within
from methods.lazy import torch
from methods.registration import register
from methods.types import PROJECTOR, Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features"})


@register("pool", site="projector", needs=_NEEDS, cannot="towers whose tokens are no full grid", ranks_by="merging")
@dataclass(frozen=True)
class Pool(Method):
    """The tower's grid averaged to the h x w of at most K tokens that suits the image's aspect.

    It reads ``vision_features``: the output of the tower block that the model reads, without a norm behind it.

    Args:
        positions: contiguous: pooled tokens stand in row-major order.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        small = grid_within(budget.tokens, shape.grid)
        count = small[0] * small[1]
        if count == shape.visual_tokens:
            return ()
        flops = 1.0 * shape.visual_tokens * shape.vision_width
        return (Step(PROJECTOR, PoolSelector(small), count, count, _NEEDS, flops, merges=True, space="tower"),)


@dataclass(frozen=True)
class PoolSelector:
    """Means of ``vision_features`` [B, N, Dv] over the cells of a smaller grid, as adaptive average pooling cuts them."""

    small: tuple[int, int]

    def __call__(self, signals: Signals, keep: int) -> Selection:
        if signals.grid is None:
            raise BudgetError("pool needs tokens that are a full grid")
        features, (height, width) = signals.vision_features, signals.grid
        small = self.small if self.small[0] * self.small[1] == keep else grid_within(keep, signals.grid)
        rows, columns = cells(height, small[0]), cells(width, small[1])
        member = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1).flatten(1).to(features.device)  # bool [K, N]
        batch, _, depth = features.shape
        square = features.transpose(1, 2).reshape(batch, depth, height, width)
        tokens = torch.nn.functional.adaptive_avg_pool2d(square, small).flatten(2).transpose(1, 2)
        return Selection(
            torch.full((batch, len(member)), -1, device=features.device), tokens, member.sum(1).expand(batch, -1),
            member.expand(batch, -1, -1), space="tower",
        )  # fmt: skip


def cells(size: int, parts: int) -> torch.Tensor:
    """Return which of ``size`` lines each of ``parts`` cells averages: bool [parts, size]."""
    line, part = torch.arange(size), torch.arange(parts)[:, None]
    return (line >= part * size // parts) & (line < -(-(part + 1) * size // parts))
