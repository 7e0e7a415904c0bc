"""The command `flops`: what a method costs on a public model, by formula."""

from __future__ import annotations

from typing import Any, cast

from harness.errors import RequestError, nearest
from harness.models.shapes import shape_of
from harness.run.config import tokens_of
from harness.run.levels import refuse_without_level
from harness.store.budgets import read_keep
from methods.registry import MethodError, canonical, create
from methods.schedule import plan
from methods.types import Budget, BudgetError, BudgetMode
from metrics.flops import CONVENTIONS
from metrics.flops import flops as count_flops

_MOST_TEXT = 10**9
_MODES = ("average", "final", "flops")


def count(name: str, method: str, keep: str | None, mode: str, text_tokens: float, convention: str) -> dict[str, Any]:
    """Return FLOPs by stage, KV bytes and the schedule of a method, as ``flops --json`` prints them.

    ``adaptive`` says whether the method decides counts from the image: then they are planned ones, typical or at most so many.

    Args:
        name: a public shape.
        method: an expression.
        keep: a count or a share; may be left out where a budget means nothing.
        mode: how ``keep`` is counted.
        text_tokens: LLM tokens that are not visual.
        convention: one of `metrics.flops.CONVENTIONS`.

    Raises:
        RequestError: for anything unknown, or a budget that the method cannot meet, with the reason.
    """
    shape = shape_of(name)
    if mode not in _MODES:
        raise RequestError(f"--budget {mode!r}: {nearest(mode, _MODES)}")
    if convention not in CONVENTIONS:
        raise RequestError(f"--convention {convention!r}: {nearest(convention, CONVENTIONS)}")
    if not 0 <= text_tokens <= _MOST_TEXT:
        raise RequestError(f"--text-tokens {text_tokens:g}: counts tokens, so 0 or more, and {_MOST_TEXT:,} at the most")
    try:
        made = create(method)
    except MethodError as error:
        raise RequestError(f"--method: {error}") from None
    refuse_without_level(method, shape)
    if keep is None and made.budgeted:
        raise RequestError(f"--keep is missing: how many tokens shall {canonical(method)} keep?")
    asked = None if keep is None else read_keep(keep)
    tokens = shape.visual_tokens if asked is None else tokens_of(asked, shape.visual_tokens)
    share = asked.value if asked is not None and asked.share else None
    try:
        steps, schedule = plan(made, shape, Budget(tokens, cast(BudgetMode, mode), text_tokens, share))
    except BudgetError as error:
        raise RequestError(f"{canonical(method)} on {name} at {asked or tokens} ({mode}): {error}") from None
    adaptive = any(step.adaptive for step in steps)
    if adaptive and min(schedule.llm) >= shape.visual_tokens:  # the plan says no more than that there are no more than all
        raise RequestError(
            f"{canonical(method)}: its counts follow from the image, so no formula gives its FLOPs; compare measures them"
        )
    counted = count_flops(shape, schedule, text_tokens, convention)
    return {
        "shape": name, "method": canonical(method), "convention": convention, **counted.as_dict(), "total": counted.total,
        "tokens_final": schedule.final, "tokens_average": schedule.average, "schedule": list(schedule.llm), "adaptive": adaptive,
    }  # fmt: skip
