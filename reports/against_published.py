"""The section *Against what was published*: our cells beside published figures, with all that keeps the two apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from harness.literature.comparison import ABOVE, BELOW, INSIDE, HeldAgainst
from harness.literature.figures import UNKNOWN
from methods.keep import Keep
from reports import wording
from reports.leading import PARTIAL

VERDICTS = {INSIDE: "inside", ABOVE: "ours above", BELOW: "ours below"}
"""Verdicts as the table words them."""
ORIGINS = {"rerun": "re-run", "copied": "copied", UNKNOWN: "re-run or copied: unknown"}
"""Where a value comes from, as the table words it."""
_ALL = "all"


@dataclass(frozen=True)
class AgainstRow:
    """One of our cells beside one published figure, or beside several of which none can be judged; raw numbers are for copies."""

    method: str
    keep: str  # as the command line takes it
    shown_keep: str
    order: int  # of the budget among those of the table, rising
    verdict: str
    counts: bool  # whether the verdict counts: nothing is known to differ
    remark: str  # what must be read with the verdict, a clause
    metric: str  # of the published value: where the rows of the table have several, or where it is unknown; else empty
    ours: float | None
    lo: float | None
    hi: float | None
    ours_text: str
    span: tuple[str, ...]  # our interval and its width, and of how many questions where cells have different numbers
    published: float | None
    published_text: str
    printed: str  # where, and whether it was re-run or copied
    contradicted: str  # by how many others, empty where none
    differs: tuple[str, ...]  # that other rows have not in common
    unknown: tuple[str, ...]
    folded: tuple[str, ...] = ()  # of a row that stands for several figures: each with its value, source and what to know of it


@dataclass(frozen=True)
class AgainstSection:
    """Everything that the section shows."""

    said: tuple[str, ...]  # what it comes to, in whole sentences
    common: tuple[str, ...]  # what holds of all rows
    rows: tuple[AgainstRow, ...]
    unit: str  # what published values are counted in, where all rows have one metric
    scale: str  # what ours are counted in there: a figure that is held against one of an open name bears its own
    fine: tuple[str, ...]  # how to read it


def section(held: Sequence[HeldAgainst]) -> AgainstSection | None:
    """Return the section of a run; None where nothing is published of its cells.

    Args:
        held: every cell beside every figure, in the order of the table.
    """
    if not held:
        return None
    pruned = [one for one in held if one.keep != _ALL]
    differ, unknown = _shared(one.differs for one in pruned), _shared(one.unknown for one in pruned)
    sizes = {one.questions for one in held}
    known = {one.figure.metric: one for one in held if one.figure.metric != UNKNOWN}
    budgets = sorted({keep for one in held if (keep := _keep(one)) is not None})
    rows: list[AgainstRow] = []
    for _, of_cell in groupby(held, key=lambda one: (one.method, one.keep)):
        ones = list(of_cell)
        made = [_row(one, differ, unknown, budgets, (len(known) > 1, len(sizes) > 1)) for one in ones]
        without = [(row, one) for row, one in zip(made, ones, strict=True) if one.verdict is None]
        judged = [row for row, one in zip(made, ones, strict=True) if one.verdict is not None]
        rows += [*judged, *([_folded(without)] if len(without) > 1 else [row for row, _ in without])]
    one = next(iter(known.values())) if len(known) == 1 else None
    unit, scale = ("", "") if one is None else (_label(one), _sign(one).removeprefix(",").strip())
    return AgainstSection(_said(held), _common(held, differ, unknown), tuple(rows), unit, scale, _fine(held))


def _keep(one: HeldAgainst) -> Keep | None:
    return None if one.keep == _ALL else Keep.parse(one.keep)


def _shared(lists: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """What stands in every list, of two at the least."""
    found = list(lists)
    return tuple(text for text in found[0] if all(text in other for other in found)) if len(found) > 1 else ()


def _sign(one: HeldAgainst) -> str:
    scale = one.figure.scale
    return "" if scale is None else ", %" if scale == 100 else f" of {scale:,.6g}"


def _label(one: HeldAgainst) -> str:
    """A figure's metric with what a perfect model reaches."""
    return "metric unknown" if one.figure.metric == UNKNOWN else f"{one.figure.metric}{_sign(one)}"


