"""CDPruner: conditional diversity by a determinantal point process (Zhang et al. 2025, arXiv:2506.10967)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.greedy import determinantal
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"features", "image_embeds", "text_embeds"})
_WORDS = 16  # words of an instruction assumed in the FLOPs of the text encoder


@register(
    "cdpruner",
    paper="arXiv:2506.10967",
    site="projector",
    needs=_NEEDS,
    cannot="models without a joint image-text space",
    ranks_by="both",
)
@dataclass(frozen=True)
class CDPruner(Method):
    """Greedy MAP of a determinantal process whose kernel is similarity, scaled on both sides by relevance to the question.

    Kernel, relevance and its min-max scaling are the paper's and its code's (Theia-4869/CDPruner 9541616). The cost of the joint
    space (its projection, the text encoder) counts as selection.

    It reads ``features``, the projector's output as it enters the LLM, without a norm; ``image_embeds``, the output of the
    tower block that the model reads behind the tower's last norm and the projection into the joint space, with no further
    block between; and ``text_embeds``, the question in that space.

    Args:
        positions: contiguous, as in the authors' code.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        fixed = cost.pairs(tokens, shape.width) + 2.0 * tokens**2 + cost.joint_space(shape, tokens, _WORDS)
        return at_projector(budget, shape, select, _NEEDS, lambda keep: fixed + cost.cholesky(tokens, keep))


def select(signals: Signals, keep: int) -> Selection:
    """Return indices [B, keep] in the order of selection.

    In float64: gains late in the selection are a millionth of the first, and float32 products would decide by their rounding.
    """
    alike = cosine(signals.features, dtype=torch.float64)
    return Selection(determinantal(alike, keep, relevance(signals.image_embeds, signals.text_embeds)))


def relevance(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Return the relevance of each token to the instruction, in [0, 1]: [B, N, C] and [B, M, C] to [B, N].

    Minus the cosine, mean over text vectors, min-max scaled over the image's tokens; 1 where all are equal.
    (Minus, because patch tokens of CLIP point away from the text that names them.)
    """
    wide = torch.float64 if image_embeds.dtype == torch.float64 else torch.float32
    score = -cosine(image_embeds.to(wide), text_embeds.to(wide)).mean(-1)
    low, high = score.aminmax(dim=-1, keepdim=True)
    scaled = (score - low + 1e-6) / (high - low)
    return torch.where(high > low, scaled, torch.ones_like(scaled))
