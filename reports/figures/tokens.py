"""Figures about what is kept: families that suffer, diversity against chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from methods.keep import Keep
from reports.cells import Cell, Stratum, dig, imitated, interval, keep, number, p_value, role, shown
from reports.cells import method as name_of
from reports.figures.drawing import Drawn, bare_rows, bars, canvas, legend, mark, panels, room
from reports.leading import Unit, parts_from_accuracy, unit_of
from reports.style import FAINT, INK, Look
from reports.svg import label
from reports.wording import MISSING, p_told, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.lines import Line2D

# z of the figure is drawn so that left is less diverse; a high mean cosine is less diverse, so its axis runs backwards.
Z_PANELS = (
    ("effective_rank", "effective rank", False),
    ("mean_cosine", "mean cosine", True),
    ("cells", "cells hit", False),
)
# Their chance distributions are skewed, so no z tells how far they are from it; a high one is badly spread.
SKEWED_PANELS = (
    ("k_centre_radius", "k-centre radius"),
    ("mean_distance_to_kept", "mean distance to kept"),
    ("residual", "residual"),
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
        "the whole task, and nothing here is tested.",
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
    """Draw in a panel a figure z of diversity and coverage against random subsets of the same size on the same image."""
    left_out = [text for path, text, _ in Z_PANELS if any(unranked(c, path) for c in stratum.pruned)]
    shown_panels = tuple((text, f"collapse.z.{path}", backwards) for path, text, backwards in Z_PANELS if text not in left_out)
    cells = _with(stratum, [path for _, path, _ in shown_panels])
    if not cells:
        return None
    unfit = f" Of {' and '.join(left_out)} this run stored no ranks fit for a test: not drawn." if left_out else ""
    drawing = _chance_panels(stratum, look, cells, shown_panels, 1.0, 0.0)
    drawing.supxlabel("z against random tokens    (← less diverse than chance | more diverse →)", fontsize=9, color=INK)
    return Drawn(
        drawing,
        "Diversity against chance",
        "How far the kept tokens are from random subsets of the same size on the same image, in standard "
        "deviations of those "
        "subsets; mean over images with 95 % interval. The line at 0 is chance and left is always less diverse: "
        "for the mean "
        "cosine, where a high figure is redundant, the axis runs backwards. "
        + ("oracle keeps the evidence and so is less diverse too: collapse is " if "oracle" in cells else "Collapse is ")
        + "being less diverse than chance and missing the evidence (see evidence recall). The tests stand in the table below."
        + unfit,
    )


def percentiles(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw in three panels where the kept set ranks among random subsets, of figures whose chance is too skewed for a z."""
    shown_panels = tuple((text, f"collapse.z.{path}.percentile", True) for path, text in SKEWED_PANELS)
    cells = _with(stratum, [path for _, path, _ in shown_panels])
    if not cells:
        return None
    drawing = _chance_panels(stratum, look, cells, shown_panels, 100.0, 50.0)
    drawing.supxlabel("% of random subsets below    (← worse spread than chance | better spread →)", fontsize=9, color=INK)
    return Drawn(
        drawing,
        "Distance to what was dropped, against chance",
        "Where the kept tokens rank among random subsets of the same size on the same image: mean over images of the share of "
        "subsets with a lower figure, with 95 % interval. The line at 50 is chance; a high figure leaves tokens far from all "
        "kept ones, so the axes run backwards. These three have skewed chance distributions, of which standard deviations would "
        "tell too much. The tests stand in the table under the figure of diversity.",
    )


def unranked(cell: Cell, figure: str) -> bool:
    """Return whether a cell was held against chance in a figure whose ranks were not stored fit for a test.

    Args:
        cell: entry of summary.json; such figures have a z, and neither a percentile nor a p.
        figure: a name of `metrics.figures.FIGURES`.
    """
    path = f"collapse.z.{figure}"
    untested = number(cell, f"{path}.percentile") is None and number(cell, f"{path}.p") is None
    return number(cell, path) is not None and untested


def _with(stratum: Stratum, paths: Sequence[str]) -> dict[str, list[Cell]]:
    """Return by method the pruned cells with a budget that have any of these figures; controls of a method are left out."""
    found = {
        name: [
            c for c in stratum.pruned
            if name_of(c) == name and keep(c) is not None and any(number(c, path) is not None for path in paths)
        ]
        for name in stratum.methods if not imitated(name)
    }  # fmt: skip
    return {name: cells for name, cells in found.items() if cells}


