"""The registry: from an expression such as ``fastv[layer=3]`` to a method, and back."""

from __future__ import annotations

import re

from methods.compose import compose
from methods.expressions import MethodError, parameters, parse, split
from methods.loading import BUNDLED, entries, entry, load_plugin
from methods.registration import FAMILIES, Counting, Entry, NothingRegistered, register
from methods.single import canonical_single, create_single, values
from methods.types import Method

__all__ = [
    "BUNDLED", "FAMILIES", "Counting", "Entry", "MethodError", "NothingRegistered", "canonical", "counting", "create", "entries",
    "entry", "family", "is_reference", "load_plugin", "parameters", "parse", "register", "split", "unverified", "year",
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


def unverified(expression: str) -> str | None:
    """Return why nothing but a slow version of our own proves a method's rule; None where the authors' outputs do.

    The first key of `Entry.unverified` all of whose parameters match the method's values, defaults included, tells the reason.

    Args:
        expression: of a method; of a composition both halves are looked at, and each reason is named after its half.

    Raises:
        MethodError: as `create` does.
    """
    halves = split(canonical(expression), "+")
    if len(halves) > 1:
        found = {half: reason for half in halves if (reason := unverified(half)) is not None}
        return "; ".join(f"{half}: {reason}" for half, reason in found.items()) or None
    told = entry(parse(halves[0])[0]).unverified
    if not told:
        return None
    given = {f"{name}={value}" for name, value in values(halves[0]).items()}
    return next((reason for key, reason in told.items() if not key or given.issuperset(key.split(","))), None)


def counting(expression: str) -> Counting:
    """Return how a method's budget counts where an image is in several tiles; a composition counts as its first half does.

    Args:
        expression: of a method.

    Raises:
        MethodError: as `create` does.
    """
    return entry(parse(split(canonical(expression), "+")[0])[0]).tiles


def year(paper: str) -> int | None:
    """Return the year of a paper by the first two digits of its arXiv number.

    Args:
        paper: as `Entry.paper` has it, such as ``arXiv:2412.01818``.

    Returns:
        None of what names no arXiv number.
    """
    found = re.search(r"\b(\d\d)(0[1-9]|1[0-2])\.\d{4,5}(?!\d)", paper)
    return 2000 + int(found[1]) if found else None
