"""Why each method loses what it loses: one row a method and budget, and sentences only where intervals or tests carry them."""

from __future__ import annotations

from dataclasses import dataclass

from methods.keep import Keep
from reports import headline, wording
from reports.cells import SIGNIFICANT, Cell, Interval, Stratum, interval, leading, method, number, p_value, role
from reports.leading import Unit, unit_of

_FAMILIES = 3  # how many of the worst are named
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
        cells = [c for c in stratum.at(k) if role(c) == "method" and leading(c) is not None]
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
        swap=_points(swap, "", Unit()),
        ranking=_points(like, _p(cell, "difference_like"), unit),
        cost=_cost(cell),
        why=tuple(_why(cell, gap, like, recall, theirs)),
    )


def _points(gap: Interval | None, tail: str, unit: Unit) -> LossFigure:
    if gap is None:
        return LossFigure(None, wording.MISSING)
    return LossFigure(gap.value, unit.points(gap.value), "; ".join(t for t in (unit.points_span(gap), tail) if t))


def _p(cell: Cell, path: str) -> str:
    p, _ = p_value(cell, path)
    return "" if p is None else wording.p_text(p)


def _cost(cell: Cell) -> LossFigure:
    ttft, ratio = number(cell, "latency.ttft"), number(cell, "latency.ratio")
    spread = interval(cell, "latency.ttft")
    if spread is not None and headline.noisy(cell):
        return LossFigure(ttft, "noisy", f"{wording.milliseconds(spread.lo)} to {wording.milliseconds(spread.hi)}")
    return LossFigure(ttft, wording.milliseconds(ttft), "" if ratio is None else f"{wording.plain(ratio)} times as fast")


def _worst(stratum: Stratum, cell: Cell) -> list[tuple[str, float]]:
    """Return the question families whose accuracy falls most, worst first, as plain differences of two accuracies."""
    whole, changes = (stratum.none or {}).get("families") or {}, []
    for name, found in (cell.get("families") or {}).items():
        mine, theirs = number({"found": found}, "found"), number({"found": whole.get(name)}, "found")
        if mine is not None and theirs is not None and mine - theirs <= -_TOLD:
            changes.append((name, mine - theirs))
    return sorted(changes, key=lambda item: item[1])[:_FAMILIES]


def _why(cell: Cell, gap: Interval | None, like: Interval | None, recall: Interval | None, theirs: Interval | None) -> list[str]:
    """Say what this run shows of the reasons; each sentence needs its own interval or test."""
    p, _ = p_value(cell, "difference_none")
    if gap is None or p is None or p >= SIGNIFICANT or gap.value >= 0:
        return ["No loss could be shown."] if gap is not None else []
    said = []
    share, gain = interval(cell, "evidence.swap_share"), interval(cell, "evidence.swap_gain")
    if gain is not None and gain.lo > 0:
        of = f"{wording.percent(share.value, 0)} % of its loss" if share is not None and share.lo > 0 else "Part of its loss"
        said.append(f"{of} is evidence thrown away: it returns when those tokens are put back at the same count.")
    elif gain is not None:
        said.append("Putting the evidence back at the same count gains nothing that could be shown.")
    apart = 0 if recall is None or theirs is None else (recall.lo > theirs.hi) - (recall.hi < theirs.lo)
    if apart:
        said.append(
            f"It {'still holds more' if apart > 0 else 'holds less'} of the evidence than random tokens on the same schedule."
        )
    like_p, _ = p_value(cell, "difference_like")
    if like is not None and like_p is not None and (like_p >= SIGNIFICANT or like.value < 0):
        said.append(f"Its ranking {'does worse than' if like_p < SIGNIFICANT else 'could not be told from'} random tokens on the "
                    "same schedule.")  # fmt: skip
    alike, spread = interval(cell, "collapse.z.effective_rank"), interval(cell, "collapse.z.cells")
    bent = [text for z, text in ((alike, "are more alike"), (spread, "crowd in fewer places")) if z is not None and z.hi < 0]
    if bent and apart <= 0:  # tokens of the evidence alone are alike too, and no fault
        said.append(f"Its tokens {' and '.join(bent)} than random ones of the same number.")
    lower = interval(cell, "bias.lower_half")
    if lower is not None and (lower.lo > 0.6 or lower.hi < 0.4):
        half, part = ("lower", lower.value) if lower.value > 0.5 else ("upper", 1 - lower.value)
        said.append(f"{wording.percent(part, 0)} % of its tokens lie in the {half} half of the image.")
    return said or ["This run does not show why."]
