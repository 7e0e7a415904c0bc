"""The rules by which a cell of a run takes part in comparisons, from its stored facts. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.results.types import JsonObject
from methods.expressions import bare
from methods.keep import Keep


class CellRow(NamedTuple):
    """The facts that set a cell apart from the others of its run, and put cells of different runs into the same row.

    Model, task and seed are no part of it: they are one in a run, and may differ between runs.
    """

    method: str
    keep: Keep | None
    budget: str
    positions: str

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> CellRow:
        """Return the row of a cell.

        Args:
            facts: of a cell, or its entry of ``summary.json``.
        """
        return cls(facts["method"], Keep.stored(facts), facts.get("budget") or "average", facts.get("positions") or "original")


def is_competitor(facts: JsonObject) -> bool:
    """Return whether a cell competes for the best accuracy.

    References do not compete, nor do random tokens, whatever their parameters: they are what methods are held against.
    A cell whose budget is all tokens does not compete either: it is `none` under another name. See `is_tested` for the
    narrower rule, on which winners and corrections rest, and `is_explained` for the wider one.

    Args:
        facts: of a cell, or its entry of ``summary.json``: ``reference``, ``method`` and ``removes_nothing`` are read.
    """
    return not facts["reference"] and bare(facts["method"]) != "random" and not removes_nothing(facts)


def is_tested(facts: JsonObject) -> bool:
    """Return whether a cell counts among the methods that are ranked and tested on their answers and their kept tokens.

    It competes, and is not the same as a cell before it (`same_cells`), which counts in its place. What is measured of speed
    rests on `is_competitor` instead: the times of two cells are two measurements, whatever they keep.

    Args:
        facts: of a cell with ``same_as``, or its entry of ``summary.json``; older ones are the same as no other.
    """
    return is_competitor(facts) and not facts.get("same_as")


def removes_nothing(facts: JsonObject) -> bool:
    """Return whether a cell keeps all tokens of every image, so that its answers are those of `none`.

    Args:
        facts: of a cell, or its entry of ``summary.json``; older ones do not say, and count as removing some.
    """
    return bool(facts.get("removes_nothing"))


def is_explained(facts: JsonObject) -> bool:
    """Return whether `explain` takes a cell as one of the methods across which it looks for what predicts accuracy.

    Unlike in `is_competitor`, ``random`` is a method here, as one that ranks by chance. References are left out, and so is
    every ``random[like=...]``, which copies the schedule of a method that stands in the run itself, what removes nothing, and
    what is the same as a cell before it.

    Args:
        facts: of a cell with ``same_as``, or its entry of ``summary.json``: ``reference``, ``method`` and ``removes_nothing`` are
            read too.
    """
    method = facts["method"]
    if removes_nothing(facts) or facts.get("same_as"):
        return False
    return method == "random" or not (facts["reference"] or (method.startswith("random[") and "like=" in method))
