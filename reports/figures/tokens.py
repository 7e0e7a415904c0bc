"""Figures about what is kept: families that suffer, diversity against chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.keep import Keep
from reports.cells import Cell, Stratum, imitated, keep, number, role, shown
from reports.cells import method as name_of
from reports.figures.drawing import Drawn, bare_rows, bars, canvas, legend, mark, panels, room
from reports.leading import Unit, parts_from_accuracy, unit_of
from reports.style import FAINT, INK, Look
from reports.svg import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# z of the figure is drawn so that left is less diverse; a high mean cosine is less diverse, so its axis runs backwards.
Z_PANELS = (
    ("effective_rank", "effective rank", False),
    ("mean_cosine", "mean cosine", True),
    ("cells", "cells hit", False),
)


def families(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw as a heat map how much of the unpruned accuracy each question family keeps at the smallest budget.

    Where another figure leads, retention is of that figure, so the map is not called by this name.
    """
    import numpy as np
    import pandas as pd
    import seaborn

    if not stratum.budgets or stratum.none is None:
        return None
    k = min(stratum.budgets)
    whole = {f: v for f in (stratum.none.get("families") or {}) if (v := number(stratum.none, f"families.{f}"))}
    cells = [c for c in stratum.at(k) if c.get("families")]
    if not whole or not cells:
        return None
    unpruned = number(stratum.none, "accuracy")
    table = np.full((len(cells), 1 + len(whole)), np.nan)
    for row, cell in enumerate(cells):
        overall = number(cell, "accuracy")
        if overall is not None and unpruned:
            table[row, 0] = 100 * overall / unpruned
        for column, (family, before) in enumerate(whole.items(), 1):
            # families may hold dots, so they are not addressed by path
            after = number({"x": cell["families"].get(family)}, "x")
            if after is not None:
                table[row, column] = 100 * after / before
    if np.isnan(table).all():
        return None
    names, columns = [label(name_of(cell)) for cell in cells], ["all", *(label(family, 16) for family in whole)]
    frame = pd.DataFrame(table, index=names, columns=columns)  # shortened names may be alike
    drawing, axes = canvas(min(11.0, 2.6 + 0.62 * frame.shape[1]), 1.3 + 0.3 * frame.shape[0])
    low = min(60.0, float(np.floor(np.nanmin(frame.to_numpy()) / 10) * 10))
    seaborn.heatmap(
        frame, ax=axes, annot=True, fmt=".0f", cmap="vlag_r", center=100, vmin=low, vmax=200 - low, linewidths=1.2,
        linecolor="white", annot_kws={"fontsize": 8.5},
        cbar=False,
    )  # fmt: skip
    _legible(axes)
    axes.axvline(1, color=INK, linewidth=1.2)
    axes.set_facecolor("#e3e6ea")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_xticks(
        axes.get_xticks(), [t.get_text() for t in axes.get_xticklabels()], rotation=35, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks(axes.get_yticks(), [t.get_text() for t in axes.get_yticklabels()], rotation=0)
    unit = unit_of(*stratum.cells)
    single = _single(unit, any(map(parts_from_accuracy, stratum.cells)))
    return Drawn(
        drawing,
        f"{'Retention' if unit.plain else 'Accuracy kept'} by question family at {k} tokens",
        f"Accuracy {single}at {k} tokens as a percentage of the unpruned model's on the same questions, by question family. "
        "100 (white) is nothing lost; red is loss, blue is gain, grey was not measured; families the unpruned "
        "model never answers are left out. Rows: best first. One family holds fewer questions than "
        "the whole task, so differences of a few points within a column are noise.",
    )


def _single(unit: Unit, parts: bool) -> str:
    """What accuracy means where another figure leads; where that is another number, it is not what stands under "all"."""
    if unit.plain:
        return ""
    return f"(the mean score of single answers{f', under “all” too, not {unit.name}' if parts else ''}) "


def _legible(axes: Axes) -> None:
    """Dark or light numbers in a heat map, whichever stands out more (WCAG relative luminance)."""
    import numpy as np

    mesh = axes.collections[0]
    hidden = np.ma.getmaskarray(np.ma.asarray(mesh.get_array())).ravel()
    for text, colour in zip(axes.texts, np.asarray(mesh.get_facecolor())[~hidden], strict=True):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        text.set_color(INK if np.dot((0.2126, 0.7152, 0.0722), linear) > 0.23 else "white")


def collapse(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw in three panels z of diversity and coverage against random subsets of the same size on the same image."""
    cells = {
        name: found
        for name in stratum.methods
        if not imitated(name)
        and (found := [c for c in stratum.pruned if name_of(c) == name and _has_z(c) and keep(c) is not None])
    }  # fmt: skip
    if not cells:
        return None
    budgets = sorted({k for found in cells.values() for c in found if (k := keep(c)) is not None}, reverse=True)
    drawing, three = panels(8.2 + room(cells, 12), 1.35 + 0.16 * len(cells) * max(len(budgets), 2), (1, 1, 1))
    step = 0.62 / max(1, len(budgets) - 1)
    for axes, (path, text, backwards) in zip(three, Z_PANELS, strict=True):
        axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
        for row, (name, found) in enumerate(cells.items()):
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", linewidth=0, zorder=0)
            for cell in found:
                z = number(cell, f"collapse.z.{path}")
                k = keep(cell)
                if z is not None and k is not None:
                    y = row + step * (budgets.index(k) - (len(budgets) - 1) / 2)
                    mark(axes, z, y, look[name], size=_size(k, budgets), xerr=bars(cell, f"collapse.z.{path}"))
        axes.set_title(text)
        axes.set_yticks(range(len(cells)), [label(n) for n in cells])
        axes.set_ylim(len(cells) - 0.5, -0.5)
        bare_rows(axes)
        axes.margins(x=0.08)
        if backwards:
            axes.invert_xaxis()
    drawing.supxlabel("z against random tokens    (← less diverse than chance | more diverse →)", fontsize=9, color=INK)
    sizes = [_plain_key(k, budgets) for k in budgets]
    legend(drawing, sizes, "tokens")
    return Drawn(
        drawing,
        "Diversity against chance",
        "How far the kept tokens are from random subsets of the same size on the same image, in standard "
        "deviations of those "
        "subsets; mean over images with 95 % interval. The line at 0 is chance and left is always less diverse: "
        "for the mean "
        "cosine, where a high figure is redundant, the axis runs backwards. "
        + ("oracle keeps the evidence and so is less diverse too: collapse is " if "oracle" in cells else "Collapse is ")
        + "being less diverse than chance and missing the evidence (see evidence recall).",
    )


def _has_z(cell: Cell) -> bool:
    return any(number(cell, f"collapse.z.{path}") is not None for path, _, _ in Z_PANELS)


def _size(k: Keep, budgets: list[Keep]) -> float:
    return 3.6 + 3.4 * (budgets[::-1].index(k) / max(1, len(budgets) - 1))


def _plain_key(k: Keep, budgets: list[Keep]) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=FAINT, marker="o", linestyle="none", markersize=_size(k, budgets), label=k.shown)


def below_chance(stratum: Stratum) -> list[tuple[str, str, list[tuple[float | None, float | None]]]]:
    """Return by method and budget, for each figure of `Z_PANELS`, the share of images below chance, and its p."""
    return [
        (
            name_of(c), shown(c),
            [(number(c, f"collapse.z.{p}.share_below_chance"), number(c, f"collapse.z.{p}.p")) for p, _, _ in Z_PANELS],
        )
        for c in stratum.pruned
        if role(c) != "reference" and not imitated(name_of(c))
        and _has_z(c)
    ]  # fmt: skip
