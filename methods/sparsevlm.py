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
    1: {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    2: {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
"""By version, and by the budget that the paper's and the code's tables call them: of 576 tokens, those kept after layers 2, 6 and
15 of 32. The code counts one layer fewer at 576 than there is, so a table's own average lies a little above its name."""
_LAYERS = (3, 7, 16)  # the layers whose input is pruned
_ONE = frozenset({"text_attention", "hidden_states", "carry"})
_TWO = frozenset({"text_attention", "rope_response", "carry"})
_RATED = frozenset({"features", "text_features"})
_ROWS = 12
_LEAST_RESPONSE = 0.05  # of LLaVA-1.5 (128 dimensions a head, base 10000) it is 0.1 between places that are 700 apart


@register(
    "sparsevlm",
    paper="arXiv:2410.04417",
    site="decoder",
    needs=_ONE | _TWO | _RATED,
    ranks_by="attention",
    unverified={
        "version=2,recycle=true": "the authors' code recycles in version 1 alone",
        "version=1,recycle=false": "the authors' code always recycles in version 1",
    },
)
@dataclass(frozen=True)
class SparseVLM(Method):
    """At three LLM layers, keep what relevant text tokens attend to; version 1 recycles the best of the rest as means.

    Raters, scores, recycling, layers and the tables of counts are those of the paper and of the authors' code
    (Gumpest/SparseVLMs, main for version 1, branch v2.0 9e1f649 for version 2). Version 2 neither recycles nor renumbers; it
    divides the attention by the pure response of the rotary embedding, takes no softmax after that, and listens to the heads
    whose divided rows of raters give the image most. Ours: between and beyond the tables the profile of the nearest is
    scaled; recycled tokens count as present; they keep no place, so later steps may drop them like any other token; the
    response is held above 0.05, which it does not reach on LLaVA-1.5, and under which dividing by it would raise noise.

    It reads, before layer k: ``text_attention``, the rows of layer k - 1 of all text tokens behind the image, queries and keys
    rotated, softmax over all keys of each head; version 1 also ``hidden_states``, the input of layer k before its norm; version 2
    ``rope_response``, what rotation alone would make of equal queries and keys. Raters are found once, before the first of the
    three layers, from ``features`` and ``text_features``: both as they enter the LLM, without norm or rotation.

    Args:
        version: 1 or 2.
        heads: how many heads version 2 listens to: the code's 14, half of the 28 of some models and not of the 32 of others. On
            models of fewer heads, all. Version 1 takes the mean of all.
        recycle: whether dropped tokens are recycled; by default version 1 does and 2 does not.
        positions: by default contiguous in version 1 and original in version 2, as in the authors' code.
    """

    version: Literal["1", "2"] = "1"
    heads: int = 14
    recycle: bool | None = None
    positions: Literal["auto", "original", "contiguous"] = "auto"  # type: ignore[assignment]  # "auto" ends in __post_init__

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads={self.heads} must be at least 1")
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
                    flops += 2.0 * shape.heads * _ROWS * present  # each probability divided, and added to its head's
                needs = (_ONE if self.version == "1" else _TWO) | (_RATED if i == 0 else frozenset())
                if self.recycles:
                    needs |= {"hidden_states"}
                select = SparseVLMSelector(self.version, self.recycles, self.heads)
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
    return chosen >= chosen.any(-1, keepdim=True)  # where none is above, all equal: every token rates


def unroped(attention: torch.Tensor, response: torch.Tensor, rating: torch.Tensor, heads: int) -> torch.Tensor:
    """Return version 2's scores of the visual tokens: [B, N].

    Attention over the rotary response, summed over raters, mean over the heads in which that is most in sum. (The code divides by
    the root of a head's width too, which changes no order.)

    Args:
        attention: [B, H, T, N] probabilities.
        response: [B, T, N] rotary response.
        rating: [B, T] 1 of the text tokens that rate, 0 of the others.
        heads: how many heads are listened to, all where there are fewer.
    """
    share = rating[..., None] / response.to(rating.dtype).clamp_min(_LEAST_RESPONSE)
    by_head = (attention.to(rating.dtype) * share[:, None]).sum(2)
    chosen = top(by_head.sum(-1), min(heads, by_head.shape[1])).sort(-1).values
    return take(by_head, chosen).mean(1)


@dataclass(frozen=True)
class SparseVLMSelector:
    """One step: kept tokens in position order, then the recycled means where the version has them."""

    version: str
    recycle: bool
    heads: int = 14

    def __call__(self, signals: Signals, keep: int) -> Selection:
        chosen = signals.carry if signals.carry is not None else raters(signals.features, signals.text_features)
        if self.version == "1":
            scores = (signals.text_attention.float().mean(1) * chosen[..., None]).sum(1)
        else:
            scores = unroped(signals.text_attention, signals.rope_response, chosen.float(), self.heads)
        scores = scores / chosen.sum(-1, keepdim=True)
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
