"""SCOPE: saliency times coverage, greedily (Deng et al. 2025, arXiv:2510.24214)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.greedy import covering
from methods.registration import register
from methods.similarity import cosine, mean_heads
from methods.tiles import per_tile, tile_by_tile
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features", "cls_attention"})


@register(
    "scope",
    paper="arXiv:2510.24214",
    site="projector",
    tiles="each",
    needs=_NEEDS,
    cannot="towers without CLS",
    ranks_by="both",
    variants={"alpha=0": "coverage"},
)
@dataclass(frozen=True)
class SCOPE(Method):
    """Always the token that covers most of what no kept one covers yet, times the attention that it gets from CLS.

    A token covers another by their cosine, itself by 1; what is not above 0 never counts, since coverage starts at 0. The
    authors' code (kinredon/SCOPE 6bf7306) takes cosines of the states that the model reads (the output of block 22 of CLIP
    ViT-L, behind no further norm) and the row of CLS inside that block, on its normed input (this tower rotates nothing),
    softmax for each head over all tokens, CLS included, then the sum over heads. Budgets are what is kept, int(K / tiles) of
    each tile on LLaVA-NeXT. It runs in half precision, sums of N terms too; here from float32 on.

    Args:
        alpha: exponent of the attention; at 0 coverage alone decides.
        positions: contiguous, as in the authors' code.
    """

    alpha: float = 1.0
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha={self.alpha:g} must be at least 0")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        def flops(tokens: int, keep: int) -> float:
            return cost.cls_row(shape, tokens) + cost.pairs(tokens, shape.vision_width) + cost.covering(tokens, tokens, keep)

        return tile_by_tile(budget, shape, per_tile(SCOPESelector(self.alpha)), _NEEDS, flops)


@dataclass(frozen=True)
class SCOPESelector:
    """Indices [B, keep] in the order of selection, from ``vision_features`` [B, N, Dv] and ``cls_attention`` [B, H, N]."""

    alpha: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        attention = mean_heads(signals.cls_attention)  # the sum over heads, but for a factor
        return Selection(covering(cosine(signals.vision_features), keep, attention**self.alpha), scores=attention)
