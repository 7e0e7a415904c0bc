"""Solving a budget for the counts that a method keeps at its sites.

A method says how its counts grow with one scale; the solver finds the largest scale whose schedule
spends no more than the budget, in whatever mode it is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict, Unpack

from methods import cost
from methods.schedule import schedule
from methods.types import (
    PROJECTOR,
    Budget,
    BudgetError,
    ModelShape,
    PositionMode,
    Schedule,
    Selection,
    Selector,
    Signals,
    Step,
    TowerRead,
)

Pairs = tuple[tuple[int, int], ...]
"""((layer, tokens present from there on), ...), layers rising; layer 0 means before the LLM."""


class StepFacts(TypedDict, total=False):
    """Fields of a `Step` that `at_projector` hands on as they are."""

    rows: int
    merges: bool
    adaptive: bool
    space: Literal["llm", "tower"]
    positions: PositionMode | None
    reads: tuple[TowerRead, ...]
    words: Literal["instruction", "question"]


def spent(budget: Budget, shape: ModelShape, planned: Schedule) -> float:
    """Return what a schedule spends, in tokens or, in mode ``flops``, in FLOPs."""
    if budget.mode == "flops":
        return cost.total(shape, planned, budget.text_tokens)
    return planned.final if budget.mode == "final" else planned.average


def allowed(budget: Budget, shape: ModelShape) -> float:
    """Return what may be spent: tokens, or the FLOPs of pruning at the projector to so many tokens for nothing."""
    if budget.mode != "flops":
        return budget.tokens
    reference = Step(PROJECTOR, _nothing, budget.tokens, budget.tokens)
    return cost.total(shape, schedule(shape, (reference,)), budget.text_tokens)


def _nothing(signals: Signals, keep: int) -> Selection:
    raise NotImplementedError


def solve(
    budget: Budget,
    shape: ModelShape,
    counts: Callable[[float], Pairs],
    make: Callable[[Pairs], tuple[Step, ...]],
    start: int | None = None,
) -> tuple[Step, ...]:
    """Return the steps with the largest counts that do not exceed the budget.

    Args:
        budget: how much, and how it is counted.
        shape: the model.
        counts: maps a scale in [0, 1] to pairs, each count growing with the scale.
        make: the steps of given pairs; ``Step.after`` may differ from what was asked by rounding.
        start: tokens that the last count may not exceed where there is one pair; all of them by default.

    Returns:
        The steps. Where rounding leaves a gap, the last count is raised to close it.

    Raises:
        BudgetError: with the least that the method can reach, where even that is above the budget.
    """
    limit = allowed(budget, shape)

    def cost_of(pairs: Pairs) -> float:
        return spent(budget, shape, schedule(shape, make(pairs)))

    least = cost_of(counts(0.0))
    if least > limit:
        raise BudgetError(_too_little(budget, shape, least, limit))
    low, high = 0.0, 1.0
    if cost_of(counts(1.0)) <= limit:
        pairs = counts(1.0)
    else:
        for _ in range(26):
            middle = (low + high) / 2
            low, high = (middle, high) if cost_of(counts(middle)) <= limit else (low, middle)
        pairs = counts(low)
    layer, count = pairs[-1]
    top = pairs[-2][1] if len(pairs) > 1 else (shape.visual_tokens if start is None else start)
    last = largest(count, max(top, count), lambda c: cost_of((*pairs[:-1], (layer, c))) <= limit)
    return make((*pairs[:-1], (layer, last)))


def largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest whole number in [low, high] that fits; ``low`` must fit, and what fits must be an interval."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def at_projector(
    budget: Budget,
    shape: ModelShape,
    select: Selector,
    needs: frozenset[str],
    flops: Callable[[int], float] = lambda keep: 0.0,
    least: int = 1,
    **facts: Unpack[StepFacts],
) -> tuple[Step, ...]:
    """Return the one step of a method that acts before the LLM, where average and final tokens are the same.

    Args:
        budget: how much, and how it is counted.
        shape: the model.
        select: the step's selector.
        needs: signals that it reads.
        flops: of the selection, for a count.
        least: the fewest tokens that the method can leave.
        facts: further fields of the step.

    Raises:
        BudgetError: below ``least``, or where the selection alone costs more than the budget saves.
    """

    def make(keep: int) -> tuple[Step, ...]:
        return (Step(PROJECTOR, select, keep, keep, needs, flops(keep), **facts),)

    if budget.mode != "flops":
        if budget.tokens < least:
            raise BudgetError(f"leaves {least} tokens at the least; {budget.tokens} asked")
        return make(budget.tokens)
    limit = allowed(budget, shape)
    fits: Callable[[int], bool] = lambda keep: spent(budget, shape, schedule(shape, make(keep))) <= limit
    if not fits(least):
        raise BudgetError(_too_little(budget, shape, spent(budget, shape, schedule(shape, make(least))), limit))
    return make(largest(least, shape.visual_tokens, fits))


def before_and_inside(
    budget: Budget,
    shape: ModelShape,
    layer: int,
    share: float,
    first: Callable[[int], Step] | None,
    second: Callable[[int, int], Step] | None,
) -> tuple[Step, ...]:
    """Return the steps of a method that acts before the LLM and once more inside it, or at one of the two places alone.

    Args:
        budget: how much, and how it is counted.
        shape: the model.
        layer: of the LLM, before which the second step acts.
        share: tokens that the first step is asked for, over those that the second keeps.
        first: the first step for a count that is asked for; it may leave fewer. Asked for all tokens, it is left out. None for
            the second step alone.
        second: the second step for a count that it keeps, of how many are present. None for the first step alone.

    Raises:
        BudgetError: where the method cannot meet the budget, or where the LLM has no such layer.
    """
    tokens = shape.visual_tokens
    if second is not None and not 1 <= layer < shape.layers:
        raise BudgetError(f"acts before layer {layer}; {shape.layers} layers are too few")

    def counts(scale: float) -> Pairs:
        last = max(1, round(scale * tokens))
        before = (0, last if second is None else min(tokens, round(share * last)))
        inside = (layer, last)
        return (inside,) if first is None else (before,) if second is None else (before, inside)

    def make(pairs: Pairs) -> tuple[Step, ...]:
        steps = () if first is None or pairs[0][1] == tokens else (first(pairs[0][1]),)
        if second is None:
            return steps
        present = steps[0].after if steps else tokens
        return (*steps, second(min(pairs[-1][1], present), present))

    return solve(budget, shape, counts, make)


def _too_little(budget: Budget, shape: ModelShape, least: float, limit: float) -> str:
    if budget.mode == "flops":
        return f"costs {least / 1e9:.4g} GFLOPs at the least on {shape.layers} layers; {limit / 1e9:.4g} allowed"
    return f"keeps {least:.1f} tokens ({budget.mode}) at the least on {shape.layers} layers; {budget.tokens} asked"


def at_depth(layer: int, of: int, layers: int) -> int:
    """Return the layer of a model with ``layers`` layers that stands for a paper's ``layer`` of ``of``.

    The number itself on models of 24 layers or more, the same fraction below, at least 1.
    """
    return layer if layers >= 24 else max(1, round(layer / of * layers))
