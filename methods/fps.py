"""Farthest-point sampling (Gonzalez 1985), the plain baseline of every diversity method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods import cost
from methods.budget import at_projector
from methods.greedy import max_min
from methods.lazy import torch
from methods.registration import register
from methods.similarity import cosine
from methods.types import Budget, Method, ModelShape, Selection, Signals, Step


@register(
    "fps",
    paper="doi:10.1016/0304-3975(85)90224-5",
    site="projector",
    needs={"features", "positions"},
    ranks_by="diversity",
    unverified={"": "the rule is older than any code to hold it to, and the start is ours"},
    variants={"space=grid": "place"},
)
@dataclass(frozen=True)
class FarthestPoint(Method):
    """Farthest-point sampling from the medoid on, in feature space or on the grid.

    Ours: the start. DivPrune is the same rule from the loneliest token on.

    It reads ``features``, the projector's output as it enters the LLM, without a norm, or ``positions``, rows and columns.

    Args:
        space: ``features`` takes cosine distance of projected tokens, ``grid`` the distance of their places.
    """

    space: Literal["features", "grid"] = "features"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, on_grid = shape.visual_tokens, self.space == "grid"
        needs = frozenset({"positions" if on_grid else "features"})
        width = 2 if on_grid else shape.width
        flops = lambda keep: cost.pairs(tokens, width) + tokens**2 + cost.greedy(tokens, keep)
        return at_projector(budget, shape, FarthestPointSelector(on_grid), needs, flops)


@dataclass(frozen=True)
class FarthestPointSelector:
    """Indices [B, keep] in the order of selection."""

    on_grid: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        if self.on_grid:
            places = signals.positions.double()
            likeness = -torch.cdist(places, places)
        else:
            likeness = cosine(signals.features)
        return Selection(max_min(likeness, likeness.sum(-1).argmax(-1), keep))
