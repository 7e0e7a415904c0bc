"""Solving a budget for the counts a method keeps at its sites."""

from __future__ import annotations

from collections.abc import Callable

from methods.types import Budget, BudgetError, ModelShape


def counts_for(
    budget: Budget,
    shape: ModelShape,
    counts: Callable[[float], tuple[tuple[int, int], ...]],
    start: int | None = None,
) -> tuple[tuple[int, int], ...]:
    """The largest counts whose average (or last count) does not exceed the budget.

    Args:
        budget: ``average`` or ``final`` tokens.
        shape: the model; the average is over its LLM layers.
        counts: maps a scale in [0, 1] to ((layer, tokens present from there on), ...), each
            count growing with the scale, layers rising; layer 0 means before the LLM.
        start: tokens present before the first of the layers; all of them by default.

    Returns:
        The counts. Where rounding leaves a gap, the last count is raised to close it.

    Raises:
        BudgetError: with the least that the method can reach, where even that is above the budget.
    """
    total = shape.visual_tokens if start is None else start

    def spent(pairs: tuple[tuple[int, int], ...]) -> float:
        if budget.mode == "final":
            return pairs[-1][1]
        return average(pairs, total, shape.layers)

    least = spent(counts(0.0))
    if least > budget.tokens:
        raise BudgetError(
            f"keeps {least:.1f} tokens ({budget.mode}) at the least on {shape.layers} layers; {budget.tokens} asked"
        )
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(counts(middle)) <= budget.tokens else (low, middle)
    pairs = counts(1.0) if spent(counts(1.0)) <= budget.tokens else counts(low)
    return _fill(pairs, budget, total, shape.layers)


def _fill(pairs: tuple[tuple[int, int], ...], budget: Budget, total: int, layers: int) -> tuple[tuple[int, int], ...]:
    """Raise the last count as far as the budget allows, never above the count before it."""
    layer, count = pairs[-1]
    before = pairs[-2][1] if len(pairs) > 1 else total
    if budget.mode == "final":
        return (*pairs[:-1], (layer, min(before, budget.tokens)))
    spare = (budget.tokens - average(pairs, total, layers)) * layers
    return (*pairs[:-1], (layer, min(before, count + int((spare + 1e-9) // (layers - layer)))))


def average(pairs: tuple[tuple[int, int], ...], total: int, layers: int) -> float:
    """Mean over layers of the tokens present, from ``total`` before the first pair on."""
    tokens, present, last = 0, total, 0
    for layer, count in pairs:
        tokens += present * (layer - last)
        present, last = count, layer
    return (tokens + present * (layers - last)) / layers


def at_depth(layer: int, of: int, layers: int) -> int:
    """Layer ``layer`` of a paper's ``of``-layer model on one of ``layers``.

    The number itself on models of 24 layers or more, the same fraction below, at least 1.
    """
    return layer if layers >= 24 else max(1, round(layer / of * layers))


def refuse_flops(budget: Budget) -> None:
    if budget.mode == "flops":
        raise BudgetError("budget mode 'flops' is not solved yet; use average or final")
