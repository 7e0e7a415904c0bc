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
    """Return whether a cell competes for the best accuracy and is tested as a method.

    References do not compete, nor do random tokens, whatever their parameters: they are what methods are held against.
    A cell whose budget is all tokens does not compete either: it is `none` under another name. Winners and corrections rest
    on this rule. See `is_explained` for the wider one.

    Args:
        facts: of a cell, or its entry of ``summary.json``: ``reference``, ``method`` and ``removes_nothing`` are read.
    """
    return not facts["reference"] and bare(facts["method"]) != "random" and not removes_nothing(facts)


def removes_nothing(facts: JsonObject) -> bool:
    """Return whether a cell keeps all tokens of every image, so that its answers are those of `none`.

    Args:
        facts: of a cell, or its entry of ``summary.json``; older ones do not say, and count as removing some.
    """
    return bool(facts.get("removes_nothing"))


def is_explained(facts: JsonObject) -> bool:
    """Return whether `explain` takes a cell as one of the methods across which it looks for what predicts accuracy.

    Unlike in `is_competitor`, ``random`` is a method here, as one that ranks by chance. References are left out, and so is
    every ``random[like=...]``, which copies the schedule of a method that stands in the run itself, and what removes nothing.

    Args:
        facts: of a cell, or its entry of ``summary.json``: ``reference``, ``method`` and ``removes_nothing`` are read.
    """
    method = facts["method"]
    if removes_nothing(facts):
        return False
    return method == "random" or not (facts["reference"] or (method.startswith("random[") and "like=" in method))
