"""Figures with a row a method: accuracy at every budget, and what a ranking is worth over its schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reports.cells import (
    Cell,
    Interval,
    Stratum,
    imitated,
    interval,
    keep,
    known_leading,
    leading,
    leading_share,
    method,
    number,
    role,
)
from reports.figures.drawing import Drawn, arms, bare_rows, canvas, legend, room
from reports.leading import unit_of
from reports.style import FAINT, INK, Look
from reports.svg import label
from reports.tested import settled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# Budgets differ in lightness and in shape, not in hue: the largest is the palest.
_BUDGETS = (("#0b3c5d", "o"), ("#3f8fc4", "s"), ("#9ecae1", "D"), ("#0b3c5d", "^"), ("#3f8fc4", "v"), ("#9ecae1", "P"))


def accuracy_by_budget(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw the figure that leads with a row a method and a mark a budget, and the unpruned model as a line."""
    names = [n for n in stratum.methods if not imitated(n) and _has(stratum, n, leading)]
    if not names:
        return None
    least, unit = stratum.budgets[-1] if stratum.budgets else None, unit_of(*stratum.cells)

    def best(name: str) -> tuple[bool, float]:
        cell = stratum.only(name, least)
        return _yardstick(stratum, name), -(leading_share(cell) or 0.0) if cell else 1.0

    names.sort(key=best)
    drawing, axes = _rows(stratum, names, leading, lambda cell: True)
    none, blind = (leading(c) if c else None for c in (stratum.none, stratum.blind))
    if none is not None:
        axes.axvspan(unit.scale * none.lo, unit.scale * none.hi, color=INK, alpha=0.08, linewidth=0, zorder=0)
        axes.axvline(unit.scale * none.value, color=INK, linewidth=1.1, zorder=1)
    lowest = min(known_leading(c).lo for c in stratum.pruned if leading(c) is not None)
    far = blind is not None and blind.hi < lowest - 0.1
    if blind is not None and not far:
        axes.axvline(unit.scale * blind.value, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), zorder=1)
    phrase = "no budget" if least is None else least.phrase
    first = next((i for i, n in enumerate(names) if _yardstick(stratum, n)), 0)
    if first:
        axes.axhline(first - 0.5, color=FAINT, linewidth=0.8)
    axes.set_xlabel(unit.axis)
    said = f" Without any image: {unit.unmarked(blind.value)} [{unit.span(blind)}]{unit.mark}" if blind is not None else ""
    said += ", left of what is drawn." if far else ", dashed." if said else ""
    return Drawn(
        drawing,
        f"{unit.title} by method and budget",
        f"{unit.defined}; bars are 95 % intervals over images. Line and band: the unpruned "
        f"model. Best first at {phrase}; references and the bound stand below the line.{said}",
    )


def ranking(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw with a row a method its leading figure less that of random tokens on the same schedule."""
    names = [n for n in stratum.methods if _has(stratum, n, _over_random)]
    if not names:
        return None
    least = stratum.budgets[-1]
    names.sort(key=lambda n: -(number(stratum.only(n, least) or {}, "difference_like") or -9.0))
    unit = unit_of(*stratum.cells)
    drawing, axes = _rows(stratum, names, _over_random, _significant)
    axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
    axes.set_xlabel(f"points of {unit.name} over random tokens on the same schedule")
    return Drawn(
        drawing,
        "What the ranking is worth",
        f"{unit.title} of a method less that of random tokens at the same layers and in the same numbers, on the same questions: "
        "the schedule is the same, so the difference is the ranking. Bars: 95 % intervals over images. Filled: p < "
        f"0.05 by a paired {unit.test} test over images, corrected by max-T over all competing cells; hollow: not told from 0.",
    )


def _over_random(cell: Cell) -> Interval | None:
    return interval(cell, "difference_like")


def _significant(cell: Cell) -> bool:
    return bool(settled(cell, "difference_like"))


def _has(stratum: Stratum, name: str, read: Callable[[Cell], Interval | None]) -> bool:
    return any(method(c) == name and keep(c) is not None and read(c) is not None for c in stratum.pruned)


def _yardstick(stratum: Stratum, name: str) -> bool:
    return next(role(c) for c in stratum.pruned if method(c) == name) != "method"


def _rows(
    stratum: Stratum, names: list[str], read: Callable[[Cell], Interval | None], filled: Callable[[Cell], bool]
) -> tuple[Drawing, Axes]:
    """Draw axes with a row a name and a mark a budget, of what `read` gives as shares of the scale."""
    from matplotlib.lines import Line2D

    budgets, scale = stratum.budgets, unit_of(*stratum.cells).scale
    height = max(0.26, 0.1 * len(budgets) + 0.08)
    drawing, axes = canvas(7.6 + room(names, 14), 0.9 + height * len(names))
    step = 0.62 / max(1, len(budgets) - 1) if len(budgets) > 1 else 0.0
    style = {k: _BUDGETS[i % len(_BUDGETS)] for i, k in enumerate(reversed(budgets))}
    for row, name in enumerate(names):
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", linewidth=0, zorder=0)
        for place, k in enumerate(budgets):
            cell = stratum.only(name, k)
            found = read(cell) if cell is not None else None
            if cell is None or found is None:
                continue
            colour, marker = style[k]
            axes.errorbar(
                scale * found.value, row + step * (place - (len(budgets) - 1) / 2), xerr=arms(found, scale),
                fmt=marker, markersize=5, color=colour, markeredgecolor=colour if colour != "#9ecae1" else "#5b8fae",
                markerfacecolor=colour if filled(cell) else "white", elinewidth=1.1, ecolor=FAINT, capsize=0, zorder=3,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), [label(n) for n in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    bare_rows(axes)
    keys = [
        Line2D([], [], color=style[k][0], marker=style[k][1], linestyle="none", markersize=5, label=k.phrase,
               markeredgecolor=style[k][0] if style[k][0] != "#9ecae1" else "#5b8fae") for k in budgets
    ]  # fmt: skip
    if len(budgets) > 1:
        legend(drawing, keys, "")
    return drawing, axes
