"""What every figure is drawn with: canvases, the look of a method, intervals, legends. Knows no figure of the page."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from reports.cells import Cell, Interval, Stratum, known_interval, known_leading, leading, method, number
from reports.style import FAINT, RC, Look
from reports.svg import label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

Arms = list[list[float]]
"""An interval as matplotlib takes it: distances from the value down and up, a row each."""


class Drawn(NamedTuple):
    """A drawing with the title and the caption that stand beside it."""

    drawing: Drawing
    title: str
    caption: str


@contextmanager
def styled() -> Iterator[None]:
    """Draw all figures within in the style of the page."""
    import matplotlib
    import seaborn

    style: Any = {**seaborn.axes_style("ticks"), **RC}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="The set_bad function", category=PendingDeprecationWarning)  # of seaborn
        yield


def canvas(width: float, height: float) -> tuple[Drawing, Axes]:
    """Return an empty figure of this size in inches, and its axes; pyplot does not know it, so that nothing stays open."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained")
    return drawing, drawing.subplots()


def panels(width: float, height: float, widths: Sequence[float]) -> tuple[Drawing, list[Axes]]:
    """Return an empty figure with panels side by side whose rows are the same.

    Args:
        width: of the figure, in inches.
        height: of the figure, in inches.
        widths: one for each panel, relative to each other.
    """
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained")
    return drawing, list(drawing.subplots(ncols=len(widths), sharey=True, width_ratios=widths, squeeze=False)[0])


def fixed(
    width: float, height: float, left: float, right: float, below: float = 0.5, above: float = 0.15
) -> tuple[Drawing, Axes]:
    """Return a figure whose axes leave these margins, in inches, so that what is written into them can be placed."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height))
    box = (left / width, below / height, (width - left - right) / width, (height - below - above) / height)
    return drawing, drawing.add_axes(box)


def bare_rows(*panels: Axes) -> None:
    """Take the ticks and grid lines off axes whose rows are names."""
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)


def room(names: Iterable[str], fits: int = 22) -> float:
    """Return the inches to add to a figure so that names of more letters than fit do not press its axes together."""
    return 0.075 * max(0, max(len(label(n)) for n in names) - fits)


def by_method(stratum: Stratum, path: str) -> dict[str, list[Cell]]:
    """Return by method the pruned cells that have this figure and the leading one: methods as in the legend, tokens rising."""
    known = [c for c in reversed(stratum.pruned) if leading(c) is not None and number(c, path) is not None]
    found = {name: [c for c in known if method(c) == name] for name in stratum.methods}
    return {name: cells for name, cells in found.items() if cells}


def best_first(found: dict[str, list[Cell]]) -> dict[str, list[Cell]]:
    """Sort methods as a reader meets them in the figure: the best at their smallest budget first."""
    return dict(sorted(found.items(), key=lambda item: -known_leading(item[1][0]).value))


def bars(cell: Cell, path: str, scale: float = 1.0) -> Arms:
    """Return the interval of a figure that is there as matplotlib's error bars, times a scale."""
    return arms(known_interval(cell, path), scale)


def arms(found: Interval, scale: float = 1.0) -> Arms:
    """Return an interval as matplotlib's error bars, times a scale."""
    return [[max(0.0, scale * (found.value - found.lo))], [max(0.0, scale * (found.hi - found.value))]]


def mark(
    axes: Axes, x: float, y: float, look: Look, size: float = 5.5, xerr: Arms | None = None, yerr: Arms | None = None,
    alpha: float | None = None,
) -> None:  # fmt: skip
    """Draw one point with its intervals, in the look of its method; size is that of the marker, in points."""
    axes.errorbar(
        x, y, xerr=xerr, yerr=yerr, alpha=alpha, fmt=look.marker, markersize=size + 2.5 * (look.marker == "*"), color=look.colour,
        markerfacecolor=look.face, markeredgecolor=look.colour, markeredgewidth=1.1,
        elinewidth=0.9 if not look.hollow else 0.6, capsize=0, zorder=2 if look.hollow else 3,
    )  # fmt: skip


def join(axes: Axes, xs: list[float], ys: list[float], look: Look) -> None:
    """Draw a line through the points of a method, in its look."""
    axes.plot(xs, ys, color=look.colour, linestyle=look.line, linewidth=0.9 if look.hollow else 1.4, zorder=1.8)


def legend(drawing: Drawing, handles: Sequence[Artist], title: str) -> None:
    """Put a legend outside the axes, where it can cover nothing."""
    from matplotlib.legend import Legend

    made: Legend = drawing.legend(handles=handles, title=title, loc="outside right upper", frameon=False,
                                  handlelength=3.2, labelspacing=0.55, alignment="left")  # fmt: skip
    made.get_title().set_fontsize(8.5)
    made.get_title().set_color(FAINT)
