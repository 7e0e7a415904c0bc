"""VisionZip: dominant tokens by attention, the rest merged (Yang et al. 2024, arXiv:2412.04467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import take, top
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_CLS = frozenset({"vision_features", "vision_keys", "cls_attention", "cls_feature"})
_RECEIVED = frozenset({"vision_features", "vision_keys", "received_attention"})


@register(
    "visionzip",
    paper="arXiv:2412.04467",
    site="projector",
    needs=_CLS,
    cannot="towers without CLS, but for score=received",
    ranks_by="attention",
    unverified={"score=received": "no output of the authors' code for towers without CLS"},
)
@dataclass(frozen=True)
class VisionZip(Method):
    """CLS, the tokens that CLS attends to most, and a few means of all others, made before the projector.

    Totals count CLS and contextual tokens, as the paper's do (64 = 1 + 53 + 10). Ours: between the
    published totals the share of contextual tokens stays 10/64, at least 1 where K allows.

    It reads, of the tower block whose output the model reads: ``cls_attention``, the row of CLS, softmax over all tokens of
    each head (or ``received_attention``, the mean over all rows of it); ``vision_keys``, keys behind the block's first norm,
    mean over heads, rotated where the tower rotates; ``vision_features`` and ``cls_feature``, the block's output, without a
    norm behind it.

    Args:
        score: ``cls`` ranks by CLS attention. ``received`` (for towers without CLS, as the authors do
            there) by the mean attention that a token receives; then no CLS is kept.
        positions: contiguous, as in the authors' code.
    """

    score: Literal["cls", "received"] = "cls"
    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, by_cls = shape.visual_tokens, self.score == "cls"
        head = shape.vision_width // shape.vision_heads
        rows = 1 if by_cls else tokens
        probe = cost.attention_rows(shape.vision_heads, rows, tokens + int(shape.has_cls), head)

        def flops(keep: int) -> float:
            means = contextual(keep, by_cls)
            return probe + cost.ranking(tokens) + cost.similarity(tokens, head, means) + 2.0 * means * tokens * shape.vision_width

        return at_projector(
            budget, shape, VisionZipSelector(by_cls), _CLS if by_cls else _RECEIVED, flops, merges=True, space="tower"
        )


def contextual(keep: int, by_cls: bool) -> int:
    """Return how many of ``keep`` tokens are contextual: ten of every 64, at least one beside a dominant token."""
    return min(max(1, round(keep * 10 / 64)), max(0, keep - 1 - int(by_cls)))


@dataclass(frozen=True)
class VisionZipSelector:
    """CLS first, dominant tokens in position order, then contextual ones."""

    by_cls: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        features, count = signals.vision_features, signals.count
        attention = signals.cls_attention if self.by_cls else signals.received_attention
        means = contextual(keep, self.by_cls)
        whole = min(count, keep - means - int(self.by_cls))
        means = min(means, count - whole)
        wide = torch.float64 if attention.dtype == torch.float64 else torch.float32
        kept = torch.zeros(len(attention), count, dtype=torch.bool, device=attention.device)
        scores = attention.sum(1, dtype=wide)
        kept.scatter_(1, top(scores, whole), True)
        dominant, rest = (mask.nonzero()[:, 1].view(len(kept), -1) for mask in (kept, ~kept))
        tokens, source, sizes = [take(features, dominant)], [_one_hot(dominant, count)], torch.ones_like(dominant)
        if means:
            weight = _contextual(signals.vision_keys, rest, means)
            tokens.append(weight.to(features.dtype) @ features)
            source.append(weight > 0)
            sizes = torch.cat([sizes, source[1].sum(-1)], 1)
        places = torch.cat([dominant, dominant.new_full((len(dominant), means), -1)], 1)
        if self.by_cls:
            tokens.insert(0, signals.cls_feature[:, None])
            source.insert(0, source[0].new_zeros(len(dominant), 1, count))
            places = torch.cat([places.new_full((len(places), 1), -1), places], 1)
            sizes = torch.cat([sizes.new_ones(len(sizes), 1), sizes], 1)
        return Selection(places, torch.cat(tokens, 1), sizes, torch.cat(source, 1), space="tower", scores=scores)


def _contextual(keys: torch.Tensor, rest: torch.Tensor, means: int) -> torch.Tensor:
    """Every so many-th of the rest is a target; the others join the target of most similar key.

    Returns weights [B, means, N]: 1 for a target, and for those that joined one over their number.
    """
    unit = torch.nn.functional.normalize(keys, dim=-1)
    targets = rest[:, :: max(1, rest.shape[1] // means)][:, :means]
    nearest = (unit @ take(unit, targets).transpose(1, 2)).max(-1).indices  # of all tokens, [B, N]
    joins = torch.zeros(keys.shape[:2], device=keys.device).scatter_(1, rest, 1.0).scatter_(1, targets, 0.0)
    weight = torch.zeros(len(keys), means, keys.shape[1], device=keys.device).scatter_(1, nearest[:, None], joins[:, None])
    weight.div_(weight.sum(-1, keepdim=True).clamp_min_(1))
    return weight.scatter_(2, targets[..., None], 1.0)


def _one_hot(index: torch.Tensor, count: int) -> torch.Tensor:
    """Which token each is: int64 [B, K] to bool [B, K, count]."""
    return index[..., None] == torch.arange(count, device=index.device)
