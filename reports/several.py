"""Several runs on one page: their figures beside each other, differences to the first run, and what tells the runs apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from methods.keep import Keep
from metrics.paired_ratio import KNOWN
from reports import timing, wording
from reports.cells import (
    SIGNIFICANT,
    WHOLE,
    Cell,
    Interval,
    falling,
    interval,
    leading,
    leading_share,
    number,
    rounds_without_interval,
)
from reports.leading import PARTIAL, Unit, unit_of
from reports.method_notes import UNVERIFIED, same_as, same_notes, unverified, unverified_note
from reports.scoring import scoring

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_DRAWN = 40  # rows of the figure


@dataclass(frozen=True)
class Shown:
    """A cell of one run."""

    skipped: str | None
    entry: Cell  # of summary.json


@dataclass(frozen=True)
class Difference:
    """The figure of another run less that of the first, on the same questions; shares of the scale."""

    value: float
    lo: float | None
    hi: float | None
    p: float | None  # corrected over all differences of the page


@dataclass(frozen=True)
class Aligned:
    """One row of the page: the cell in each run, None where a run has none, and each other run's difference to the first."""

    method: str
    keep: Keep | None
    budget: str
    apart: str  # what else tells it from another row
    cells: tuple[Shown | None, ...]
    differences: tuple[Difference | None, ...]
    work: str  # how its work differs between the runs


@dataclass(frozen=True)
class Setting:
    """An entry of the manifests that is not the same everywhere; None where a run does not tell."""

    name: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Several:
    """All that the page of several runs shows; every tuple of runs is in the order of ``names``."""

    names: tuple[str, ...]
    manifests: tuple[dict[str, Any], ...]
    rows: tuple[Aligned, ...]
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]

    @property
    def entries(self) -> list[list[Cell]]:
        """The cells of each run that were measured."""
        columns = zip(*(row.cells for row in self.rows), strict=True) if self.rows else ([] for _ in self.names)
        return [[cell.entry for cell in column if cell is not None and not cell.skipped] for column in columns]

    @property
    def units(self) -> list[Unit]:
        """The unit of the figure that leads in each run."""
        return [unit_of(*entries) for entries in self.entries]

    @property
    def unit(self) -> Unit | None:
        """The unit that all runs have in common, marks aside; None where their figures are not the same."""
        found = {replace(unit, partial=False) for unit in self.units}
        return found.pop() if len(found) == 1 else None

    @property
    def compared(self) -> list[int]:
        """Which runs after the first have a difference to it in some row."""
        return [i for i in range(len(self.names) - 1) if any(row.differences[i] is not None for row in self.rows)]


@dataclass(frozen=True)
class Text:
    """The words of a table cell, its small print, and the plain number."""

    text: str
    detail: str = ""
    raw: float | None = None
    mark: str = ""  # good or bad: a difference that its test holds


def render(several: Several) -> str:
    """Return the page of several runs; it loads nothing and runs no script.

    Args:
        several: two runs or more.

    Returns:
        HTML whose Content-Security-Policy allows inline styles alone.
    """
    from reports.templating import encodable, environment, own_file

    rows, units, unit = sorted(several.rows, key=_place), several.units, several.unit
    compared = several.compared
    first = units[0]  # in which differences are counted: of other figures there are none
    titles = [f"{m.get('task') or '?'} on {m.get('model') or '?'}" for m in several.manifests]
    page = (
        environment()
        .get_template("several.html.j2")
        .render(
            several=several,
            title=f"{len(several.names)} runs side by side",
            runs=list(zip(several.names, titles, several.manifests, strict=True)),
            rows=[(row, _name(row), _marks(row, several.names), [_leading(c, unit is None) for c in row.cells],
                   [_gap(row.differences[i], first) for i in compared],
                   [_speed(c) for c in row.cells], [_flops(c) for c in row.cells]) for row in rows],
            compared=[several.names[1 + i] for i in compared],
            timed=any(_speed(c).raw is not None for row in rows for c in row.cells),
            leads="Score" if unit is None else f"{unit.title}, {unit.sign}",
            subject="Score" if unit is None else unit.title,
            measured_in=first.measured_in,
            test=first.test,
            scored=_scored(several),
            kinds=_kinds(several),
            said=_said(several, first),
            figure=_figure(several, rows, unit),
            style=own_file("report.css"),
            policy=_POLICY,
            known=f"{100 * KNOWN:g}",
        )
    )  # fmt: skip
    return encodable(page)


