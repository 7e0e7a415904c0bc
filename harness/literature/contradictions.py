"""Which published figures contradict each other: what should be one measurement, printed with values that cannot be one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product

from harness.literature.figures import UNKNOWN, PublishedFigure, metrics_apart
from harness.literature.selection import hub_id

TELLING = ("version", "metric", "split", "tokens", "counts", "prompt")
"""Fields that set two measurements of one cell apart, where both are known and differ. Whether a value is of the authors' own run
or copied does not: a copy should be what was copied."""

Contradictions = Mapping[PublishedFigure, tuple[PublishedFigure, ...]]
"""Of each contradicted figure, those that contradict it."""


def contradictions(figures: Iterable[PublishedFigure]) -> Contradictions:
    """Return of each figure that others contradict those others, in the order in which they were given.

    Two figures contradict each other where they are of the same method, model, task and budget, nothing that is known of both
    sets them apart (`TELLING`), and their values differ by more than both were rounded.

    Args:
        figures: of all tables that are held against each other, not only those that are shown.

    Returns:
        The contradicted figures alone, in the order in which they were given.
    """
    figures = tuple(figures)
    cells: dict[tuple[object, ...], dict[_Measured, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, figure in enumerate(figures):
        if figure.value != UNKNOWN and (cell := _cell(figure)) is not None:
            cells[cell][_measured(figure)].append(place)
    found: dict[int, tuple[PublishedFigure, ...]] = {}
    for of_one_cell in cells.values():
        for measured, others in _contradicting(of_one_cell).items():
            told = tuple(figures[place] for place in sorted(others))
            found |= dict.fromkeys(of_one_cell[measured], told)  # copies of one value are contradicted by the same
    return {figures[place]: found[place] for place in sorted(found)}


_Measured = tuple[tuple[str, ...], str]
"""What tells of figures of one cell: the fields of `TELLING`, and the value as printed."""


def _measured(figure: PublishedFigure) -> _Measured:
    return tuple(getattr(figure, field) for field in TELLING), figure.value


def _contradicting(cell: Mapping[_Measured, list[int]]) -> dict[_Measured, list[int]]:
    """The places of the figures that contradict what was measured in a cell, for all that is contradicted there.

    Settings are held against each other once, and values as whole numbers of half the finest unit that one was rounded to: a cell
    of thousands of values has millions of pairs.
    """
    finest = min(_rounding_of(value) for _, value in cell)
    by_setting: dict[tuple[str, ...], list[tuple[_Measured, int, int, list[int]]]] = defaultdict(list)
    for measured, places in cell.items():
        exact, rounded = Decimal(measured[1]), _rounding_of(measured[1])
        by_setting[measured[0]].append((measured, int(exact / finest), int(rounded / finest), places))
    found: dict[_Measured, list[int]] = defaultdict(list)
    for mine, theirs in product(by_setting, repeat=2):
        if any(map(_apart, TELLING, mine, theirs)):
            continue
        for one, value, rounding, _ in by_setting[mine]:
            contradicting = found[one]
            for _, other, also, places in by_setting[theirs]:
                if abs(value - other) > rounding + also:
                    contradicting += places
    return {measured: places for measured, places in found.items() if places}


def different_values(figures: Iterable[PublishedFigure]) -> int:
    """Return how many different values figures have: ten that print one value are copies, and count as one.

    Args:
        figures: such as those that contradict another.
    """
    return len({Decimal(figure.value) for figure in figures if figure.value != UNKNOWN})


def contradict(one: PublishedFigure, other: PublishedFigure) -> bool:
    """Tell whether two figures contradict each other, as `contradictions` explains.

    >>> fields = dict(version="unknown", model="m", task="pope", metric="F1", split="test", prompt="unknown")
    >>> fields |= dict(tokens="576", keep="64", counts="unknown", source="s", origin="copied")
    >>> figure = lambda value, **more: PublishedFigure("fastv", **{**fields, **more}, value=value)
    >>> contradict(figure("48.0"), figure("59.6")), contradict(figure("48.0"), figure("59.6", metric="accuracy"))
    (True, False)
    >>> contradict(figure("48.0"), figure("48.1")), contradict(figure("48.0"), figure("48.2"))
    (False, True)
    """
    if UNKNOWN in (one.value, other.value) or (cell := _cell(one)) is None or cell != _cell(other):
        return False
    if any(_apart(field, getattr(one, field), getattr(other, field)) for field in TELLING):
        return False
    return abs(Decimal(one.value) - Decimal(other.value)) > _rounding_of(one.value) + _rounding_of(other.value)


@dataclass(frozen=True)
class ContradictionSpread:
    """The two figures of a cell that contradict each other and lie furthest apart, and those of the cell between them."""

    low: PublishedFigure
    high: PublishedFigure
    between: tuple[PublishedFigure, ...]  # contradicted figures of the cell from low to high, both of these among them

    @property
    def ratio(self) -> float:
        """The higher value over the lower one."""
        low, high = float(self.low.value), float(self.high.value)
        return high / low if low else math.inf


def spreads(contradicted: Contradictions) -> list[ContradictionSpread]:
    """Return how far figures of one cell contradict each other at the most, cell by cell, widest ratio first.

    Figures that a third one contradicts may be of two metrics: only two that contradict each other make a spread.

    Args:
        contradicted: from `contradictions`.
    """
    cells: dict[tuple[object, ...] | None, list[PublishedFigure]] = defaultdict(list)
    for figure in contradicted:
        cells[_cell(figure)].append(figure)
    numbers = {figure.value: float(figure.value) for figure in contradicted}
    found = []
    for figures in cells.values():
        widest: ContradictionSpread | None = None
        for figure in figures:
            others = contradicted[figure]
            highest = max(numbers[other.value] for other in others)
            low = numbers[figure.value]
            if highest > low and (widest is None or (highest / low if low else math.inf) > widest.ratio):
                high = next(other for other in others if numbers[other.value] == highest)
                widest = ContradictionSpread(figure, high, ())
        if widest is None:
            continue
        linked = {widest.low, widest.high, *contradicted[widest.low], *contradicted[widest.high]}
        least, most = numbers[widest.low.value], numbers[widest.high.value]
        between = sorted(
            (f for f in figures if f in linked and least <= numbers[f.value] <= most), key=lambda f: numbers[f.value]
        )
        found.append(replace(widest, between=tuple(between)))
    return sorted(found, key=lambda spread: spread.ratio, reverse=True)


def _cell(figure: PublishedFigure) -> tuple[object, ...] | None:
    """What two figures must share to be of one cell; None where that is not known."""
    cell = (figure.method, hub_id(figure.model), figure.task, figure.keep)
    return None if UNKNOWN in cell else (*cell[:3], figure.budget)


def _apart(field: str, one: str, other: str) -> bool:
    """Whether a field sets two figures apart. Tokens that are as many in every layer are so on average and in the last one."""
    if field == "metric":
        return metrics_apart(one, other)
    if field == "counts" and "every" in (one, other):
        return False
    return UNKNOWN not in (one, other) and one != other


def _rounding_of(value: str) -> Decimal:
    """Half a unit of the last digit, exactly: 0.05 and not the nearest binary number, so that 48.0 and 48.1 do not contradict."""
    return Decimal((0, (5,), int(Decimal(value).as_tuple().exponent) - 1))
