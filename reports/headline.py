"""The sentences on top of the page: the best method at each budget, and what this run does not settle about it.

The best is named since it is the highest, so its tests are corrected for the choice: over all competing cells of the run, or for
non-inferiority over the methods of its budget. What has no such test is told as an open statement that says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.keep import Keep
from reports import timing, wording
from reports.cells import (
    SIGNIFICANT,
    Cell,
    Interval,
    Stratum,
    corrected_p,
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
from reports.method_notes import doubles, races
from reports.tested import non_inferior_as_best, settled

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
    level: tuple[str, ...] = ()  # methods that reach the very same figure: then no one is the best
    same: tuple[str, ...] = ()  # methods that keep the same tokens as the best and give the same answers
    cost: str = ""  # of the best method: time to first token, or compute where nothing was timed


def headlines(stratum: Stratum) -> list[Headline]:
    """Return a headline for every budget of a group of comparable cells, largest budget first."""
    return [_at(stratum, k) for k in stratum.budgets]


def _at(stratum: Stratum, k: Keep) -> Headline:
    cells = [c for c in stratum.at(k) if leading(c) is not None]
    racing = [c for c in cells if races(c)]
    if not cells and (loyal := [c for c in stratum.at(k) if races(c) and number(c, "loyalty.agreement") is not None]):
        return _by_loyalty(stratum, k, loyal)
    if not racing:
        said = Sentence("open", "No pruning method beside the references was measured here.")
        return Headline(k, None, wording.MISSING, "", 0, (said,))
    best = racing[0]
    found, unit = known_leading(best), unit_of(best)
    sentences = (
        _against_none(best, len(racing)), _against_random(stratum, best), _against_downsample(cells, best),
        _no_lower(stratum, cells, best), _ties(racing),
    )  # fmt: skip
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
        level=tuple(method(c) for c in _level(racing)),
        same=doubles(best, cells),
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
    level = tuple(method(c) for c in rest if found.value - known_number(c, "loyalty.agreement") < _TIE)
    percent, spread = wording.percent(found.value), wording.percent_range(found)
    if level:
        said.append(
            Sentence("open", f"First place is shared: {wording.listed([method(best), *level])} are level at {percent} %.")
        )
    elif rest:
        said.append(Sentence("open", "Whether it leads the other methods was not tested."))
    return Headline(
        k, method(best), percent, spread, len(ranked), tuple(said), figure="agreement", level=level,
        same=doubles(best, stratum.at(k)), cost=cost(stratum, best),
    )  # fmt: skip


def cost(stratum: Stratum, cell: Cell) -> str:
    """Say what a cell costs: milliseconds to the first token against the unpruned model's, or compute where nothing was timed."""
    if first := timing.first_token(cell):
        value, _, spread = first.partition(" ")
        beside, wide = timing.beside_none(cell, stratum.none), timing.why_wide(cell)
        said = f"{value} ms to the first token {spread}{'; ' if beside else ''}{beside}."
        faster = timing.speed_up(cell, mark=False)
        return f"{said} Speed-up {faster}{'; ' if wide else ''}{wide}." if faster else said
    total = number(cell, "flops.total")
    if total is None:
        return ""
    divisor, name = wording.flops_unit([total])
    base = number(stratum.none, "flops.total") if stratum.none else None
    share = f", {wording.percent(total / base, 0)} % of the unpruned model's" if base else ""
    return f"{wording.plain(total / divisor)} {name}{share}; nothing was timed."


def _test_text(cell: Cell, path: str) -> str:
    return wording.p_told(*p_value(cell, path))


