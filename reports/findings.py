"""Sentences that a run's tests carry, with the figures of ``summary.json`` that they come from; where no test holds, none.

Each question asked here is one family of tests at 5 % over all methods and budgets, corrected by Holm. Where the summary
holds an interval and no test, p is the normal one of value and interval (Student's t of medians over timed rounds). Of two
cells' figures that errs to the safe side, as their images are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from methods.keep import Keep
from metrics.statistics import holm
from reports import wording
from reports.cells import (
    SIGNIFICANT,
    Cell,
    Interval,
    Stratum,
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

_ROUNDS = 12  # that a run times, where it is not told otherwise
_NAMED = 4  # cells told one by one in a sentence
_LABELS = {"across_methods": "across methods, on the same question and budget",
           "across_methods_before_llm": "across methods that prune before the LLM, at equal counts",
           "across_images": "across images, for one method, budget and family"}  # fmt: skip
_RANK, _GAIN = "collapse.z.effective_rank", "latency.realised_gain"
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


def _corrected(rows: Iterable[tuple[Cell, Interval | None, float | None]]) -> list[Tested]:
    """Return the significant ones of a family of tests, in the order given."""
    known = [(cell, figure, p) for cell, figure, p in rows if figure is not None and p is not None]
    adjusted = holm([p for _, _, p in known])
    pairs = zip(known, adjusted, strict=True)
    return [Tested(cell, figure, p) for (cell, figure, _), p in pairs if p is not None and p < SIGNIFICANT]


def _normal_p(distance: float, se: float) -> float | None:
    """Two-sided p of a distance in standard errors; None where there is no spread to hold it against."""
    return math.erfc(abs(distance) / se / math.sqrt(2)) if se > 0 else None


def _rounds_p(distance: float, se: float) -> float | None:
    """`_normal_p` of a median over few rounds, whose interval is itself uncertain: Student's t of 11 degrees of freedom."""
    from scipy.special import stdtr

    return float(2 * stdtr(_ROUNDS - 1, -abs(distance) / se)) if se > 0 else None


def _se(figure: Interval) -> float:
    """Return the standard error that a 95 % interval implies, by its longer arm, so that a lopsided one claims less."""
    return max(figure.hi - figure.value, figure.value - figure.lo) / 1.96


def _finding(kind: str, start: str, rows: list[Tested], text: Callable[[Tested], str], *figures: str) -> list[Finding]:
    """Return one sentence for all cells of which the same holds; the strongest of them are told one by one."""
    if not rows:
        return []
    told = [f"{row.name} ({text(row)})" for row in rows[:_NAMED]]
    rest = f", and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    p = wording.p_text(max(row.p for row in rows))
    least = f"each {p.replace('=', '≤')}" if len(rows) > 1 else p
    said = f"{start}: {', '.join(told)}{rest}; {least}, Holm."
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
        racing = [c for c in stratum.at(k) if role(c) == "method" and leading(c) is not None]
        if len(racing) < 2:
            continue
        first, second = racing[:2]
        gap, p = interval(second, "difference_winner"), number(second, "difference_winner.p_holm")
        others = [number(c, "difference_winner.p_holm") for c in racing[1:]]
        if gap is None or p is None or any(q is None or q >= SIGNIFICANT for q in others) or gap.value >= 0:
            continue
        lead, unit = Interval(-gap.value, -gap.hi, -gap.lo), unit_of(first)
        leads = "is the most accurate" if unit.plain else f"has the highest {unit.name}"
        said = (
            f"At {k.phrase} {method(first)} {leads}: ahead of the next, {method(second)}, by "
            f"{unit.points_plain(lead.value)} {unit.measured_in} [{unit.points_plain(lead.lo)} to {unit.points_plain(lead.hi)}], "
            f"{wording.p_text(p)}, Holm."
        )
        both = (method(first), k), (method(second), k)
        found.append(Finding("winner", said, (leading_path(first), "difference_winner"), both))
    return found


