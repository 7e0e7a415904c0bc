"""DivPrune: diversity-based visual token pruning (Alvar et al. 2025, arXiv:2503.02175)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_projector
from methods.greedy import max_min
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine
from methods.types import Budget, Method, ModelShape, PositionMode, Selection, Signals, Step

_NEEDS = frozenset({"features"})


@register("divprune", paper="arXiv:2503.02175", site="projector", needs=_NEEDS, ranks_by="diversity")
@dataclass(frozen=True)
class DivPrune(Method):
    """Max-min diversity: each next token is the one farthest, by cosine distance, from all kept so far.

    The paper's greedy solution, start included: the token whose nearest other token is farthest.

    It reads ``features``: the projector's output as it enters the LLM, without a norm.

    Args:
        positions: contiguous, as in the authors' code.
    """

    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        flops = lambda keep: cost.pairs(tokens, shape.width) + tokens**2 + cost.greedy(tokens, keep)
        return at_projector(budget, shape, select, _NEEDS, flops)


def select(signals: Signals, keep: int) -> Selection:
    """Return indices [B, keep] in the order of selection, from ``features`` [B, N, D]."""
    similarity = cosine(signals.features)
    return Selection(max_min(similarity, loneliest(similarity), keep))


def loneliest(similarity: torch.Tensor) -> torch.Tensor:
    """Return the token whose most similar other token is least similar, ties to the lower index: [B, N, N] to int64 [B]."""
    itself = torch.eye(similarity.shape[-1], dtype=torch.bool, device=similarity.device)
    return similarity.masked_fill(itself, -torch.inf).amax(-1).argmin(-1)
