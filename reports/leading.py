"""How the figure that leads a page is written: a benchmark's own total, an F1 or plain accuracy, and its mark where partial."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reports import wording
from reports.cells import Cell, Interval, dig, leading_path, leading_scale, leading_share, number

PARTIAL = "partial"
"""The mark of a figure that is not known to be of every question of the whole benchmark; it stands wherever the value does."""


@dataclass(frozen=True)
class Unit:
    """The name and the scale of the figure that leads; it writes values, differences and margins, all given as shares.

    Points are points of the scale: of 100 they are percentage points, of 2,800 points of the total of MME.

    >>> Unit().value(0.625), Unit("MME total", 2800.0, partial=True, path="score").value(0.625)
    ('62.5 %', '1,750.0 of 2,800, partial')
    """

    name: str = "accuracy"
    scale: float = 100.0
    partial: bool = False
    path: str = "accuracy"  # where the figure stands in a cell

    @property
    def plain(self) -> bool:
        """Whether the figure is accuracy, the share of questions answered right."""
        return self.path == "accuracy"

    @property
    def title(self) -> str:
        """The name as a heading has it."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def sign(self) -> str:
        """What stands behind a value: ``%``, or the scale."""
        return "%" if self.scale == 100 else f"of {self.scale:,.6g}"

    @property
    def axis(self) -> str:
        """The name of an axis that holds the figure."""
        if self.scale == 100:
            return f"{self.name}, %{f' ({PARTIAL})' if self.partial else ''}"
        return f"{self.name} ({self.sign}{self.mark})"

    @property
    def measured_in(self) -> str:
        """What differences are counted in: ``points``, or ``points of 2,800``."""
        return "points" if self.scale == 100 else f"points {self.sign}"

    @property
    def answer_points(self) -> str:
        """What differences of the accuracy of single answers are counted in, on a page that another figure may lead."""
        return "points" if self.plain else "points of accuracy"

    @property
    def defined(self) -> str:
        """What the figure is, as a caption starts; a figure of its own is defined where the columns are."""
        return ("Share of questions answered right" if self.plain else self.title) + self.mark

    @property
    def test(self) -> str:
        """The name of the paired test: of means, swapping two answers turns the sign of their difference."""
        return "sign-flip" if self.plain else "permutation"

    @property
    def more(self) -> str:
        """How a sentence starts about a method that is ahead."""
        return "More accurate" if self.plain else f"Higher {self.name}"

    @property
    def less(self) -> str:
        """How a sentence starts about a method that lies behind."""
        return "Less accurate" if self.plain else f"Lower {self.name}"

    @property
    def mark(self) -> str:
        """The mark of a partial figure with the comma before it; nothing of a whole one."""
        return f", {PARTIAL}" if self.partial else ""

    def scaled(self, share: float) -> float:
        """Return a share in points of the scale; of a figure that is stored so, without what dividing it has rounded."""
        return 100 * share if self.plain else round(self.scale * share, 9)

    def digits(self, share: float | None) -> str:
        """Write a share as a value without its sign: ``62.5``, ``1,750.0``."""
        return wording.MISSING if share is None else wording.signed(f"{self.scaled(share):,.1f}")

    def unmarked(self, share: float | None) -> str:
        """Write a share as a value with its sign, ``62.5 %`` or ``1,750.0 of 2,800``, for where the mark stands by itself."""
        return f"{self.digits(share)} {self.sign}"

    def value(self, share: float | None) -> str:
        """Write a share as a value with its sign, and its mark where it is partial."""
        return self.unmarked(share) + self.mark

    def span(self, found: Interval) -> str:
        """Write the bounds of a figure's interval, or that there is none."""
        return f"{self.digits(found.lo)} to {self.digits(found.hi)}" if found.known else wording.NO_INTERVAL

    def points(self, difference: float | None) -> str:
        """Write a difference of two shares in points, always with its sign."""
        return wording.MISSING if difference is None else wording.signed(f"{self.scaled(difference):+,.1f}")

    def points_plain(self, size: float) -> str:
        """Write a size in points, without a sign and without a decimal that says nothing."""
        return f"{self.scaled(size):,.1f}".removesuffix(".0")

    def points_span(self, found: Interval) -> str:
        """Write the bounds of a difference's interval in points with signs, or that there is none."""
        return f"{self.points(found.lo)} to {self.points(found.hi)}" if found.known else wording.NO_INTERVAL

    def gap(self, found: Interval) -> str:
        """Write a difference with its interval and what it is counted in: ``−1.2 points [−3.0 to +0.6]``."""
        return f"{self.points(found.value)} {self.measured_in} [{self.points_span(found)}]"


def unit_of(*cells: Cell | None) -> Unit:
    """Return the unit of cells of one task: that of the first that has one, partial where any of them is.

    Args:
        cells: entries of summary.json; None and cells without the figure say nothing.
    """
    told = [c for c in cells if c is not None and isinstance(c.get("score"), dict)]
    if not told:
        return Unit()
    partial = any(dig(c, "score.partial") is True for c in told)
    first = told[0]
    if leading_path(first) == "accuracy":
        return Unit(partial=partial)
    return Unit(str(dig(first, "score.name") or "score"), leading_scale(first), partial, "score")


def parts_from_accuracy(cell: Cell) -> bool:
    """Return whether the figure that leads is another number than the mean score of the answers."""
    found, mean = leading_share(cell), number(cell, "accuracy")
    return found is not None and mean is not None and abs(found - mean) > 1e-9


def units_of(cells: Iterable[Cell]) -> list[Unit]:
    """Return the units of all cells that have one, each once, whatever their marks; that of accuracy where none has."""
    told = (unit_of(c) for c in cells if isinstance(c.get("score"), dict) or leading_share(c) is not None)
    return list(dict.fromkeys(replace(unit, partial=False) for unit in told)) or [Unit()]
