"""TRIM: the tokens that the text embedding points to, and one mean of the rest (Song et al. 2024, arXiv:2409.10994)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.lazy import torch
from methods.prumerge import outliers
from methods.registration import register
from methods.similarity import take, top
from methods.types import PROJECTOR, Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"vision_features", "image_embeds", "text_embeds"})
_WORDS = 16  # words of an instruction assumed in the FLOPs of the text encoder


@register(
    "trim",
    paper="arXiv:2409.10994",
    site="projector",
    needs=_NEEDS,
    cannot="models without a joint image-text space",
    ranks_by="attention",
)
@dataclass(frozen=True)
class TRIM(Method):
    """The K - 1 tokens that stand out against the prompt in the joint space, then the mean of all others.

    The authors' code (FreedomIntelligence/TRIM f5a232d) puts the states that the model reads (block 22 of CLIP ViT-L) through
    the tower's last norm and its visual projection, no further block between, and multiplies them with the pooled embedding of
    the whole prompt, cut at 77 tokens. The product is plain: neither side is normalised, though the paper speaks of a cosine.
    The softmax runs over the image's tokens. Its sign is minus: the least similar win, as in CDPruner. The kept and the mean
    are tokens of the tower and are projected afterwards. Budgets are what is left, the mean included. Nothing is rotated.

    In their code a batch shares its quartiles, and no outlier is an error; here every image has its own, and without an outlier
    the most probable token stays, beside the mean.

    Args:
        adaptive: keep as many as have a probability above the third quartile by 1.5 times the interquartile range, whatever
            the budget (as published); the cell then reports measured means.
        positions: contiguous, as in the authors' code.
    """

    adaptive: bool = False
    positions: PositionMode = "contiguous"

    @property
    def budgeted(self) -> bool:
        return not self.adaptive

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        products = 2.0 * tokens * (shape.joint_width + shape.vision_width)
        fixed = cost.joint_space(shape, tokens, _WORDS) + products + 5.0 * tokens + cost.ranking(tokens)
        flops: Callable[[int], float] = lambda keep: fixed
        if self.adaptive:
            typical = min(tokens, max(2, round(0.21 * tokens)))  # the paper keeps 21 % on average
            select = TRIMSelector(True)
            return (Step(PROJECTOR, select, typical, typical, _NEEDS, fixed, adaptive=True, space="tower"),)
        return at_projector(budget, shape, TRIMSelector(False), _NEEDS, flops, space="tower")


@dataclass(frozen=True)
class TRIMSelector:
    """The kept in position order, then the mean of the dropped, in the tower's space."""

    adaptive: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        features, count = signals.vision_features, signals.count
        chance = probability(signals.image_embeds, signals.text_embeds)
        if self.adaptive:
            keep = max(1, outliers(chance)) + 1
        kept = top(chance, min(keep, count) - 1).sort(-1).values
        dropped = torch.ones(len(features), count, dtype=torch.bool, device=kept.device).scatter_(1, kept, False)
        number = dropped.sum(-1, keepdim=True)
        wide = torch.promote_types(features.dtype, torch.float32)
        mean = (dropped.to(wide) / number)[:, None] @ features.to(wide)
        own = kept[..., None] == torch.arange(count, device=kept.device)
        places = torch.cat([kept, kept.new_full((len(kept), 1), -1)], 1)
        tokens = torch.cat([take(features, kept), mean.to(features.dtype)], 1)
        sizes = torch.cat([torch.ones_like(kept), number], 1)
        return Selection(places, tokens, sizes, torch.cat([own, dropped[:, None]], 1), space="tower", scores=chance)


def probability(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Return the softmax over tokens of minus their products with the text: [B, N, C] and [B, M, C] to [B, N], in float64.

    In float32 products that lie far apart make probabilities of exactly 0, which are no order.
    """
    wide = torch.promote_types(image_embeds.dtype, torch.float32)
    score = (image_embeds.to(wide) @ text_embeds[:, 0, :, None].to(wide))[..., 0]
    return (-score.double()).softmax(-1)
