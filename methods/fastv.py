"""FastV (Chen et al. 2024, arXiv:2403.06764): an image is worth 1/2 tokens after layer 2."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_depth, solve
from methods.registration import register
from methods.similarity import mean_rows, top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder

_NEEDS = frozenset({"text_attention"})


@register("fastv", paper="arXiv:2403.06764", site="decoder", needs=_NEEDS, ranks_by="attention")
@dataclass(frozen=True)
class FastV(Method):
    """Before one early LLM layer, keep the tokens that the last token attended to most in the layer before.

    It reads ``text_attention``: of layer K - 1, the row of the prompt's last token, queries and keys rotated, softmax over
    all keys of each head.

    Args:
        layer: K, the layer whose input is pruned. The paper's 2 is meant for 32 or 40 layers; on
            models of fewer than 24 the same fraction of the depth is used, at least 1.
        positions: original, as in the authors' code.
    """

    layer: int = 2

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ValueError(f"layer={self.layer} must be at least 1: it reads the layer before")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layer = at_depth(self.layer, 32, shape.layers)
        if layer >= shape.layers:
            raise BudgetError(f"layer={layer} is past the last of {shape.layers} layers")
        tokens = shape.visual_tokens
        flops = cost.attention_rows(shape.heads, 1, tokens, shape.head_dim) + cost.ranking(tokens)
        counts = lambda scale: ((layer, max(1, round(scale * tokens))),)
        make = lambda pairs: (Step(decoder(layer), select, pairs[0][1], pairs[0][1], _NEEDS, flops, rows=1),)
        return solve(budget, shape, counts, make)


def select(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` of the last row of ``text_attention`` [B, H, T, N], mean over heads."""
    scores = mean_rows(signals.text_attention, -1)
    return Selection(top(scores, keep), scores=scores)
