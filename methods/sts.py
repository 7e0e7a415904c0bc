"""STS: stage-aware pruning from structure to semantics ("When Attention Collapses", arXiv:2606.03569)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods import cost
from methods.budget import at_projector, solve
from methods.greedy import least_energy
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine, mean_rows, top
from methods.types import PROJECTOR, Budget, Method, ModelShape, Selection, Signals, Step, decoder

_STRUCTURE = frozenset({"features", "positions"})
_SEMANTICS = frozenset({"text_attention"})


@register(
    "sts",
    paper="arXiv:2606.03569",
    site="projector, decoder",
    needs=_STRUCTURE | _SEMANTICS,
    ranks_by="both",
    variants={"stages=structure": "diversity", "stages=semantics": "attention", "ratio=1": "diversity"},
    unverified={"": "no code of the authors is public, and the constants are ours"},
)
@dataclass(frozen=True)
class STS(Method):
    """Stage 1 spreads tokens by repulsion before the LLM; stage 2 keeps what the instruction attends to inside it.

    The two decoupled stages, repulsion by potential energy and instruction-aware cross-attention
    are the paper's. Its constants are not public; every default below is ours.

    Stage 1 reads ``features``, the projector's output as it enters the LLM, without a norm, and ``positions``, rows and columns.
    Stage 2, before layer k, reads ``text_attention``: of layer k - 1, the rows of all tokens behind the image, queries and keys
    rotated, softmax over all keys of each head.

    Args:
        spatial_weight: share of the grid distance in the mixed distance; 0 is feature repulsion alone.
        exponent: s of the Riesz kernel d^-s. Below the dimension of the space the least energy lies
            on the boundary (Hardin & Saff 2004), so Coulomb's 1 gathers tokens at the border.
        ratio: tokens after stage 2 over tokens after stage 1.
        depth: where stage 2 acts, as a fraction of the LLM's layers.
        stages: ``structure`` or ``semantics`` alone are the ablations.
        positions: original (ours).
    """

    spatial_weight: float = 0.5
    exponent: float = 4.0
    ratio: float = 0.5
    depth: float = 0.5
    stages: Literal["both", "structure", "semantics"] = "both"

    def __post_init__(self) -> None:
        if not 0 <= self.spatial_weight <= 1:
            raise ValueError(f"spatial_weight={self.spatial_weight:g} must lie in [0, 1]")
        if not self.exponent > 0:
            raise ValueError(f"exponent={self.exponent:g} must be above 0")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio:g} must lie in (0, 1]")
        if not 0 < self.depth < 1:
            raise ValueError(f"depth={self.depth:g} must lie in (0, 1)")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, layer = shape.visual_tokens, min(max(1, round(self.depth * shape.layers)), shape.layers - 1)

        def first(keep: int) -> Step:
            spread = Spread(self.spatial_weight, self.exponent)
            flops = cost.pairs(tokens, shape.width) + 6.0 * tokens**2 + cost.greedy(tokens, keep)
            return Step(PROJECTOR, spread, keep, keep, _STRUCTURE, flops)

        def second(keep: int, present: int) -> Step:
            rows = cost.attention_rows(shape.heads, _ROWS, present, shape.head_dim)
            return Step(decoder(layer), select, keep, keep, _SEMANTICS, rows + cost.ranking(present))

        if self.stages == "structure":
            step = first(1)
            flops = lambda keep: first(keep).flops
            return at_projector(budget, shape, step.select, step.needs, flops)
        if self.stages == "semantics":
            counts = lambda scale: ((layer, max(1, round(scale * tokens))),)
            return solve(budget, shape, counts, lambda pairs: (second(pairs[0][1], tokens),))

        def both(scale: float) -> tuple[tuple[int, int], ...]:
            last = max(1, round(scale * tokens))
            return (0, min(tokens, round(last / self.ratio))), (layer, last)

        return solve(budget, shape, both, lambda pairs: (first(pairs[0][1]), second(pairs[1][1], pairs[0][1])))


_ROWS = 12  # instruction tokens assumed in the FLOPs of stage 2's probe; a few either way change nothing visible


@dataclass(frozen=True)
class Spread:
    """Stage 1: greedy least potential energy under a kernel of mixed distance."""

    spatial_weight: float
    exponent: float

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """Return indices [B, keep] in the order of selection, from ``features`` [B, N, D] and ``positions`` [B, N, 2]."""
        return Selection(least_energy(self.distance(signals), self.exponent, keep))

    def distance(self, signals: Signals) -> torch.Tensor:
        """Return the mixed distance [B, N, N]; each part is divided by its mean, so that the weights weigh equals."""
        total: torch.Tensor | None = None
        if self.spatial_weight < 1:
            total = _scaled((1 - cosine(signals.features)).clamp_min_(0), 1 - self.spatial_weight)
        if self.spatial_weight > 0:
            places = signals.positions.to(torch.float64 if total is None else total.dtype)
            apart = _scaled(torch.cdist(places, places), self.spatial_weight)
            total = apart if total is None else total.add_(apart)
        assert total is not None  # one of the weights is above 0
        return total


def _scaled(part: torch.Tensor, weight: float) -> torch.Tensor:
    return part.mul_(weight / part.mean((1, 2), keepdim=True).clamp_min(1e-12))


def select(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` of stage 2 by attention [B, H, T, N], mean over heads and instruction tokens."""
    scores = mean_rows(signals.text_attention, slice(None))
    return Selection(top(scores, keep), scores=scores)
