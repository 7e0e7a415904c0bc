"""V2Drop: keep the tokens that the LLM's layers still change (arXiv:2509.01552)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import Pairs, at_depth, solve
from methods.lazy import torch
from methods.registration import register
from methods.similarity import row_by_row, top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder

_NEEDS = frozenset({"hidden_states", "hidden_states_before"})
_LAYERS = (3, 17, 22)  # of 32


@register("v2drop", paper="arXiv:2509.01552", site="decoder", needs=_NEEDS, ranks_by="change")
@dataclass(frozen=True)
class V2Drop(Method):
    """At three depths of the LLM, keep the tokens that the layer before has changed most.

    What it reads, before layer k: the hidden states at its input less those at the input of layer k - 1, neither normalised;
    of that the L2 norm. No text and no attention are read.

    The rule is that of the authors' code (xuyang-liu16/V2Drop 219e03e). It keeps int(share * tokens present), at least one, with
    shares 0.5, 0.5 and 0: of 576 tokens 288, 144 and one, which is 202.8 on average and the only setting that they publish for
    LLaVA-1.5. Ours: the budget sets the first two shares, which stay equal; what rounding leaves
    over, or a large budget, goes to the last step; counted in the last layer, all three shares are equal.

    Args:
        positions: original, as in the authors' code.
    """

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layers = [at_depth(layer, 32, shape.layers) for layer in _LAYERS]
        if len(set(layers)) < 3 or layers[-1] >= shape.layers:
            raise BudgetError(f"needs three distinct layers; {shape.layers} layers are too few")
        tokens, last = shape.visual_tokens, 1.0 if budget.mode == "final" else 0.0

        def counts(share: float) -> Pairs:
            pairs, present = [], tokens
            for layer, own in zip(layers, (share, share, last * share)):
                present = max(1, int(present * own + 1e-9))
                pairs.append((layer, present))
            return tuple(pairs)

        def make(pairs: Pairs) -> tuple[Step, ...]:
            steps, present = [], tokens
            for layer, keep in pairs:
                flops = 3.0 * present * shape.width + cost.ranking(present)
                steps.append(Step(decoder(layer), select, keep, keep, _NEEDS, flops))
                present = keep
            return tuple(steps)

        return solve(budget, shape, counts, make)


def select(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` by change, from ``hidden_states`` and ``hidden_states_before`` [B, N, D]."""
    return Selection(top(row_by_row(change, signals.hidden_states, signals.hidden_states_before), keep))


def change(states: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return how far each token moved: [B, N, D] twice to [B, N], in float32 at least."""
    wide = torch.promote_types(states.dtype, torch.float32)
    distance: torch.Tensor = torch.linalg.vector_norm(states.to(wide) - before.to(wide), dim=-1)
    return distance
