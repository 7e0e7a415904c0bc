"""A choice among figures, and how near to a tie it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Decision:
    """One of the choices that a selector makes on the way."""

    made: torch.Tensor
    apart: Callable[[torch.Tensor], float]  # relative difference of the figures that decide between it and another choice


def first(mine: Sequence[Decision], theirs: Sequence[Decision]) -> float | None:
    """How near to a tie the first of two chains of choices was that differs; None where none does."""
    for one, other in zip(mine, theirs, strict=True):
        if not torch.equal(one.made, other.made):
            return max(one.apart(other.made), other.apart(one.made))
    return None


def apart(values: torch.Tensor) -> float:
    """Span of some values, relative to the largest of them."""
    assert values.isfinite().all()
    return float((values.max() - values.min()) / values.abs().max().clamp_min(1e-30))
