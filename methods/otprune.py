"""OTPrune: pruning as alignment of distributions by optimal transport (Chen et al. 2026, arXiv:2602.20205)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.greedy import determinantal
from methods.registration import register
from methods.similarity import cosine, products
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"features"})


@register("otprune", paper="arXiv:2602.20205", site="projector", needs=_NEEDS, ranks_by="diversity")
@dataclass(frozen=True)
class OTPrune(Method):
    """Greedy log-determinant of I + gamma S S', S the tokens' cosine similarities: keeps what stands for the rest.

    The surrogate of the 2-Wasserstein distance, its kernel and the greedy Cholesky are the paper's.
    The value of gamma is not stated where we could read it; 1 is ours.

    Args:
        gamma: weight of the similarities beside the identity.
        positions: contiguous, as in the code that the authors built on.
    """

    gamma: float = 1.0
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
        kernel = products(cosine(signals.features))  # of symmetric rows: the square
        kernel.mul_(self.gamma).diagonal(dim1=1, dim2=2).add_(1.0)
        return Selection(determinantal(kernel, keep))
