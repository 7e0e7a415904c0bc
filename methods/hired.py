"""HiRED: tokens by CLS attention, shared out among tiles by what an early block sees (Arif et al. 2024, arXiv:2408.10945)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import chosen_places, mean_heads, top
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step

_ONE = frozenset({"cls_attention"})
_TILES = frozenset({"cls_attention_tiles", "cls_attention_first"})


@register(
    "hired",
    paper="arXiv:2408.10945",
    site="projector",
    needs=_ONE | _TILES,
    cannot="towers without CLS; several images in a prompt",
    ranks_by="attention",
)
@dataclass(frozen=True)
class HiRED(Method):
    """The tokens that CLS attends to most; of an image in tiles, more of those in which an early block sees something.

    The authors' code (hasanar1f/HiRED 502d6dd) ranks by the row of CLS inside the block whose output the model reads (22 of CLIP
    ViT-L), and shares out by the row of block 0 on the overview; each on its block's normed input (this tower rotates nothing),
    softmax for each head over all tokens, CLS included, then the sum over heads. Budgets count what is kept of all tiles
    together, a rate of all tokens (0.2 published). On one tile it is FasterVLM.

    A tile's part of the overview is, in their code and here, as many consecutive tokens as each tile gets: a strip across the
    image, also where tiles stand side by side. What rounding down leaves of a budget nobody gets, and what unpadding takes of
    the chosen is not replaced: of an image in tiles the budget is an upper bound. In a batch their code uses the first image's
    attention for all; here each image has its own. Ours: where tokens cannot be divided by tiles, strips differ by one token.

    Args:
        alpha: share of K that the overview gets; the rest goes to the tiles.
        positions: contiguous, as in the authors' code.
    """

    alpha: float = 0.5
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha:g} must lie in (0, 1]")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if shape.images > 1:
            raise BudgetError("several images in a prompt: a budget is shared out among the tiles of one")
        tokens = shape.visual_tokens
        flops = shape.tiles * (cost.cls_row(shape, -(-tokens // shape.tiles)) + cost.ranking(-(-tokens // shape.tiles)))
        if shape.tiles == 1:
            return at_projector(budget, shape, select, _ONE, lambda keep: flops)
        flops += cost.cls_row(shape, -(-tokens // shape.tiles)) + cost.ranking(-(-tokens // shape.tiles))
        least = ceil(1 / self.alpha)  # one token in the overview, of which unpadding takes none
        return at_projector(budget, shape, HiREDTiles(self.alpha), _TILES, lambda keep: flops, least, adaptive=True)


def select(signals: Signals, keep: int) -> Selection:
    """Return indices [B, keep] in position order, from ``cls_attention`` [B, H, N] of an image of one tile."""
    scores = mean_heads(signals.cls_attention)  # ranks as their sum does
    return Selection(top(scores, keep).sort(-1).values, scores=scores)


@dataclass(frozen=True)
class HiREDTiles:
    """At most ``keep`` indices in position order, from ``cls_attention_tiles`` [B, T, H, n], and ``cls_attention_first``."""

    alpha: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        attention = signals.cls_attention_tiles
        _, tiles, _, size = attention.shape
        places = signals.tile_places
        if places is None:
            places = torch.arange(tiles * size, device=attention.device).view(tiles, size)
        chosen = in_tiles(attention, tile_budgets(signals.cls_attention_first, tiles, keep, self.alpha))
        there = places >= 0  # of several tokens that became one, any will do
        mask = torch.zeros(len(attention), signals.count, device=attention.device)
        mask = mask.index_add_(1, places[there], chosen[:, there].to(mask.dtype)) > 0
        return Selection(chosen_places(mask))


def tile_budgets(first: torch.Tensor, tiles: int, total: int, alpha: float) -> torch.Tensor:
    """Return how many tokens each tile may keep, overview first: [B, H, n] attention of block 0 there to int64 [B, tiles]."""
    batch, _, size = first.shape
    overview = min(int(total * alpha), size) if tiles > 1 else min(total, size)
    rest = min(total - overview, (tiles - 1) * size)
    marked = torch.zeros(batch, size, dtype=torch.float32, device=first.device)
    marked.scatter_(1, top(mean_heads(first), int(size * (1 - alpha))), 1.0)
    strip = torch.arange(size, device=first.device) * (tiles - 1) // size  # of each token of the overview, whose part it is
    marks = marked.new_zeros(batch, max(tiles - 1, 1)).index_add_(1, strip.clamp_min(0), marked)[:, : tiles - 1]
    share = marks / marked.sum(-1, keepdim=True).clamp_min(1)
    budgets = (share * rest).long().clamp_max(size)  # in float32 and rounded down, as in the authors' code
    return torch.cat([budgets.new_full((batch, 1), overview), budgets], 1)


def in_tiles(attention: torch.Tensor, budgets: torch.Tensor) -> torch.Tensor:
    """Return which tokens of each tile its budget keeps: [B, T, H, n] and int64 [B, T] to bool [B, T, n]."""
    scores = mean_heads(attention.flatten(0, 1)).view(*attention.shape[:2], -1)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) < budgets[..., None]
