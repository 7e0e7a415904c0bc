"""Layer by layer: where the unpruned model looks, and how much of the evidence each method has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports.cells import Cell, Stratum, imitated
from reports.cells import method as name_of
from reports.figures.drawing import Drawn
from reports.figures.labels import beside
from reports.style import FAINT, INK, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("mass", "attention on the image", 100, "% of the last token's attention"),
    ("entropy", "spread over the image", 1, "entropy, 1 = even"),
    ("evidence_top", "evidence found", 100, "% of the evidence in the top tenth"),
)


def layers(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw layer by layer the unpruned model's attention mass on the image, its entropy, and the evidence that it finds."""
    none = stratum.none
    tables = (none or {}).get("layers") or {}
    panels = [panel for panel in PANELS if tables.get(panel[0])]
    if not panels:
        return None
    from matplotlib.figure import Figure

    kept = {
        name_of(c): c for c in stratum.at(min(stratum.budgets))
        if any((c.get("layers") or {}).get("recall") or []) and not imitated(name_of(c)) and name_of(c) in look
    } if stratum.budgets else {}  # fmt: skip
    names = len(kept)
    below = 0.55 + max(2.3, 0.155 * names) if kept else 0.0
    width, height = 8.6, 2.75 + below
    drawing = Figure(figsize=(width, height))
    span = (width - 0.1) / len(panels)
    for place, (name, title, scale, unit) in enumerate(panels):
        panel = drawing.add_axes(((0.62 + place * span) / width, (below + 0.5) / height, (span - 0.78) / width, 1.9 / height))
        _line(panel, tables[name], scale, INK)
        if name == "evidence_top":
            panel.axhline(10, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            panel.annotate("chance", (0, 10), xytext=(2, 3), textcoords="offset points", fontsize=8, color=FAINT)
        _frame(panel, title, unit)
        panel.set_ylim(0, max(panel.get_ylim()[1], 0.1 * scale))
    if kept:
        lower = drawing.add_axes((0.62 / width, 0.5 / height, (width - 2.7) / width, (below - 0.85) / height))
        _left(lower, kept, look)
        _frame(lower, f"evidence still there at {min(stratum.budgets).phrase}", "% of the evidence")
    found = tables.get("evidence_top")
    known = [(layer, one["value"]) for layer, one in enumerate(found or []) if one is not None]
    said = ""
    if known:
        best, most = max(known, key=lambda item: item[1])
        said = f" The most, {100 * most:.0f} %, stands there in layer {best}; which layer is ahead was not tested."
    return Drawn(
        drawing,
        "Layer by layer: where the model looks, and what is left to see",
        "Black: the unpruned model's last instruction token, mean over heads; what a ranking by attention at that layer would "
        "see. Entropy is that of its attention over the image, divided by the log of the number of tokens. "
        + (f"The top tenth would hold 10 % of the evidence by chance.{said} " if found else "")
        + ("Coloured: the share of the evidence still present in each layer under each method. " if kept else "")
        + "Bands: 95 % intervals over the analysed images.",
    )


def _left(axes: Axes, kept: dict[str, Cell], look: dict[str, Look]) -> None:
    """Draw the share of the evidence in each layer under each method, with names beside the ends."""
    ends: list[tuple[str, float, Look]] = []
    last = []  # layers, method by method
    for name, cell in kept.items():
        own = look[name]
        known = [(i, 100 * f["value"]) for i, f in enumerate(cell["layers"]["recall"]) if f is not None]
        places, shown = zip(*known)
        axes.plot(places, shown, color=own.colour, marker=own.marker, linestyle=own.line, markersize=4, linewidth=1.3,
                  markerfacecolor=own.face)  # fmt: skip
        ends.append((name, shown[-1], own))
        last.append(places[-1])
    axes.set_ylim(0, 104)
    axes.margins(x=0.02)
    beside(axes, ends, last[0])


def _line(axes: Axes, column: list[dict[str, Any] | None], scale: float, colour: str) -> None:
    """Draw one figure of the unpruned model in every layer, with its interval as a band."""
    known = [(i, f) for i, f in enumerate(column) if f is not None]
    places = [i for i, _ in known]

    def pick(key: str) -> list[float]:
        return [scale * (f[key] if f.get(key) is not None else f["value"]) for _, f in known]

    axes.fill_between(places, pick("lo"), pick("hi"), color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, pick("value"), color=colour, marker="o", markersize=4, linewidth=1.4)


def _frame(axes: Axes, title: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel("LLM layer")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
