"""The sentences on top of the page: the best method at each budget, and what this run does not settle about it."""

from __future__ import annotations

from dataclasses import dataclass

from methods.keep import Keep
from reports import wording
from reports.cells import (
    SIGNIFICANT,
    Cell,
    Interval,
    Stratum,
    dig,
    interval,
    known_interval,
    known_leading,
    known_number,
    leading,
    leading_share,
    method,
    number,
    p_value,
    role,
)
from reports.leading import Unit, unit_of

_TIE = 1e-9  # of the leading share: figures that part by less are equal, but for their rounding


@dataclass(frozen=True)
class Sentence:
    """One statement, and how it should strike the reader: ``good``, ``bad`` or ``open`` (not settled)."""

    verdict: str
    text: str

    @property
    def tight(self) -> str:
        """The text with numbers kept on one line with their units and signs."""
        return wording.tight(self.text)


@dataclass(frozen=True)
class Headline:
    """The best method at one budget, and the sentences about it."""

    keep: Keep
    best: str | None
    value: str  # of the figure that leads, without its sign
    spread: str
    of: int  # how many methods were in the race
    sentences: tuple[Sentence, ...]
    sign: str = "%"
    figure: str = "accuracy"  # that stands there
    named: bool = False  # whether its name stands before the value: a benchmark's own figure
    partial: bool = False
    cost: str = ""  # of the best method: time to first token, or compute where nothing was timed


def headlines(stratum: Stratum) -> list[Headline]:
    """Return a headline for every budget of a group of comparable cells, largest budget first."""
    return [_at(stratum, k) for k in stratum.budgets]


def _at(stratum: Stratum, k: Keep) -> Headline:
    cells = [c for c in stratum.at(k) if leading(c) is not None]
    racing = [c for c in cells if role(c) == "method"]
    if not cells and (loyal := [c for c in stratum.at(k) if role(c) == "method" and number(c, "loyalty.agreement") is not None]):
        return _by_loyalty(stratum, k, loyal)
    if not racing:
        said = Sentence("open", "No pruning method beside the references was measured here.")
        return Headline(k, None, wording.MISSING, "", 0, (said,))
    best = racing[0]
    found, unit = known_leading(best), unit_of(best)
    sentences = (_against_none(best), _against_random(stratum, best), _against_references(cells, best), _ties(racing))
    return Headline(
        keep=k,
        best=method(best),
        value=unit.digits(found.value),
        sign=unit.sign,
        spread=unit.span(found),
        of=len(racing),
        sentences=tuple(s for s in sentences if s),
        figure=unit.name,
        named=not unit.plain,
        partial=unit.partial,
        cost=cost(stratum, best),
    )


def _by_loyalty(stratum: Stratum, k: Keep, loyal: list[Cell]) -> Headline:
    """Return the headline of a task without answers: how often a method says what the unpruned model says."""
    ranked = sorted(loyal, key=lambda c: -known_number(c, "loyalty.agreement"))
    best, rest = ranked[0], ranked[1:]
    found = known_interval(best, "loyalty.agreement")
    kl = number(best, "loyalty.kl")
    said = [Sentence("open", "No answers are known, so this is agreement with the unpruned model, right or wrong, not accuracy.")]
    if kl is not None:
        said.append(Sentence("open", f"Its first answer token diverges by {wording.plain(kl, 3)} nats."))
    near = [c for c in rest if known_number(c, "loyalty.agreement") >= found.lo]
    if near:
        said.append(
            Sentence(
                "open", f"First place is not settled: within its interval lie {wording.listed([method(c) for c in near[:4]])}."
            )
        )
    percent, spread = wording.percent(found.value), wording.percent_range(found)
    return Headline(k, method(best), percent, spread, len(ranked), tuple(said), figure="agreement", cost=cost(stratum, best))


def noisy(cell: Cell) -> bool:
    """Return whether a cell's rounds vary too much for its times to be given in digits."""
    return bool(dig(cell, "latency.noisy"))