def _row(
    one: HeldAgainst, differ: tuple[str, ...], unknown: tuple[str, ...], budgets: list[Keep], several: tuple[bool, bool]
) -> AgainstRow:
    """A row; ``several`` says whether the table has several metrics, and whether its cells have several numbers of questions."""
    figure, keep, pruned = one.figure, _keep(one), one.keep != _ALL
    span: tuple[str, ...] = () if one.value is None else (wording.NO_INTERVAL,)
    if one.lo is not None and one.hi is not None:
        span = f"{_digits(one.lo)} to {_digits(one.hi)}", f"{_digits(one.hi - one.lo)} wide"
    if one.partial and one.value is not None:
        span = (*span, PARTIAL)
    if several[1] and one.questions is not None and one.value is not None:
        span = (*span, _many(one.questions, "question"))
    version = "" if figure.version == UNKNOWN else f", version {figure.version}"
    return AgainstRow(
        method=one.method, keep=one.keep, shown_keep=_ALL if keep is None else keep.shown,
        order=len(budgets) if keep is None else budgets.index(keep),
        verdict="no verdict" if one.verdict is None else VERDICTS[one.verdict], counts=one.counts, remark=_remark(one),
        metric=_label(one) if several[0] or figure.metric == UNKNOWN else "",
        ours=one.value, lo=one.lo, hi=one.hi, ours_text=wording.MISSING if one.value is None else _digits(one.value), span=span,
        published=figure.number, published_text=wording.MISSING if figure.number is None else figure.value,
        printed=f"{figure.source}, {ORIGINS[figure.origin]}{version}", contradicted=contradicted(one),
        differs=tuple(text for text in one.differs if not (pruned and text in differ)),
        unknown=tuple(text for text in one.unknown if text != "metric" and not (pruned and text in unknown)),  # its label says it
    )  # fmt: skip


def _folded(without: Sequence[tuple[AgainstRow, HeldAgainst]]) -> AgainstRow:
    """One row for the figures of a cell of which none can be judged: how many there are and why, with each of them below."""
    rows = [row for row, _ in without]
    whys = Counter(row.remark for row in rows)
    why = ", ".join(f"{text} ({count:,})" if len(whys) > 1 else text for text, count in whys.most_common())
    differs, unknown = _shared(row.differs for row in rows), _shared(row.unknown for row in rows)
    several = len({_label(one) for _, one in without}) > 1
    lines = []
    for row, one in without:
        rest = tuple(text for text in row.differs if text not in differs), tuple(t for t in row.unknown if t not in unknown)
        ours = "" if one.value is None else f"ours {row.ours_text}"
        named = [*([_label(one)] if several else []), ours, row.contradicted, *_named(*rest)]
        lines.append("; ".join([f"{row.published_text} ({row.printed})", *(text for text in named if text)]))
    return replace(
        rows[0], counts=False, remark=f"{_many(len(rows), 'figure')}: {why}", ours=None, lo=None, hi=None,
        ours_text=wording.MISSING, span=(), published=None, published_text=_many(len(rows), "value"),
        metric="" if several else rows[0].metric, printed="", contradicted="", differs=differs, unknown=unknown,
        folded=tuple(lines),
    )  # fmt: skip


def _named(differs: Sequence[str], unknown: Sequence[str]) -> list[str]:
    return [f"{name}: {', '.join(texts)}" for name, texts in (("differs", differs), ("unknown", unknown)) if texts]


def contradicted(one: HeldAgainst) -> str:
    """Say how many figures contradict a published one, and how many values they print; empty where none does.

    Args:
        one: a figure beside our cell.
    """
    if not one.contradicted_by:
        return ""
    values = f", {_many(one.contradicting_values, 'value')}" if one.contradicted_by > 1 else ""
    return f"contradicted by {_many(one.contradicted_by, 'figure')}{values}"


def _remark(one: HeldAgainst) -> str:
    """What must be read with a verdict: why there is none, that more differs, or that it tells no methods apart."""
    if one.verdict is None:
        return one.why_none
    if one.differs:
        return "measured otherwise"
    if one.verdict == INSIDE and one.others:
        return f"and {one.others_inside or 'none'} of {_many(one.others, 'other method')}"
    return ""


def _digits(value: float) -> str:
    return wording.signed(f"{value:,.1f}")


def _said(held: Sequence[HeldAgainst]) -> tuple[str, ...]:
    """What the comparisons come to: how many count, where the values lie, and how little the width of intervals may tell."""
    cells, judged = {(one.method, one.keep) for one in held}, [one for one in held if one.verdict is not None]
    counted = [one for one in held if one.counts]
    said = [f"{_many(len(held), 'published figure')} {'stand' if len(held) > 1 else 'stands'} beside "
            f"{_many(len(cells), 'cell')} of this run, on {_size(held)}."]  # fmt: skip
    if not judged:
        return (*said, "None of them can be judged; the table says why.")
    if not counted:
        said.append("All that can be judged were measured otherwise in something that is known, so none of them speaks for an "
                    "agreement or against one.")  # fmt: skip
        return tuple(said)
    placed = [(sum(one.verdict == v for one in counted), words) for v, words in (
        (INSIDE, "inside our 95 % interval"), (ABOVE, "with ours above"), (BELOW, "with ours below"),
    )]  # fmt: skip
    told = wording.listed([f"{n} {words}" for n, words in placed if n])
    measured = "they were" if len(counted) > 1 else "it was"
    said.append(f"{len(counted):,} of them can be judged without a known difference in how {measured} measured: {told}.")
    return (*said, *_width(counted))


