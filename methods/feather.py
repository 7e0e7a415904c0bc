"""FEATHER: attention without rotary embedding, an even grid beside it, and a second look later (arXiv:2412.13180)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_depth
from methods.lazy import torch
from methods.registration import register
from methods.similarity import chosen_places, top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder

_NEEDS = frozenset({"keys_unrotated", "text_queries_unrotated"})
_LAYERS = (8, 16)  # of 32
_SHARE = 1 - 0.7  # of the tokens, by attention, in the first step; its square of those present in the second
_STRIDE = 3  # rows and columns from one token of the even grid to the next


@register("feather", paper="arXiv:2412.13180", site="decoder", needs=_NEEDS, ranks_by="attention")
@dataclass(frozen=True)
class Feather(Method):
    """At a quarter of the LLM keep what it attends to whatever the place, and every third row and column; at half, a tenth of it.

    What it reads, of layer k - 1: its queries of the last text token and its keys of the image, after its input norm and before
    the rotary embedding; of their scaled products the softmax, per head, over the visual tokens alone, mean over heads.

    The rule is that of the authors' code (markendo/FEATHER c2a09b2, for a Prismatic model with a SigLIP tower): before layer 8
    int(0.3 N) tokens by that score and, whatever they score, those of every third row and column of a square of int(sqrt(N)) a
    side; before layer 16 int(0.09 n) of the n present, by the score alone. It has no budget: the union decides how many. Ours: at
    least one token stays. What looks wrong in their code: of an image that is no square, the grid is drawn in a square.

    Args:
        positions: original, as in the authors' code.
    """

    @property
    def budgeted(self) -> bool:
        return False

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        first, second = (at_depth(layer, 32, shape.layers) for layer in _LAYERS)
        if first == second or second >= shape.layers:
            raise BudgetError(f"needs two distinct layers; {shape.layers} layers are too few")
        tokens = shape.visual_tokens
        most = min(tokens, by_score(tokens, _SHARE) + len(even_grid(tokens)))
        steps = []
        for layer, present, after, select in (
            (first, tokens, most, FeatherSelector(shape.kv_heads, _SHARE, True)),
            (second, most, by_score(most, _SHARE**2), FeatherSelector(shape.kv_heads, _SHARE**2, False)),
        ):
            flops = cost.attention_rows(shape.heads, 1, present, shape.head_dim) + cost.ranking(present)
            steps.append(Step(decoder(layer), select, after, after, _NEEDS, flops, rows=1, adaptive=True))
        return tuple(steps)


def by_score(tokens: int, share: float) -> int:
    """Return how many of N tokens stay by their score."""
    return max(1, int(tokens * share))


def even_grid(tokens: int) -> list[int]:
    """Return the tokens of every third row and column of a square that N tokens fill.

    >>> even_grid(16)
    [0, 3, 12, 15]
    """
    side = int(tokens**0.5)
    return [row * side + column for row in range(0, side, _STRIDE) for column in range(0, side, _STRIDE)]


@dataclass(frozen=True)
class FeatherSelector:
    """One step: kept tokens in position order. ``heads``: of keys and values."""

    heads: int
    share: float
    even: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``keys_unrotated`` [B, N, Dkv] and ``text_queries_unrotated`` [B, T, Dq]; how many stay follows from them.

        Raises:
            ValueError: where the rows of a batch differ in how many stay.
        """
        scores = self.scores(signals)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top(scores, by_score(signals.count, self.share)), True)
        if self.even:
            kept[:, even_grid(signals.count)] = True
        return Selection(chosen_places(kept), scores=scores)

    def scores(self, signals: Signals) -> torch.Tensor:
        """Return the attention of the last text token to each visual token, without rotary embedding: [B, N]."""
        wide = torch.promote_types(signals.keys_unrotated.dtype, torch.float32)
        keys = signals.keys_unrotated.to(wide).unflatten(-1, (self.heads, -1))  # [B, N, heads, d]
        queries = signals.text_queries_unrotated[:, -1].to(wide).unflatten(-1, (self.heads, -1, keys.shape[-1]))
        products = torch.einsum("bnhd,bhgd->bhgn", keys, queries) / keys.shape[-1] ** 0.5
        scores: torch.Tensor = products.softmax(-1).mean((1, 2))
        return scores
