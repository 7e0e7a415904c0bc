"""Figures about why: what lost evidence cost, and what a pull to rows explains."""

from __future__ import annotations

from reports.cells import Cell, Stratum, dig, imitated, interval, keep, known_interval, known_number, number, shown
from reports.cells import method as name_of
from reports.figures.drawing import Drawn, bare_rows, bars, canvas, mark, panels, room
from reports.style import FAINT, INK, Look
from reports.svg import label
from reports.wording import percent, percent_range

_MOST = 30  # rows; beyond, the smallest budget alone is drawn


def _fitting(stratum: Stratum, cells: list[Cell]) -> tuple[list[Cell], str]:
    """Return the cells to draw, and what the caption says of those left out."""
    if len(cells) <= _MOST:
        return cells, ""
    least = min(stratum.budgets)
    return [c for c in cells if keep(c) == least], f" At {least.phrase}; other budgets stand in the table."


def swap(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw by method and budget the accuracy lost to none, and how much of it comes back with the evidence forced in."""
    rows = [c for c in stratum.pruned if number(c, "evidence.swap_gain") is not None]
    rows, left_out = _fitting(stratum, rows)
    if not rows:
        return None
    drawing, axes = canvas(7.6 + room(map(name_of, rows), 18), 1.3 + 0.3 * len(rows))
    axes.axvline(0, color=INK, linewidth=1.1, zorder=1)
    for row, cell in enumerate(rows):
        lost, gained = interval(cell, "evidence.swap_loss"), known_interval(cell, "evidence.swap_gain")
        own = look[name_of(cell)]
        if lost is not None:
            axes.barh(row, 100 * lost.value, height=0.62, color="#e3e6ea", edgecolor=FAINT, linewidth=0.8, zorder=1)
        axes.barh(row, 100 * gained.value, height=0.34, color=own.colour, zorder=2)
        axes.errorbar(100 * gained.value, row, xerr=bars(cell, "evidence.swap_gain", 100), color=INK, elinewidth=1, zorder=3)
        share = interval(cell, "evidence.swap_share")
        if share is not None:
            edge = 100 * max(gained.hi, lost.value if lost else 0.0)
            text = f"{percent(share.value, 0)} % [{percent_range(share, 0)}]"
            axes.annotate(text, (edge, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(rows)), [f"{label(name_of(c))}  {shown(c)}" for c in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("percentage points")
    axes.margins(x=0.2)
    bare_rows(axes)
    return Drawn(
        drawing,
        "Where the loss comes from: evidence swap",
        "Questions whose evidence is known, on the analysed images. Pale bars: accuracy lost to the unpruned model. Coloured "
        "bars: accuracy that comes back when the tokens that hold the answer are forced into the method's own kept set and as "
        "many random kept tokens leave, at the same K; whiskers are 95 % intervals. The number is the part of the loss that it "
        "gives back: a cause, not an association. Above 100 % the swapped set beats all tokens, since distractors left; no "
        f"number stands where the loss itself cannot be told from none.{left_out}",
    )


def rows(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw collapse beside its rival explanation: z of effective rank against all subsets, and those of the same rows."""
    cells = [
        c for c in stratum.pruned
        if number(c, "bias.row_z.effective_rank") is not None and not imitated(name_of(c)) and name_of(c) in look
    ]  # fmt: skip
    cells, left_out = _fitting(stratum, cells)
    if not cells:
        return None
    wide = 8.6 + room(map(name_of, cells), 14)
    drawing, (left, right) = panels(wide, 1.4 + 0.27 * len(cells), (3, 2))
    left.axvline(0, color=INK, linewidth=1.1, zorder=1)
    right.axvline(50, color=INK, linewidth=1.1, zorder=1)
    for row, cell in enumerate(cells):
        own = look[name_of(cell)]
        free, matched = number(cell, "collapse.z.effective_rank"), known_number(cell, "bias.row_z.effective_rank")
        if free is not None:
            left.plot([free, matched], [row, row], color=FAINT, linewidth=1.2, zorder=1.5)
            mark(left, free, row, own, size=5, xerr=bars(cell, "collapse.z.effective_rank"))
        hollow = Look(own.colour, own.marker, own.line, hollow=True)
        mark(left, matched, row, hollow, size=5, xerr=bars(cell, "bias.row_z.effective_rank"))
        if dig(cell, "bias.lower_half") is not None:
            mark(right, 100 * known_number(cell, "bias.lower_half"), row, own, size=5, xerr=bars(cell, "bias.lower_half", 100))
    left.set_yticks(range(len(cells)), [f"{label(name_of(c))}  {shown(c)}" for c in cells])
    left.set_ylim(len(cells) - 0.4, -0.6)
    left.set_xlabel("z of effective rank")
    left.set_title("against chance (filled), and with the same rows (hollow)")
    right.set_xlabel("% of the kept tokens")
    right.set_title("in the lower half of the image")
    bare_rows(left, right)
    left.margins(x=0.1)
    right.margins(x=0.1)
    return Drawn(
        drawing,
        "Collapse, or only a pull to some rows?",
        "Filled: how far the kept tokens' effective rank is from random subsets of the same size on the same image, in standard "
        "deviations. Hollow: the same against random subsets with exactly as many tokens in every row of the image as the method "
        "kept. If a pull to the bottom explained the lack of diversity, the hollow mark would stand at 0. Right: half is no pull "
        f"up or down. One kept set an image; 95 % intervals.{left_out}",
    )