def cost(stratum: Stratum, cell: Cell) -> str:
    """Say what a cell costs: milliseconds to the first token against the unpruned model's, or compute where nothing was timed."""
    ttft, ratio = interval(cell, "latency.ttft"), interval(cell, "latency.ratio")
    whole = interval(stratum.none, "latency.ttft") if stratum.none else None
    if ttft is not None and noisy(cell):
        spread = f"{wording.milliseconds(ttft.lo)} to {wording.milliseconds(ttft.hi)} ms"
        return f"{spread} to the first token, too noisy in this run for one number."
    if ttft is not None:
        spread = f" [{wording.milliseconds(ttft.lo)} to {wording.milliseconds(ttft.hi)}]" if ttft.hi > ttft.lo else ""
        said = f"{wording.milliseconds(ttft.value)} ms to the first token{spread}"
        if whole is None or ratio is None:
            return f"{said}."
        spread = f" [{wording.plain(ratio.lo)} to {wording.plain(ratio.hi)}]" if ratio.hi > ratio.lo else ""
        return f"{said}; unpruned {wording.milliseconds(whole.value)} ms. Speed-up {wording.plain(ratio.value)} times{spread}."
    total = number(cell, "flops.total")
    if total is None:
        return ""
    divisor, name = wording.flops_unit([total])
    base = number(stratum.none, "flops.total") if stratum.none else None
    share = f", {wording.percent(total / base, 0)} % of the unpruned model's" if base else ""
    return f"{wording.plain(total / divisor)} {name}{share}; nothing was timed."


def _test_text(cell: Cell, path: str) -> str:
    p, holm = p_value(cell, path)
    return wording.p_text(p) + (", Holm" if holm and p is not None else "")


def _against_none(best: Cell) -> Sentence | None:
    gap = interval(best, "difference_none")
    if gap is None:
        return None
    p, _ = p_value(best, "difference_none")
    unit = unit_of(best)
    numbers = f"{unit.gap(gap)}, {_test_text(best, 'difference_none')}"
    margin, holds = number(best, "non_inferior.margin"), dig(best, "non_inferior.holds")
    within = "" if margin is None else f"{unit.points_plain(margin)} {unit.measured_in}"
    if p is not None and p < SIGNIFICANT and gap.value > 0:
        return Sentence("good", f"{unit.more} than the unpruned model: {numbers}.")
    if margin is not None and holds:
        loss = "its loss is real but small" if p is not None and p < SIGNIFICANT else "no loss could be shown"
        return Sentence("good", f"Non-inferior to the unpruned model at a margin of {within}, and {loss}: {numbers}.")
    if p is None:
        return Sentence("open", f"Against the unpruned model: {numbers}.")
    if p >= SIGNIFICANT:
        if not gap.known:
            return Sentence("open", f"Nothing can be said against the unpruned model: {numbers}. One image has no interval.")
        alone = ", though the interval of this test alone leaves out 0" if gap.hi < 0 or gap.lo > 0 else ""
        said = f"No difference from the unpruned model could be shown: {numbers}{alone}."
        narrow = margin is not None and gap.lo > -margin
        if gap.lo < 0:
            said += f" That is not proof of none: a loss of up to {unit.digits(-gap.lo)} {unit.measured_in} fits these data"
            said += f", so it is not shown to be non-inferior at {within}." if within and not narrow else "."
        if narrow:
            said += f" So few images do not show it to be non-inferior at {within}: others like these may lose more."
        return Sentence("open", said)
    margin_text = f" Non-inferiority at a margin of {within} is not shown." if within else ""
    return Sentence("bad", f"{unit.less} than the unpruned model: {numbers}.{margin_text}")


def _against_random(stratum: Stratum, best: Cell) -> Sentence | None:
    gap = interval(best, "difference_like")
    if gap is not None:
        p, _ = p_value(best, "difference_like")
        numbers = f"{unit_of(best).gap(gap)}, {_test_text(best, 'difference_like')}"
        if p is None:
            return Sentence("open", f"Against random tokens on the same schedule: {numbers}.")
        if p >= SIGNIFICANT:
            return Sentence("open", f"Its ranking could not be told from random tokens on the same schedule: {numbers}.")
        if gap.value > 0:
            return Sentence("good", f"Its ranking beats random tokens on the same schedule: {numbers}.")
        return Sentence("bad", f"Its ranking does worse than random tokens on the same schedule: {numbers}.")
    control = stratum.control(best)
    chance, mine, unit = leading(control) if control else None, known_leading(best), unit_of(control)
    if control is None or chance is None:
        return Sentence("open", "No random control at this budget, so what its ranking is worth is not known.")
    apart = _apart(mine, chance)
    side = "level with" if abs(mine.value - chance.value) < _TIE else "above" if mine.value > chance.value else "below"
    return Sentence(
        ("good" if side == "above" else "bad") if apart else "open",
        f"{method(control)} reaches {unit.unmarked(chance.value)} [{unit.span(chance)}]{unit.mark}: the method is "
        f"{side} it, and the intervals {'do not overlap' if apart else 'overlap'} (random tokens "
        "are no control of a method that merges, so this is no test).",
    )


