"""PruMerge: prune by CLS attention, merge the rest into what stays (Shang et al. 2024, arXiv:2403.15388)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods import cost
from methods.budget import StepFacts, at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import among_top, chosen_places, cosine, take, top
from methods.types import LAST_BLOCK, PROJECTOR, Budget, Method, ModelShape, PositionMode, Selection, Signals, Step, TowerRead

_NEEDS = frozenset({"vision_features", "vision_keys_full", "cls_attention"})
_READS = (TowerRead("cls_attention", LAST_BLOCK, joined=True), TowerRead("vision_keys_full", LAST_BLOCK))
_NEIGHBOURS = 32


@register("prumerge", paper="arXiv:2403.15388", site="projector", needs=_NEEDS, cannot="towers without CLS", ranks_by="attention")
@dataclass(frozen=True)
class PruMerge(Method):
    """The K - 1 tokens that CLS attends to most, each with its 32 most similar added, and one sum of all dropped.

    Weights (attention, not normalised), neighbours among kept and dropped alike, and the last token are those of the authors'
    code (42Shawn/LLaVA-PruMerge 097c041), and so is their order: by falling
    attention. Ours: of several tiles or images they stand in position order, as text stands among them.

    It reads ``cls_attention`` and ``vision_keys_full`` of the tower's last block, one behind the block whose output LLaVA reads:
    queries and keys of that block's normed input, all heads joined into one, scores divided by the root of the whole width, one
    softmax over all tokens; and ``vision_features``, the output of the block that the model reads, without a norm behind it.

    Args:
        adaptive: keep as many as are outliers of the attention (above the third quartile by 1.5 times the interquartile range),
            whatever the budget; the cell then reports measured means.
        plus: PruMerge+: as ``adaptive``, and behind the outliers tokens at even distances: N over three times the outliers'
            number, rounded down, so three or more for every outlier. The paper's mean is a quarter of all tokens; where more
            than a sixth of them are outliers, the distance is 1 and every token stays, but for the last, which is kept as an
            outlier alone, as in the authors' code. Of an image without an outlier, where their code fails, the first token is
            the only one.
        positions: contiguous, as in the authors' code.
    """

    adaptive: bool = False
    plus: bool = False
    positions: PositionMode = "contiguous"

    @property
    def budgeted(self) -> bool:
        return not (self.adaptive or self.plus)

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, width = shape.visual_tokens, shape.vision_width
        fixed = cost.last_block_row(shape, tokens, 1) + cost.ranking(tokens)
        flops: Callable[[int], float] = lambda keep: fixed + cost.similarity(tokens, width, keep) + 2.0 * keep * tokens * width
        select = PruMergeSelector(not self.budgeted, self.plus)
        if self.budgeted:
            return at_projector(budget, shape, select, _NEEDS, flops, merges=True, space="tower", reads=_READS)
        # the papers' means over their benchmarks: 5.5 % of all, and with the tokens at even distances 25 %
        typical = max(1, round((0.25 if self.plus else 0.055) * tokens))
        facts: StepFacts = {"merges": True, "adaptive": True, "space": "tower", "reads": _READS}
        return (Step(PROJECTOR, select, typical, typical, _NEEDS, flops(typical), **facts),)


@dataclass(frozen=True)
class PruMergeSelector:
    """Kept tokens by falling attention, of one tile, then those at even distances, rising, then the sum of the dropped."""

    adaptive: bool
    plus: bool = False

    def __call__(self, signals: Signals, keep: int) -> Selection:
        features, count = signals.vision_features, signals.count
        wide = torch.float64 if features.dtype == torch.float64 else torch.float32
        attention = signals.cls_attention.to(wide).mean(1)
        if self.adaptive:
            keep = outliers(attention) + 1
        kept = top(attention, min(keep - 1, count))
        if self.plus:
            kept = spread(kept, count)
        if signals.tile_places is not None:  # text stands among tiles, and tokens stay on their side of it
            kept = kept.sort(-1).values
        alike = cosine(take(signals.vision_keys_full, kept), signals.vision_keys_full)
        alike.scatter_(2, kept[..., None], -torch.inf)
        chosen = among_top(alike, min(_NEIGHBOURS, count - 1)) if count > 1 else torch.zeros_like(alike, dtype=torch.bool)
        weight = chosen.to(wide) * attention[:, None, :]
        own = kept[..., None] == torch.arange(count, device=kept.device)
        dropped = torch.ones(len(features), count, dtype=torch.bool, device=kept.device).scatter_(1, kept, False)
        weight = torch.cat([weight, (dropped * attention)[:, None]], 1)
        tokens = weight.to(features.dtype) @ features
        tokens[:, :-1] += take(features, kept)
        source = torch.cat([chosen | own, dropped[:, None]], 1)
        places = torch.cat([kept, kept.new_full((len(kept), 1), -1)], 1)
        return Selection(places, tokens, source.sum(-1).clamp_min(1), source, space="tower", scores=attention)


def spread(kept: torch.Tensor, count: int) -> torch.Tensor:
    """Return the kept tokens, int64 [B, K], and behind them those at even distances of all but the last: int64 [B, M].

    The distance is a third of N over K, at least 1. Those added rise; what is kept already is not added.

    Raises:
        ValueError: where rows differ in how many tokens both are.
    """
    distance = max(1, count // kept.shape[1] // 3) if kept.shape[1] else count
    more = torch.zeros(len(kept), count, dtype=torch.bool, device=kept.device)
    more[:, : max(1, count - 1) : distance] = True
    more.scatter_(1, kept, False)
    return torch.cat([kept, chosen_places(more)], 1)


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
