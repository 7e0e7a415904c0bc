"""SparseVLM (Zhang et al. 2024, arXiv:2410.04417): text-guided sparsification, both published versions."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

from methods import cost
from methods.budget import at_depth, solve
from methods.lazy import torch
from methods.merging import density_peaks
from methods.registration import register
from methods.similarity import take, top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder

PUBLISHED = {
    1: {192: (300, 200, 110), 128: (303, 110, 36), 64: (66, 30, 17)},
    2: {192: (300, 200, 118), 128: (238, 108, 60), 64: (66, 34, 20)},
}
"""By version, and by the budget at which the paper names them: tokens kept after layers 2, 6 and 15 of 32 (576 tokens)."""
_LAYERS = (3, 7, 16)  # the layers whose input is pruned
_ONE = frozenset({"text_attention", "hidden_states", "carry"})
_TWO = frozenset({"text_attention", "text_logits", "rope_response", "carry"})
_RATED = frozenset({"features", "text_features"})
_ROWS = 12
_LEAST_RESPONSE = 0.05


@register("sparsevlm", paper="arXiv:2410.04417", site="decoder", needs=_ONE | _TWO | _RATED, ranks_by="attention")
@dataclass(frozen=True)
class SparseVLM(Method):
    """At three LLM layers, keep what relevant text tokens attend to; version 1 recycles the best of the rest as means.

    Raters, scores, recycling, layers and the published counts are the paper's and its code's; version 2
    neither recycles nor renumbers, divides the scores by the pure response of the rotary embedding, and
    listens to the half of the heads that look at the image most. Ours: between and beyond the published
    budgets the profile of the nearest is scaled; recycled tokens count as present; they keep no place,
    so later steps may drop them like any other token; in version 2 the softmax after the division is over
    the visual tokens present, and the response is held above 0.05.

    Args:
        version: 1 or 2.
        recycle: whether dropped tokens are recycled; by default version 1 does and 2 does not.
        positions: by default contiguous in version 1 and original in version 2, as in the authors' code.
    """

    version: Literal["1", "2"] = "1"
    recycle: bool | None = None
    positions: Literal["auto", "original", "contiguous"] = "auto"  # type: ignore[assignment]  # "auto" ends in __post_init__

    def __post_init__(self) -> None:
        if self.positions == "auto":
            object.__setattr__(self, "positions", "contiguous" if self.version == "1" else "original")

    @property
    def recycles(self) -> bool:
        """Whether dropped tokens are recycled, by parameter or by version."""
        return self.version == "1" if self.recycle is None else self.recycle

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        layers = tuple(at_depth(layer, 32, shape.layers) for layer in _LAYERS)
        if len(set(layers)) < 3 or layers[-1] >= shape.layers:
            raise BudgetError(f"needs three distinct layers; {shape.layers} layers are too few")
        published = PUBLISHED[int(self.version)]
        target = budget.tokens * 576 / tokens
        profile = published[min(published, key=lambda k: abs(log(k / max(target, 1e-9))))]

        def counts(scale: float) -> tuple[tuple[int, int], ...]:
            present, pairs = tokens, []
            for layer, share in zip(layers, profile):
                present = self.present(present, min(present, max(1, round(scale * tokens * share / profile[-1]))))
                pairs.append((layer, present))
            return tuple(pairs)

        def make(pairs: tuple[tuple[int, int], ...]) -> tuple[Step, ...]:
            steps, present = [], tokens
            for i, (layer, after) in enumerate(pairs):
                keep = self.kept(present, after)
                flops = cost.attention_rows(shape.heads, _ROWS, present, shape.head_dim) + cost.ranking(present)
                if i == 0:
                    flops += 2.0 * tokens * _ROWS * shape.width + 5.0 * tokens * _ROWS
                if self.recycles:
                    recycled = candidates(present - keep)
                    flops += cost.similarity(recycled, shape.width, recycled) + 2.0 * clusters(recycled) * recycled * shape.width
                if self.version == "2":
                    flops += 8.0 * shape.heads * _ROWS * present
                needs = (_ONE if self.version == "1" else _TWO) | (_RATED if i == 0 else frozenset())
                if self.recycles:
                    needs |= {"hidden_states"}
                select = SparseVLMSelector(self.version, self.recycles)
                steps.append(Step(decoder(layer), select, keep, self.present(present, keep), needs, flops))
                present = steps[-1].after
            return tuple(steps)

        return solve(budget, shape, counts, make)

    def present(self, before: int, keep: int) -> int:
        """Return the tokens present after a step that keeps ``keep`` of ``before``, recycled ones included."""
        if keep >= before:
            return before
        return keep + (clusters(candidates(before - keep)) if self.recycles else 0)

    def kept(self, before: int, after: int) -> int:
        """Return the most that a step may keep of ``before`` so that at most ``after`` are present, at least 1."""
        keep = min(after, before)
        while keep > 1 and self.present(before, keep) > after:
            keep -= max(1, (self.present(before, keep) - after) // 2)
        return keep


def candidates(dropped: int) -> int:
    """Return how many of the dropped are recycled: int(0.3 n) + 1, never more than there are."""
    return min(dropped, int(0.3 * dropped) + 1)


def clusters(recycled: int) -> int:
    """Return into how many means the recycled are clustered: int(m / 10) + 1, never more than there are."""
    return min(recycled, int(recycled / 10) + 1)


def raters(features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
    """Return the raters, text tokens that the image speaks of: bool [B, T].

    Softmax over text of features [B, N, D] . text_features [B, T, D], mean over visual tokens, above their mean.
    """
    relevance = (features @ text_features.transpose(1, 2)).float().softmax(-1).mean(1)
    chosen = relevance > relevance.mean(-1, keepdim=True)
    return chosen | ~chosen.any(-1, keepdim=True)  # all equal: every token rates


def unroped(signals: Signals) -> torch.Tensor:
    """Return version 2's attention: [B, T, N].

    Scores [B, H, T, N] over the rotary response [B, T, N], softmax over visual tokens, mean over the half
    of the heads whose text rows give most attention to the image.
    """
    mass = signals.text_attention.float().sum((2, 3))
    heads = top(mass, max(1, mass.shape[1] // 2))
    plain = signals.text_logits.float() / signals.rope_response.float().clamp_min(_LEAST_RESPONSE)[:, None]
    index = heads[:, :, None, None].expand(-1, -1, *plain.shape[2:])
    return plain.gather(1, index).softmax(-1).mean(1)


@dataclass(frozen=True)
class SparseVLMSelector:
    """One step: kept tokens in position order, then the recycled means where the version has them."""

    version: str
    recycle: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        chosen = signals.carry if signals.carry is not None else raters(signals.features, signals.text_features)
        attention = signals.text_attention.float().mean(1) if self.version == "1" else unroped(signals)
        weight = chosen.to(attention.dtype)
        scores = (attention * weight[..., None]).sum(1) / weight.sum(-1, keepdim=True)
        order = top(scores, signals.count)
        kept = order[:, :keep].sort(-1).values
        dropped = signals.count - keep
        if not self.recycle or dropped < 1:
            return Selection(kept, carry=chosen, scores=scores)
        hidden = signals.hidden_states
        tokens = take(hidden, kept)
        recycled = order[:, keep : keep + candidates(dropped)].sort(-1).values
        means = density_peaks(take(hidden, recycled), clusters(recycled.shape[1]))
        nowhere = torch.full(means.shape[:2], -1, device=kept.device)
        return Selection(torch.cat([kept, nowhere], 1), torch.cat([tokens, means], 1), carry=chosen, scores=scores)
