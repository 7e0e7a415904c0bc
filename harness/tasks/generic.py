"""Tasks from users' own files: rows with images, a question and an answer, and one of eight metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.errors import RequestError
from harness.notices import notice
from harness.tasks.base import TaskInfo
from harness.tasks.benchmarks.multiple_choice import LETTER, options
from harness.tasks.columns import read_columns, unread_columns
from harness.tasks.conversations import COLUMNS as CONVERSATIONS
from harness.tasks.conversations import turns
from harness.tasks.options import answer_among, holds_options, options_of
from harness.tasks.own_metrics import Metric, metric_of
from harness.tasks.rows import Row
from harness.tasks.tables import Table
from harness.tasks.tabular import Asked, Benchmark, TabularTask
from harness.tasks.target import Target

FAMILIES = ("family", "category", "l2-category", "L2-category")
"""Columns that name a question's family; the first that has a value counts."""


def from_tables(name: str, tables: Sequence[Table], metric: str | None = None) -> TabularTask:
    """Make a task of files with the column question, or a conversation, and whichever of `columns.ALWAYS` there are.

    Args:
        name: the task's name: the expression that the user wrote.
        tables: the files' tables.
        metric: one of `own_metrics.METRICS`, with its parameters; by default ``choice`` where there are options, else ``exact``.

    Raises:
        RequestError: for an unknown metric, a missing column, one that looks like a known one, a row that cannot be read, or
            an answer that the metric cannot score. Without any answer the task is not scored; answers in some rows alone
            are an error.
    """
    given_metric = None if metric is None else metric_of(name, metric)
    for table in tables:
        if unread := unread_columns(table.name, table.columns):
            _say_unread(table, unread)
    columns = tuple(dict.fromkeys(column for table in tables for column in table.columns))
    scorer = given_metric or metric_of(name, "choice" if holds_options(columns) else "exact")
    chosen = scorer.name
    if chosen == "choice" and not holds_options(columns):
        raise RequestError(
            f"task {name!r}: metric 'choice' needs a column 'choices' with a list of texts in each row, or columns A, B, ..."
        )
    read = read_columns(columns)
    talks = any(column in columns for column in CONVERSATIONS)
    given = ("answer", "answers", *CONVERSATIONS)
    scored, later = False, 0
    for table in tables:
        for row in table.rows([column for column in given if column in table.columns]):
            said = turns(row)
            scored |= row.has("answer") or row.has("answers") or any(turn.answer is not None for turn in said)
            later += max(0, len(said) - 1)
    if later:
        notice(f"task {name!r}: {later} later questions of conversations are asked alone, without the turns before them")
    info = TaskInfo(
        name=name,
        summary="questions on images from files",
        source=", ".join(table.name for table in tables[:3]) + (" ..." if len(tables) > 3 else ""),
        licence="the user's own",
        metric=scorer.text if scored else "none: there are no answers",
        split="all",
        families=(),
        knows_evidence=False,
        scored=scored,
        answer_tokens=32,
    )

    def ask(row: Row) -> Iterator[Asked]:
        choices = options_of(row, columns)
        if chosen == "choice" and not choices:
            raise RequestError(f"{row.place}: no column 'choices' and no options elsewhere, which other rows have")
        family = next((row.either(column, "") for column in FAMILIES if row.either(column, "")), "question")
        hint = row.either("hint", "")
        before, behind = f"{hint}\n" if hint else "", f"\n{options(choices)}{LETTER}" if choices else ""
        ident = next((row.short(column) for column in ("id", "index") if row.has(column)), None)
        said = turns(row) if talks else []
        for turn in said:
            if scored and turn.answer is None:
                raise RequestError(f"{row.place}: its last question has no answer, and others have")
            column = next(one for one in CONVERSATIONS if row.has(one))
            answer = Target(_checked(row, column, (turn.answer,), scorer) if scored and turn.answer is not None else ())
            named = ident if ident is None or len(said) == 1 else f"{ident}-{turn.number}"
            yield Asked(family, f"{before}{turn.question}{behind}", answer, named)
        if not said:
            target = Target(()) if not scored else answer_among(row, choices) if chosen == "choice" else _target(row, scorer)
            yield Asked(family, f"{before}{row.text('question')}{behind}", target, ident)

    return TabularTask(
        Benchmark(
            info,
            columns=() if talks else ("question",),
            optional=read,
            ask=ask,
            rules=(scorer.rule,),
            image_id=lambda row: row.short("image_id") if row.has("image_id") else None,
            image=None,
            strict=True,
        ),
        tables,
    )


def _say_unread(table: Table, columns: Sequence[str]) -> None:
    names = ", ".join(repr(column[:40]) for column in columns[:12]) + (" ..." if len(columns) > 12 else "")
    notice(f"{table.name}: nothing reads {'column' if len(columns) == 1 else 'columns'} {names}")


def _target(row: Row, metric: Metric) -> Target:
    column = "answers" if row.has("answers") else "answer"
    return Target(_checked(row, column, row.texts(column) if column == "answers" else row.answers(column), metric))


def _checked(row: Row, column: str, answers: Sequence[str], metric: Metric) -> tuple[str, ...]:
    """Answers as they are stored; one that the metric cannot score is an error of this row and column."""
    try:
        return tuple(metric.checked(answer) for answer in answers)
    except ValueError as error:
        raise row.error(column, str(error)) from None
