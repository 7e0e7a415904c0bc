"""Why each method loses what it loses: one row a method and budget, and a reason only where its own corrected test holds."""

from __future__ import annotations

from dataclasses import dataclass

from methods.keep import Keep
from reports import timing, wording
from reports.cells import Cell, Interval, Stratum, interval, leading, method, number, p_value, rounds_without_interval
from reports.leading import Unit, unit_of
from reports.method_notes import races
from reports.tested import less_diverse, settled

_FAMILIES = 3  # how many of the worst are named
_LEANS = 0.6  # share of the tokens in one half of the image from which on their place is worth a sentence
_TOLD = 0.05  # a family whose accuracy falls by less is no loss worth naming


@dataclass(frozen=True)
class LossFigure:
    """A figure of a row: raw for copies, as text, and its small print."""

    raw: float | None  # as summary.json has it: shares, and milliseconds
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Loss:
    """What one cell loses to the unpruned model, where, and why as far as this run can tell."""

    method: str
    lost: LossFigure  # the figure that leads minus the unpruned model's, points of its scale
    where: str  # the families that lose most
    evidence: LossFigure  # recall, percent; the control's in the small print
    swap: LossFigure  # accuracy given back with the evidence, percentage points
    ranking: LossFigure  # over random tokens on the same schedule, points of the scale
    cost: LossFigure  # TTFT, ms
    timed: str  # the same as a sentence
    why: tuple[str, ...]


@dataclass(frozen=True)
class LossTable:
    """The rows of one budget, the best method first."""

    keep: Keep
    rows: tuple[Loss, ...]
    unit: Unit


def losses(stratum: Stratum) -> list[LossTable]:
    """Return what every method loses at every budget, the smallest budget first, where the loss is largest.

    Args:
        stratum: cells that may be compared.

    Returns:
        One table a budget; none where the unpruned model or all figures are missing.
    """
    if stratum.none is None or leading(stratum.none) is None:
        return []
    found = []
    for k in reversed(stratum.budgets):
        cells = [c for c in stratum.at(k) if races(c) and leading(c) is not None]
        if cells:
            found.append(LossTable(k, tuple(_loss(stratum, c) for c in cells), unit_of(*cells)))
    return found


def _loss(stratum: Stratum, cell: Cell) -> Loss:
    gap, swap = interval(cell, "difference_none"), interval(cell, "evidence.swap_gain")
    like, recall = interval(cell, "difference_like"), interval(cell, "evidence.recall")
    control = stratum.control(cell)
    theirs = interval(control, "evidence.recall") if control else None
    worst, unit = _worst(stratum, cell), unit_of(cell)
    return Loss(
        method=method(cell),
        lost=_points(gap, _p(cell, "difference_none"), unit),
        where=", ".join(f"{name} {wording.points(change)}" for name, change in worst),
        evidence=LossFigure(
            recall.value if recall else None,
            wording.percent(recall.value if recall else None),
            f"{method(control)} {wording.percent(theirs.value)}" if theirs and control else "",
        ),
        swap=_points(swap, _p(cell, "evidence.swap_gain"), Unit()),
        ranking=_points(like, _p(cell, "difference_like"), unit),
        cost=_cost(cell),
        timed=_timed(cell),
        why=tuple(_why(cell)),
    )


def _points(gap: Interval | None, tail: str, unit: Unit) -> LossFigure:
    if gap is None:
        return LossFigure(None, wording.MISSING)
    return LossFigure(gap.value, unit.points(gap.value), "; ".join(t for t in (unit.points_span(gap), tail) if t))


def _p(cell: Cell, path: str) -> str:
    p, corrected = p_value(cell, path)
    return "" if p is None else wording.p_told(p, corrected)


def _cost(cell: Cell) -> LossFigure:
    ttft = interval(cell, "latency.ttft")
    if ttft is None:
        return LossFigure(None, wording.MISSING)
    faster, ratio = timing.speed_up(cell, " times as fast"), interval(cell, "latency.ratio")
    unsure = wording.milliseconds_range(ttft) if ttft.known else rounds_without_interval(cell)
    if not ttft.known and ratio is not None and not ratio.known:
        unsure = ""  # the speed-up says so
    return LossFigure(ttft.value, wording.milliseconds(ttft.value), "; ".join(part for part in (unsure, faster) if part))


