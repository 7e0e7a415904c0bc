"""Methods that need what `compare` alone finds, a level or measured counts: elsewhere they are refused, with the reason."""

from __future__ import annotations

from dataclasses import fields

from harness.errors import RequestError
from harness.models.shapes import shape_of
from methods.compose import Composed
from methods.random import Random
from methods.registry import canonical, create
from methods.types import Budget, BudgetError, Method, ModelShape


def refuse_without_level(expression: str, shape: ModelShape | None = None) -> None:
    """Raise a `RequestError` where a method needs what `compare` alone finds: its level, or the counts of another method.

    Args:
        expression: of the method.
        shape: of the model, where it is known.

    Raises:
        RequestError: with the parameters that the level stands in, or whose counts would have to be measured.
    """
    method = create(expression)
    for part in (method.first, method.second) if isinstance(method, Composed) else ():
        refuse_without_level(part, shape)
    if isinstance(method, Random) and method.like and _counts(create(method.like), shape or shape_of("tiny")):
        raise RequestError(
            f"{canonical(expression)} needs the counts that {method.like} decides by the image; compare alone measures them"
        )
    if method.tuned:
        found = method.calibrated(0.5)
        names = [f.name for f in fields(method) if getattr(method, f.name) != getattr(found, f.name)]
        raise RequestError(
            f"{canonical(expression)} needs {' and '.join(f'{name}=' for name in names)} here (compare finds them)"
        )


def _counts(method: Method, shape: ModelShape) -> bool:
    """Whether a method decides its counts from the image, on a model of this shape at any budget."""
    method = method.calibrated(0.5) if method.tuned else method
    for part in (2, 3, 4, 8, 1):
        try:
            steps = method.steps(shape, Budget(max(1, shape.visual_tokens // part), "final"))
        except BudgetError:
            continue
        if any(step.adaptive for step in steps):
            return True
    return False
