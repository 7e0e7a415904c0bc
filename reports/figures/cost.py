"""The leading figure for what it costs: tokens, FLOPs, the wait; where that is spent, and how much of the promise came true."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from methods.keep import Keep
from metrics.paired_ratio import KNOWN
from metrics.pareto import front as pareto_front
from reports.cells import (
    Cell,
    Stratum,
    dig,
    imitated,
    interval,
    keep,
    known_interval,
    known_leading,
    known_number,
    leading,
    number,
    role,
)
from reports.cells import method as name_of
from reports.figures.drawing import Drawn, arms, bare_rows, bars, best_first, by_method, fixed, join, legend, mark, panels, room
from reports.figures.labels import SIZE, Name, Point, Segment, place
from reports.leading import Unit, unit_of
from reports.style import FAINT, INK, Look
from reports.svg import label
from reports.timing import WIDE, is_wide
from reports.wording import flops_unit, milliseconds, points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Stages differ in lightness and hatching, not in hue alone.
STAGES = (("preprocess", "#6b6f76", "\\\\\\\\"), ("vision", "#023858", None), ("projector", "#f0c94d", "////"),
          ("layout", "#009e73", "xxxx"), ("selection", "#d55e00", None), ("prefill", "#56b4e9", None),
          ("decode", "#d9dde3", "...."))  # fmt: skip
_MANY = 10  # methods; beyond, controls are left out and lines are thin
_READ = "A line joins a method's budgets, larger marks hold more tokens. Bars: 95 % intervals, of {figure} over images. "
_FRONT = (
    "Stepped line: the Pareto front, on which no other cell, references included and oracle left out, is both cheaper and "
    "{higher}: read off the figures, no test. "
)
_OFTEN = "How often a cell stays on it when the images are drawn again stands in the table. "


def accuracy_by_tokens(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw the figure that leads against the visual tokens that the LLM's layers hold on average."""
    return _by_cost(
        stratum, look, "tokens.average", "visual tokens, mean over LLM layers (log scale)", "{Figure} against average tokens",
        "Visual tokens present in the LLM, averaged over its layers: what the budgets of this run equalise. ", log=True,
    )  # fmt: skip


