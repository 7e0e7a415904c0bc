"""Reading the cells of summary.json, in which every field may be null: values, the leading figure, roles, budgets and groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from methods.expressions import bare
from methods.keep import Keep

Cell = dict[str, Any]
"""One entry of ``cells`` in summary.json, as the JSON parser returns it; `number`, `interval` and `dig` read it safely."""

WHOLE = ("none", "blind")  # cells without a budget
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; where there is none, both bounds are the value itself."""

    value: float
    lo: float
    hi: float
    known: bool = True  # whether there is an interval: of one image there is none


def dig(cell: Cell, path: str) -> Any:
    """Return what stands at a dotted path of a cell, or None where any part of it is missing or null.

    >>> dig({"latency": None}, "latency.ttft.value") is None
    True
    >>> dig({"flops": {"total": 3.0}}, "flops.total")
    3.0
    """
    found: Any = cell
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def number(cell: Cell, path: str) -> float | None:
    """Return the finite number at a dotted path, or None; of a ``{value, lo, hi}`` return its value."""
    found = dig(cell, path)
    if isinstance(found, dict):
        found = found.get("value")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        return None
    return found


def interval(cell: Cell, path: str) -> Interval | None:
    """Return the figure at a dotted path with its 95 % interval, or None where its value is missing."""
    value = number(cell, path)
    if value is None:
        return None
    lo, hi = number(cell, f"{path}.lo"), number(cell, f"{path}.hi")
    if lo is None or hi is None:
        return Interval(value, value, value, known=False)
    return Interval(value, lo, hi)


def known_number(cell: Cell, path: str) -> float:
    """Return the number at a dotted path that the caller has found to be there; its absence is a fault of the caller."""
    found = number(cell, path)
    assert found is not None, f"{method(cell)} has no {path}"
    return found


def known_interval(cell: Cell, path: str) -> Interval:
    """Return the interval at a dotted path whose value the caller has found to be there; see `known_number`."""
    found = interval(cell, path)
    assert found is not None, f"{method(cell)} has no {path}"
    return found


def rounds_without_interval(cell: Cell, counted: str = "rounds") -> str:
    """Say in how many rounds a cell was timed whose times have no interval: rounds that few say little.

    Args:
        cell: entry of summary.json.
        counted: ``rounds`` of time to first token, or ``stage_rounds``.

    >>> rounds_without_interval({"latency": {"rounds": 2}}), rounds_without_interval({"latency": {}})
    ('2 rounds, no interval', 'no interval')
    """
    rounds = number(cell, f"latency.{counted}")
    told = "" if rounds is None else f"{rounds:.0f} round{'' if rounds == 1 else 's'}, "
    return f"{told}no interval"


def leading_path(cell: Cell) -> str:
    """Return where the figure that leads stands in a cell: ``score``, or ``accuracy`` where that is what the task reports.

    Summaries of older versions have no ``score``: there ``accuracy`` leads.

    >>> leading_path({"accuracy": {"value": 0.5}}), leading_path({"score": {"name": "F1", "value": 50.0, "scale": 100.0}})
    ('accuracy', 'score')
    """
    if "score" not in cell or (dig(cell, "score.name") == "accuracy" and leading_scale(cell) == 100):
        return "accuracy"
    return "score"


def leading_scale(cell: Cell) -> float:
    """Return what a perfect model reaches in the figure that leads: 100 of a percentage, 2800 of the total of MME."""
    scale = number(cell, "score.scale")
    return scale if scale is not None and scale > 0 else 100.0


def leading(cell: Cell) -> Interval | None:
    """Return the figure that leads with its 95 % interval, as shares of its scale, or None where it was not measured."""
    path = leading_path(cell)
    found = interval(cell, path)
    if found is None or path == "accuracy":
        return found
    scale = leading_scale(cell)
    return Interval(found.value / scale, found.lo / scale, found.hi / scale, found.known)


def leading_share(cell: Cell) -> float | None:
    """Return the value of `leading`."""
    found = leading(cell)
    return None if found is None else found.value


def known_leading(cell: Cell) -> Interval:
    """Return `leading` of a cell that the caller has found to have it; see `known_number`."""
    found = leading(cell)
    assert found is not None, f"{method(cell)} has no {leading_path(cell)}"
    return found


def corrected_p(cell: Cell, path: str) -> float | None:
    """Return the p of a figure corrected over its family, which older summaries call ``p_holm``; None where there is none."""
    found = number(cell, f"{path}.p_adjusted")
    return number(cell, f"{path}.p_holm") if found is None else found


def p_value(cell: Cell, path: str) -> tuple[float | None, bool]:
    """Return the p of a figure and whether it is corrected over its family: the corrected p where there is one, else the raw."""
    corrected = corrected_p(cell, path)
    return (corrected, True) if corrected is not None else (number(cell, f"{path}.p"), False)


def method(cell: Cell) -> str:
    """Return the canonical expression of a cell's method, or ``?`` where it is missing."""
    return str(cell.get("method") or "?")


def imitated(name: str) -> str | None:
    """Return the method whose schedule a control of random tokens follows, or None where the name is no such control.

    >>> imitated("random[like=fastv[layer=2]]")
    'fastv[layer=2]'
    >>> imitated("random[positions=contiguous,like=sparsevlm]")
    'sparsevlm'
    >>> imitated("random") is None
    True
    """
    if not (name.startswith("random[") and name.endswith("]")):
        return None
    parts, depth = [""], 0
    for character in name[len("random[") : -1]:
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return next((p.removeprefix("like=") for p in parts if p.startswith("like=")), None)


