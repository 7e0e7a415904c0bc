"""PruMerge: prune by CLS attention, merge the rest into what stays (Shang et al. 2024, arXiv:2403.15388)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine, take, top
from methods.types import PROJECTOR, Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features", "vision_keys_full", "cls_attention"})
_NEIGHBOURS = 32


@register("prumerge", paper="arXiv:2403.15388", site="projector", needs=_NEEDS, cannot="towers without CLS", ranks_by="attention")
@dataclass(frozen=True)
class PruMerge(Method):
    """The K - 1 tokens that CLS attends to most, each with its 32 most similar added, and one sum of all dropped.

    Weights (attention, not normalised), neighbours among kept and dropped alike, and the last token
    are the authors' code's. Theirs reads keys and attention one block later; ours at the layer that
    the model reads, mean over heads.

    Args:
        adaptive: keep as many as are outliers of the attention (above the third quartile by 1.5 times
            the interquartile range), whatever the budget; the cell then reports measured means.
        positions: contiguous, as in the authors' code.
    """

    adaptive: bool = False
    positions: PositionMode = "contiguous"

    @property
    def budgeted(self) -> bool:
        return not self.adaptive

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, width = shape.visual_tokens, shape.vision_width
        fixed = cost.cls_row(shape, tokens) + cost.ranking(tokens)
        flops: Callable[[int], float] = lambda keep: fixed + cost.similarity(tokens, width, keep) + 2.0 * keep * tokens * width
        if self.adaptive:
            typical = max(1, round(0.055 * tokens))  # the paper's mean over its benchmarks
            select = PruMergeSelector(True)
            return (Step(PROJECTOR, select, typical, typical, _NEEDS, flops(typical), merges=True, space="tower", adaptive=True),)
        return at_projector(budget, shape, PruMergeSelector(False), _NEEDS, flops, merges=True, space="tower")


@dataclass(frozen=True)
class PruMergeSelector:
    """Kept tokens in position order, then the sum of the dropped."""

    adaptive: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        features, count = signals.vision_features, signals.count
        wide = torch.float64 if features.dtype == torch.float64 else torch.float32
        attention = signals.cls_attention.to(wide).mean(1)
        if self.adaptive:
            keep = outliers(attention) + 1
        kept = top(attention, min(keep - 1, count)).sort(-1).values
        alike = cosine(take(signals.vision_keys_full, kept), signals.vision_keys_full)
        alike.scatter_(2, kept[..., None], -torch.inf)
        near = top(alike, min(_NEIGHBOURS, count - 1)) if kept.shape[1] else alike.long()
        chosen = torch.zeros_like(alike, dtype=torch.bool).scatter_(2, near, True)
        weight = chosen.to(wide) * attention[:, None, :]
        own = kept[..., None] == torch.arange(count, device=kept.device)
        dropped = torch.ones(len(features), count, dtype=torch.bool, device=kept.device).scatter_(1, kept, False)
        weight = torch.cat([weight, (dropped * attention)[:, None]], 1)
        tokens = weight.to(features.dtype) @ features
        tokens[:, :-1] += take(features, kept)
        source = torch.cat([chosen | own, dropped[:, None]], 1)
        places = torch.cat([kept, kept.new_full((len(kept), 1), -1)], 1)
        return Selection(places, tokens, source.sum(-1).clamp_min(1), source, space="tower", scores=attention)


def outliers(attention: torch.Tensor) -> int:
    """Return how many scores of a row lie above Q3 + 1.5 (Q3 - Q1).

    Rows [B, N] must agree in it: the engine asks one image at a time.

    Raises:
        ValueError: where they differ.
    """
    wide = attention.double()
    low, high = wide.quantile(0.25, dim=-1), wide.quantile(0.75, dim=-1)
    counts = (wide > (high + 1.5 * (high - low))[:, None]).sum(-1)
    if int(counts.min()) != int(counts.max()):
        raise ValueError("the rows differ in how many tokens are outliers; ask for one image at a time")
    return int(counts[0])
