"""How methods look in every figure: one colour, marker and line each, told apart without colour too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reports.cells import imitated

LineStyle = Literal["-"] | tuple[float, Sequence[float]]
"""A solid line, or an offset and the lengths of dashes and gaps in line widths, as matplotlib takes them."""

INK, FAINT = "#1f2430", "#5b6270"
COLOURS = ("#0173b2", "#d55e00", "#029e73", "#a6559d", "#a8670f", "#56b4e9", "#de8f05", "#6b6b00")  # seaborn colorblind
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")
LINES: tuple[LineStyle, ...] = ("-", (0, (6, 1.5)), (0, (3, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (2, 1)))
RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "prunescope",
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Look:
    """The colour, marker and line with which a method is drawn."""

    colour: str
    marker: str
    line: LineStyle
    hollow: bool = False  # random controls: the colour of what they imitate, but empty

    @property
    def face(self) -> str:
        """The colour inside the marker."""
        return "white" if self.hollow else self.colour


def looks(methods: list[str]) -> dict[str, Look]:
    """Return the look of every method of a run, the same in all its figures.

    Args:
        methods: canonical names, as `Stratum.methods` orders them.
    """
    found: dict[str, Look] = {}
    i = 0
    for name in methods:
        base = name.split("[", 1)[0]
        if name == "random":
            found[name] = Look("#6f7680", "o", (0, (1, 1.5)), hollow=True)
        elif base == "downsample":
            found[name] = Look("#3a3f4a", "d", (0, (4, 2, 1, 2)))
        elif base == "oracle":
            found[name] = Look("#111111", "*", (0, (1, 1)))
        elif (like := imitated(name)) is not None and like in found:
            found[name] = Look(found[like].colour, found[like].marker, (0, (1, 1.5)), hollow=True)
        else:
            found[name] = Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
            i += 1
    return found
