"""Sentences that a run's tests carry, with the figures of ``summary.json`` that they come from; where no test holds, none.

Each question asked here is one family of tests at 5 % over all methods and budgets, corrected in the summary: by step-down max-T
where all cells of a run are held against each other on the same questions, else by Holm. A summary of an older version lacks
some of these tests, and nothing is said of what it did not test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from methods.keep import Keep
from reports import wording
from reports.cells import (
    SIGNIFICANT,
    Cell,
    Interval,
    Stratum,
    corrected_p,
    dig,
    falling,
    interval,
    keep,
    known_interval,
    leading,
    leading_path,
    method,
    number,
    role,
    shown,
)
from reports.leading import unit_of
from reports.method_notes import races
from reports.tested import less_diverse, non_inferior_among_all, settled

_NAMED = 4  # cells told one by one in a sentence
_LABELS = {"across_methods": "across methods, on the same question and budget",
           "across_methods_before_llm": "across methods that prune before the LLM, at equal counts",
           "across_images": "across images, for one method, budget and family"}  # fmt: skip
_RANK, _GAIN, _HELD = "collapse.z.effective_rank", "latency.realised_gain", "evidence.recall_over_control"
_FIGURES = {"recall": "evidence recall", "kept_count": "tokens kept"}


@dataclass(frozen=True)
class Finding:
    """One statement and what it rests on."""

    kind: str  # the question it answers; one family of tests
    text: str
    figures: tuple[str, ...]  # names in summary.json
    cells: tuple[tuple[str, Keep | None], ...] = ()  # (method, keep) that it speaks of


@dataclass(frozen=True)
class Tested:
    """A cell, its figure, and the corrected p of what is asked of it."""

    cell: Cell
    figure: Interval
    p: float

    @property
    def name(self) -> str:
        """The method and its budget, as a sentence names them."""
        return f"{method(self.cell)} at {shown(self.cell)}"


def findings(stratum: Stratum, explained: dict[str, Any] | None = None) -> list[Finding]:
    """Return what the tests of a run settle, the most useful first.

    Args:
        stratum: cells that may be compared.
        explained: ``explained`` of summary.json: what predicts accuracy.

    Returns:
        Significant findings alone.
    """
    asked = (_winner, _non_inferior, _ranking, _collapse, _diversity, _swap, _speed)
    found = [finding for ask in asked for finding in ask(stratum)]
    return [*found, *_explained(explained or {}, unit_of(*stratum.cells).answer_points)]


def _tested(cell: Cell, path: str, *others: str) -> Tested | None:
    """Return a cell with its figure and the corrected p of that and of others, of which the weakest counts; None without them."""
    figure, ps = interval(cell, path), [corrected_p(cell, one) for one in (path, *others)]
    known = [p for p in ps if p is not None]
    return None if figure is None or len(known) < len(ps) else Tested(cell, figure, max(known))


def _settled(stratum: Stratum, path: str, null: float = 0.0) -> list[Tested]:
    """Return the methods whose figure is not its null by its corrected test, the lowest first."""
    found = [row for c in _methods(stratum) if settled(c, path, null) and (row := _tested(c, path)) is not None]
    return sorted(found, key=lambda row: row.figure.value)


def _finding(kind: str, start: str, rows: list[Tested], text: Callable[[Tested], str], *figures: str) -> list[Finding]:
    """Return one sentence for all cells of which the same holds; the strongest of them are told one by one."""
    if not rows:
        return []
    told = [f"{row.name} ({text(row)})" for row in rows[:_NAMED]]
    rest = f", and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    p = wording.p_text(max(row.p for row in rows))
    least = f"each {p.replace('=', '≤')}" if len(rows) > 1 else p
    said = f"{start}: {', '.join(told)}{rest}; {least}, corrected."
    return [Finding(kind, said, figures, tuple((method(r.cell), keep(r.cell)) for r in rows))]


def _gap(row: Tested) -> str:
    """Write a difference of the figure that leads."""
    return unit_of(row.cell).gap(row.figure)


def _winner(stratum: Stratum) -> list[Finding]:
    """Return the method that leads at each budget at which its lead over the next is significant.

    The lead over the next alone is claimed: whoever beats the runner-up by more than chance beats all, and of equal methods
    the first two part less than any two named beforehand.
    """
    found = []
    for k in stratum.budgets:
        racing = [c for c in stratum.at(k) if races(c) and leading(c) is not None]
        if len(racing) < 2:
            continue
        first, second = racing[:2]
        gap, p = interval(second, "difference_winner"), corrected_p(second, "difference_winner")
        others = [corrected_p(c, "difference_winner") for c in racing[1:]]
        if gap is None or p is None or any(q is None or q >= SIGNIFICANT for q in others) or gap.value >= 0:
            continue
        lead, unit = Interval(-gap.value, -gap.hi, -gap.lo, gap.known), unit_of(first)
        leads = "is the most accurate" if unit.plain else f"has the highest {unit.name}"
        said = (
            f"At {k.phrase} {method(first)} {leads}: ahead of the next, {method(second)}, by "
            f"{unit.points_plain(lead.value)} {unit.measured_in} [{unit.span(lead)}], {wording.p_told(p, True)}."
        )
        both = (method(first), k), (method(second), k)
        found.append(Finding("winner", said, (leading_path(first), "difference_winner"), both))
    return found


def _non_inferior(stratum: Stratum) -> list[Finding]:
    """Return the cells whose loss to the unpruned model is below the margin, at 2.5 % one-sided over all of them together."""
    rows, margins = [], set()
    for cell in _methods(stratum):
        gap, margin = interval(cell, "difference_none"), number(cell, "non_inferior.margin")
        p = number(cell, "non_inferior.p_adjusted")
        if gap is None or margin is None or p is None:
            continue
        margins.add(margin)
        if non_inferior_among_all(cell):
            rows.append(Tested(cell, gap, p))
    if len(margins) != 1:
        return []
    unit = unit_of(*stratum.cells)
    start = f"No more than {unit.points_plain(margins.pop())} {unit.measured_in} below the unpruned model"
    kept = sorted(rows, key=lambda row: (falling(keep(row.cell)), row.figure.value), reverse=True)
    return _finding("non-inferior", start, kept, _gap, "difference_none", "non_inferior")


def _ranking(stratum: Stratum) -> list[Finding]:
    """Return what a ranking is worth over random tokens on the same schedule."""
    rows = _settled(stratum, "difference_like")
    worse, better = [r for r in rows if r.figure.value < 0], [r for r in reversed(rows) if r.figure.value > 0]
    return [
        *_finding("ranking", "Falls below random tokens on its own schedule", worse, _gap, "difference_like"),
        *_finding("ranking", "Its ranking is worth more than its schedule", better, _gap, "difference_like"),
    ]


def _diversity(stratum: Stratum) -> list[Finding]:
    """Return the cells that are less diverse than random tokens of the same number on the same image."""
    kept = [row for c in _methods(stratum) if less_diverse(c, "effective_rank") and (row := _tested(c, _RANK)) is not None]
    start = "Less diverse than random tokens of the same number (effective rank, z against chance)"
    return _finding("diversity", start, sorted(kept, key=lambda row: row.figure.value), _z_text, _RANK)


def _collapse(stratum: Stratum) -> list[Finding]:
    """Return the cells that are less diverse than chance and short of evidence too: both are tested, the weaker p counts."""
    kept = [
        row for c in _methods(stratum)
        if less_diverse(c, "effective_rank") and settled(c, _HELD) == -1 and (row := _tested(c, _RANK, _HELD)) is not None
    ]  # fmt: skip

    def text(row: Tested) -> str:
        short = known_interval(row.cell, _HELD)
        return f"{_z_text(row)}; evidence recall {wording.points(short.value)} points [{wording.points_range(short)}]"

    start = "Collapsed, less diverse than chance and short of the evidence that random tokens hold"
    return _finding("collapse", start, sorted(kept, key=lambda row: row.figure.value), text, _RANK, _HELD)


def _z_text(row: Tested) -> str:
    share = number(row.cell, f"{_RANK}.share_below_chance")
    below = "" if share is None else f", below chance on {wording.percent(share, 0)} % of the samples"
    return f"{wording.plain(row.figure.value, 1)} [{wording.plain_range(row.figure, 1)}]{below}"


def _swap(stratum: Stratum) -> list[Finding]:
    """Return how much of the loss comes back with the evidence, at the same number of tokens."""

    def text(row: Tested) -> str:
        share, figure = interval(row.cell, "evidence.swap_share"), row.figure
        gain = f"{wording.points(figure.value)} {unit_of(row.cell).answer_points} [{wording.points_range(figure)}]"
        if share is None:
            return gain
        spread = f" [{wording.percent_range(share, 0)}]" if share.known else ""
        return f"{gain}, {wording.percent(share.value, 0)} %{spread} of the loss"

    kept = [row for row in reversed(_settled(stratum, "evidence.swap_gain")) if row.figure.value > 0]
    start = "Accuracy comes back when the evidence is forced in and as many random tokens leave"
    shares = ["evidence.swap_share"] if any(interval(row.cell, "evidence.swap_share") for row in kept) else []
    return _finding("swap", start, kept, text, "evidence.swap_gain", *shares)


def _speed(stratum: Stratum) -> list[Finding]:
    """Return the cells whose prefill is slower or faster than their FLOPs promise."""
    kept = _settled(stratum, _GAIN, 1.0)

    def text(row: Tested) -> str:
        return f"{wording.percent(row.figure.value, 0)} % [{wording.percent_range(row.figure, 0)}]"

    short, more = [r for r in kept if r.figure.value < 1], [r for r in reversed(kept) if r.figure.value > 1]
    start = "Prefill gains {} than its FLOPs promise; share of the promised speed-up that was measured"
    return [
        *_finding("speed", start.format("less"), short, text, _GAIN),
        *_finding("speed", start.format("more"), more, text, _GAIN),
    ]


def _methods(stratum: Stratum) -> list[Cell]:
    """Return the cells of methods with a budget, without references, bounds and controls."""
    return [c for c in stratum.pruned if role(c) == "method" and keep(c) is not None]


def _explained(explained: dict[str, Any], answer_points: str) -> list[Finding]:
    """Return the figures that go with right answers, and whether complexity parts attention from diversity."""
    found = []
    for name, where in _LABELS.items():
        rows = _dicts(dig(explained, f"correlations.{name}.rows"))
        sure = [row for row in rows if _sure(row) and number(row, "value") is not None]
        if not sure:
            continue
        told = ", ".join(f"{_figure(str(row.get('figure')))} ({_rho(row)})" for row in sure[:3])
        most = wording.p_text(max(corrected_p({"row": row}, "row") or 0.0 for row in sure[:3])).replace("=", "≤")
        others = "" if name == "across_images" else _for_others(sure[:3], dig(explained, f"correlations.{name}"))
        said = (
            f"What goes with right answers {where}: {told}; each {most}, corrected. {len(sure)} of {len(rows)} figures do. "
            f"Association, not cause.{others}"
        )
        path = f"explained.correlations.{name}"
        found.append(Finding("explain", said, tuple(f"{path}: {row.get('figure')}" for row in sure[:3])))
    for one in _dicts(dig(explained, "complexity.interactions")):
        gap = interval({"gap": one}, "gap")
        if gap is None or not _sure(one):
            continue
        budget, p = Keep.stored(one), corrected_p({"one": one}, "one")
        move = "falls" if gap.value > 0 else "rises"
        said = (
            f"At {'no budget' if budget is None else budget.phrase} what methods that rank by attention are ahead of those that "
            f"rank by diversity {move} by {wording.points_plain(abs(gap.value))} {answer_points} [{wording.points_range(gap)}] "
            f"from the simplest third of the images to the most complex, {wording.p_told(p, True)}."
        )
        found.append(Finding("complexity", said, ("explained.complexity.interactions",)))
    return found


def _dicts(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _sure(one: dict[str, Any]) -> bool:
    p = corrected_p({"one": one}, "one")
    return p is not None and p < SIGNIFICANT


def _for_others(rows: list[dict[str, Any]], listed: dict[str, Any]) -> str:
    """Say whether other methods would show the same, by the test that permutes the methods' labels.

    Args:
        rows: of the figures that are told.
        listed: the list that they are of; what does not say how many methods it compares says nothing where none is tested.
    """
    known = [(row, p) for row in rows if (p := number(row, "p_methods_adjusted")) is not None]
    methods, least = number(listed, "methods"), number(listed, "least_p_methods")
    if not known:
        return f" Whether other methods would show the same cannot be tested with {methods:.0f} methods." if methods else ""
    general = [_figure(str(row.get("figure"))) for row, p in known if p < SIGNIFICANT]
    if not general:
        by = "" if methods is None or least is None else f" by {methods:.0f} methods, whose p is at least {least:.2g}"
        return f" That other methods would show the same could not be shown{by}."
    return (
        f" Other methods would show the same of {wording.listed(general)} (labels permuted, each p < {SIGNIFICANT}, corrected)."
    )


def _figure(name: str) -> str:
    z = name.startswith("z_")
    plain = _FIGURES.get(name, name.removeprefix("z_").removeprefix("row_z_").replace("_", " "))
    return f"{plain}, against chance" if z else f"{plain}, against the same rows" if name.startswith("row_z_") else plain


def _rho(row: dict[str, Any]) -> str:
    rho = known_interval({"rho": row}, "rho")
    value, lo, hi = (wording.signed(f"{bound:+.2f}") for bound in (rho.value, rho.lo, rho.hi))
    return f"rank correlation {value}" + (f" [{lo} to {hi}]" if rho.hi > rho.lo else "")
