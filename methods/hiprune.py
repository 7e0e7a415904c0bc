"""HiPrune: anchors of a middle block, their neighbours, and the deep block's choice (Liu et al. 2025, arXiv:2508.00553)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods import cost
from methods.lazy import torch
from methods.registration import register
from methods.similarity import mean_heads, top
from methods.tiles import per_tile, tile_by_tile
from methods.tower import middle_block
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step, TowerRead

_NEEDS = frozenset({"received_attention", "received_attention_early"})
Rule = Literal["paper", "code"]


@register(
    "hiprune",
    paper="arXiv:2508.00553",
    site="projector",
    tiles="each",
    needs=_NEEDS,
    ranks_by="attention",
    unverified={"rule=paper": "neighbours across the grid's edge are the authors' code's; without them nothing was published"},
)
@dataclass(frozen=True)
class HiPrune(Method):
    """Anchors where a middle block looks, the tokens beside them, and for the rest where the deep block looks.

    Reads the attention that a token receives, mean over all queries (CLS among them) and heads, softmax for each head over
    all tokens, CLS included: inside the block whose output the model reads (22 of CLIP ViT-L; the last, 31, of Qwen2.5-VL's
    tower), and inside a middle one (8, published as the ninth; 15 of Qwen2.5-VL's), each on its block's normed input; keys and
    queries are rotated where the tower rotates them. The authors' code (Danielement321/HiPrune 6e83a12) counts what is kept:
    192, 128, 64 on LLaVA-1.5, int(K / tiles) of each tile on LLaVA-NeXT. Below 25 tokens there are no anchors.

    It takes neighbours by index: beside a token of the last column stands the first of the next row, and what falls off the
    top or the bottom is put on the first or the last token. The paper's are spatially adjacent. On the inputs of
    the authors' outputs the two rules' kept sets have a mean Jaccard of 0.989.

    Args:
        rule: ``paper``: neighbours are adjacent on the grid. ``code``: as the authors' code takes them.
        alpha: share of K for anchors and their neighbours, five each.
        positions: contiguous, as in the authors' code on LLaVA; on Qwen2.5-VL they keep the original ones.
    """

    rule: Rule = "paper"
    alpha: float = 0.1
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha:g} must lie in [0, 1]")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        head = shape.vision_width // shape.vision_heads

        def flops(tokens: int, keep: int) -> float:
            seen = tokens * shape.merge + int(shape.has_cls)
            return 2.0 * (cost.attention_rows(shape.vision_heads, seen, seen, head) + cost.ranking(tokens))

        reads = (TowerRead("received_attention_early", middle_block(shape)),)
        return tile_by_tile(budget, shape, per_tile(HiPruneSelector(self.rule, self.alpha)), _NEEDS, flops, reads=reads)


@dataclass(frozen=True)
class HiPruneSelector:
    """Indices [B, keep] in position order, from ``received_attention`` and ``received_attention_early`` [B, H, N], on a grid."""

    rule: Rule
    alpha: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        early, deep = mean_heads(signals.received_attention_early), mean_heads(signals.received_attention)
        anchors = top(early, min(round(keep * self.alpha / 5), signals.count))
        first = torch.zeros_like(deep)  # anchors go before their neighbours, should both be more than may be kept
        first.scatter_(1, neighbours(anchors, signals.grid, signals.count, self.rule), 1.0).scatter_(1, anchors, 2.0)
        by_deep = top(deep, signals.count)
        order = by_deep.gather(1, top(first.gather(1, by_deep), keep))
        return Selection(order.sort(-1).values, scores=deep)


def neighbours(anchors: torch.Tensor, grid: tuple[int, int] | None, count: int, rule: Rule) -> torch.Tensor:
    """Return the tokens left, right, above and below each anchor: int64 [B, m] to [B, 4 m].

    Raises:
        BudgetError: where the tokens are no full grid.
    """
    if grid is None:
        raise BudgetError("HiPrune takes the neighbours of a token on a full grid, which these tokens are not")
    width = grid[1]
    beside = anchors[..., None] + torch.tensor([-1, 1, -width, width], device=anchors.device)
    if rule == "code":
        return beside.clamp(0, count - 1).flatten(1)
    column = (anchors % width)[..., None]
    off = (beside < 0) | (beside >= count)
    off[..., :1] |= column == 0
    off[..., 1:2] |= column == width - 1
    return torch.where(off, anchors[..., None], beside).flatten(1)  # off the grid: the anchor itself, which adds nothing