def _against_references(cells: list[Cell], best: Cell) -> Sentence | None:
    """Shrinking the image is the alternative that needs no method at all, so what does as well is always said.

    A run has no test against references: that one is ahead is claimed where the intervals of both lie apart, never of a tie.
    """
    mine = known_leading(best)
    simple = [(c, known_leading(c)) for c in cells if role(c) in ("reference", "control")]
    no_lower = [c for c, found in simple if found.value > mine.value - _TIE]
    if higher := [c for c, found in simple if found.value > mine.value + _TIE and _apart(found, mine)]:
        return Sentence("bad", f"Simpler alternatives at this budget score higher: {_named(higher)}.")
    if no_lower:
        return Sentence(
            "open", f"No better than simpler alternatives at this budget, so far as this run shows: {_named(no_lower)}."
        )
    shrunk = next(((c, found) for c, found in simple if method(c).split("[", 1)[0] == "downsample"), None)
    if shrunk is None:
        return None
    said = f"bove downsample, a smaller image ({unit_of(shrunk[0]).value(shrunk[1].value)})"
    if _apart(mine, shrunk[1]):
        return Sentence("good", f"A{said}.")
    return Sentence("open", f"It is not settled that it is a{said}: the intervals overlap.")


def _apart(one: Interval, other: Interval) -> bool:
    """Whether both intervals are known and do not overlap."""
    return one.known and other.known and (one.lo > other.hi or one.hi < other.lo)


def _ties(racing: list[Cell]) -> Sentence | None:
    """Say whether the lead over all others is real: by the paired tests where the run has them, else by the interval."""
    tests = [(c, p) for c in racing[1:] if (p := p_value(c, "difference_winner")[0]) is not None]
    control_won = interval(racing[0], "difference_winner") is not None  # then the tests are against random tokens
    if tests and not control_won and len(tests) == len(racing) - 1:
        equal = [c for c, p in tests if p >= SIGNIFICANT]
        if equal:
            return Sentence("open", f"First place is not settled: no difference could be shown from {_named(equal)}.")
        gap = known_interval(racing[1], "difference_winner")
        lead, unit = Interval(-gap.value, -gap.hi, -gap.lo), unit_of(racing[1])
        return Sentence(
            "good",
            f"Ahead of every other method; of the next, {method(racing[1])}, by {unit.points_plain(lead.value)} "
            f"{unit.measured_in} [{unit.points_span(lead)}], {_test_text(racing[1], 'difference_winner')}.",
        )
    best = known_leading(racing[0])
    near = [c for c in racing[1:] if known_leading(c).value >= best.lo]
    if not near:
        return None
    lie = "lie" if len(near) > 1 else "lies"
    return Sentence("open", f"First place is not settled: within its interval {lie} {_named(near)}.")


def _named(cells: list[Cell]) -> str:
    """Name the first four methods with their figures, and count the rest."""
    names = [f"{method(c)} ({unit_of(c).value(leading_share(c))})" for c in cells[:4]]
    return wording.listed([*names, f"{len(cells) - 4} more"] if len(cells) > 4 else names)


def image_worth(stratum: Stratum) -> str | None:
    """Say what the unpruned model reaches with and without the image: how much there is to lose."""
    none = leading(stratum.none) if stratum.none else None
    if none is None:
        return None
    unit = unit_of(stratum.none)
    said = f"Unpruned: {_figure(unit, none)}."
    blind = leading(stratum.blind) if stratum.blind else None
    if blind is None:
        return said
    said += f" Without any image: {_figure(unit_of(stratum.blind), blind)}."
    if none.lo <= blind.hi:
        return f"{said} The intervals meet: if the image does not help, pruning it cannot hurt."
    worth = f"{unit.digits(none.value - blind.value)} {unit.measured_in}"
    return f"{said} The image is worth {worth}; only those can be lost by pruning."


def _figure(unit: Unit, found: Interval) -> str:
    """Write a figure with its interval and mark, and its name where it is not accuracy."""
    return f"{'' if unit.plain else f'{unit.name} '}{unit.unmarked(found.value)} [{unit.span(found)}]{unit.mark}"
