"""Names written beside their points, so that a figure needs no legend: placed one by one where nothing is in the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reports.style import FAINT, INK, Look
from reports.svg import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 8.2  # points
_WIDE, _HIGH = 0.56 * SIZE, 1.25 * SIZE  # of a letter and of a line, in points; a little more than what is drawn
_MARKER = 4.5  # half of a marker, in points
# (right, up) in points from the point to the near edge of its name, and how the name hangs there
_NEAR = ((8, 0, "left"), (-8, 0, "right"), (0, 10, "center"), (0, -10, "center"),
         (6, 9, "left"), (6, -9, "left"), (-6, 9, "right"), (-6, -9, "right"))  # fmt: skip
_SPOTS = (*_NEAR, *((2.4 * x, 2.2 * y, side) for x, y, side in _NEAR),
          *((4 * x, 4 * y, side) for x, y, side in _NEAR))  # fmt: skip


Point = tuple[float, float]
Segment = tuple[Point, Point]
Spot = tuple[float, float, str]  # as in `_SPOTS`
Box = tuple[float, float, float, float]  # left, lower, right and upper edge, in points


@dataclass(frozen=True)
class Name:
    """A name and the points at any one of which it may stand, the best first; in the units of the axes."""

    text: str
    points: Sequence[Point]
    look: Look


def place(axes: Axes, names: Sequence[Name], others: Sequence[Point] = (), lines: Sequence[Segment] = ()) -> list[str]:
    """Write names beside their points, in their order, where they cover neither points nor names, and little of lines.

    The limits and the place of the axes must be final.

    Args:
        axes: with all points drawn.
        names: what to write.
        others: points without a name that may not be covered either.
        lines: pieces of lines, in the units of the axes, that are better not covered.

    Returns:
        The names for which there was no room.
    """
    to_points = 72.0 / axes.figure.dpi

    def at(point: Point) -> NDArray[np.float64]:
        return np.asarray(axes.transData.transform(point)) * to_points

    extent = axes.get_window_extent()
    frame = (extent.x0 * to_points, extent.y0 * to_points, extent.x1 * to_points, extent.y1 * to_points)
    every = [at(point) for name in names for point in name.points] + [at(point) for point in others]
    taken: list[Box] = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in every]
    pieces = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 4)) for a, b in ((at(p), at(q)) for p, q in lines)]
    ink = np.concatenate(pieces) if pieces else np.zeros((0, 2))
    left = []
    for name in names:
        text = label(name.text, 30)
        spot = _best(name, at, _WIDE * len(text), taken, ink, frame)
        if spot is None:
            left.append(name.text)
            continue
        point, (right, up, side), box = spot
        taken.append(box)
        arrow = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3,
                 "relpos": ({"left": 0.0, "right": 1.0, "center": 0.5}[side], 0.5)}  # fmt: skip
        axes.annotate(
            text, point, xytext=(right, up), textcoords="offset points", ha=side, va="center", fontsize=SIZE, color=INK,
            arrowprops=arrow if np.hypot(right, up) > 13 else None, zorder=5,
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip
    return left


def _best(
    name: Name,
    at: Callable[[Point], NDArray[np.float64]],
    width: float,
    taken: Sequence[Box],
    ink: NDArray[np.float64],
    frame: Box,
) -> tuple[Point, Spot, Box] | None:
    """Return the spot at which a name covers no point and no name, and as little of the lines as can be."""
    found: tuple[Point, Spot, Box] | None = None
    least = np.inf
    for rank, spot in enumerate(_SPOTS):
        right, up, side = spot
        for place, point in enumerate(name.points):
            x, y = at(point) + (right, up)
            start = x - {"left": 0.0, "right": width, "center": width / 2}[side]
            box = (start, y - _HIGH / 2, start + width, y + _HIGH / 2)
            inside = box[0] >= frame[0] and box[2] <= frame[2] and box[1] >= frame[1] and box[3] <= frame[3]
            if not inside or any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                continue
            covered = ((ink > box[:2]) & (ink < box[2:])).all(1).sum()
            cost = covered + 0.4 * rank + 0.5 * place
            if cost < least:
                found, least = (point, spot, box), cost
    return found


def spread(wanted: Sequence[float], apart: float, lo: float, hi: float) -> list[float]:
    """Return places on a line as near to the wanted ones as a least distance allows, in their order.

    >>> spread([0.5, 0.5, 0.9], 0.2, 0.0, 1.0)
    [0.4, 0.6, 0.9]
    """
    order = np.argsort(wanted, kind="stable")
    groups: list[list[float]] = []  # [sum of wanted starts, members]: neighbours that touch move as one
    for i, place in enumerate(order):
        groups.append([float(wanted[place]) - apart * i, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            last = groups.pop()
            groups[-1] = [groups[-1][0] + last[0], groups[-1][1] + last[1]]
    base = [total / count for total, count in groups for _ in range(int(count))]
    most = max(lo, hi - apart * (len(base) - 1))
    out = [0.0] * len(base)
    for i, place in enumerate(order):
        out[place] = round(min(max(base[i], lo), most) + apart * i, 9)
    return out


def beside(axes: Axes, ends: Sequence[tuple[str, float, Look]], x: float) -> None:
    """Write names at the right end of lines, one under another; the limits and the place of the axes must be final.

    Args:
        axes: whose right margin has room for the names.
        ends: name, y of its line's end, look.
        x: where the lines end.
    """
    height = axes.get_window_extent().height * 72.0 / axes.figure.dpi
    lo, hi = axes.get_ylim()
    apart = (hi - lo) * 1.18 * SIZE / height
    rows = spread([y for _, y, _ in ends], apart, lo, max(lo, hi - apart / 2))
    for (name, y, look), row in zip(ends, rows, strict=True):
        up = height * (row - y) / (hi - lo)
        axes.annotate(
            label(name, 30), (x, y), xytext=(20, up), textcoords="offset points", va="center", fontsize=SIZE, color=INK,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look.colour, "linewidth": 0.9, "shrinkA": 1, "shrinkB": 1,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
