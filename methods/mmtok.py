"""MMTok: coverage of the image and of the question's words, greedily (Dong et al. 2025, arXiv:2508.18264)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.greedy import covering
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine
from methods.tiles import per_tile, tile_by_tile
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"features", "vision_features", "text_features"})
_WORDS = 8  # words of a question assumed in the FLOPs


@register("mmtok", paper="arXiv:2508.18264", site="projector", tiles="each", needs=_NEEDS, ranks_by="coverage")
@dataclass(frozen=True)
class MMTok(Method):
    """Always the token that covers most of what no kept one covers yet, of the question's words and of the image's tokens.

    How well a token covers a word or a token is a softmax over the image's tokens of their cosines. The authors' code
    (Ironieser/MMTok d1522cd) compares words and projected tokens in the LLM's embedding space, before any layer, norm or
    rotation; and tokens with each other as the tower's states that the model reads (the output of block 22 of CLIP ViT-L). The
    words are the question's own, without two fixed sentences on the form of the answer and without stop words, in all families;
    on Qwen2.5-VL their code leaves them all in, behind "Question: ". Budgets are what is kept, int(K / tiles) of each tile on
    LLaVA-NeXT.

    Their code lets nothing be chosen that lies inside the grey border of a padded image; `chosen` takes it as ``excluded``.
    The processors used here crop LLaVA-1.5's images at the centre, so there is no border. For lists of images their code hands
    the border over in the place of another argument, so that it is ignored.

    Args:
        text_temperature: of the softmax over words' cosines; 0.01 in the authors' code on Qwen2.5-VL.
        image_temperature: of the softmax over tokens' cosines.
        alpha: weight of the image beside the question.
        positions: contiguous, as in the authors' code on LLaVA; on Qwen2.5-VL they keep the original ones.
    """

    text_temperature: float = 0.02
    image_temperature: float = 0.2
    alpha: float = 0.5
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        for name in ("text_temperature", "image_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name):g} must be above 0")
        if self.alpha < 0:
            raise ValueError(f"alpha={self.alpha:g} must be at least 0")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        def flops(tokens: int, keep: int) -> float:
            alike = cost.pairs(tokens, shape.vision_width) + cost.similarity(tokens, shape.width, _WORDS)
            rows = tokens + _WORDS
            return alike + 5.0 * rows * tokens + cost.covering(rows, tokens, keep)

        select = MMTokSelector(self.text_temperature, self.image_temperature, self.alpha)
        return tile_by_tile(budget, shape, per_tile(select), _NEEDS, flops, words="question")


@dataclass(frozen=True)
class MMTokSelector:
    """Indices [B, keep] in the order of selection."""

    text_temperature: float
    image_temperature: float
    alpha: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        return Selection(self.chosen(signals, keep))

    def chosen(self, signals: Signals, keep: int, excluded: torch.Tensor | None = None) -> torch.Tensor:
        """Return indices [B, keep]; what is ``excluded``, bool [B, N], is never chosen, but still wants to be covered."""
        features = signals.features
        wide = torch.promote_types(features.dtype, torch.float32)
        words = cosine(signals.text_features.to(wide), features.to(wide)).div_(self.text_temperature).softmax(-1)
        image = cosine(signals.vision_features).div(self.image_temperature).softmax(-1).to(wide)
        rows = torch.cat([words.div_(words.shape[1]), image.mul_(self.alpha / signals.count)], 1)
        return covering(rows, keep, barred=excluded)
