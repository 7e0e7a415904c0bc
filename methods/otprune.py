"""OTPrune: pruning as alignment of distributions by optimal transport (Chen et al. 2026, arXiv:2602.20205)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.greedy import determinantal
from methods.lazy import torch
from methods.registration import register
from methods.similarity import products
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"features"})


@register("otprune", paper="arXiv:2602.20205", site="projector", needs=_NEEDS, ranks_by="diversity")
@dataclass(frozen=True)
class OTPrune(Method):
    """Greedy log-determinant of I + gamma S S', S the products of tokens with even dimensions: keeps what stands for the rest.

    The surrogate of the 2-Wasserstein distance and its greedy Cholesky are the paper's. What the authors' code (xiwenc1/OTPrune
    3414730) does is done here: each feature dimension is divided by its norm over the image's tokens, so that a token's own
    length counts; gamma is 0.01.

    It reads ``features``: the projector's output, without a norm, as it enters the LLM.

    Args:
        gamma: weight of the squared products beside the identity.
        positions: contiguous, as in the code that the authors built on.
    """

    gamma: float = 0.01
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma={self.gamma:g} must be above 0")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        fixed = cost.pairs(tokens, shape.width) + cost.pairs(tokens, tokens)
        return at_projector(budget, shape, OTPruneSelector(self.gamma), _NEEDS, lambda keep: fixed + cost.cholesky(tokens, keep))


@dataclass(frozen=True)
class OTPruneSelector:
    """Indices [B, keep] in the order of selection, from ``features`` [B, N, D]."""

    gamma: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        kernel = products(products(even(signals.features)))  # of symmetric rows: the square
        # of I + gamma S S', every gain is gamma times that of S S' with 1 / gamma more on its diagonal
        return Selection(determinantal(kernel, keep, ridge=1 / self.gamma))


def even(features: torch.Tensor) -> torch.Tensor:
    """Return tokens whose every dimension has norm 1 over the tokens: [B, N, D], float32 at least; one of zeros stays."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return wide / wide.square().sum(1, keepdim=True).sqrt_().clamp_min_(1e-12)
