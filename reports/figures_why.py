"""Figures about why: what lost evidence cost, where the model looks layer by layer, what a pull to rows explains."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from reports.cells import Stratum, dig, imitated, interval, number
from reports.cells import method as name_of
from reports.figures import bars, canvas, key_of, legend, mark, room
from reports.style import FAINT, INK, Look
from reports.svg import label
from reports.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def swap(stratum: Stratum, look: dict[str, Look]):
    """Per pruner and budget: accuracy lost to none, and how much of it comes back with the evidence forced in."""
    rows = [c for c in stratum.pruned if number(c, "evidence.swap_gain") is not None]
    if not rows:
        return None
    drawing, axes = canvas(7.6 + room(map(name_of, rows), 18), 1.3 + 0.3 * len(rows))
    axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
    for row, cell in enumerate(rows):
        lost, gained = interval(cell, "evidence.swap_loss"), interval(cell, "evidence.swap_gain")
        own = look[name_of(cell)]
        if lost is not None:
            axes.barh(row, 100 * lost.value, height=0.62, color="#e3e6ea", edgecolor=FAINT, linewidth=0.8, zorder=1)
        axes.barh(row, 100 * gained.value, height=0.34, color=own.colour, zorder=2)
        axes.errorbar(100 * gained.value, row, xerr=bars(cell, "evidence.swap_gain", 100), color=INK, elinewidth=1, zorder=3)
        share = interval(cell, "evidence.swap_share")
        if share is not None:
            edge = 100 * max(gained.hi, lost.value if lost else 0.0)
            text = f"{percent(share.value, 0)} % [{percent(share.lo, 0)} to {percent(share.hi, 0)}]"
            axes.annotate(text, (edge, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), [f"{label(name_of(c))}  {c['keep']}" for c in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("percentage points")
    axes.margins(x=0.2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    return (
        drawing,
        "Where the loss comes from: evidence swap",
        "Questions whose evidence is known, on the analysed images. Pale bars: accuracy lost to the unpruned model. Coloured "
        "bars: accuracy that comes back when the tokens that hold the answer are forced into the method's own kept set and as "
        "many random kept tokens leave, at the same K; whiskers are 95 % intervals. The number is the part of the loss that it "
        "gives back: a cause, not an association. Above 100 % the swapped set beats all tokens, since distractors left; no "
        "number stands where the loss itself cannot be told from none.",
    )


PANELS = (
    ("mass", "attention on the image", 100, "% of the last token's attention"),
    ("entropy", "spread over the image", 1, "entropy, 1 = even"),
    ("evidence_top", "evidence found", 100, "% of the evidence in the top tenth"),
)


def layers(stratum: Stratum, look: dict[str, Look]):
    """Layer by layer in the unpruned model: attention mass on the image, its entropy, and the evidence that it finds."""
    none = stratum.none
    tables = (none or {}).get("layers") or {}
    panels = [panel for panel in PANELS if tables.get(panel[0])]
    if not panels:
        return None
    kept = {
        name_of(c): c for c in stratum.at(min(stratum.budgets))
        if (c.get("layers") or {}).get("recall") and not imitated(name_of(c)) and name_of(c) in look
    } if stratum.budgets else {}  # fmt: skip
    wide, shares = room(kept, 20) if kept else 0.0, [1.0] * len(panels) + [1.5] * bool(kept)
    drawing, axes = canvas(9.6 + wide, 2.9, ncols=len(shares), width_ratios=shares)
    axes = [axes] if not hasattr(axes, "__len__") else list(axes)
    for panel, (name, title, scale, unit) in zip(axes, panels, strict=False):
        _line(panel, tables[name], scale, INK)
        if name == "evidence_top":
            panel.axhline(10, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            panel.annotate("chance", (0, 10), xytext=(2, 3), textcoords="offset points", fontsize=8, color=FAINT)
        _frame(panel, title, unit)
        panel.set_ylim(0, max(panel.get_ylim()[1], 0.1 * scale))
    if kept:
        for name, cell in kept.items():
            own = look[name]
            values = [None if f is None else 100 * f["value"] for f in cell["layers"]["recall"]]
            places = [i for i, v in enumerate(values) if v is not None]
            shown = [values[i] for i in places]
            axes[-1].plot(places, shown, color=own.colour, marker=own.marker, linestyle=own.line, markersize=4, linewidth=1.3,
                          markerfacecolor=own.face)  # fmt: skip
        _frame(axes[-1], f"evidence still there at {min(stratum.budgets)}", "% of the evidence")
        axes[-1].set_ylim(0, 104)
        legend(drawing, [key_of(look[n], n) for n in kept], "method")
    found = tables.get("evidence_top")
    best = max(range(len(found)), key=lambda i: -1 if found[i] is None else found[i]["value"]) if found else None
    said = ""
    if best is not None and found[best] is not None:
        most = 100 * found[best]["value"]
        said = f" It finds most of the evidence in layer {best}: {most:.0f} % of it stands in the top tenth there."
    return (
        drawing,
        "Layer by layer: where the model looks, and what is left to see",
        "Black: the unpruned model's last instruction token, mean over heads; what a ranking by attention at that layer would "
        "see. Entropy is that of its attention over the image, divided by the log of the number of tokens. The top tenth would "
        f"hold 10 % of the evidence by chance.{said} Coloured: the share of the evidence still present in each layer under each "
        "method. Bands: 95 % intervals over the analysed images.",
    )


def _line(axes, column: list, scale: float, colour: str) -> None:
    known = [(i, f) for i, f in enumerate(column) if f is not None]
    places = [i for i, _ in known]
    pick = lambda key: [scale * (f[key] if f.get(key) is not None else f["value"]) for _, f in known]
    axes.fill_between(places, pick("lo"), pick("hi"), color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, pick("value"), color=colour, marker="o", markersize=4, linewidth=1.4)


def _frame(axes, title: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel("LLM layer")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def rows(stratum: Stratum, look: dict[str, Look]):
    """Collapse beside its rival explanation: z of effective rank against all subsets, and against those of the same rows."""
    cells = [
        c for c in stratum.pruned
        if number(c, "bias.row_z.effective_rank") is not None and not imitated(name_of(c)) and name_of(c) in look
    ]  # fmt: skip
    if not cells:
        return None
    wide = 8.6 + room(map(name_of, cells), 14)
    drawing, both = canvas(wide, 1.4 + 0.27 * len(cells), ncols=2, sharey=True, width_ratios=(3, 2))
    left, right = cast("tuple[Axes, Axes]", both)
    left.axvline(0, color=INK, linewidth=1.1, zorder=1)
    right.axvline(50, color=INK, linewidth=1.1, zorder=1)
    for row, cell in enumerate(cells):
        own = look[name_of(cell)]
        free, matched = number(cell, "collapse.z.effective_rank"), number(cell, "bias.row_z.effective_rank")
        if free is not None:
            left.plot([free, matched], [row, row], color=FAINT, linewidth=1.2, zorder=1.5)
            mark(left, free, row, own, size=5, xerr=bars(cell, "collapse.z.effective_rank"))
        hollow = Look(own.colour, own.marker, own.line, hollow=True)
        mark(left, matched, row, hollow, size=5, xerr=bars(cell, "bias.row_z.effective_rank"))
        if dig(cell, "bias.lower_half") is not None:
            mark(right, 100 * number(cell, "bias.lower_half"), row, own, size=5, xerr=bars(cell, "bias.lower_half", 100))
    left.set_yticks(range(len(cells)), [f"{label(name_of(c))}  {c['keep']}" for c in cells])
    left.set_ylim(len(cells) - 0.4, -0.6)
    left.set_xlabel("z of effective rank")
    left.set_title("against chance (filled), and with the same rows (hollow)")
    right.set_xlabel("% of the kept tokens")
    right.set_title("in the lower half of the image")
    for axes in both:
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.1)
    return (
        drawing,
        "Collapse, or only a pull to some rows?",
        "Filled: how far the kept tokens' effective rank is from random subsets of the same size on the same image, in standard "
        "deviations. Hollow: the same against random subsets with exactly as many tokens in every row of the image as the method "
        "kept. If a pull to the bottom explained the lack of diversity, the hollow mark would stand at 0. Right: half is no pull "
        "up or down. One kept set an image; 95 % intervals.",
    )
