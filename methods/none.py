"""No pruning."""

from __future__ import annotations

from dataclasses import dataclass

from methods.registration import register
from methods.types import Budget, Method, ModelShape, Step


@register("none", site="none", reference=True, ranks_by="none")
@dataclass(frozen=True)
class NoPruning(Method):
    """All visual tokens: the accuracy, cost and answers that everything is measured against."""

    @property
    def budgeted(self) -> bool:
        return False

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return ()
