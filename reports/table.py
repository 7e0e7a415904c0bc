"""The table of cells: a row a measured cell, with its figures raw and as text, and an interval graphic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods.keep import Keep
from reports import wording
from reports.cells import Cell, Interval, Stratum, in_order, keep, leading, leading_path, measured, method, number, p_value, role
from reports.columns import TESTED, Column, answer_columns, columns
from reports.leading import unit_of, units_of
from reports.method_notes import same_as, unverified


@dataclass(frozen=True)
class TableEntry:
    """One figure of one row: raw, as text, and the small print below it."""

    raw: float | None
    text: str
    detail: str = ""
    lo: float | None = None  # of its 95 % interval
    hi: float | None = None
    partial: bool = False  # not known to be of every question of the whole benchmark
    name: str = ""  # of the figure that leads, where it is stored in its own unit
    scale: float | None = None  # of it: what a perfect model reaches; differences are stored as shares of it
    mark: str = ""  # a word beside the text
    note: str = ""  # what is told on hover


@dataclass(frozen=True)
class Bar:
    """The interval graphic of a row; all positions in percent of its width."""

    at: float
    lo: float
    hi: float
    none: float | None


@dataclass(frozen=True)
class TableRow:
    """One measured cell as a row of the table."""

    model: str
    task: str
    method: str
    role: str
    keep: Keep | None
    budget: str
    bar: Bar | None
    entries: tuple[TableEntry, ...]
    note: str = ""
    order: int = 0  # of the budget among all of the table, rising
    same_as: str = ""  # the method that it is the same as, which counts in its place
    unverified: str = ""  # why nothing but a slow version of ours proves its rule


@dataclass(frozen=True)
class CellTable:
    """The table of all measured cells."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    budgets: tuple[Keep, ...]  # falling
    several: bool  # more than one model or task: then both are columns too
    first: frozenset[str] = frozenset()  # column groups that a reader sees before choosing others
    leads: str = "accuracy"  # the figure under whose digits an interval graphic stands

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The column groups, and how many columns each spans."""
        spans: dict[str, int] = {}
        for column in self.columns:
            spans[column.group] = spans.get(column.group, 0) + 1
        return list(spans.items())


_OPTIONAL = frozenset({"memory.working_bytes", "pareto.latency.share", "evidence.swap_gain", "difference_downsample",
                       "latency.sum_gap"})  # fmt: skip
"""Columns that are left out where no cell has their figure."""

_FIRST = frozenset({"Tokens", "Cost"})


def table(cells: list[Cell], groups: list[Stratum], kind: str = "mean") -> CellTable:
    """Return the table of the measured cells.

    Args:
        cells: the entries of summary.json; skipped ones are left to `skipped`.
        groups: their strata, which give each row the scale of its interval graphic.
        kind: of the figure that leads, as the manifest tells it.
    """
    shown = measured(cells)
    flops = wording.flops_unit([v for c in shown if (v := number(c, "flops.total")) is not None])
    units = tuple(units_of(shown))
    blind = any(method(cell) == "blind" for cell in shown)
    raw = {path: sum(p is not None and not corrected for p, corrected in (p_value(c, path) for c in shown)) for path in TESTED}
    found = (*columns(flops, units, kind, blind, raw), *answer_columns(shown))
    found = tuple(c for c in found if c.path not in _OPTIONAL or any(number(cell, c.path) is not None for cell in shown))
    scored, leads = any(leading(cell) is not None for cell in shown), found[0]
    if not scored and shown:
        found = tuple(c for c in found if c.group != leads.group)
    bars = _bars(groups)
    budgets = tuple(sorted({k for cell in shown if (k := keep(cell)) is not None}, reverse=True))
    rows = tuple(
        TableRow(
            model=str(cell.get("model") or wording.MISSING),
            task=str(cell.get("task") or wording.MISSING),
            method=method(cell),
            role=role(cell),
            keep=keep(cell),
            budget=str(cell.get("budget") or ""),
            bar=bars.get(id(cell)),
            entries=tuple(_entry(cell, c) for c in found),
            note=_counts(cell),
            order=0 if (k := keep(cell)) is None else budgets[::-1].index(k),
            same_as=same_as(cell),
            unverified=unverified(cell),
        )
        for cell in shown
    )
    first = _FIRST | {leads.group if scored else "Loyalty"}
    several = len({(r.model, r.task) for r in rows}) > 1
    return CellTable(found, rows, budgets, several, first, units[0].name if len(units) == 1 else "score")


def _entry(cell: Cell, column: Column) -> TableEntry:
    raw = number(cell, column.path)
    lo, hi = (number(cell, f"{column.path}.{end}") for end in ("lo", "hi"))
    text = column.text(raw) if column.written is None else column.written(cell)
    unit, own = unit_of(cell), column.path == "score"
    partial = raw is not None and (own or column.path == leading_path(cell)) and unit.partial
    name, scale = (unit.name, unit.scale) if own and raw is not None else ("", None)
    return TableEntry(raw, text, column.detail(cell), lo, hi, partial, name, scale, column.mark(cell), column.note(cell))


def skipped(cells: list[Cell]) -> list[Cell]:
    """Return the cells that could not be measured; each holds its reason under ``skipped``."""
    return in_order([c for c in cells if c.get("skipped")])


def _counts(cell: Cell) -> str:
    n, images = number(cell, "n"), number(cell, "n_images")
    told = "" if n is None or images is None else f"{n:,.0f} questions about {images:,.0f} images"
    return "; ".join(part for part in (told, "removes nothing" if cell.get("removes_nothing") else "") if part)


def _bars(groups: list[Stratum]) -> dict[int, Bar]:
    """Interval graphics on one scale a stratum, from its lowest bound to its highest, the blind model left out."""
    bars: dict[int, Bar] = {}
    for group in groups:
        known = [(c, i) for c in group.cells if (i := leading(c))]
        if not known:
            continue
        pruned = [i for c, i in known if method(c) != "blind"] or [i for _, i in known]
        low, high = min(i.lo for i in pruned), max(i.hi for i in pruned)
        none = leading(group.none) if group.none else None

        def place(value: float, low: float = low, width: float = (high - low) or 1.0) -> float:
            return round(3 + 94 * (value - low) / width, 2)

        for cell, i in known:
            if i in pruned:  # the blind model would press all others together
                bars[id(cell)] = _bar(i, none, place)
    return bars


def _bar(found: Interval, none: Interval | None, place: Callable[[float], float]) -> Bar:
    return Bar(place(found.value), place(found.lo), place(found.hi), place(none.value) if none else None)
