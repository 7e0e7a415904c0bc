"""PruneSID: groups by principal component, duplicates suppressed inside each (Fang et al. 2026, arXiv:2603.09480)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from methods import cost
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine, mean_heads, products, take, top
from methods.tiles import per_tile, tile_by_tile
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features", "cls_feature", "cls_attention"})


@register(
    "prunesid",
    paper="arXiv:2603.09480",
    site="projector",
    tiles="each",
    needs=_NEEDS,
    cannot="towers without CLS; several images in a prompt",
    ranks_by="both",
)
@dataclass(frozen=True)
class PruneSID(Method):
    """CLS, then of every principal component's tokens those of most attention that are no duplicates, in shares by their number.

    The authors' code (ZhengyaoFang/PruneSID 4ef17d9) reads the states that the model reads (the output of block 22 of CLIP
    ViT-L, behind no further norm) and the row of CLS inside that block, on its normed input (this tower rotates nothing),
    softmax for each head over all tokens, CLS included, then the sum over heads. K counts CLS, of each tile on LLaVA-NeXT. On
    LLaVA-1.5 the LLM gets the tokens group by group, and so here.

    It takes components from a randomised decomposition without a seed, so that two runs keep different tokens; here they are
    exact. Ours: an image's tiles behind the overview hand over no CLS, only the overview's is at hand, but a patch more; and of
    fewer than four tokens there is one group.

    Args:
        positions: contiguous, as in the authors' code.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if shape.images > 1:
            raise BudgetError("several images in a prompt: the CLS of one alone is at hand")
        width = shape.vision_width

        def flops(tokens: int, keep: int) -> float:
            similar = cost.pairs(tokens, width) + 4.0 * tokens**2
            return cost.cls_row(shape, tokens) + 5.0 * tokens * width + cost.principal(tokens, width) + similar

        select = per_tile(PruneSIDSelector(True), PruneSIDSelector(False))
        return tile_by_tile(budget, shape, select, _NEEDS, flops, space="tower")


@dataclass(frozen=True)
class PruneSIDSelector:
    """CLS where it is handed over, then tokens group by group, in the tower's space."""

    with_cls: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        features, count = signals.vision_features, signals.count
        attention = mean_heads(signals.cls_attention)  # ranks as the sum over heads does
        number = max(1, keep // 4)
        group = components(features, number)
        by_score = top(attention, count)
        dropped = suppressed(cosine(features), by_score, group, keep / 32)
        ranked = by_score.gather(1, dropped.gather(1, by_score).byte().argsort(dim=-1, stable=True))
        ranked = ranked.gather(1, group.gather(1, ranked).argsort(dim=-1, stable=True))
        member = torch.nn.functional.one_hot(group, number)
        sizes = member.sum(1)
        quota = shares(sizes, (member * ~dropped[..., None]).sum(1), keep, keep - int(self.with_cls))
        of = group.gather(1, ranked)
        rank = torch.arange(count, device=of.device) - (sizes.cumsum(-1) - sizes).gather(1, of)
        kept = ranked[rank < quota.gather(1, of)].view(len(features), -1)
        tokens, places = take(features, kept), kept
        source = kept[..., None] == torch.arange(count, device=kept.device)
        if self.with_cls:
            tokens = torch.cat([signals.cls_feature[:, None].to(tokens.dtype), tokens], 1)
            places = torch.cat([kept.new_full((len(kept), 1), -1), kept], 1)
            source = torch.cat([source.new_zeros(len(kept), 1, count), source], 1)
        return Selection(places, tokens, torch.ones_like(places), source, space="tower", scores=attention)


def components(features: torch.Tensor, number: int) -> torch.Tensor:
    """Return in which of the leading principal components each token weighs most: [B, N, Dv] to int64 [B, N], from 0.

    Of the tokens' sigmoid, each less its own mean. They are eigenvectors of the tokens' inner products, in float64: their
    squares lose half of the digits.
    """
    tokens = features.to(torch.promote_types(features.dtype, torch.float32)).sigmoid().double()
    vectors: torch.Tensor = torch.linalg.eigh(products(tokens - tokens.mean(-1, keepdim=True))).eigenvectors
    return vectors[..., -number:].flip(-1).abs().argmax(-1)


def suppressed(alike: torch.Tensor, by_score: torch.Tensor, group: torch.Tensor, share: float) -> torch.Tensor:
    """Return which tokens are duplicates: of one that is none, goes before them, and is of their group.

    All those are decided at once whose more attended duplicates are decided, until all are.

    Args:
        alike: [B, N, N] cosines.
        by_score: int64 [B, N] tokens, most attended first.
        group: int64 [B, N].
        share: of the mean cosine of all pairs, above which two tokens are duplicates.

    Returns:
        bool [B, N].
    """
    batch, count, _ = alike.shape
    pairs = max(1, count * (count - 1))
    off = alike.sum((1, 2), dtype=torch.float64) - alike.diagonal(dim1=1, dim2=2).sum(-1, dtype=torch.float64)
    rank = by_score.argsort(dim=-1)
    threshold = (share * off / pairs).to(alike.dtype)
    rivals = (alike > threshold[:, None, None]) & (group[:, :, None] == group[:, None, :])
    rivals &= rank[:, None, :] < rank[:, :, None]  # [B, token, of those that go before it]
    open_ = torch.ones(batch, count, dtype=torch.bool, device=alike.device)
    gone = torch.zeros_like(open_)
    while bool(open_.any()):
        free = open_ & ~(rivals & open_[:, None]).any(-1)
        open_ = open_ & ~free
        hit = open_ & (rivals & free[:, None]).any(-1)
        gone, open_ = gone | hit, open_ & ~hit
    return gone


def shares(sizes: torch.Tensor, survivors: torch.Tensor, keep: int, patches: int) -> torch.Tensor:
    """Return how many tokens each group keeps: int64 [B, q] sizes and survivors to int64 [B, q], summing to ``patches``.

    One of each group that has any; the others by survivors, rounded in running sums, within a bound that rises until the
    groups have room; what is short then goes to the groups of most survivors.

    Args:
        sizes: tokens of each group.
        survivors: those that are no duplicates.
        keep: K, which decides the bound.
        patches: how many tokens are kept, K less CLS.
    """
    low = sizes.clamp_max(min(1, patches))
    room = torch.minimum(sizes, survivors).clamp_max(5 * ceil(keep / 64))
    while bool((short := room.sum(-1, keepdim=True) < keep).any()) and bool((short & (room < sizes)).any()):
        room = torch.where(short, torch.minimum(room + 1, sizes), room)
    others = (patches - low.sum(-1, keepdim=True)).clamp_min(0)
    share = (survivors.float() / survivors.sum(-1, keepdim=True)).cumsum(-1)
    ends = (others * share).round().long()
    quota = torch.minimum(ends.diff(dim=-1, prepend=torch.zeros_like(ends[:, :1])) + low, room)
    order = survivors.argsort(dim=-1, descending=True, stable=True)
    space = (room - quota).gather(1, order)
    before = space.cumsum(-1) - space
    more = torch.minimum((patches - quota.sum(-1, keepdim=True) - before).clamp_min(0), space)
    return quota.scatter_add(1, order, more)
