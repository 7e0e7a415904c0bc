"""The tests of measured speed in a run as families: Holm over all cells that compete. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from harness.results.cell_kinds import is_competitor
from harness.results.holm_families import adjust_by_holm
from harness.results.types import JsonObject

SPEED_FIGURES = ("ratio", "realised_gain")
"""Figures of ``latency`` that hold a p: the paired ratio against 1, and the realised gain against 1."""


def adjust_speed(cells: Sequence[JsonObject]) -> None:
    """Add ``p_adjusted`` to each p of measured speed, in place: Holm over the competing cells, a family for each figure.

    Cells that keep the same tokens count each, since their times are measured apart. Holm and no resampling: times of cells in
    one round go together, and their figures have no image in common to draw.

    Args:
        cells: entries of ``summary.json``; ``p_adjusted`` is None of cells that do not compete, and of those without a p.
    """
    for name in SPEED_FIGURES:
        timed = [(cell, figure) for cell in cells if (figure := (cell.get("latency") or {}).get(name)) is not None]
        adjust_by_holm(timed, is_competitor)
