"""What the tests of a cell settle, each corrected over its family: sentences claim nothing but what is settled here.

Intervals that lie apart settle nothing: the best of many methods is flattered by the choice, and of many cells some part by
chance. Summaries of older versions lack some of the tests; what was not tested is None here, and no sentence claims it.
"""

from __future__ import annotations

from metrics.figures import FIGURES
from metrics.non_inferiority import ONE_SIDED
from reports.cells import SIGNIFICANT, Cell, corrected_p, number


def settled(cell: Cell, path: str, null: float = 0.0) -> int | None:
    """Return on which side of its null a figure lies by its corrected two-sided test.

    Args:
        cell: entry of summary.json.
        path: of the figure, beside which its ``p_adjusted`` stands.
        null: the value that the figure is tested against.

    Returns:
        1 above, -1 below, 0 where that is not shown; None where the figure was not tested.
    """
    value, p = number(cell, path), corrected_p(cell, path)
    if value is None or p is None:
        return None
    return 0 if p >= SIGNIFICANT else (value > null) - (value < null)


def less_diverse(cell: Cell, figure: str) -> bool | None:
    """Return whether the kept tokens are less diverse than random subsets in a figure, by the corrected test of their ranks.

    Args:
        cell: entry of summary.json.
        figure: a name of `metrics.figures.FIGURES`.

    Returns:
        None where it was not tested, as in summaries of older versions, whose p of a figure was corrected for nothing.
    """
    path = f"collapse.z.{figure}"
    rank, p = number(cell, f"{path}.percentile"), number(cell, f"{path}.p_adjusted")
    if rank is None or p is None:
        return None
    return p < SIGNIFICANT and (rank < 0.5 if FIGURES[figure] else rank > 0.5)


def non_inferior_as_best(cell: Cell) -> bool | None:
    """Return whether a cell that is named since it is the best is not inferior to the unpruned model; None where not tested."""
    p = number(cell, "non_inferior.p_best")
    return None if p is None else p <= ONE_SIDED


def non_inferior_among_all(cell: Cell) -> bool | None:
    """Return whether a cell of a list of all that are not inferior belongs there, by Holm; None where it was not tested."""
    p = number(cell, "non_inferior.p_adjusted")
    return None if p is None else p <= ONE_SIDED
