"""Figures about time: accuracy for the wait, where the wait is spent, and how much of the promise came true."""

from __future__ import annotations

from reports.cells import Stratum, dig, number
from reports.cells import method as name_of
from reports.figures import accuracy_axes, bars, best_first, by_method, canvas, join, key_of, legend, mark, name_x, room
from reports.style import FAINT, INK, Look
from reports.svg import label
from reports.wording import flops_unit

# Stages differ in lightness and hatching, not in hue alone.
STAGES = (("vision", "#023858", None), ("projector", "#f0c94d", "////"), ("selection", "#d55e00", None),
          ("prefill", "#56b4e9", None), ("decode", "#d9dde3", "...."))  # fmt: skip


def accuracy_by_ttft(stratum: Stratum, look: dict[str, Look]):
    """Accuracy against the measured time to the first token."""
    found = best_first(by_method(stratum, "accuracy", "latency.ttft"))
    if not found:
        return None
    noisy = sum(bool(dig(c, "latency.noisy")) for cells in found.values() for c in cells)
    return (
        _by_cost(stratum, look, found, "latency.ttft", "latency", "time to first token, ms", 1.0),
        "Accuracy against measured time to first token",
        "TTFT is tower, projector, selection and prefill together: median of synchronised rounds in which all methods took turns "
        "in shuffled order, after warm-up. Bars: 95 % intervals. Up and left is better; a method right of the unpruned model "
        f"saves nothing. {_FRONT}" + (f" {noisy} of the cells timed noisily: see the table." if noisy else ""),
    )


def accuracy_by_flops(stratum: Stratum, look: dict[str, Look]):
    """Accuracy against FLOPs from tower to first token."""
    found = best_first(by_method(stratum, "accuracy", "flops.total"))
    if not found:
        return None
    divisor, unit = flops_unit([number(c, "flops.total") for cells in found.values() for c in cells])
    return (
        _by_cost(stratum, look, found, "flops.total", "flops", f"{unit}, tower to first token", divisor),
        "Accuracy against FLOPs",
        "Tower, projector, selection and prefill, counted from the schedule (a multiply-add is 2). Equal budgets are not equal "
        f"FLOPs where a method acts inside the tower or its selection is dear. Bars: 95 % intervals. {_FRONT}",
    )


_FRONT = (
    "The stepped line is the Pareto front: no other cell, references included and oracle left out, is both cheaper and more "
    "accurate. How often a cell stays on it when the images are drawn again stands in the table."
)


def _by_cost(stratum: Stratum, look: dict, found: dict, path: str, front: str, axis: str, divisor: float):
    drawing, axes, handles = accuracy_axes(stratum, found)
    for name, cells in found.items():
        cells = sorted(cells, key=lambda c: number(c, path))
        xs = [number(c, path) / divisor for c in cells]
        join(axes, xs, [100 * number(c, "accuracy") for c in cells], look[name])
        for x, cell in zip(xs, cells, strict=True):
            mark(axes, x, 100 * number(cell, "accuracy"), look[name],
                 xerr=bars(cell, path, 1 / divisor), yerr=bars(cell, "accuracy", 100))  # fmt: skip
    none = stratum.none
    if none is not None and number(none, path) is not None and number(none, "accuracy") is not None:
        unpruned = Look(INK, "H", "-")
        mark(axes, number(none, path) / divisor, 100 * number(none, "accuracy"), unpruned, size=7,
             xerr=bars(none, path, 1 / divisor), yerr=bars(none, "accuracy", 100))  # fmt: skip
        handles[0] = key_of(unpruned, "none (unpruned)")
    on = sorted((number(c, path) / divisor, 100 * number(c, "accuracy")) for c in stratum.cells if dig(c, f"pareto.{front}.on"))
    if len(on) > 1:
        xs, ys = zip(*on, strict=True)
        axes.step(xs, ys, where="post", color=INK, linewidth=2.4, alpha=0.28, zorder=1.6, solid_capstyle="round")
    axes.set_xlim(left=0)
    name_x(axes, axis)
    legend(
        drawing,
        handles + [key_of(look[n], n) for n in found],
        f"best first at {min(stratum.budgets)}" if stratum.budgets else "best first",
    )
    return drawing


def stages(stratum: Stratum, look: dict[str, Look]):
    """Stacked bars of latency by stage; beside each bar the prefill speed-up promised by FLOPs and the one measured."""
    if not stratum.budgets:
        return None
    k = min(stratum.budgets)
    rows = [c for c in ([stratum.none] if stratum.none else []) + stratum.at(k) if number(c, "latency.prefill") is not None]
    if not rows:
        return None
    drawing, (left, right) = canvas(
        8.4 + room(map(name_of, rows), 18), 1.6 + 0.27 * len(rows), ncols=2, sharey=True, width_ratios=(3, 2)
    )
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
    right.set_xlim(left=0)
    right.margins(x=0.2)
    right.set_xlabel("prefill speed-up over none, ×")
    right.set_title("promised and measured")
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    legend(drawing, _stage_keys(), "")
    return (
        drawing,
        f"Where the time goes at {k} tokens",
        "Left: median time of each stage; decode is one token. Right: how much faster prefill should be by its "
        "FLOPs (hollow) and "
        "how much faster it was (filled); the number is measured over promised. Selection is timed as a stage "
        "of its own, so a slow ranking is seen even where prefill is fast.",
    )


def _speed_up(axes, row: int, none: dict | None, cell: dict) -> None:
    """Dumbbell: promised and measured prefill speed-up of one cell, joined by a line."""
    ratios = []
    for path in ("flops.llm_prefill", "latency.prefill"):
        before, after = (number(none, path) if none else None), number(cell, path)
        ratios.append(before / after if before and after else None)
    promised, took = ratios
    if cell is none:
        return
    if promised and took:
        axes.plot([promised, took], [row, row], color=FAINT, linewidth=1.2, zorder=1.5)
    for ratio, face in ((promised, "white"), (took, "#0173b2")):
        if ratio:
            axes.plot(ratio, row, "o", markersize=6, markerfacecolor=face, markeredgecolor="#0173b2", zorder=3)
    if promised and took:
        axes.annotate(f"{took / promised:.2f}", (max(promised, took), row), xytext=(8, 0), textcoords="offset points",
                      va="center", fontsize=8.5, color=INK)  # fmt: skip


def _stage_keys() -> list:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", label="decode, 1 token" if stage == "decode" else stage)
        for stage, colour, hatch in STAGES
    ]
    for face, text in (("white", "promised by FLOPs"), ("#0173b2", "measured")):
        keys.append(Line2D([], [], linestyle="none", marker="o", markerfacecolor=face, markeredgecolor="#0173b2", label=text))
    return keys