def _non_inferior(stratum: Stratum) -> list[Finding]:
    """Return the cells whose loss to the unpruned model is below the margin, at 2.5 % one-sided over all of them together."""
    rows, margins = [], set()
    for cell in _methods(stratum):
        gap, margin = interval(cell, "difference_none"), number(cell, "non_inferior.margin")
        p = number(cell, "non_inferior.p")
        if gap is None or margin is None or p is None:
            continue
        margins.add(margin)
        rows.append((cell, gap, min(1.0, 2 * p) if dig(cell, "non_inferior.holds") else 1.0))
    if len(margins) != 1:
        return []
    unit = unit_of(*stratum.cells)
    start = f"No more than {unit.points_plain(margins.pop())} {unit.measured_in} below the unpruned model"
    kept = sorted(_corrected(rows), key=lambda row: (falling(keep(row.cell)), row.figure.value), reverse=True)
    return _finding("non-inferior", start, kept, _gap, "difference_none", "non_inferior")


def _ranking(stratum: Stratum) -> list[Finding]:
    """Return what a ranking is worth over random tokens on the same schedule; the summary has corrected these p."""
    rows = [
        Tested(c, gap, p)
        for c in _methods(stratum)
        if (gap := interval(c, "difference_like")) is not None
        and (p := number(c, "difference_like.p_holm")) is not None and p < SIGNIFICANT
    ]  # fmt: skip
    worse = sorted((r for r in rows if r.figure.value < 0), key=lambda r: r.figure.value)
    better = sorted((r for r in rows if r.figure.value > 0), key=lambda r: -r.figure.value)
    return [
        *_finding("ranking", "Falls below random tokens on its own schedule", worse, _gap, "difference_like"),
        *_finding("ranking", "Its ranking is worth more than its schedule", better, _gap, "difference_like"),
    ]


def _diversity(stratum: Stratum) -> list[Finding]:
    """Return the cells that are less diverse than random tokens of the same number on the same image."""
    rows = [
        (c, z, number(c, f"{_RANK}.p") if z.hi < 0 else 1.0)
        for c in _methods(stratum) if (z := interval(c, _RANK)) is not None
    ]  # fmt: skip
    kept = sorted(_corrected(rows), key=lambda row: row.figure.value)
    start = "Less diverse than random tokens of the same number (effective rank, z against chance)"
    return _finding("diversity", start, kept, _z_text, _RANK)


def _collapse(stratum: Stratum) -> list[Finding]:
    """Return the cells that are less diverse than chance and short of evidence too: both are tested, the weaker p counts."""
    rows, against = [], {}
    for cell in _methods(stratum):
        control = stratum.control(cell)
        z, p = interval(cell, _RANK), number(cell, f"{_RANK}.p")
        mine, theirs = interval(cell, "evidence.recall"), interval(control, "evidence.recall") if control else None
        if z is None or p is None or mine is None or theirs is None:
            continue
        short = _normal_p(theirs.value - mine.value, math.hypot(_se(mine), _se(theirs)))
        rows.append((cell, z, None if short is None else max(p, short) if z.hi < 0 and mine.value < theirs.value else 1.0))
        shares = wording.percent(mine.value, 0), wording.percent(theirs.value, 0)
        against[id(cell)] = f"evidence {shares[0]} % against {shares[1]} % of random tokens"
    text = lambda row: f"{_z_text(row)}; {against[id(row.cell)]}"
    kept = sorted(_corrected(rows), key=lambda row: row.figure.value)
    start = "Collapsed, less diverse than chance and short of the evidence that random tokens hold"
    return _finding("collapse", start, kept, text, _RANK, "evidence.recall")


def _z_text(row: Tested) -> str:
    share = number(row.cell, f"{_RANK}.share_below_chance")
    below = "" if share is None else f", below chance on {wording.percent(share, 0)} % of the samples"
    value, lo, hi = (wording.plain(v, 1) for v in (row.figure.value, row.figure.lo, row.figure.hi))
    return f"{value} [{lo} to {hi}]{below}"


