"""PyramidDrop: tokens leave at three depths (Xing et al. 2024, arXiv:2410.17247)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_depth, solve
from methods.registration import register
from methods.similarity import mean_rows, top
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step, decoder

_NEEDS = frozenset({"text_attention_ahead"})
_LAYERS = (8, 16, 24)  # of 32


@register("pyramiddrop", paper="arXiv:2410.17247", site="decoder", needs=_NEEDS, ranks_by="attention")
@dataclass(frozen=True)
class PyramidDrop(Method):
    """At a quarter, half and three quarters of the depth, keep what the last instruction token would attend to.

    Each stage ranks by the attention that its layer itself would compute on its input, before it runs,
    and keeps the same share of what is left: 0.5, 0.25, 0.125 of all in the paper. Ours: the budget
    sets the share.

    It reads ``text_attention_ahead``: the row of the prompt's last token that layer k would compute, from its input behind
    its own input norm, its own queries and keys, rotated, softmax over all keys of each head.

    Args:
        positions: contiguous, as in the authors' code.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layers = [at_depth(layer, 32, shape.layers) for layer in _LAYERS]
        if len(set(layers)) < 3 or layers[-1] >= shape.layers:
            raise BudgetError(f"needs three distinct layers; {shape.layers} layers are too few")
        tokens = shape.visual_tokens

        def counts(share: float) -> tuple[tuple[int, int], ...]:
            return tuple((layer, max(1, int(tokens * share**stage + 1e-9))) for stage, layer in enumerate(layers, 1))

        def make(pairs: tuple[tuple[int, int], ...]) -> tuple[Step, ...]:
            steps, present = [], tokens
            for layer, keep in pairs:
                flops = cost.attention_ahead(shape, 1, present) + cost.ranking(present)
                steps.append(Step(decoder(layer), select, keep, keep, _NEEDS, flops, rows=1))
                present = keep
            return tuple(steps)

        return solve(budget, shape, counts, make)


def select(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` of the last row of ``text_attention_ahead`` [B, H, T, N], mean over heads."""
    scores = mean_rows(signals.text_attention_ahead, -1)
    return Selection(top(scores, keep), scores=scores)