def _against_none(best: Cell, methods: int) -> Sentence | None:
    """Say what the best loses to the unpruned model.

    Args:
        best: the best of its budget.
        methods: how many it is the best of, for which its p of non-inferiority is corrected.
    """
    gap = interval(best, "difference_none")
    if gap is None:
        return None
    p = corrected_p(best, "difference_none")
    unit, side = unit_of(best), settled(best, "difference_none")
    numbers = f"{unit.gap(gap)}, {_test_text(best, 'difference_none')}"
    margin, holds = number(best, "non_inferior.margin"), non_inferior_as_best(best)
    within = "" if margin is None else f"{unit.points_plain(margin)} {unit.measured_in}"
    if side == 1:
        return Sentence("good", f"{unit.more} than the unpruned model: {numbers}.")
    if within and holds:
        chosen = f"as the best of {methods} methods" if methods > 1 else "as the only method"
        loss = "its loss is real but small" if side == -1 else "no loss could be shown"
        return Sentence("good", f"Non-inferior to the unpruned model at a margin of {within}, {chosen}, and {loss}: {numbers}.")
    untested = f" Non-inferiority at {within} was not tested for the best of several." if within and holds is None else ""
    if p is None:
        return Sentence("open", f"Against the unpruned model, without a corrected test: {numbers}.{untested}")
    if side == 0:
        if not gap.known:
            why = "One image has" if number(best, "n_images") == 1 else "These answers give"
            return Sentence("open", f"Nothing can be said against the unpruned model: {numbers}. {why} no interval.")
        alone = ", though the interval of this test alone leaves out 0" if gap.hi < 0 or gap.lo > 0 else ""
        said = f"No difference from the unpruned model could be shown: {numbers}{alone}."
        narrow = margin is not None and gap.lo > -margin
        if gap.lo < 0:
            said += f" That is not proof of none: a loss of up to {unit.digits(-gap.lo)} {unit.measured_in} fits these data"
            said += f", so it is not shown to be non-inferior at {within}." if within and not narrow else "."
        if narrow and not untested:
            said += f" So few images do not show it to be non-inferior at {within}: others like these may lose more."
        return Sentence("open", said + (untested if narrow else ""))
    margin_text = untested or (f" Non-inferiority at a margin of {within} is not shown." if within else "")
    return Sentence("bad", f"{unit.less} than the unpruned model: {numbers}.{margin_text}")


def _against_random(stratum: Stratum, best: Cell) -> Sentence | None:
    gap = interval(best, "difference_like")
    if gap is not None:
        side = settled(best, "difference_like")
        numbers = f"{unit_of(best).gap(gap)}, {_test_text(best, 'difference_like')}"
        if side is None:
            return Sentence("open", f"Against random tokens on the same schedule, without a corrected test: {numbers}.")
        if side == 0:
            return Sentence("open", f"Its ranking could not be told from random tokens on the same schedule: {numbers}.")
        if side == 1:
            return Sentence("good", f"Its ranking beats random tokens on the same schedule: {numbers}.")
        return Sentence("bad", f"Its ranking does worse than random tokens on the same schedule: {numbers}.")
    control = stratum.control(best)
    chance, mine, unit = leading(control) if control else None, known_leading(best), unit_of(control)
    if control is None or chance is None:
        return Sentence("open", "No random control at this budget, so what its ranking is worth is not known.")
    side_text = "level with" if abs(mine.value - chance.value) < _TIE else "above" if mine.value > chance.value else "below"
    return Sentence(
        "open",
        f"{method(control)} reaches {unit.unmarked(chance.value)} [{unit.span(chance)}]{unit.mark}: the method is "
        f"{side_text} it, which is no test: this run has no random tokens on its schedule, and a method that merges has none.",
    )


def _against_downsample(cells: list[Cell], best: Cell) -> Sentence | None:
    """Say whether the best is worth its code: shrinking the image is the alternative that needs no method at all.

    Its test is corrected over all competing cells of the run, so that it covers that the best was picked.
    """
    shrunk = next((c for c in cells if _shrinks(c)), None)
    gap, side = interval(best, "difference_downsample"), settled(best, "difference_downsample")
    name = "downsample, a smaller image at the same budget"
    if gap is not None and side is not None:
        numbers = f"{unit_of(best).gap(gap)}, {_test_text(best, 'difference_downsample')}"
        if side == 0:
            return Sentence("open", f"It could not be told from {name}: {numbers}.")
        return Sentence("good", f"Above {name}: {numbers}.") if side == 1 else Sentence("bad", f"Below {name}: {numbers}.")
    if shrunk is None:
        return None
    return Sentence("open", f"It was not tested against {name} ({unit_of(shrunk).value(leading_share(shrunk))}).")


