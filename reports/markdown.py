"""The cells as a Markdown table, for a README, a pull request or a closing note."""

from __future__ import annotations

from typing import Any

from reports import timing, wording
from reports.cells import Cell, leading, marks_note, measured, number, p_value, removes_note, shown
from reports.cells import method as name_of
from reports.leading import PARTIAL, unit_of, units_of
from reports.marks import code, plain
from reports.method_notes import same_notes, tiles_note, unverified_note
from reports.scoring import scoring
from reports.table import skipped


def table(cells: list[Cell], manifest: dict[str, Any] | None = None) -> str:
    """Return a compact Markdown table: one row a measured cell, then the skipped cells with their reasons.

    p values are corrected over the competing cells; those of references and controls are not, and marked ``raw``.

    Args:
        cells: the entries of summary.json; any field may be null.
        manifest: of the run, from which the sentences below the table say how it was scored.

    Returns:
        Markdown that ends in a newline; the figure that leads and its differences in its own unit: accuracy in percent.

    >>> print(table([{"method": "none", "accuracy": {"value": 0.5, "lo": 0.4, "hi": 0.6}}]).splitlines()[2])
    | `none` | – | 50.0 [40.0 to 60.0] | – | – | – | – | – | – | – | – |
    """
    unit = wording.flops_unit([v for c in cells if (v := number(c, "flops.total")) is not None])
    rows, several = measured(cells), len({(c.get("model"), c.get("task")) for c in cells}) > 1
    units = units_of(rows)
    leads = f"{units[0].title} {units[0].sign}" if len(units) == 1 else "Score"
    points = "" if all(unit.scale == 100 for unit in units) else ", points"
    head = ["Method", "Keep", leads, "Retention %", f"To none{points}", f"To random{points}", "Agree %", "Evidence %",
            "Tokens avg / final", unit[1], "TTFT ms (speed-up)"]  # fmt: skip
    lines = [_line((["Model", "Task"] if several else []) + head)]
    lines.append("|---|---|" * several + "---|" * len(head) if several else "|" + "---|" * len(head))
    for cell in rows:
        where = [code(cell.get("model")), code(cell.get("task"))] if several else []
        lines.append(_line(where + _row(cell, unit[0], len(units) > 1)))
    reasons = [f"- {code(name_of(c))} at {shown(c) or 'any budget'}: {plain(c['skipped'])}" for c in skipped(cells)]
    if reasons:
        lines += ["", "Skipped:", *reasons]
    kinds = (removes_note(cells), *same_notes(cells), tiles_note(cells), unverified_note(cells), marks_note(cells))
    for note in (*scoring(manifest or {}, cells), *kinds, timing.wide_note(cells), timing.summed_note(cells)):
        lines += ["", plain(note)] if note else []
    return "\n".join(lines) + "\n"


def _row(cell: Cell, divisor: float, signed: bool) -> list[str]:
    total = number(cell, "flops.total")
    tokens = [number(cell, "tokens.average"), number(cell, "tokens.final")]
    return [
        code(name_of(cell)),
        shown(cell) or wording.MISSING,
        _leading(cell, signed),
        wording.percent(number(cell, "retention")),
        _difference(cell, "difference_none"),
        _difference(cell, "difference_like"),
        wording.percent(number(cell, "loyalty.agreement")),
        wording.percent(number(cell, "evidence.recall")),
        wording.MISSING if tokens == [None, None] else " / ".join(map(wording.count, tokens)),
        wording.plain(None if total is None else total / divisor),
        _time(cell),
    ]  # fmt: skip


def _leading(cell: Cell, signed: bool) -> str:
    """The figure that leads with its interval and mark; with its sign where the table holds figures of several scales."""
    found, unit = leading(cell), unit_of(cell)
    if found is None:
        return wording.MISSING
    value = unit.unmarked(found.value) if signed else unit.digits(found.value)
    return f"{value} [{unit.span(found)}]{f' {PARTIAL}' if unit.partial else ''}"


def _time(cell: Cell) -> str:
    faster, first = timing.speed_up(cell, "×"), timing.first_token(cell)
    if not faster:
        return first or wording.MISSING
    return f"{first.partition(' ')[0]} ({'; '.join(part for part in (timing.none_in_its_rounds(cell), faster) if part)})"


def _difference(cell: Cell, path: str) -> str:
    gap = number(cell, path)
    if gap is None:
        return wording.MISSING
    p, corrected = p_value(cell, path)
    return unit_of(cell).points(gap) + (f" ({'' if corrected else 'raw '}{wording.p_text(p)})" if p is not None else "")


def _line(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"
