"""A published table beside what was measured here: the page of `reproduce`, and the same as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.literature.comparison import ABOVE, BELOW, INSIDE, HeldAgainst, as_row
from harness.literature.tables import PublishedTable
from methods.keep import Keep
from reports import wording
from reports.against_published import contradicted
from reports.leading import PARTIAL

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class ReproducedTask:
    """The figures of one task of a table beside those of its run; none where the run is not finished."""

    task: str
    folder: str  # of its run, in the folder of the reproduction
    budget: str  # how the run counts
    held: tuple[HeldAgainst, ...]  # in the order of the table
    finished: bool
    images: int | None = None
    questions: int | None = None
    ran_on: str = ""  # device and precision
    expression: str = ""  # our task


@dataclass(frozen=True)
class MeanRetention:
    """What is left of the unpruned model's figures under a method at a budget: a mean over tasks, ours and the published."""

    method: str  # as the table has it
    expression: str  # ours
    keep: str
    mode: str  # what the budget counts here
    ours: float
    published: float
    tasks: tuple[str, ...]  # those for which all four values are known


@dataclass(frozen=True)
class ReproductionPage:
    """All that the page of a reproduction shows."""

    table: PublishedTable
    model: str
    tasks: tuple[ReproducedTask, ...]
    retention: tuple[MeanRetention, ...]
    notes: tuple[str, ...]  # what was settled, in sentences
    left_out: tuple[str, ...] = ()  # what is not run, or not held against the table, in sentences

    @property
    def counts(self) -> dict[str, int]:
        """How many figures ours lie inside, above and below of; those that are known to differ, and those without a verdict."""
        found: Counter[str] = Counter({name: 0 for name in (INSIDE, ABOVE, BELOW, "differ", "without")})
        for one in self.held:
            found["without" if one.verdict is None else one.verdict if one.counts else "differ"] += 1
        return dict(found)

    @property
    def held(self) -> tuple[HeldAgainst, ...]:
        """The figures of all tasks that were run."""
        return tuple(one for task in self.tasks for one in task.held)


@dataclass(frozen=True)
class FigureLine:
    """One figure as a row of a table, in words."""

    method: str
    keep: str
    published: str
    ours: str
    span: str  # our interval
    verdict: str
    muted: bool  # something is known to differ
    apart: bool  # the verdict counts, and is not inside
    differs: str
    unknown: str
    marks: str  # what else a reader of the row should know


def render(page: ReproductionPage) -> str:
    """Return the page of a reproduction; it loads nothing and runs no script.

    Args:
        page: what it shows.

    Returns:
        HTML whose Content-Security-Policy allows inline styles alone.
    """
    from reports.templating import encodable, environment, own_file

    made = environment().get_template("reproduction.html.j2").render(
        page=page,
        title=f"{page.table.name}, reproduced",
        said=sentences(page),
        tasks=[(task, [line_of(one) for one in task.held]) for task in page.tasks],
        keeps=[Keep.parse(keep).phrase for keep in dict.fromkeys(one.keep for one in page.retention)],
        retention=_retention_rows(page),
        style=own_file("report.css"),
        policy=_POLICY,
    )  # fmt: skip
    return encodable(made)


def as_dict(page: ReproductionPage) -> dict[str, Any]:
    """Return what ``reproduction.json`` holds."""
    return {
        "table": page.table.name, "source": page.table.source, "model": page.model, "counts": page.counts,
        "tasks": [
            {"task": task.task, "expression": task.expression, "folder": task.folder,
             "budget": task.budget, "finished": task.finished, "images": task.images,
             "questions": task.questions,
             "held": [as_row(one) | {"table_method": one.figure.method} for one in task.held]} for task in page.tasks
        ],
        "retention": [asdict(one) for one in page.retention], "notes": list(page.notes),
        "left_out": list(page.left_out),
    }  # fmt: skip


