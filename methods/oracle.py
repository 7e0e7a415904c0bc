"""The evidence first: a reference that knows the answer's place."""

from __future__ import annotations

from dataclasses import dataclass

from methods.budget import at_projector
from methods.lazy import torch
from methods.random import mix
from methods.registration import register
from methods.similarity import top
from methods.types import Budget, Method, ModelShape, Selection, Signals, Step

_NEEDS = frozenset({"evidence", "seeds"})


@register(
    "oracle", site="projector", needs=_NEEDS, cannot="only on tasks that know their evidence", reference=True, ranks_by="evidence"
)
@dataclass(frozen=True)
class Oracle(Method):
    """The tokens that hold the answer, then random ones. Not a ceiling: dropping distractors can beat it.

    It reads ``evidence``, which the task says of its image, and the row's random stream.
    """

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return at_projector(budget, shape, select, _NEEDS)


def select(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` by evidence [B, N], ties by the row's random stream."""
    luck = mix(signals.seeds[:, None] + mix(torch.arange(signals.count, device=signals.seeds.device)))
    return Selection(top(luck.double() + signals.evidence.double() * 2.0**33, keep))
