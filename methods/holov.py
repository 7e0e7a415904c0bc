"""HoloV: holistic context by a budget for every crop (Zou et al. 2025, arXiv:2510.02912)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_CODE = frozenset({"cls_attention"})
_PAPER = _CODE | {"vision_features"}


@register(
    "holov",
    paper="arXiv:2510.02912",
    site="projector",
    needs=_PAPER,
    cannot="towers without CLS",
    ranks_by="both",
    variants={"rule=code": "attention"},
    unverified={"rule=paper": "the authors' code ranks by attention alone, so no output of theirs shows what variety does"},
)
@dataclass(frozen=True)
class HoloV(Method):
    """Every crop gets tokens by its attention and its variety; inside a crop the most attended and most unlike stay.

    Crops (runs of equal length in row-major order), their score, the allotment and the variance of similarity are the authors'
    code's (obananas/HoloV 1d2e65e). In the code ``variety`` does nothing: the variance of a crop is scaled to the sum of its
    attention, so every crop's score is its attention times 1 + variety, and shares are shares of attention; inside a crop it
    ranks by attention alone. With ``rule=paper`` the sum of both ranks inside a crop. On independent tokens and on smooth scenes,
    64 and 192 of 576, the kept sets of both rules overlap by 0.98 (mean Jaccard).
    Ours: what a crop has no room for goes to the next best crops; the code drops it.

    It reads ``cls_attention``: the row of CLS inside the tower block whose output the model reads, softmax over all tokens of
    each head; and, with ``rule=paper``, ``vision_features``: that block's output, without a norm behind it.

    Args:
        rule: ``paper`` ranks inside a crop by attention plus weighted variance; ``code`` by attention, as the authors' code does.
        crops: how many.
        variety: weight of the variance of similarity beside attention; with ``rule=code`` it does nothing.
        positions: contiguous, as in the authors' code.
    """

    rule: Literal["paper", "code"] = "paper"
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
        flops = cost.cls_row(shape, tokens) + cost.ranking(tokens)
        if self.rule == "code":
            return at_projector(budget, shape, HoloVSelector(self.crops, None), _CODE, lambda keep: flops)
        flops += crops * cost.pairs(tokens / crops, shape.vision_width) + 6.0 * tokens**2 / crops
        return at_projector(budget, shape, HoloVSelector(self.crops, self.variety), _PAPER, lambda keep: flops)


@dataclass(frozen=True)
class HoloVSelector:
    """Indices [B, keep] in position order, from ``cls_attention`` [B, H, N] and, where variety counts, ``vision_features``."""

    crops: int
    variety: float | None  # None: attention alone

    def __call__(self, signals: Signals, keep: int) -> Selection:
        attention = signals.cls_attention.mean(1, dtype=torch.float64).nan_to_num_()
        sizes, member, outside = layout(signals.count, min(self.crops, signals.count), attention.device)
        score = attention[:, member].masked_fill_(outside, 0.0)  # [B, P, S]
        if self.variety is not None:
            spread = self._variance(self._crops(signals.vision_features, member), score, ~outside, sizes)
            score = score + self.variety * spread.nan_to_num_()
        quota = allot(score.sum(-1) / sizes, sizes, keep)
        order = score.masked_fill(outside, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        first = torch.arange(member.shape[1], device=order.device) < quota[..., None]
        kept = (member[:, :1] + order)[first].view(len(order), keep).sort(-1).values
        return Selection(kept, scores=attention if self.variety is None else score[:, ~outside])

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


@lru_cache(maxsize=64)
def layout(count: int, crops: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the sizes of the crops [P], the token at each of their places [P, S], and which of those places lie outside [P, S].

    The first crops are one longer where they are not of one size.
    """
    sizes = torch.full((crops,), count // crops, device=device)
    sizes[: count % crops] += 1
    step = torch.arange(int(sizes[0]), device=device)
    member = ((sizes.cumsum(0) - sizes)[:, None] + step).clamp_max(count - 1)
    return sizes, member, step >= sizes[:, None]


def allot(score: torch.Tensor, room: torch.Tensor, keep: int) -> torch.Tensor:
    """Return how many tokens each crop keeps: [B, P] scores and [P] sizes to int64 [B, P], summing to ``keep``.

    Shares by score, rounded down; the remainder goes one by one to the best crops that have room.
    """
    share = score / score.sum(-1, keepdim=True).clamp_min(1e-12)
    quota, turn = torch.minimum((share * keep).long(), room), torch.arange(len(room), device=room.device)
    for _ in range(keep + 1):  # once is enough where no crop is full
        left = keep - quota.sum(-1, keepdim=True)
        order = torch.where(quota < room, share, -1.0).argsort(dim=-1, descending=True, stable=True)
        quota = torch.minimum(quota.scatter_add(1, order, (turn < left).long()), room)
        if int(quota.sum()) == keep * len(quota):
            break
    return quota
