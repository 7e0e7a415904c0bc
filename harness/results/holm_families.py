"""Tests of a run that are corrected by Holm, since their statistics are of different kinds: the cells that compete are a family.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.results.cell_kinds import is_tested
from harness.results.types import JsonObject
from metrics.statistics import holm


def adjust_by_holm(tested: Sequence[tuple[JsonObject, JsonObject]], counts: Callable[[JsonObject], bool] = is_tested) -> None:
    """Write ``p_adjusted`` beside the ``p`` of each entry, in place: Holm over the cells that count, None of the others.

    Args:
        tested: a cell of ``summary.json`` and an entry of it that has a ``p``, which may be None, for every cell of the family.
        counts: whether a cell is a member of the family; by default one that competes and is no other's double.
    """
    adjusted = holm([entry["p"] if counts(cell) else None for cell, entry in tested])
    for (_, entry), p in zip(tested, adjusted, strict=True):
        entry["p_adjusted"] = p
