"""Random tokens, alone or on another method's schedule."""

from __future__ import annotations

from collections.abc import Sequence
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
    cannot="like= takes methods that leave tokens at projector and decoder sites; what they do in the tower stays theirs",
    ranks_by="chance",
)
@dataclass(frozen=True)
class Random(Method):
    """Uniformly random tokens before the LLM; ``like=METHOD`` on that method's sites and counts.

    The difference between a method and ``random[like=METHOD]`` is what its ranking is worth, as
    against its schedule. Where a method's counts follow from the image, a run gives each question the
    counts that were measured on it; elsewhere they are the planned ones. What it does inside the tower is kept.
    It reads ``seeds``, the row's random stream.
    """

    like: str = ""

    def __post_init__(self) -> None:
        if self.like:
            object.__setattr__(self, "like", canonical(self.like))
            object.__setattr__(self, "positions", create(self.like).positions)
            if self.like.startswith("random"):
                raise ValueError("like= follows another method, not random itself")

    @property
    def budgeted(self) -> bool:
        return not self.like or create(self.like).budgeted

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if not self.like:
            return at_projector(budget, shape, RandomSelector(0), frozenset({"seeds"}))
        method = create(self.like)
        steps = (method.calibrated(1.0) if method.tuned else method).steps(shape, budget)  # its sites; a run measures its counts
        if steps and all(step.site.stage == 0 for step in steps):
            raise BudgetError(f"{self.like} acts inside the tower alone; random[like=] follows projector and decoder sites")
        if not any(step.after for step in steps):
            raise BudgetError(f"{self.like} leaves no token, so there is nothing to choose at random")
        return at_random(steps)


def at_random(steps: Sequence[Step], counts: Sequence[int] | None = None) -> tuple[Step, ...]:
    """Return a method's steps with chance in the place of its choice; those inside the tower stay its own.

    Args:
        steps: of the method, on an image.
        counts: visual tokens in each LLM layer, as they were measured; where not given, those that the steps plan, which
            stay marked as following from the image.

    Returns:
        As many steps at the same sites.
    """
    made = []
    for number, step in enumerate(steps):
        if step.site.stage > 0:
            layer = step.site.layer if step.site.stage == 2 else 0
            count = step.after if counts is None else counts[layer]
            step = replace(
                step,
                select=RandomSelector(number),
                keep=count,
                after=count,
                needs=frozenset({"seeds"}),
                flops=0.0,
                merges=False,
                adaptive=step.adaptive and counts is None,
                space="llm",
                reads=(),
                words="instruction",
            )
        made.append(step)
    return tuple(made)


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