def _chance_panels(
    stratum: Stratum, look: dict[str, Look], cells: dict[str, list[Cell]], shown_panels: Sequence[tuple[str, str, bool]],
    scale: float, chance: float,
) -> Drawing:  # fmt: skip
    """Draw panels side by side with a row a method and a mark a budget.

    Args:
        cells: by method.
        shown_panels: title, path of the figure in a cell, and whether the axis runs backwards.
        scale: by which figures are multiplied.
        chance: where the line of chance stands.
    """
    budgets = sorted({k for found in cells.values() for c in found if (k := keep(c)) is not None}, reverse=True)
    height = 1.35 + 0.16 * len(cells) * max(len(budgets), 2)
    drawing, three = panels(8.2 + room(cells, 12), height, (1,) * len(shown_panels))
    step = 0.62 / max(1, len(budgets) - 1)
    for axes, (text, path, backwards) in zip(three, shown_panels, strict=True):
        axes.axvline(chance, color=INK, linewidth=1.1, zorder=1)
        for row, (name, found) in enumerate(cells.items()):
            if row % 2:
                axes.axhspan(row - 0.5, row + 0.5, color="#f3f4f6", linewidth=0, zorder=0)
            for cell in found:
                value, k = number(cell, path), keep(cell)
                if value is not None and k is not None:
                    y = row + step * (budgets.index(k) - (len(budgets) - 1) / 2)
                    mark(axes, scale * value, y, look[name], size=_size(k, budgets), xerr=bars(cell, path, scale))
        axes.set_title(text)
        axes.set_yticks(range(len(cells)), [label(n) for n in cells])
        axes.set_ylim(len(cells) - 0.5, -0.5)
        bare_rows(axes)
        axes.margins(x=0.08)
        if backwards:
            axes.invert_xaxis()
    legend(drawing, [_plain_key(k, budgets) for k in budgets], "tokens")
    return drawing


def _size(k: Keep, budgets: list[Keep]) -> float:
    return 3.6 + 3.4 * (budgets[::-1].index(k) / max(1, len(budgets) - 1))


def _plain_key(k: Keep, budgets: list[Keep]) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=FAINT, marker="o", linestyle="none", markersize=_size(k, budgets), label=k.shown)


@dataclass(frozen=True)
class ChanceTable:
    """How the cells compare with random subsets: a row a cell, a column a figure, each with its test in the small print."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]  # method, budget, (percent, small print) a figure
    missing: tuple[str, ...] = ()  # why ranks of some figures are missing, each reason once


def chance_table(stratum: Stratum) -> ChanceTable | None:
    """Return by method and budget the share of images below chance, of skewed figures the rank among random subsets.

    The small print has the p corrected over the competing cells of the run for that figure, and of cells that do not compete the
    raw one with the number of raw ones that the run holds. None where nothing was held against chance.
    """
    paths = [f"collapse.z.{path}" for path, _, _ in Z_PANELS] + [f"collapse.z.{path}.percentile" for path, _ in SKEWED_PANELS]
    told = [
        c for c in stratum.pruned
        if role(c) != "reference" and not imitated(name_of(c)) and any(number(c, path) is not None for path in paths)
    ]  # fmt: skip
    rows = tuple(
        (
            name_of(c), shown(c),
            (*(_below(c, path) for path, _, _ in Z_PANELS), *(_ranked(c, path) for path, _ in SKEWED_PANELS)),
        )
        for c in told
    )  # fmt: skip
    missing = tuple(dict.fromkeys(str(why) for c in told if (why := dig(c, "collapse.why_no_rank"))))
    heads = tuple(text.capitalize() for text in (*(text for _, text, _ in Z_PANELS), *(text for _, text in SKEWED_PANELS)))
    return ChanceTable(heads, rows, missing) if rows else None


def _below(cell: Cell, figure: str) -> tuple[str, str]:
    path = f"collapse.z.{figure}"
    return percent(number(cell, f"{path}.share_below_chance"), 0), _p_told(cell, path)


def _ranked(cell: Cell, figure: str) -> tuple[str, str]:
    path = f"collapse.z.{figure}"
    found = interval(cell, f"{path}.percentile")
    if found is None:
        return MISSING, ""
    spread = f"{percent(found.lo, 0)} to {percent(found.hi, 0)}" if found.known else ""
    return percent(found.value, 0), "; ".join(part for part in (spread, _p_told(cell, path)) if part)


def _p_told(cell: Cell, path: str) -> str:
    p, corrected = p_value(cell, path)
    return "" if p is None else p_told(p, corrected, number(cell, "collapse.tests"))