def accuracy_by_final(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw the figure that leads against the visual tokens of the last LLM layer."""
    same = all(number(c, "tokens.final") == number(c, "tokens.average") for c in stratum.pruned)
    if same:  # nothing leaves inside the LLM, so the figure above shows it
        return None
    return _by_cost(
        stratum, look, "tokens.final", "visual tokens in the last LLM layer (log scale)", "{Figure} against final tokens",
        "Visual tokens left in the last LLM layer. A method that prunes inside the LLM holds more before, so few final tokens "
        "are not few tokens. ", log=True,
    )  # fmt: skip


def accuracy_by_flops(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw the figure that leads against FLOPs from tower to first token."""
    totals = [v for c in stratum.pruned if (v := number(c, "flops.total")) is not None]
    divisor, unit = flops_unit(totals)
    return _by_cost(
        stratum, look, "flops.total", f"{unit}, tower to first token", "{Figure} against FLOPs",
        "Tower, projector, selection and prefill, counted from the schedule (a multiply-add is 2). Equal budgets are not equal "
        "FLOPs where a method acts inside the tower or its selection is dear. ", divisor=divisor, front="flops",
    )  # fmt: skip


def accuracy_by_ttft(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw the figure that leads against the measured time to the first token, as a share of the unpruned model's."""
    whole = number(stratum.none, "latency.ttft") if stratum.none else None
    took = "" if whole is None else f" ({milliseconds(whole)} ms)"
    wide = sum(map(is_wide, stratum.pruned))
    many = f"{wide} cells are" if wide > 1 else "One cell is"
    said = f"{many} {WIDE}, known less closely than to {100 * KNOWN:g} %: read the bars. " if wide else ""
    kinds = {kind for c in stratum.cells if (kind := dig(c, "latency.in_one_piece")) is not None}
    summed, whole_piece = "the sum of its stages (tower, projector, selection, prefill)", "in one piece, from pixels to the token"
    what = f"of some cells {summed}, of others {whole_piece}" if len(kinds) > 1 else summed if False in kinds else whole_piece
    return _by_cost(
        replace(stratum, cells=tuple(map(_relative, stratum.cells))), look, "latency.relative",
        f"time to first token, % of the unpruned model's{took}", "{Figure} against measured time to first token",
        f"Time to first token, {what}, over the unpruned model's in the same rounds, in which cells took turns in shuffled "
        f"order: 1 over the speed-up of the table. Right of 100 % nothing is saved. {said}", divisor=0.01, front="latency",
    )  # fmt: skip


def _relative(cell: Cell) -> Cell:
    """A cell that holds its time to first token as a share of the unpruned model's, with the interval of its speed-up."""
    found = interval(cell, "latency.ratio")
    if found is None or min(found.value, found.lo) <= 0:
        return cell
    ends = {"lo": 1 / found.hi, "hi": 1 / found.lo} if found.known else {"lo": None, "hi": None}
    return cell | {"latency": cell["latency"] | {"relative": {"value": 1 / found.value, **ends}}}


def accuracy_by_evidence(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw the figure that leads against the share of the evidence that is still there."""
    return _by_cost(
        stratum, look, "evidence.recall", "evidence recall, % of the tokens that hold the answer",
        "Evidence kept against {figure}",
        "Recall is over questions whose evidence is known, {figure} over all. An association: a method that keeps evidence and "
        "still fails loses something else, one that drops it and succeeds answers from context. ", divisor=0.01, front=None,
    )  # fmt: skip


def _by_cost(
    stratum: Stratum, look: dict[str, Look], path: str, axis: str, title: str, caption: str, divisor: float = 1.0,
    log: bool = False, front: str | None = "",
) -> Drawn | None:  # fmt: skip
    """Draw the figure that leads against what it costs, with names beside the points and the front as steps.

    Args:
        title: in which, as in the caption, the name of the figure stands for {figure}.
        caption: its first sentences.
        front: under which the summary holds the front; empty where it is reckoned here from the points; None for none.
    """
    found, unit = best_first(by_method(stratum, path)), unit_of(*stratum.cells)
    found = {n: kept for n, cells in found.items() if (kept := [c for c in cells if not log or known_number(c, path) > 0])}
    many = sum(not imitated(n) for n in found) > _MANY
    shown = {n: cells for n, cells in found.items() if not (many and imitated(n))}
    if not shown:
        return None
    drawing, axes = fixed(8.6, 4.9, 0.62 if unit.scale <= 100 else 0.74, 0.2)
    wider = 2.6 / max(1, len(stratum.budgets) - 1)
    sizes: dict[Keep | None, float] = {k: 4.2 + wider * i for i, k in enumerate(reversed(stratum.budgets))}
    for name, cells in shown.items():
        cells = sorted(cells, key=lambda c: known_number(c, path))
        points = [_point(c, path, divisor) for c in cells]
        thin = Look(look[name].colour, look[name].marker, look[name].line, hollow=many or look[name].hollow)
        join(axes, [x for x, _ in points], [y for _, y in points], thin)
        for (x, y), cell in zip(points, cells, strict=True):
            mark(axes, x, y, look[name], size=sizes.get(keep(cell), 5.0), alpha=0.9,
                 xerr=bars(cell, path, 1 / divisor), yerr=arms(known_leading(cell), unit.scale))  # fmt: skip
    if log:
        _tokens_axis(axes, stratum)
    below = _references(axes, stratum, unit, path, divisor, shown)
    if front is not None:
        _steps(axes, stratum, found, path, divisor, front)
    if not log:
        axes.set_xlim(left=-0.02 * axes.get_xlim()[1])
    axes.set_xlim(right=_wider(axes, log))
    axes.set_xlabel(axis)
    axes.set_ylabel(unit.axis)
    best = {id(c) for c in stratum.cells if front and dig(c, f"pareto.{front}.on")}
    names = [
        Name(n, [_point(c, path, divisor) for c in cells], look[n])
        for n, cells in shown.items() if not imitated(n)
    ]  # fmt: skip
    names.sort(key=lambda name: not any(id(c) in best for c in shown[name.text]))
    others = [_point(c, path, divisor) for n, cells in shown.items() if imitated(n) for c in cells]
    gone = place(axes, names, others, _lines(shown, path, divisor))
    words = {"figure": unit.name, "Figure": unit.title, "higher": "more accurate" if unit.plain else f"higher in {unit.name}"}
    said = caption + _READ
    if front is not None:
        said += _FRONT + (_OFTEN if front else "")
    said = said.format(**words)
    if any(imitated(n) for n in shown):
        said += "Hollow marks, dotted lines: random tokens; in a method's colour and shape, on that method's schedule. "
    elif many and any(imitated(n) for n in found):
        said += "Random tokens on each method's schedule are left out here. "
    if gone:
        said += f"No room for the names of {', '.join(gone)}. "
    said += below
    return Drawn(drawing, title.format(**words), said.strip())


def _point(cell: Cell, path: str, divisor: float) -> Point:
    """Where a cell stands: its cost, and the figure that leads in its own unit."""
    return known_number(cell, path) / divisor, unit_of(cell).scale * known_leading(cell).value


def _lines(shown: dict[str, list[Cell]], path: str, divisor: float) -> list[Segment]:
    """Return the lines that are drawn between a method's points, and the bars across each point."""
    found: list[Segment] = []
    for cells in shown.values():
        ordered = sorted(cells, key=lambda c: known_number(c, path))
        points = [_point(c, path, divisor) for c in ordered]
        found += pairwise(points)
        for (x, y), cell in zip(points, ordered, strict=True):
            wide, high, scale = known_interval(cell, path), known_leading(cell), unit_of(cell).scale
            found += [((wide.lo / divisor, y), (wide.hi / divisor, y)), ((x, scale * high.lo), (x, scale * high.hi))]
    return found


def _tokens_axis(axes: Axes, stratum: Stratum) -> None:
    """Make the axis of tokens logarithmic, with a tick at every budget that is a count."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    counts = [int(k.value) for k in stratum.budgets if not k.share]
    axes.xaxis.set_major_locator(FixedLocator(sorted({*counts, *(2**i for i in range(3, 13))} - _near(counts))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")


def _near(budgets: list[int]) -> set[int]:
    """Powers of two too near to a budget to be written beside it."""
    return {2**i for i in range(3, 13) if any(0.75 < 2**i / k < 1.34 and 2**i != k for k in budgets)}


def _wider(axes: Axes, log: bool) -> float:
    """Return a right limit that leaves room for names."""
    lo, hi = axes.get_xlim()
    return hi * (hi / lo) ** 0.08 if log else hi + 0.06 * (hi - lo)


def _references(
    axes: Axes, stratum: Stratum, unit: Unit, path: str, divisor: float, shown: dict[str, list[Cell]]
) -> str:  # fmt: skip
    """Draw the unpruned and the blind model as lines, and return what the caption says where the blind one is far below."""
    cells = [c for found in shown.values() for c in found]
    lowest = min(known_leading(c).lo for c in cells)
    highest = max(known_leading(c).hi for c in cells)
    none, blind = (leading(c) if c else None for c in (stratum.none, stratum.blind))
    far = blind is not None and blind.hi < lowest - 0.1
    if blind is not None and not far:
        lowest, highest = min(lowest, blind.lo), max(highest, blind.hi)
    if none is not None:
        highest = max(highest, none.hi)
    pad, scale = 0.06 * (highest - lowest) + 0.01, unit.scale
    axes.set_ylim(scale * (lowest - pad), scale * min(highest + 1.6 * pad, 1.02))
    drawn = ((none, "none (unpruned)", "-", 0), (None if far else blind, "blind (no image)", (0, (5, 3)), 1))
    for at, text, line, side in drawn:
        if at is None:
            continue
        axes.axhspan(scale * at.lo, scale * at.hi, color=INK, alpha=0.07, linewidth=0, zorder=0)
        axes.axhline(scale * at.value, color=INK, linestyle=line, linewidth=1.0, zorder=1)
        axes.annotate(text, (side, scale * at.value), xycoords=("axes fraction", "data"), xytext=(4 - 8 * side, 2), va="bottom",
                      textcoords="offset points", fontsize=SIZE, color=INK, ha=("left", "right")[side])  # fmt: skip
    whole = stratum.none
    if whole is not None and none is not None and number(whole, path) is not None:
        mark(axes, known_number(whole, path) / divisor, scale * none.value, Look(INK, "H", "-"), size=7,
             xerr=bars(whole, path, 1 / divisor), yerr=arms(none, unit.scale))  # fmt: skip
    return f"Without any image: {unit.value(blind.value)}, below what is drawn." if blind is not None and far else ""


def _steps(axes: Axes, stratum: Stratum, found: dict[str, list[Cell]], path: str, divisor: float, front: str) -> None:
    """Draw the Pareto front as steps: the one in the summary, or of token counts that of the points themselves."""
    if front:
        on = [c for c in stratum.cells if dig(c, f"pareto.{front}.on") and number(c, path) is not None]
    else:
        cells = [c for cells in found.values() for c in cells if role(c) != "bound"]
        cells += [stratum.none] if stratum.none and number(stratum.none, path) is not None else []
        heights, cost = np.array([known_leading(c).value for c in cells]), np.array([known_number(c, path) for c in cells])
        on = [c for c, is_on in zip(cells, pareto_front(heights, cost), strict=True) if is_on]
    if len(on) > 1:
        xs, ys = zip(*sorted(_point(c, path, divisor) for c in on), strict=True)
        axes.step(xs, ys, where="post", color=INK, linewidth=2.4, alpha=0.28, zorder=1.6, solid_capstyle="round")


def stages(stratum: Stratum, look: dict[str, Look]) -> Drawn | None:
    """Draw latency by stage as stacked bars, and beside each the prefill speed-up promised by FLOPs and the one measured."""
    if not stratum.budgets:
        return None
    k = min(stratum.budgets)
    rows = [c for c in ([stratum.none] if stratum.none else []) + stratum.at(k) if number(c, "latency.prefill") is not None]
    if not rows:
        return None
    drawing, (left, right) = panels(8.4 + room(map(name_of, rows), 18), 1.6 + 0.27 * len(rows), (3, 2))
    for row, cell in enumerate(rows):
        start = 0.0
        for stage, colour, hatch in STAGES:
            width = number(cell, f"latency.{stage}") or 0.0
            left.barh(row, width, left=start, height=0.68, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6)
            start += width
        _speed_up(right, row, stratum.none, cell)
    left.set_yticks(range(len(rows)), [label(name_of(c)) for c in rows])
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set_xlabel("median, ms")
    left.set_title("time by stage")
    right.axvline(1, color=INK, linewidth=1.1, zorder=1)
    right.margins(x=0.2)
    right.set_xlim(0, right.get_xlim()[1])
    _gain_bars(right, rows, stratum.none)
    right.set_xlabel("prefill speed-up over none, ×")
    right.set_title("promised and measured")
    bare_rows(left, right)
    legend(drawing, _stage_keys(rows), "")
    return Drawn(
        drawing,
        f"Where the time goes at {k} tokens",
        f"Left: median time of each stage, in rounds of their own; decode is one token.{_stages_told(rows)} Right: how much "
        "faster prefill should be by its FLOPs (hollow) and how much faster it was (filled), the median over the rounds of the "
        "pairs with none, with its 95 % interval where that fits; the number is measured over promised. Selection is timed as a "
        "stage of its own, so a slow ranking is seen even where prefill is fast.",
    )


def _stages_told(rows: list[Cell]) -> str:
    """What preprocess and layout are, and how far the stages' sum lies from time to first token; nothing of runs without them."""
    gaps = [gap for c in rows if (gap := number(c, "latency.sum_gap")) is not None]
    if not gaps:
        return ""
    return (
        " Preprocess is all work on pixels and text before the tower, layout the order and embedding of the prompt. The sum of "
        f"all but decode lies {points(min(gaps))} to {points(max(gaps))} % from time to first token in one piece."
    )


def _gain_bars(axes: Axes, rows: list[Cell], none: Cell | None) -> None:
    """Draw the intervals of measured prefill speed-ups, cut off at the edge of the plot: of three rounds they may be wide."""
    for row, cell in enumerate(rows):
        promised, gain = _promised(none, cell), interval(cell, "latency.realised_gain")
        if cell is not none and promised and gain is not None and gain.known:
            axes.plot([promised * gain.lo, promised * gain.hi], [row, row], color="#0173b2", linewidth=0.9, alpha=0.55,
                      zorder=2, scalex=False)  # fmt: skip


def _promised(none: Cell | None, cell: Cell) -> float | None:
    """The prefill speed-up over the unpruned model that FLOPs promise."""
    before, after = (number(none, "flops.llm_prefill") if none else None), number(cell, "flops.llm_prefill")
    return before / after if before and after else None


def _speed_up(axes: Axes, row: int, none: Cell | None, cell: Cell) -> None:
    """Dumbbell: promised and measured prefill speed-up of one cell, joined by a line."""
    if cell is none:
        return
    promised, gain = _promised(none, cell), number(cell, "latency.realised_gain")
    took = promised * gain if promised and gain else None
    if promised and took:
        axes.plot([promised, took], [row, row], color=FAINT, linewidth=1.2, zorder=1.5)
    for ratio, face in ((promised, "white"), (took, "#0173b2")):
        if ratio:
            axes.plot(ratio, row, "o", markersize=6, markerfacecolor=face, markeredgecolor="#0173b2", zorder=3)
    if promised and took:
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}  # over the interval's line
        axes.annotate(f"{gain:.2f}", (max(promised, took), row), xytext=(8, 0), textcoords="offset points",
                      va="center", fontsize=8.5, color=INK, bbox=paper)  # fmt: skip


def _stage_keys(rows: list[Cell]) -> list[Artist]:
    """Keys of the stages that were timed: runs of older versions lack some."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: list[Artist] = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label="decode, 1 token" if stage == "decode" else stage)
        for stage, colour, hatch in STAGES
        if any(number(cell, f"latency.{stage}") is not None for cell in rows)
    ]
    for face, text in (("white", "promised by FLOPs"), ("#0173b2", "measured")):
        keys.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor=face, markeredgecolor="#0173b2", label=text))
    return keys
