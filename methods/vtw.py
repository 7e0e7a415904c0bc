"""VTW: all visual tokens leave at one layer (Lin et al. 2024, arXiv:2405.05803)."""

from __future__ import annotations

from dataclasses import dataclass

from methods.budget import allowed, spent
from methods.lazy import torch
from methods.registration import register
from methods.schedule import schedule
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder


@register(
    "vtw",
    paper="arXiv:2405.05803",
    site="decoder",
    cannot="budget mode final: no visual token reaches the last layer",
    ranks_by="none",
    unverified={"": "the budget sets the layer here, the authors' code does it by calibration"},
)
@dataclass(frozen=True)
class VTW(Method):
    """Visual tokens withdraw: from one LLM layer on, none is left.

    The paper picks the layer on calibration data; here the budget sets it, the last that it allows. It reads no signal.
    """

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if budget.mode == "final":
            raise BudgetError("leaves 0 tokens in the last layer, so a final count means nothing; use average or flops")
        limit, layer = allowed(budget, shape), None
        for candidate in range(1, shape.layers):
            if spent(budget, shape, schedule(shape, (_withdraw(candidate),))) <= limit:
                layer = candidate
        if layer is None:
            least = shape.visual_tokens / shape.layers
            raise BudgetError(f"keeps {least:.1f} tokens ({budget.mode}) at the least on {shape.layers} layers")
        return (_withdraw(layer),)


def _withdraw(layer: int) -> Step:
    return Step(decoder(layer), select, 0, 0)


def select(signals: Signals, keep: int) -> Selection:
    """Return no token: int64 [B, 0]."""
    return Selection(torch.zeros(signals.batch, 0, dtype=torch.int64, device=signals.device))