def _place(row: Aligned) -> tuple[bool, tuple[float, float], float, str]:
    """Whole cells first, budgets falling, the better in the first run that has it first."""
    known = [leading_share(c.entry) for c in row.cells if c is not None]
    best = next((v for v in known if v is not None), -1.0)
    return (row.method not in WHOLE, falling(row.keep), -best, row.method)


def _name(row: Aligned) -> str:
    name = row.method if row.keep is None else f"{row.method} at {row.keep.shown}"
    return f"{name}, {row.apart}" if row.apart else name


def _marks(row: Aligned, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The marks beside the name of a row: word, name and reason; where not all runs that have the cell bear one, in which."""
    there = [(name, cell.entry) for name, cell in zip(names, row.cells, strict=True) if cell is not None and not cell.skipped]
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, entry in there:
        if first := same_as(entry):
            found.setdefault(("same as", first, ""), []).append(name)
        if why := unverified(entry):
            found.setdefault((UNVERIFIED, "", why), []).append(name)
    everywhere = len(there)
    told = {mark: "" if len(at) == everywhere else f"in {wording.listed(at)}" for mark, at in found.items()}
    return [(word, first, "; ".join(part for part in (why, where) if part)) for (word, first, why), where in told.items()]


def _kinds(several: Several) -> list[str]:
    """Say which cells of a run are the same as another, and which methods nothing proves; once where all runs say the same."""
    told = [same_notes(cells) for cells in several.entries]
    same = told[0] if all(notes == told[0] for notes in told) else [
        f"{name}: {note}" for name, notes in zip(several.names, told, strict=True) for note in notes
    ]  # fmt: skip
    unproved = unverified_note([cell for cells in several.entries for cell in cells])
    return [*same, *([unproved] if unproved else [])]


def _leading(cell: Shown | None, signed: bool) -> Text:
    """The figure that leads with its interval and mark; with its name and sign where those of the runs are not the same."""
    if cell is None:
        return Text(wording.MISSING, "not in this run")
    if cell.skipped:
        return Text("skipped", cell.skipped)
    found, unit = leading(cell.entry), unit_of(cell.entry)
    if found is None:
        agreed = interval(cell.entry, "loyalty.agreement")
        if agreed is None:
            return Text(wording.MISSING)
        return Text(wording.percent(agreed.value), f"agreement with none, {wording.percent_range(agreed)}", agreed.value)
    detail = f"{unit.name}, {unit.span(found)}" if signed else unit.span(found)
    detail += f"; {PARTIAL}" if unit.partial else ""
    raw = number(cell.entry, unit.path)
    return Text(unit.unmarked(found.value) if signed else unit.digits(found.value), detail, raw)


def _scored(several: Several) -> list[str]:
    """Say of each run by which rule it was scored and of what a partial figure is; once where all runs say the same."""
    told = [scoring(m, cells) for m, cells in zip(several.manifests, several.entries, strict=True)]
    if all(sentences == told[0] for sentences in told):
        return told[0]
    return [f"{name}: {' '.join(sentences)}" for name, sentences in zip(several.names, told, strict=True) if sentences]


def _gap(gap: Difference | None, unit: Unit) -> Text:
    if gap is None:
        return Text(wording.MISSING)
    spread = "" if gap.lo is None or gap.hi is None else unit.points_span(Interval(gap.value, gap.lo, gap.hi))
    detail = "; ".join(part for part in (spread, wording.p_told(gap.p, True)) if part)
    mark = "" if gap.p is None or gap.p >= SIGNIFICANT else "good" if gap.value > 0 else "bad"
    return Text(unit.points(gap.value), detail, gap.value, mark)


def _speed(cell: Shown | None) -> Text:
    found = interval(cell.entry, "latency.ratio") if cell is not None and not cell.skipped else None
    if found is None or cell is None:
        return Text(wording.MISSING)
    spread = wording.plain_range(found) if found.known else rounds_without_interval(cell.entry)
    spread += f"; {timing.WIDE}" if timing.is_wide(cell.entry) else ""
    return Text(wording.plain(found.value), spread, found.value)


def _flops(cell: Shown | None) -> Text:
    total = number(cell.entry, "flops.total") if cell is not None and not cell.skipped else None
    if total is None:
        return Text(wording.MISSING)
    divisor, unit = wording.flops_unit([total])
    return Text(f"{wording.plain(total / divisor)}", unit, total)


def _said(several: Several, unit: Unit) -> list[str]:
    """Say what the differences settle, run by run."""
    found = []
    for number_, name in enumerate(several.names[1:]):
        gaps = [(row, gap) for row in several.rows if (gap := row.differences[number_]) is not None]
        if not gaps:
            continue
        sure = [(row, gap) for row, gap in gaps if gap.p is not None and gap.p < SIGNIFICANT]
        words = ("more accurate", "less accurate") if unit.plain else (f"higher in {unit.name}", f"lower in {unit.name}")
        for sign, word in zip((1, -1), words, strict=True):
            told = sorted(((r, g) for r, g in sure if g.value * sign > 0), key=lambda item: -abs(item[1].value))
            if told:
                listed = ", ".join(
                    f"{_name(r)} ({_gap(g, unit).text} {unit.measured_in} [{_gap(g, unit).detail}])" for r, g in told[:4]
                )
                rest = f", and {len(told) - 4} more" if len(told) > 4 else ""
                found.append(f"{name} is {word} than {several.names[0]} in {len(told)} of {len(gaps)} cells: {listed}{rest}.")
        if not sure:
            found.append(f"No difference between {name} and {several.names[0]} could be shown in {len(gaps)} cells.")
    return found


def _figure(several: Several, rows: list[Aligned], unit: Unit | None) -> dict[str, str] | None:
    """Draw the figure that leads with a row a cell and a mark a run; None where no cell is in two runs.

    Figures of several scales are drawn as percentages of their scales.
    """
    from matplotlib.lines import Line2D

    from reports.figures.drawing import bare_rows, canvas, legend, room, styled
    from reports.style import COLOURS, FAINT, MARKERS
    from reports.svg import inline, label

    def drawable(row: Aligned) -> list[tuple[int, Interval]]:
        known = [(i, leading(c.entry)) for i, c in enumerate(row.cells) if c is not None and not c.skipped]
        return [(i, found) for i, found in known if found is not None]

    found = [(row, marks) for row in rows if len(marks := drawable(row)) > 1]
    if not found:
        return None
    left_out, scale, partial = "", 100.0 if unit is None else unit.scale, [one.partial for one in several.units]
    if len(found) > _DRAWN:
        least = min((row.keep for row, _ in found if row.keep is not None), default=None)
        found = [(row, marks) for row, marks in found if row.keep in (None, least)][:_DRAWN]
        left_out = " Cells of other budgets stand in the table."
    title = f"{'Score' if unit is None else unit.title} by run"
    with styled():
        names = [
            ", ".join((_name(row), *(f"{word} {first}" for word, first, _ in _marks(row, several.names) if first)))
            for row, _ in found
        ]
        runs = len(several.names)
        drawing, axes = canvas(7.8 + room(names, 16), 0.9 + max(0.26, 0.09 * runs + 0.08) * len(found))
        for place, (_, marks) in enumerate(found):
            if place % 2:
                axes.axhspan(place - 0.5, place + 0.5, color="#f3f4f6", linewidth=0, zorder=0)
            for run, at in marks:
                y = place + (0.62 * (run / max(1, runs - 1) - 0.5) if runs > 1 else 0.0)
                arms = [[scale * (at.value - at.lo)], [scale * (at.hi - at.value)]]
                axes.errorbar(
                    scale * at.value, y, xerr=arms, fmt=MARKERS[run % len(MARKERS)], markersize=5,
                    color=COLOURS[run % len(COLOURS)], elinewidth=1.1, ecolor=FAINT, capsize=0, zorder=3,
                )  # fmt: skip
        axes.set_yticks(range(len(names)), [label(n) for n in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        if unit is None:
            axes.set_xlabel(f"each run's figure, % of its scale{f' ({PARTIAL})' if any(partial) else ''}")
        else:
            axes.set_xlabel(replace(unit, partial=any(partial)).axis)
        bare_rows(axes)
        keys = [
            Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], linestyle="none", markersize=5,
                   label=label(n, 28) + (f", {PARTIAL}" if partial[i] else "")) for i, n in enumerate(several.names)
        ]  # fmt: skip
        legend(drawing, keys, "run")
        svg = Markup(inline(drawing, "runs", title))  # nosec B704  # our own files, or JSON and SVG made inert
    what = "Each run's own figure as a share of its scale" if unit is None else f"{unit.defined} in each run"
    estimates = "".join(f" That of {n} is {PARTIAL}." for n, u in zip(several.names, several.units, strict=True) if u.partial)
    paired = " Of runs on the same questions the paired differences in the table say more than whether bars overlap."
    caption = f"{what}; bars are 95 % intervals over images.{estimates}{paired if several.compared else ''}{left_out}"
    return {"title": title, "svg": svg, "caption": caption}