def _timed(cell: Cell) -> str:
    """Say how long a cell takes to its first token; nothing of one that was not timed."""
    value, _, spread = timing.first_token(cell).partition(" ")
    if not value:
        return ""
    faster, wide = timing.speed_up(cell, " times as fast", mark=False), timing.why_wide(cell)
    return f"{value}\u00a0ms to the first token{', ' if faster else ' '}{faster or spread}{'; ' if wide else ''}{wide}."


def _worst(stratum: Stratum, cell: Cell) -> list[tuple[str, float]]:
    """Return the question families whose accuracy falls most, worst first, as plain differences of two accuracies."""
    whole, changes = (stratum.none or {}).get("families") or {}, []
    for name, found in (cell.get("families") or {}).items():
        mine, theirs = number({"found": found}, "found"), number({"found": whole.get(name)}, "found")
        if mine is not None and theirs is not None and mine - theirs <= -_TOLD:
            changes.append((name, mine - theirs))
    return sorted(changes, key=lambda item: item[1])[:_FAMILIES]


def _why(cell: Cell) -> list[str]:
    """Say what this run shows of the reasons; each is claimed by its own corrected test, at 5 % over all competing cells."""
    side = settled(cell, "difference_none")
    if side != -1:
        gap = interval(cell, "difference_none")
        if gap is None or side is None:
            return [] if gap is None else ["Its loss was not tested with a correction."]
        alone = ", though the interval of this cell alone leaves out 0" if gap.known and gap.hi < 0 else ""
        return [f"No loss could be shown{alone}."]
    found = (_evidence_back(cell), _evidence_held(cell), _ranked(cell), _bent(cell), _leaning(cell))
    return [reason for reason in found if reason] or ["This run does not show why."]


def _evidence_back(cell: Cell) -> str:
    """Say whether accuracy returns with the evidence, and what share of the loss that is where the share has an interval."""
    back = settled(cell, "evidence.swap_gain")
    if back is None:
        return ""
    if back != 1:
        return "Putting the evidence back at the same count gains nothing that could be shown."
    share = interval(cell, "evidence.swap_share")
    of = "Part of its loss" if share is None else f"{wording.percent(share.value, 0)} % of its loss"
    spread = "" if share is None or not share.known else f" [{wording.percent_range(share, 0)}]"
    return f"{of}{spread} is evidence thrown away: it returns when those tokens are put back at the same count."


def _evidence_held(cell: Cell) -> str:
    """Say whether more or less of the evidence is kept than by random tokens."""
    apart = settled(cell, "evidence.recall_over_control")
    if not apart:
        return ""
    return f"It {'still holds more' if apart == 1 else 'holds less'} of the evidence than random tokens on the same schedule."


def _ranked(cell: Cell) -> str:
    """Say where the ranking is worth nothing that could be shown, or less."""
    worth = settled(cell, "difference_like")
    if worth is None or worth == 1:
        return ""
    told = "does worse than" if worth == -1 else "could not be told from"
    return f"Its ranking {told} random tokens on the same schedule."


def _bent(cell: Cell) -> str:
    """Say whether its tokens are less diverse than chance; tokens of the evidence alone are alike too, and no fault."""
    if settled(cell, "evidence.recall_over_control") == 1:
        return ""
    told = {"effective_rank": "are more alike", "cells": "crowd in fewer places"}
    bent = [text for figure, text in told.items() if less_diverse(cell, figure)]
    return f"Its tokens {' and '.join(bent)} than random ones of the same number." if bent else ""


def _leaning(cell: Cell) -> str:
    """Say in which half of the image its tokens lie, where that is more than half of them by its test and many of them."""
    lower, side = number(cell, "bias.lower_half"), settled(cell, "bias.lower_half", 0.5)
    if lower is None or not side or max(lower, 1 - lower) < _LEANS:
        return ""
    half, part = ("lower", lower) if side == 1 else ("upper", 1 - lower)
    return f"{wording.percent(part, 0)} % of its tokens lie in the {half} half of the image."
