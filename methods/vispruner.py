"""VisPruner: visual cues alone (Zhang et al. 2024, arXiv:2412.01818)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine, top
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features", "cls_attention"})
_PER_ROUND = 8  # tokens that leave in one round of thinning
_NEIGHBOURS = 12  # of each token, listed in order of similarity
_DENSE = 1000  # tokens up to which whole rows cost less than lists


@register(
    "vispruner",
    paper="arXiv:2412.01818",
    site="projector",
    needs=_NEEDS,
    cannot="towers without CLS",
    ranks_by="both",
    variants={"important=0": "diversity", "important=1": "attention"},
)
@dataclass(frozen=True)
class VisPruner(Method):
    """Half by CLS attention; the other half by thinning out duplicates among the rest.

    Thinning is the authors' code's: the rest is split alternately in two, each token of the first half scored by its best
    cosine in the second, the 8 best-matched dropped, and again. The order in which the rest is split decides much: of exactly
    equal attention it is what torch's plain sort makes of it, as in the authors' code, which may differ between kinds of
    processors. Among the important, the lower index goes first.

    It reads, of the tower block whose output the model reads: ``cls_attention``, the row of CLS, softmax over all tokens of each
    head; and ``vision_features``, the block's output, without a norm behind it.

    Args:
        important: share of K that goes by attention.
        positions: contiguous, as in the authors' code.
    """

    important: float = 0.5
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise ValueError(f"important={self.important:g} must lie in [0, 1]")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        fixed = cost.cls_row(shape, tokens) + cost.pairs(tokens, shape.vision_width) + tokens**2
        flops = lambda keep: fixed + (tokens - keep) / _PER_ROUND * (tokens / 2) * (_NEIGHBOURS + 8)
        return at_projector(budget, shape, VisPrunerSelector(self.important), _NEEDS, flops)


@dataclass(frozen=True)
class VisPrunerSelector:
    """Indices [B, keep]: the important by falling attention, then the diverse."""

    important: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        attention = signals.cls_attention
        if attention.dtype not in (torch.float32, torch.float64):
            attention = attention.float()
        scores = attention.mean(1)
        important = top(scores, int(keep * self.important))
        taken = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, important, True)
        order = scores.argsort(dim=-1, descending=True)
        rest = order[~taken.gather(1, order)].view(len(scores), -1)
        diverse = thin(cosine(signals.vision_features), rest, keep - important.shape[1])
        return Selection(torch.cat([important, diverse], 1), scores=scores)


def thin(similarity: torch.Tensor, order: torch.Tensor, keep: int) -> torch.Tensor:
    """Drop duplicates until ``keep`` are left.

    A token's best match among the second half is the first of its neighbours, in order of similarity,
    that stands there. Neighbours are listed once, and again when half of the tokens have gone; whole
    rows are read only for tokens whose list has run out.

    Args:
        similarity: [B, N, N].
        order: int64 [B, M] the tokens to thin, in the order in which they are split.

    Returns:
        int64 [B, keep], in the order that thinning leaves.
    """
    if keep < 1:
        return order[:, :0]
    while order.shape[1] > keep:
        place = _rounds(similarity, order, keep)
        if place.shape[1] > keep:
            similarity = _among(similarity, place)  # smaller rows; tokens go by their places from here on
            rest = torch.arange(place.shape[1], device=order.device).expand_as(place)
            return place.gather(1, thin(similarity, rest, keep))
        order = place
    return order[:, :keep]


def _among(similarity: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Rows and columns of [B, N, N] in the order [B, M]: [B, M, M]."""
    if len(order) == 1:
        return similarity[0].index_select(0, order[0]).index_select(1, order[0])[None]
    rows = similarity.gather(1, order[..., None].expand(-1, -1, similarity.shape[2]))
    return rows.gather(2, order[:, None].expand(-1, order.shape[1], -1))


def _rounds(similarity: torch.Tensor, order: torch.Tensor, keep: int) -> torch.Tensor:
    """Thinning rounds until ``keep``, or half of the N tokens of the matrix, are left: int64 [B, M]."""
    batch, count, _ = similarity.shape
    base = (torch.arange(batch, device=similarity.device) * count)[:, None]
    table, away = similarity.view(batch * count, count), similarity.new_empty(batch * count)
    order, listing = order + base, count > _DENSE
    if listing:
        itself = torch.eye(count, dtype=torch.bool, device=similarity.device)
        near, listed = similarity.masked_fill(itself, -torch.inf).topk(_NEIGHBOURS, dim=-1)
        near, listed = near.view(batch * count, -1), listed.add_(base[..., None]).view(batch * count, -1)

    while order.shape[1] > max(keep, count // 2):
        left, right = order[:, ::2], order[:, 1::2]
        leave = min(_PER_ROUND, order.shape[1] - keep, left.shape[1])
        if listing:
            away.fill_(-torch.inf).index_fill_(0, right.reshape(-1), 0.0)  # what does not stand in the second half is no match
            asked = left.reshape(-1)
            match = near.index_select(0, asked)
            match += away.index_select(0, listed.index_select(0, asked).view(-1)).view_as(match)
            best = match.amax(-1)
            if float(best.min()) == -torch.inf:  # lists that have run out
                short = (best == -torch.inf).nonzero()[:, 0]
                rows = table.index_select(0, asked[short])
                best[short] = rows.add_(away.view(batch, count).index_select(0, asked[short] // count)).amax(-1)
        else:  # similarity is symmetric: the best match of every token at once
            best = table.index_select(0, right.reshape(-1)).view(batch, -1, count).amax(1).gather(1, left - base)
        ranked = best.view(batch, -1).sort(dim=-1, descending=True, stable=True).indices[:, leave:]
        order = torch.cat([left.gather(1, ranked), right], 1)
    return order - base