def _no_lower(stratum: Stratum, cells: list[Cell], best: Cell) -> Sentence | None:
    """List the controls of other methods that score no lower than the best; of its own and of downsample stands a sentence."""
    mine, own = known_leading(best).value, stratum.control(best)
    found = [
        c for c in cells
        if role(c) in ("reference", "control") and c is not own and not _shrinks(c) and known_leading(c).value > mine - _TIE
    ]  # fmt: skip
    if not found:
        return None
    verb = "scores" if len(found) == 1 else "score"
    return Sentence("open", f"{_named(found)} {verb} no lower at this budget, which is read off and no test.")


def _shrinks(cell: Cell) -> bool:
    return method(cell).split("[", 1)[0] == "downsample"


def _level(racing: list[Cell]) -> list[Cell]:
    """Return the methods that reach the very figure of the first, beside it."""
    best = known_leading(racing[0]).value
    return [c for c in racing[1:] if abs(known_leading(c).value - best) < _TIE]


def _ties(racing: list[Cell]) -> Sentence | None:
    """Say whether the lead over all others is real, by the corrected paired tests; without them only what is not settled."""
    if level := _level(racing):
        names = wording.listed([method(c) for c in (racing[0], *level)])
        return Sentence("open", f"First place is shared: {names} are level at {_share_of(racing[0])}.")
    tests = [(c, p) for c in racing[1:] if (p := corrected_p(c, "difference_winner")) is not None]
    control_won = interval(racing[0], "difference_winner") is not None  # then the tests are against random tokens
    if tests and not control_won and len(tests) == len(racing) - 1:
        equal = [c for c, p in tests if p >= SIGNIFICANT]
        if equal:
            return Sentence("open", f"First place is not settled: no difference could be shown from {_named(equal)}.")
        gap = known_interval(racing[1], "difference_winner")
        lead, unit = Interval(-gap.value, -gap.hi, -gap.lo, gap.known), unit_of(racing[1])
        return Sentence(
            "good",
            f"Ahead of every other method; of the next, {method(racing[1])}, by {unit.points_plain(lead.value)} "
            f"{unit.measured_in} [{unit.span(lead)}], {_test_text(racing[1], 'difference_winner')}.",
        )
    best = known_leading(racing[0])
    near = [c for c in racing[1:] if known_leading(c).value >= best.lo]
    if near:
        lie = "lie" if len(near) > 1 else "lies"
        return Sentence("open", f"First place is not settled: within its interval {lie} {_named(near)}.")
    return Sentence("open", "Its lead over the others was not tested.") if len(racing) > 1 else None


def _share_of(cell: Cell) -> str:
    return unit_of(cell).value(leading_share(cell))


def _named(cells: list[Cell]) -> str:
    """Name the first four methods with their figures, and count the rest."""
    names = [f"{method(c)} ({unit_of(c).value(leading_share(c))})" for c in cells[:4]]
    return wording.listed([*names, f"{len(cells) - 4} more"] if len(cells) > 4 else names)


def image_worth(stratum: Stratum) -> str | None:
    """Say what the unpruned model reaches with and without the image, and by one test whether the image is worth anything."""
    none = leading(stratum.none) if stratum.none else None
    if none is None:
        return None
    unit = unit_of(stratum.none)
    said = f"Unpruned: {_figure(unit, none)}."
    blind = leading(stratum.blind) if stratum.blind else None
    if blind is None or stratum.blind is None:
        return said
    said += f" Without any image: {_figure(unit_of(stratum.blind), blind)}."
    gap, p = interval(stratum.blind, "difference_none"), number(stratum.blind, "difference_none.p")
    if gap is None or p is None:
        return f"{said} Whether the image helps was not tested."
    worth = Interval(-gap.value, -gap.hi, -gap.lo, gap.known)
    numbers = f"{unit.gap(worth)}, {wording.p_text(p)}, one test"
    if p >= SIGNIFICANT:
        return f"{said} That the image helps could not be shown: {numbers}. Where it does not, pruning it cannot hurt."
    if worth.value < 0:
        return f"{said} The model answers worse with the image: {numbers}."
    size = f"{unit.points_plain(worth.value)} {unit.measured_in} [{unit.span(worth)}], {wording.p_text(p)}, one test"
    return f"{said} The image is worth {size}: this is what pruning has to lose."


def _figure(unit: Unit, found: Interval) -> str:
    """Write a figure with its interval and mark, and its name where it is not accuracy."""
    return f"{'' if unit.plain else f'{unit.name} '}{unit.unmarked(found.value)} [{unit.span(found)}]{unit.mark}"
