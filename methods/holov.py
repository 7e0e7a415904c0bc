"""HoloV: holistic context by a budget for every crop (Zou et al. 2025, arXiv:2510.02912)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine, top
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features", "cls_attention"})


@register("holov", paper="arXiv:2510.02912", site="projector", needs=_NEEDS, cannot="towers without CLS", ranks_by="both")
@dataclass(frozen=True)
class HoloV(Method):
    """Every crop gets tokens by its attention and its variety; inside a crop the most attended stay.

    Crops (runs of equal length in row-major order), their score (mean of attention plus weighted
    variance of similarity, brought to the same scale) and the allotment are the authors' code's.
    Ours: what a crop has no room for goes to the next best crops; the code drops it.

    Args:
        crops: how many.
        variety: weight of the variance of similarity beside attention.
        positions: contiguous, as in the authors' code.
    """

    crops: int = 16
    variety: float = 0.09
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise ValueError(f"crops={self.crops} must be at least 1")
        if self.variety < 0:
            raise ValueError(f"variety={self.variety:g} must be at least 0")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, crops = shape.visual_tokens, min(self.crops, shape.visual_tokens)
        inside = crops * cost.pairs(tokens / crops, shape.vision_width)
        flops = inside + 6.0 * tokens**2 / crops + cost.cls_row(shape, tokens) + cost.ranking(tokens)
        return at_projector(budget, shape, HoloVSelector(self.crops, self.variety), _NEEDS, lambda keep: flops)


@dataclass(frozen=True)
class HoloVSelector:
    """Indices [B, keep] in position order, from ``vision_features`` [B, N, Dv] and ``cls_attention`` [B, H, N]."""

    crops: int
    variety: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        device, count, crops = signals.vision_features.device, signals.count, min(self.crops, signals.count)
        attention = signals.cls_attention.double().mean(1)
        sizes = torch.full((crops,), count // crops, device=device)
        sizes[: count % crops] += 1
        starts, widest = sizes.cumsum(0) - sizes, int(sizes[0])
        inside = torch.arange(widest, device=device) < sizes[:, None]  # [P, S]
        member = (starts[:, None] + torch.arange(widest, device=device)).clamp_max(count - 1)
        attended = attention[:, member] * inside  # [B, P, S]
        score = (
            attended + self.variety * self._variance(self._crops(signals.vision_features, member), attended, inside, sizes)
        ).sum(-1)
        quota = allot(score / sizes, sizes, keep)
        rank = attended.masked_fill(~inside, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        chosen = (rank < quota[..., None]) & inside
        flat = torch.zeros(len(attention), count + 1, dtype=torch.float64, device=device)
        flat.scatter_(1, torch.where(inside, member, count).flatten().expand(len(attention), -1), chosen.flatten(1).double())
        return Selection(top(flat[:, :count], keep).sort(-1).values, scores=attention)

    @staticmethod
    def _crops(features: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
        """Tokens by crop, [B, P, S, Dv]: a view where all crops are of one size."""
        batch, count, width = features.shape
        return features.view(batch, *member.shape, width) if member.numel() == count else features[:, member]

    @staticmethod
    def _variance(tokens: torch.Tensor, attended: torch.Tensor, inside: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Variance of each token's similarity to the others of its crop, on the scale of attention: [B, P, S]."""
        alike = cosine(tokens).double() * (inside[:, :, None] & inside[:, None, :])
        alike.diagonal(dim1=2, dim2=3).zero_()
        others = (sizes - 1).clamp_min(1)[:, None]
        mean = alike.sum(-1) / others
        # the sum runs over the whole crop, the token itself with similarity 0, as in the authors' code
        spread = ((alike - mean[..., None]).square() * inside[:, None, :]).sum(-1) / others * inside * (sizes > 1)[:, None]
        scale = attended.abs().sum(-1, keepdim=True) / (spread.abs().sum(-1, keepdim=True) + 1e-6 * sizes[:, None])
        return spread * scale


def allot(score: torch.Tensor, room: torch.Tensor, keep: int) -> torch.Tensor:
    """Return how many tokens each crop keeps: [B, P] scores and [P] sizes to int64 [B, P], summing to ``keep``.

    Shares by score, rounded down; the remainder goes one by one to the best crops that have room.
    """
    share = score / score.sum(-1, keepdim=True).clamp_min(1e-12)
    quota = torch.minimum((share * keep).floor().long(), room)
    for _ in range(int(room.max()) + 1):
        left = keep - quota.sum(-1, keepdim=True)
        if not bool(left.any()):
            break
        open_ = quota < room
        place = torch.where(open_, share, -1.0).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        quota = quota + ((place < left) & open_).long()
    return quota
