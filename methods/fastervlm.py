"""FasterVLM: CLS attention is all it takes (Zhang et al. 2024, arXiv:2412.01818v1)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.registration import register
from methods.similarity import mean_heads, top
from methods.tiles import per_tile, tile_by_tile
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"cls_attention"})


@register(
    "fastervlm",
    paper="arXiv:2412.01818v1",
    site="projector",
    tiles="each",
    needs=_NEEDS,
    cannot="towers without CLS",
    ranks_by="attention",
)
@dataclass(frozen=True)
class FasterVLM(Method):
    """The tokens that CLS attends to most, and nothing else.

    The authors' code (Theia-4869/FasterVLM f5d5f12) reads the attention inside the block whose output the model reads (22 of
    CLIP ViT-L), on that block's normed input (no rotary embedding in this tower), softmax for each head over all tokens, CLS
    included, then the mean over heads. Budgets are what is kept, of each tile: on LLaVA-NeXT with five tiles, 29 stands for
    145 in all. On one tile HiRED keeps the same tokens.

    Args:
        positions: contiguous, as in the authors' code.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        flops = lambda tokens, keep: cost.cls_row(shape, tokens) + cost.ranking(tokens)
        return tile_by_tile(budget, shape, per_tile(select), _NEEDS, flops)


def select(signals: Signals, keep: int) -> Selection:
    """Return indices [B, keep] in position order, from ``cls_attention`` [B, H, N]."""
    scores = mean_heads(signals.cls_attention)
    return Selection(top(scores, keep).sort(-1).values, scores=scores)
