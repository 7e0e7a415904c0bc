"""SparseVLM (Zhang et al. 2024, arXiv:2410.04417): text-guided sparsification with token recycling, version 1."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch

from methods import cost
from methods.budget import at_depth, counts_for, refuse_flops
from methods.merging import density_peaks
from methods.registry import register
from methods.similarity import top
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step, decoder

PUBLISHED = {192: (300, 200, 110), 128: (303, 110, 36), 64: (66, 30, 17)}
"""Kept tokens after layers 2, 6 and 15 of 32, by the budget at which the paper names them (576 tokens)."""
_LAYERS = (3, 7, 16)  # the layers whose input is pruned
_FIRST = frozenset({"features", "text_features", "text_attention", "hidden_states", "carry"})
_LATER = frozenset({"text_attention", "hidden_states", "carry"})
_ROWS = 12


@register("sparsevlm", paper="arXiv:2410.04417", site="decoder", needs=_FIRST)
@dataclass(frozen=True)
class SparseVLM(Method):
    """At three LLM layers, keep what relevant text tokens attend to; recycle the best of the rest as cluster means.

    Raters, scores, recycling, layers and the published counts are the paper's and its code's. Ours:
    between and beyond the published budgets the profile of the nearest is scaled; recycled tokens
    count as present; they keep no place, so later steps may drop them like any other token.

    Args:
        recycle: whether dropped tokens are recycled.
        positions: contiguous, as in the authors' version 1.
    """

    recycle: bool = True
    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        refuse_flops(budget)
        tokens = shape.visual_tokens
        layers = tuple(at_depth(layer, 32, shape.layers) for layer in _LAYERS)
        if len(set(layers)) < 3 or layers[-1] >= shape.layers:
            raise BudgetError(f"needs three distinct layers; {shape.layers} layers are too few")
        target = budget.tokens * 576 / tokens
        profile = PUBLISHED[min(PUBLISHED, key=lambda k: abs(log(k / max(target, 1e-9))))]

        def kept_counts(scale: float) -> list[int]:
            return [max(1, min(tokens, round(scale * tokens * c / profile[-1]))) for c in profile]

        def counts(scale: float) -> tuple[tuple[int, int], ...]:
            present, pairs = tokens, []
            for layer, kept in zip(layers, kept_counts(scale)):
                present = self.present(present, min(kept, present))
                pairs.append((layer, present))
            return tuple(pairs)

        steps, present = [], tokens
        for i, (layer, after) in enumerate(counts_for(budget, shape, counts)):
            keep = next(k for k in range(1, present + 1) if self.present(present, k) >= after)
            flops = cost.attention_rows(shape.heads, _ROWS, present, shape.head_dim) + cost.ranking(present)
            if i == 0:
                flops += 2.0 * tokens * _ROWS * shape.width + 5.0 * tokens * _ROWS
            if self.recycle:
                flops += cost.similarity(candidates(present - keep), shape.width)
            steps.append(
                Step(decoder(layer), Select(self.recycle), keep, self.present(present, keep), _LATER if i else _FIRST, flops)
            )
            present = steps[-1].after
        return tuple(steps)

    def present(self, before: int, keep: int) -> int:
        """Tokens after a step that keeps ``keep`` of ``before``, recycled ones included."""
        if keep >= before:
            return before
        return keep + (clusters(candidates(before - keep)) if self.recycle else 0)


def candidates(dropped: int) -> int:
    """How many of the dropped are recycled: int(0.3 n) + 1, never more than there are."""
    return min(dropped, int(0.3 * dropped) + 1)


def clusters(recycled: int) -> int:
    """Into how many means: int(m / 10) + 1, never more than there are."""
    return min(recycled, int(recycled / 10) + 1)


def raters(features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    """Text tokens that the image speaks of: bool [B, T].

    Softmax over text of features [B, N, D] . text_features [B, T, D], mean over visual tokens, above their mean.
    """
    relevance = (features @ text_features.transpose(1, 2)).float().softmax(-1).mean(1)
    chosen = relevance > relevance.mean(-1, keepdim=True)
    return chosen | ~chosen.any(-1, keepdim=True)  # all equal: every token rates


@dataclass(frozen=True)
class Select:
    """One step: kept ``hidden_states`` in position order, then the recycled means."""

    recycle: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        chosen = signals.carry if signals.carry is not None else raters(signals.features, signals.text_features)
        attention = signals.text_attention.float().mean(1)  # [B, T, N]
        weight = chosen.to(attention.dtype)
        scores = (attention * weight[..., None]).sum(1) / weight.sum(-1, keepdim=True)
        order = top(scores, signals.count)
        kept = order[:, :keep].sort(-1).values
        hidden = signals.hidden_states
        tokens = hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
        dropped = signals.count - keep
        if not self.recycle or dropped < 1:
            return Selection(kept, carry=chosen)
        recycled = order[:, keep : keep + candidates(dropped)]
        means = density_peaks(hidden.gather(1, recycled[..., None].expand(-1, -1, hidden.shape[-1])), clusters(recycled.shape[1]))
        nowhere = torch.full(means.shape[:2], -1, device=kept.device)
        return Selection(torch.cat([kept, nowhere], 1), torch.cat([tokens, means], 1), carry=chosen)