def sentences(page: ReproductionPage) -> list[str]:
    """Return what the comparison comes to, in sentences."""
    if not page.held:
        return ["No run is finished yet, so nothing is held against the table."]
    counts = page.counts
    told = counts[INSIDE] + counts[ABOVE] + counts[BELOW]
    lines = [
        f"{len(page.held)} figures have a finished run beside them. On {told} nothing is known to differ: the published value "
        f"lies inside our 95 % interval on {counts[INSIDE]}, our interval lies wholly above it on {counts[ABOVE]} and wholly "
        f"below it on {counts[BELOW]}."
    ]
    if counts["differ"]:
        lines.append(f"{counts['differ']} more are known to be measured otherwise: their verdicts are shown and counted nowhere.")
    if counts["without"]:
        lines.append(f"{counts['without']} have no verdict; the row of each says why.")
    matched = list(dict.fromkeys(one.matched for one in page.held if one.matched))
    lines += [f"How our model is that of the table, {page.model}: {clause}." for clause in matched]
    if missing := [task.folder for task in page.tasks if not task.finished]:
        lines.append(f"Not run yet, or not finished: {wording.listed(missing)}.")
    return lines


def line_of(one: HeldAgainst) -> FigureLine:
    """Return a comparison in words.

    Args:
        one: a figure, with what our cell has beside it.
    """
    span = wording.NO_INTERVAL if one.lo is None or one.hi is None else f"{one.lo:,.1f} to {one.hi:,.1f}"
    marks = [one.matched] if one.matched else []
    if one.figure.method != one.method:
        marks.append(f"in the table: {one.figure.method}")
    if one.contradicted_by:
        marks.append(contradicted(one))
    if one.partial:
        marks.append(PARTIAL)
    return FigureLine(
        one.method, "" if one.keep == "all" else one.keep, one.figure.value,
        wording.plain(one.value, 1), span if one.value is not None else "", one.verdict or one.why_none, bool(one.differs),
        one.counts and one.verdict != INSIDE,
        "; ".join(one.differs), ", ".join(one.unknown), "; ".join(marks),
    )  # fmt: skip


def as_text(page: ReproductionPage) -> str:
    """Return the comparison as a terminal shows it: task by task, then retention."""
    lines: list[str] = []
    for task in (one for one in page.tasks if one.finished):
        ours = "" if task.expression in ("", task.task) else f"run as {task.expression}, "
        lines += [f"{task.task} ({ours}{task.folder}, {task.budget})", ""]
        rows = [("method", "keep", "published", "ours", "95 % interval", "verdict", "known to differ")]
        rows += [(r.method, r.keep, r.published, r.ours, r.span, r.verdict, r.differs) for r in map(line_of, task.held)]
        lines += [*_aligned(rows), ""]
    if page.retention:
        heads = [("retention, %", "keep", "budget", "published", "ours", "tasks")]
        heads += [
            (_named(one), one.keep, one.mode, wording.percent(one.published), wording.percent(one.ours), str(len(one.tasks)))
            for one in page.retention
        ]
        lines += [*_aligned(heads), ""]
    lines += sentences(page)
    for head, told in (("What was settled to run it:", page.notes), ("What is left out:", page.left_out)):
        lines += ["", head, *(f"- {sentence}" for sentence in told)] if told else []
    return "\n".join(lines)


def _named(one: MeanRetention) -> str:
    """Our expression, and the table's name where that is another."""
    return one.expression if one.expression == one.method else f"{one.expression} ({one.method})"


def _retention_rows(page: ReproductionPage) -> list[tuple[str, str, list[MeanRetention | None]]]:
    """Methods and modes with what each budget leaves of them, budgets as they come first."""
    known = {(_named(one), one.mode, one.keep): one for one in page.retention}
    keeps = list(dict.fromkeys(one.keep for one in page.retention))
    rows = dict.fromkeys((_named(one), one.mode) for one in page.retention)
    return [(method, mode, [known.get((method, mode, keep)) for keep in keeps]) for method, mode in rows]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
