"""Composition ``a+b``: a method before the LLM, then one inside it, the budget split between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from methods.budget import allowed, largest, spent
from methods.expressions import MethodError, parse
from methods.loading import entry
from methods.schedule import schedule
from methods.single import canonical_single, create_single
from methods.types import Budget, BudgetError, Method, ModelShape, Step

_SHARE = 0.5  # of what the first half leaves, that the second keeps in the last layer; more only where all enter


@dataclass(frozen=True)
class Composed(Method):
    """Two methods in turn; the second keeps half of what the first leaves, and the budget sets how much that is.

    Where the budget is so large that all tokens enter, the second keeps more than half.

    Args:
        first: canonical expression of a method before the LLM.
        second: canonical expression of a method inside it.
        positions: as the first has them before the LLM; inside it, as the second has them.
    """

    first: str = ""
    second: str = ""

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        limit, reason = allowed(budget, shape), ""
        before, inside, total = create_single(self.first), create_single(self.second), shape.visual_tokens

        def at(size: int) -> tuple[Step, ...]:
            """``size`` tokens enter and half of them reach the end; beyond all tokens, each more is one more at the end."""
            first = before.steps(shape, Budget(min(size, total), "final", budget.text_tokens))
            entered = first[-1].after if first else total
            last = max(1, round(_SHARE * entered)) + max(0, size - total)
            left = replace(shape, visual_tokens=entered)
            second = inside.steps(left, Budget(min(last, entered), "final", budget.text_tokens))
            return (
                *(replace(step, positions=before.positions) for step in first),
                *(replace(step, positions=inside.positions) for step in second),
            )

        def fits(size: int) -> bool:
            nonlocal reason
            try:
                return spent(budget, shape, schedule(shape, at(size))) <= limit
            except BudgetError as error:
                reason = str(error)
                return False

        # a half may need some tokens at the least, so what fits is an interval: find its lower end first
        least = next((size for size in _ladder(total) if fits(size)), None)
        if least is None:
            raise BudgetError(
                reason or f"{self.first}+{self.second} keeps more than {budget.tokens} ({budget.mode}) at the least"
            )
        return at(largest(least, total + total - max(1, round(_SHARE * total)), fits))


def _ladder(tokens: int) -> list[int]:
    """1, 2, 3 ... and then in steps of an eighth, up to all tokens."""
    steps, keep = [], 1
    while keep < tokens:
        steps.append(keep)
        keep += max(1, keep // 8)
    return [*steps, tokens]


def compose(halves: list[str]) -> Composed:
    """Return the composition of two expressions, each of one method.

    Raises:
        MethodError: with what is wrong with the pair, or with one of the two.
    """
    whole = "+".join(halves)
    if len(halves) != 2:
        raise MethodError(f"{whole}: a composition has two methods, one before the LLM and one inside it")
    first, second = map(canonical_single, halves)
    for half in (first, second):
        if create_single(half).tuned:
            raise MethodError(f"{whole}: the level of {half} is found for a method that stands alone")
    for half in (first, second):
        if entry(parse(half)[0]).reference:
            raise MethodError(f"{whole}: {half} is a reference, not a method to combine")
    sites = [_sites(half) for half in (first, second)]
    if 2 in sites[0]:
        turn = f"; write {second}+{first}?" if sites[1] and 2 not in sites[1] else ""
        raise MethodError(f"{whole}: the first must act before the LLM, {first} acts inside it{turn}")
    if sites[1] != {2}:
        raise MethodError(f"{whole}: the second must act inside the LLM only, {second} acts before it")
    if parse(second)[0] == "vtw":
        raise MethodError(f"{whole}: vtw leaves no token, so the budget has no one way to be split")
    for half in (first, second):
        if not create_single(half).budgeted:
            raise MethodError(f"{whole}: {half} decides its count from the image, so there is no budget to split")
    return Composed(first=first, second=second, positions=create_single(first).positions)


def _sites(expression: str) -> set[int]:
    """Stages at which a method acts: 0 tower, 1 projector, 2 decoder."""
    words = entry(parse(expression)[0]).site
    try:
        steps = create_single(expression).steps(_TYPICAL, Budget(288, "final"))
    except BudgetError:
        steps = ()
    if steps:
        return {step.site.stage for step in steps}
    return {stage for stage, word in enumerate(("vision", "projector", "decoder")) if word in words}


_TYPICAL = ModelShape("typical", 576, (24, 24), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064)
