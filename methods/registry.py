"""The registry: from an expression such as ``fastv[layer=3]`` to a method, and back."""

from __future__ import annotations

from methods.compose import compose
from methods.expressions import MethodError, parameters, parse, split
from methods.loading import BUNDLED, entries, entry, load_plugin
from methods.registration import FAMILIES, Entry, NothingRegistered, register
from methods.single import canonical_single, create_single
from methods.types import Method

__all__ = [
    "BUNDLED", "FAMILIES", "Entry", "MethodError", "NothingRegistered", "canonical", "create", "entries", "entry", "family",
    "is_reference", "load_plugin", "parameters", "parse", "register", "split",
]  # fmt: skip


def create(expression: str) -> Method:
    """Return the method of an expression ``name``, ``name[param=value,...]`` or ``a+b``.

    Raises:
        MethodError: for a malformed expression, an unknown name or parameter, a value of a wrong type, or a
            composition that makes no sense.
    """
    halves = split(expression, "+")
    return compose(halves) if len(halves) > 1 else create_single(expression)


def canonical(expression: str) -> str:
    """Return the expression with parameters in declared order, defaults left out: one spelling per variant.

    Raises:
        MethodError: as `create` does.
    """
    halves = split(expression, "+")
    if len(halves) > 1:
        create(expression)
        return "+".join(canonical_single(half) for half in halves)
    return canonical_single(expression)


def is_reference(expression: str) -> bool:
    """Return whether the expression is a yardstick rather than a competitor; a composition never is."""
    halves = split(expression, "+")
    return len(halves) == 1 and entry(parse(halves[0])[0]).reference


def family(expression: str) -> str:
    """Return what a method ranks tokens by, one of `FAMILIES`; ``both`` of a composition whose halves differ."""
    halves = split(canonical(expression), "+")
    if len(halves) > 1:
        kinds = {family(half) for half in halves}
        return kinds.pop() if len(kinds) == 1 else "both"
    name, arguments = parse(halves[0])
    known = entry(name)
    given = (f"{key}={value}" for key, value in arguments.items())
    return next((known.variants[text] for text in given if text in known.variants), known.ranks_by)
