"""No image."""

from __future__ import annotations

from dataclasses import dataclass

from methods.registration import register
from methods.types import Budget, Method, ModelShape, Step


@register("blind", site="image", reference=True, ranks_by="none")
@dataclass(frozen=True)
class Blind(Method):
    """The question alone, no image at all: what guessing reaches, the zero of chance-adjusted retention."""

    @property
    def budgeted(self) -> bool:
        return False

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return ()

    def image_grid(self, shape: ModelShape, budget: Budget) -> tuple[int, int] | None:
        return (0, 0)