def role(cell: Cell) -> str:
    """Return the part a cell plays in the comparison.

    Returns:
        ``whole`` (none, blind, and whatever removes nothing), ``control`` (random), ``bound`` (oracle), ``reference``
        (downsample) or ``method``.
    """
    name = method(cell)
    base = bare(name)
    if name in WHOLE or cell.get("removes_nothing"):
        return "whole"
    if base == "random":
        return "control"
    if base == "oracle":
        return "bound"
    return "reference" if cell.get("reference") or base == "downsample" else "method"


def keep(cell: Cell) -> Keep | None:
    """Return the budget that a cell was asked to keep, or None for cells without one."""
    return None if method(cell) in WHOLE else Keep.stored(cell)


def marks_note(cells: list[Cell]) -> str:
    """Say how many newline and mark tokens an image has beside those that budgets count; nothing where there are none."""
    most = max((found for c in cells if (found := number(c, "tokens.marks"))), default=None)
    if most is None:
        return ""
    return (
        f"Beside the visual tokens counted here stand {most:,.4g} newline and mark tokens an image, which always stay: no budget "
        "counts them, and every method keeps them."
    )


def removes_note(cells: list[Cell]) -> str:
    """Say which cells remove nothing; nothing where all remove some."""
    whole = sorted({f"{method(c)} at {shown(c)}" for c in cells if c.get("removes_nothing")})
    if not whole:
        return ""
    names, ends = (whole[0], "s") if len(whole) == 1 else (f"{', '.join(whole[:-1])} and {whole[-1]}", "")
    return (
        f"{names} remove{ends} nothing: the budget is all tokens, so the answers are those of none, and no test or ranking takes "
        "them in."
    )


def shown(cell: Cell) -> str:
    """Return the budget of a cell as a table shows it, ``192`` or ``34 %``; nothing for cells without one."""
    found = keep(cell)
    return "" if found is None else found.shown


def falling(budget: Keep | None) -> tuple[float, float]:
    """Return what budgets are sorted by for a reader: shares before counts, the larger first within each; none before all.

    >>> sorted(map(Keep.parse, ("1", "34%", "192", "100%")), key=falling)[0].shown
    '100 %'
    """
    return (-2.0, 0.0) if budget is None else (-float(budget.share), -budget.value)


@dataclass(frozen=True)
class Stratum:
    """Cells that may be compared: one model, one task, one meaning of the budget."""

    model: str
    task: str
    budget: str
    cells: tuple[Cell, ...]  # measured ones, budgets falling, the leading figure falling within a budget

    @property
    def none(self) -> Cell | None:
        """The cell of the unpruned model."""
        return self.only("none")

    @property
    def blind(self) -> Cell | None:
        """The cell of the model that sees no image."""
        return self.only("blind")

    def only(self, name: str, at: Keep | None = None) -> Cell | None:
        """Return the cell of one method at one budget, or None where it was not measured."""
        return next((c for c in self.cells if method(c) == name and keep(c) == at), None)

    def control(self, cell: Cell) -> Cell | None:
        """Return the random cell to hold a cell against: the one on its own schedule where there is one, else plain random."""
        rivals = self.at(keep(cell))
        like = next((c for c in rivals if imitated(method(c)) == method(cell)), None)
        return like or next((c for c in rivals if method(c) == "random"), None)

    @property
    def pruned(self) -> list[Cell]:
        """All cells with fewer tokens than the unpruned model; controls, references and bounds are among them."""
        return [c for c in self.cells if role(c) != "whole"]

    @property
    def budgets(self) -> list[Keep]:
        """The budgets of these cells, in the order of `falling`."""
        return sorted({k for c in self.pruned if (k := keep(c)) is not None}, reverse=True)

    def at(self, k: Keep | None) -> list[Cell]:
        """Return the pruned cells at one budget, best first."""
        return [c for c in self.pruned if keep(c) == k]

    @property
    def methods(self) -> list[str]:
        """Names of the pruned methods, each followed by its control; controls of nothing, references and bounds last."""
        names = list(dict.fromkeys(method(c) for c in self.pruned))
        roles = {method(c): role(c) for c in self.pruned}
        mine = sorted(n for n in names if roles[n] == "method")
        ordered = [n for m in mine for n in (m, *(c for c in names if imitated(c) == m))]
        rest = sorted(set(names) - set(ordered), key=lambda n: (roles[n] == "bound", roles[n] == "reference", n))
        return ordered + rest


def in_order(cells: list[Cell]) -> list[Cell]:
    """Sort cells: those without a budget first, then budgets falling, and the higher in the leading figure first within one.

    Where no answers are known, the one that agrees more often with the unpruned model comes first.
    """

    def key(cell: Cell) -> tuple[tuple[float, float], float, str]:
        share = leading_share(cell)
        rank = number(cell, "loyalty.agreement") if share is None else share
        return (falling(keep(cell)), math.inf if rank is None else -rank, method(cell))

    return sorted(cells, key=key)


def measured(cells: list[Cell]) -> list[Cell]:
    """Return the cells that were not skipped, in the order of `in_order`."""
    return in_order([c for c in cells if not c.get("skipped")])


def strata(cells: list[Cell]) -> list[Stratum]:
    """Return the groups of measured cells that may be compared, in the order of their first cell."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    whole: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.get("skipped"):
            continue
        where = (str(cell.get("model") or "?"), str(cell.get("task") or "?"))
        if role(cell) == "whole":
            whole.setdefault(where, []).append(cell)
        else:
            groups.setdefault((*where, str(cell.get("budget") or "average")), []).append(cell)
    for where in whole:
        if not any(g[:2] == where for g in groups):
            groups[(*where, "average")] = []
    return [Stratum(*g, cells=tuple(in_order(whole.get(g[:2], []) + found))) for g, found in groups.items()]