def _width(counted: Sequence[HeldAgainst]) -> tuple[str, ...]:
    """How wide the intervals are that hold a value, and whether they hold those of other methods as well."""
    inside = [one for one in counted if one.verdict == INSIDE]
    alike = len({one.figure.scale for one in inside}) == 1
    widths = sorted(one.width * (1 if alike else 100 / (one.figure.scale or 100)) for one in inside if one.width is not None)
    if not widths:
        return ()
    low, high = _digits(widths[0]), _digits(widths[-1])
    wide = f"{low}" if low == high else f"{low} to {high}"
    points = "% of their scale" if not alike else "points" if inside[0].figure.scale == 100 else "points of the scale"
    several = len(inside) > 1
    which = "these are" if several else "this one is"
    others, same = sum(one.others for one in inside), sum(one.others_inside for one in inside)
    held = f"{'hold' if several else 'holds'} {'a value' if same else 'no value'} of {f'{same:,} of ' if same else ''}"
    told = f", and {held}the {_many(others, 'other method')} printed beside{', row by row' if several else ''}" if others else ""
    return (f"Inside proves little where an interval is wide: {which} {wide} {points} wide{told}.",)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _size(held: Sequence[HeldAgainst]) -> str:
    """On how many images and questions the cells stand, and of how many questions the benchmark is."""
    images, questions = (max((n for one in held if (n := getattr(one, key)) is not None), default=None) for key in
                         ("images", "questions"))  # fmt: skip
    if images is None or questions is None:
        return "a number of questions that is not known"
    whole = next((one.whole for one in held if one.whole is not None), None)
    of = f"of the benchmark’s {whole:,}" if whole is not None else "(how many the whole benchmark has is not known here)"
    return f"{_many(images, 'image')} with {questions:,} questions {of}"


def _common(held: Sequence[HeldAgainst], differ: tuple[str, ...], unknown: tuple[str, ...]) -> tuple[str, ...]:
    """How the model was matched, and what differs or is unknown of every pruned cell, so that rows need not repeat it."""
    matched = dict.fromkeys(one.matched for one in held if one.matched)
    said = [f"The model: {clause}." for clause in matched]
    said += [f"Differs of every pruned cell: {'; '.join(differ)}."] if differ else []
    said += [f"Unknown of every pruned cell: {'; '.join(unknown)}."] if unknown else []
    return tuple(said)


def _fine(held: Sequence[HeldAgainst]) -> tuple[str, ...]:
    """How the verdicts are made, and what no interval and no table holds."""
    said = ["Inside: the printed value, give or take its rounding, touches our 95 % interval; above and below: our interval lies "
            "wholly on that side of it."]  # fmt: skip
    if any(one.verdict is not None for one in held):
        said.append("Intervals are of our images alone. The source’s own sampling is in no interval, and how many questions it "
                    "asked is in no table: unknown. Nothing is corrected for how many comparisons there are, and those of one "
                    "cell are of the same answers.")  # fmt: skip
    if any(one.partial for one in held):
        said.append(f"{PARTIAL.capitalize()}: our value is an estimate for the whole benchmark from a part of it.")
    said.append("Where something is known to differ, a verdict counts neither way. No table records the precision of a model, "
                "the rule that scored its answers, or how images were brought to its size: unknown of every row.")  # fmt: skip
    if any("/llava-1.5-" in one.figure.model for one in held):
        said.append("LLaVA’s own evaluation pads images to a square, and the processor of llava-hf crops their middle.")
    if any(one.contradicted_by for one in held):
        said.append("Contradicted: another source prints a value for what, as far as both say, was measured alike, and the two "
                    "differ by more than rounding; many figures may be copies of one value. "
                    "python -m harness published --contradictions lists them.")  # fmt: skip
    return tuple(said)


def as_text(held: Sequence[HeldAgainst]) -> str:
    """Return what the section says as lines for a terminal: sentences, then a line for each row of the table.

    Args:
        held: every cell beside every figure; at least one.
    """
    found = section(held)
    assert found is not None, "nothing is held against anything"
    lines = [" ".join(found.said), *found.common, ""]
    for row in found.rows:
        cell = row.method if row.keep == _ALL else f"{row.method} at {row.shown_keep}"
        parts = [
            f"{cell}: {row.verdict}{f' ({row.remark})' if row.remark else ''}",
            *([] if row.folded else [_values(row, found)]),
        ]
        lines.append("; ".join([*parts, *_named(row.differs, row.unknown)]))
        lines += [f"    {text}" for text in row.folded]
    return "\n".join([*lines, "", *found.fine])


def _values(row: AgainstRow, found: AgainstSection) -> str:
    """Our value and the published one, as a line tells them."""
    span = "" if not row.span else f" [{', '.join(row.span)}]" if row.lo is not None else f" ({', '.join(row.span)})"
    ours = "" if row.ours is None else f" {row.ours_text}{span},"
    printed = "; ".join(part for part in (row.printed, row.contradicted) if part)
    metric = (row.metric or found.unit).removesuffix(", %")
    return f"{metric}{ours or ','} published {row.published_text} ({printed})"
