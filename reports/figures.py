"""The figures of the page, drawn with seaborn and matplotlib; each caption says how it was measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.cells import Interval, Stratum, interval, method, number
from reports.style import FAINT, INK, RC, Look, looks
from reports.svg import inline, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Figure:
    """A finished figure; `svg` is markup made here, all else plain text."""

    name: str
    title: str
    caption: str
    svg: str


def figures(stratum: Stratum, name: str) -> list[Figure]:
    """Every figure that the cells of a stratum have the figures for.

    Args:
        stratum: cells that may be compared.
        name: prefix of the figures' ids, unique on the page.
    """
    import matplotlib
    import seaborn

    from reports import figures_cost, figures_tokens, figures_why

    drawers: tuple[tuple[str, Callable], ...] = (
        ("tokens", accuracy_by_tokens),
        ("flops", figures_cost.accuracy_by_flops),
        ("ttft", figures_cost.accuracy_by_ttft),
        ("families", figures_tokens.families),
        ("collapse", figures_tokens.collapse),
        ("rows", figures_why.rows),
        ("evidence", figures_tokens.evidence),
        ("swap", figures_why.swap),
        ("layers", figures_why.layers),
        ("stages", figures_cost.stages),
    )
    done = []
    with matplotlib.rc_context({**seaborn.axes_style("ticks"), **RC}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        for kind, draw in drawers:
            found = draw(stratum, looks(stratum.methods))
            if found is not None:
                drawing, title, caption = found
                done.append(Figure(f"{name}-{kind}", title, caption, inline(drawing, f"{name}-{kind}", title)))
    return done


def canvas(width: float, height: float, **grid: object) -> tuple[Drawing, Axes]:
    """An empty figure outside pyplot's registry, so that nothing stays open."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(width, height), layout="constrained")
    return drawing, drawing.subplots(**grid)


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


def accuracy_axes(stratum: Stratum, found: dict[str, list[dict]]) -> tuple[Drawing, Axes, list]:
    """Axes for accuracy in percent, with the unpruned and the blind model as horizontal lines.

    Where the blind model is far below all else, it gets a strip of its own under a broken axis, so that it neither
    vanishes nor presses the methods together.

    Returns:
        The figure, the axes to draw on, and legend entries of the two lines.
    """
    lowest = min(interval(c, "accuracy").lo for cells in found.values() for c in cells)
    highest = max(interval(c, "accuracy").hi for cells in found.values() for c in cells)
    none = interval(stratum.none, "accuracy") if stratum.none else None
    blind = interval(stratum.blind, "accuracy") if stratum.blind else None
    top = max(highest, none.hi) if none else highest
    broken = blind is not None and lowest - blind.hi > 0.4 * (top - lowest)
    if broken:
        drawing, (axes, strip) = canvas(7.4 + room(found), 4.5, nrows=2, sharex=True, height_ratios=(11, 1))
        _break(axes, strip, blind)
    else:
        drawing, axes = canvas(7.4 + room(found), 4.3)
        strip = axes
    handles = []
    for at, where, text, line in (
        (none, axes, "none (unpruned)", "-"), (blind, strip, "blind (no image)", (0, (5, 3))),
    ):  # fmt: skip
        if at is None:
            continue
        where.axhspan(100 * at.lo, 100 * at.hi, color=INK, alpha=0.07, linewidth=0, zorder=0)
        handles.append(where.axhline(100 * at.value, color=INK, linestyle=line, linewidth=1.1, zorder=1, label=text))
    axes.set_ylabel("accuracy, %")
    return drawing, axes, handles


def _break(axes: Axes, strip: Axes, blind: Interval) -> None:
    """Make two axes look like one with a piece cut out."""
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    half = max(100 * (blind.hi - blind.lo), 1.0)
    strip.set_ylim(100 * blind.value - half, 100 * blind.value + half)
    strip.set_yticks([100 * blind.value], [f"{100 * blind.value:.0f}"])
    strip.grid(axis="y", visible=False)
    slash = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 9, "linestyle": "none", "color": FAINT, "clip_on": False}
    axes.plot([0], [0], transform=axes.transAxes, **slash)
    strip.plot([0], [1], transform=strip.transAxes, **slash)


def name_x(axes: Axes, text: str) -> None:
    """The label of the x axis, under the lowest axes of the figure."""
    axes.figure.axes[-1].set_xlabel(text)


def accuracy_by_tokens(stratum: Stratum, look: dict[str, Look]):
    """Accuracy against the visual tokens the LLM's layers hold on average."""
    from matplotlib.ticker import FixedLocator, NullLocator

    found = best_first(by_method(stratum, "accuracy", "tokens.average"))
    found = {n: positive for n, cells in found.items() if (positive := [c for c in cells if number(c, "tokens.average") > 0])}
    if not found:
        return None
    drawing, axes, handles = accuracy_axes(stratum, found)
    axes.set_xscale("log", base=2)
    moved = _crowded(stratum)
    for i, (name, cells) in enumerate(found.items()):
        shift = 2 ** ((i - (len(found) - 1) / 2) * 0.34 / max(len(found), 10)) if moved else 1.0
        xs = [shift * number(c, "tokens.average") for c in cells]
        join(axes, xs, [100 * number(c, "accuracy") for c in cells], look[name])
        for x, cell in zip(xs, cells, strict=True):
            mark(axes, x, 100 * number(cell, "accuracy"), look[name], yerr=bars(cell, "accuracy", 100))
    if moved:
        axes.xaxis.set_major_locator(FixedLocator(sorted(stratum.budgets)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    name_x(axes, "visual tokens, mean over LLM layers (log scale)")
    legend(
        drawing,
        handles + [key_of(look[n], n) for n in found],
        f"best first at {min(stratum.budgets)}" if stratum.budgets else "best first",
    )
    aside = (
        " Points of one budget stand side by side so that their bars can be read; their true place is the tick." if moved else ""
    )
    return (
        drawing,
        "Accuracy against tokens",
        "Share of questions answered right against the visual tokens present in the LLM, averaged over its "
        "layers. Bars "
        "and the band: 95 % bootstrap intervals, clustered by image. Hollow markers, dotted lines: random tokens; in a "
        f"method's colour, random tokens on that method's schedule.{aside} Where the blind model is far below, "
        f"the axis is cut.",
    )


def _crowded(stratum: Stratum) -> bool:
    """Whether all methods of a budget hold nearly the same number of tokens, so that their points would coincide."""
    for k in stratum.budgets:
        tokens = [t for c in stratum.at(k) if (t := number(c, "tokens.average"))]
        if tokens and max(abs(t / k - 1) for t in tokens) > 0.04:
            return False
    return True
