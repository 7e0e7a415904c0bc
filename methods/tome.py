"""ToMe: token merging inside the vision tower (Bolya et al. 2023, arXiv:2210.09461)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods import cost
from methods.budget import allowed, largest, spent
from methods.merging import bipartite, join
from methods.registration import register
from methods.schedule import schedule
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step, vision

_NEEDS = frozenset({"vision_features", "vision_keys", "sizes"})


@register(
    "tome", paper="arXiv:2210.09461", site="vision", needs=_NEEDS, cannot="projectors that need a full grid", ranks_by="merging"
)
@dataclass(frozen=True)
class ToMe(Method):
    """In every tower block, the r most similar pairs of alternate tokens become their size-weighted mean.

    The matching on head-mean keys, the size-weighted means and the log-size bias in attention are
    the paper's; r is the constant of the budget. Ours: the last block's r takes up the rounding.

    It reads, inside block i, ``vision_features``, the states between its attention and its MLP, without a norm;
    ``vision_keys``, its own keys, behind its first norm, mean over heads; and ``sizes``.

    Args:
        positions: contiguous: merged tokens stand in the order of their lowest source.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if shape.merge > 1 or shape.tiles > 1:
            raise BudgetError(f"the projector of {shape.name} needs full grids; ToMe merges inside the tower")
        if budget.mode != "flops":
            return self._at(shape, budget.tokens)
        limit = allowed(budget, shape)
        least = next(k for k in range(1, shape.visual_tokens + 1) if reachable(shape.visual_tokens, k, shape.vision_layers))
        fits: Callable[[int], bool] = lambda keep: spent(budget, shape, schedule(shape, self._at(shape, keep))) <= limit
        if not fits(least):
            raise BudgetError(f"costs more than {limit / 1e9:.4g} GFLOPs even with {least} tokens")
        return self._at(shape, largest(least, shape.visual_tokens, fits))

    def _at(self, shape: ModelShape, keep: int) -> tuple[Step, ...]:
        counts = merged_counts(shape.visual_tokens, keep, shape.vision_layers)
        select, present, steps = Merge(int(shape.has_cls)), shape.visual_tokens, []
        head = shape.vision_width // shape.vision_heads
        for block, after in enumerate(counts):
            if after < present:
                half = (present + 1) // 2
                flops = cost.merging(half, present - half, head, present - after) + 3.0 * present * shape.vision_width
                steps.append(Step(vision(block), select, after, after, _NEEDS, flops, merges=True))
            present = after
        return tuple(steps)


def reachable(tokens: int, keep: int, blocks: int) -> bool:
    """Return whether so many blocks can reach ``keep``: a block merges at most half of its tokens."""
    for _ in range(blocks):
        tokens -= tokens // 2
    return keep >= tokens


def merged_counts(tokens: int, keep: int, blocks: int) -> tuple[int, ...]:
    """Return the tokens after each block with one constant r, at most half a block's tokens; exactly ``keep`` at the end."""

    def run(r: int) -> list[int]:
        present, counts = tokens, []
        for _ in range(blocks):
            present -= min(r, present // 2, present - keep)
            counts.append(present)
        return counts

    for r in range(tokens + 1):
        counts = run(r)
        if counts and counts[-1] == keep:
            return tuple(counts)
    raise BudgetError(f"{blocks} tower blocks, each halving at most, leave more than {keep} of {tokens} tokens")


@dataclass(frozen=True)
class Merge:
    """One bipartite merging. A CLS stands before the tokens, so that it shifts which of them look for partners."""

    cls: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``vision_features`` [B, N, Dv], ``vision_keys`` [B, N, Dk] and ``sizes`` [B, N]."""
        target = bipartite(signals.vision_keys, signals.count - keep, first=self.cls)
        tokens, sizes, source, lowest = join(signals.vision_features, signals.sizes, target)
        return Selection(lowest, tokens, sizes, source, space="tower")
