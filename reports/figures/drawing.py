"""What every figure is drawn with: canvases, the look of a method, intervals, legends. Knows no figure of the page."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reports.cells import Stratum, interval, method, number
from reports.style import FAINT, RC, Look
from reports.svg import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


@contextmanager
def styled() -> Iterator[None]:
    """Within, all figures are drawn in the style of the page."""
    import matplotlib
    import seaborn

    style: Any = {**seaborn.axes_style("ticks"), **RC}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="The set_bad function", category=PendingDeprecationWarning)  # of seaborn
        yield


def canvas(width: float, height: float, **grid: object) -> tuple[Drawing, Axes]:
    """An empty figure outside pyplot's registry, so that nothing stays open."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained")
    return drawing, drawing.subplots(**grid)


def fixed(
    width: float, height: float, left: float, right: float, below: float = 0.5, above: float = 0.15
) -> tuple[Drawing, Axes]:
    """A figure whose axes stand where they are told, in inches, so that what is written into them can be placed."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height))
    box = (left / width, below / height, (width - left - right) / width, (height - below - above) / height)
    return drawing, drawing.add_axes(box)


def bare_rows(*panels: Axes) -> None:
    """Take the ticks and lines off axes whose rows are names."""
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)


def room(names: Iterable[str], fits: int = 22) -> float:
    """Inches to add to a figure so that long names do not press its axes together."""
    return 0.075 * max(0, max(len(label(n)) for n in names) - fits)


def by_method(stratum: Stratum, *paths: str) -> dict[str, list[dict]]:
    """The pruned cells that have all the given figures, by method, in the order of the legend; tokens rising."""
    found = {
        name: [c for c in reversed(stratum.pruned) if method(c) == name and all(number(c, p) is not None for p in paths)]
        for name in stratum.methods
    }
    return {name: cells for name, cells in found.items() if cells}


def best_first(found: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Methods in the order a reader meets them in the figure: the most accurate at their smallest budget first."""
    return dict(sorted(found.items(), key=lambda item: -number(item[1][0], "accuracy")))


def bars(cell: dict, path: str, scale: float = 1.0) -> list[list[float]]:
    """The interval of a figure as matplotlib's two rows of distances from the value."""
    found = interval(cell, path)
    return [[max(0.0, scale * (found.value - found.lo))], [max(0.0, scale * (found.hi - found.value))]]


def mark(axes: Axes, x: float, y: float, look: Look, size: float = 5.5, **errors: object) -> None:
    """One point with its interval, in the look of its method."""
    axes.errorbar(
        x, y, **errors, fmt=look.marker, markersize=size + 2.5 * (look.marker == "*"), color=look.colour,
        markerfacecolor=look.face, markeredgecolor=look.colour, markeredgewidth=1.1,
        elinewidth=0.9 if not look.hollow else 0.6, capsize=0, zorder=2 if look.hollow else 3,
    )  # fmt: skip


def join(axes: Axes, xs: list[float], ys: list[float], look: Look) -> None:
    axes.plot(xs, ys, color=look.colour, linestyle=look.line, linewidth=0.9 if look.hollow else 1.4, zorder=1.8)


def key_of(look: Look, text: str, lined: bool = True):
    """A legend entry that shows marker and line as drawn."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line if lined else "none",
                  linewidth=0.9 if look.hollow else 1.4, markersize=5.5 + 2.5 * (look.marker == "*"),
                  markerfacecolor=look.face, markeredgecolor=look.colour, label=label(text))  # fmt: skip


def legend(drawing: Drawing, handles: list, title: str) -> None:
    """A legend outside the axes, where it can cover nothing."""
    from matplotlib.legend import Legend

    made: Legend = drawing.legend(handles=handles, title=title, loc="outside right upper", frameon=False,
                                  handlelength=3.2, labelspacing=0.55, alignment="left")  # fmt: skip
    made.get_title().set_fontsize(8.5)
    made.get_title().set_color(FAINT)
