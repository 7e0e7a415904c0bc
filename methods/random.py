"""Random tokens, alone or on another method's schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace

from methods.budget import at_projector
from methods.lazy import torch
from methods.registration import register
from methods.registry import canonical, create
from methods.similarity import top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step


@register(
    "random",
    site="projector",
    needs={"seeds"},
    cannot="like= takes pruners and mergers at projector and decoder sites",
    ranks_by="chance",
)
@dataclass(frozen=True)
class Random(Method):
    """Uniformly random tokens before the LLM; ``like=METHOD`` on that method's sites and counts.

    The difference between a method and ``random[like=METHOD]`` is what its ranking is worth, as
    against its schedule.
    """

    like: str = ""

    def __post_init__(self) -> None:
        if self.like:
            object.__setattr__(self, "like", canonical(self.like))
            object.__setattr__(self, "positions", create(self.like).positions)
            if self.like.startswith("random"):
                raise ValueError("like= follows another method, not random itself")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if not self.like:
            return at_projector(budget, shape, RandomSelector(0), frozenset({"seeds"}))
        steps = create(self.like).steps(shape, budget)
        if any(step.site.stage == 0 for step in steps):
            raise BudgetError(f"{self.like} acts inside the tower; random[like=] follows projector and decoder sites")
        if not any(step.after for step in steps):
            raise BudgetError(f"{self.like} leaves no token, so there is nothing to choose at random")
        return tuple(
            replace(
                step,
                select=RandomSelector(i),
                keep=step.after,
                needs=frozenset({"seeds"}),
                flops=0.0,
                merges=False,
                adaptive=False,
                space="llm",
            )
            for i, step in enumerate(steps)
        )


@dataclass(frozen=True)
class RandomSelector:
    """Top of a hash of (row seed, step, token index): the same for any batch, device or dtype."""

    step: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        index = torch.arange(signals.count, device=signals.seeds.device) + 1_000_003 * self.step
        return Selection(top(mix(signals.seeds[:, None] + mix(index)).double(), keep).sort(-1).values)


def mix(value: torch.Tensor) -> torch.Tensor:
    """Return 32 well-mixed bits of int64 values, by multiply and xor-shift (after Steele et al. 2014)."""
    value = value & 0xFFFFFFFF
    for constant in (0x7FEB352D, 0x846CA68B):
        value = ((value ^ (value >> 16)) * constant) & 0xFFFFFFFF
    return value ^ (value >> 16)