def _swap(stratum: Stratum) -> list[Finding]:
    """Return how much of the loss comes back with the evidence, at the same number of tokens."""
    rows = [
        (c, gain, _normal_p(gain.value, _se(gain)) if gain.lo > 0 else 1.0)
        for c in _methods(stratum) if (gain := interval(c, "evidence.swap_gain")) is not None and gain.hi > gain.lo
    ]  # fmt: skip

    def text(row: Tested) -> str:
        share, figure = interval(row.cell, "evidence.swap_share"), row.figure
        gain = f"{wording.points(figure.value)} {unit_of(row.cell).answer_points} [{wording.points_range(figure)}]"
        if share is None:
            return gain
        value, lo, hi = (wording.percent(v, 0) for v in (share.value, share.lo, share.hi))
        return f"{gain}, {value} % [{lo} to {hi}] of the loss"

    kept = sorted(_corrected(rows), key=lambda row: -row.figure.value)
    start = "Accuracy comes back when the evidence is forced in and as many random tokens leave"
    return _finding("swap", start, kept, text, "evidence.swap_gain", "evidence.swap_share")


def _speed(stratum: Stratum) -> list[Finding]:
    """Return the cells whose prefill is slower or faster than their FLOPs promise."""
    rows = []
    for cell in _methods(stratum):
        gain = interval(cell, _GAIN)
        if gain is not None and not dig(cell, "latency.noisy") and gain.hi > gain.lo:
            outside = gain.lo > 1 or gain.hi < 1
            rows.append((cell, gain, _rounds_p(gain.value - 1, _se(gain)) if outside else 1.0))

    def text(row: Tested) -> str:
        value, lo, hi = (wording.percent(v, 0) for v in (row.figure.value, row.figure.lo, row.figure.hi))
        return f"{value} % [{lo} to {hi}]"

    kept = _corrected(rows)
    short = sorted((r for r in kept if r.figure.value < 1), key=lambda r: r.figure.value)
    more = sorted((r for r in kept if r.figure.value > 1), key=lambda r: -r.figure.value)
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
        p = wording.p_text(max(number(row, "p_holm") or 0.0 for row in sure[:3])).replace("=", "≤")
        said = (
            f"What goes with right answers {where}: {told}; each {p}, Holm. {len(sure)} of {len(rows)} figures do. "
            "Association, not cause."
        )
        path = f"explained.correlations.{name}"
        found.append(Finding("explain", said, tuple(f"{path}: {row.get('figure')}" for row in sure[:3])))
    for one in _dicts(dig(explained, "complexity.interactions")):
        gap = interval({"gap": one}, "gap")
        if gap is None or not _sure(one):
            continue
        budget = Keep.stored(one)
        move = "falls" if gap.value > 0 else "rises"
        said = (
            f"At {'no budget' if budget is None else budget.phrase} what methods that rank by attention are ahead of those that "
            f"rank by diversity {move} by {wording.points_plain(abs(gap.value))} {answer_points} [{wording.points_range(gap)}] "
            f"from the simplest third of the images to the most complex, {wording.p_text(number(one, 'p_holm'))}, Holm."
        )
        found.append(Finding("complexity", said, ("explained.complexity.interactions",)))
    return found


def _dicts(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _sure(one: dict[str, Any]) -> bool:
    p = number(one, "p_holm")
    return p is not None and p < SIGNIFICANT


def _figure(name: str) -> str:
    z = name.startswith("z_")
    plain = _FIGURES.get(name, name.removeprefix("z_").removeprefix("row_z_").replace("_", " "))
    return f"{plain}, against chance" if z else f"{plain}, against the same rows" if name.startswith("row_z_") else plain


def _rho(row: dict[str, Any]) -> str:
    rho = known_interval({"rho": row}, "rho")
    value, lo, hi = (wording.signed(f"{bound:+.2f}") for bound in (rho.value, rho.lo, rho.hi))
    return f"rank correlation {value}" + (f" [{lo} to {hi}]" if rho.hi > rho.lo else "")
