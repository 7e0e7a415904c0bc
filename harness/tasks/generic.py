"""Tasks from users' own files: rows with an image, a question and an answer, and one of six metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from harness.errors import RequestError, nearest
from harness.tasks.base import TaskInfo
from harness.tasks.benchmarks.multiple_choice import LETTER, choices_of, options
from harness.tasks.choice import choice
from harness.tasks.rows import Row
from harness.tasks.scoring import Scorer, anls, contains, exact, relaxed
from harness.tasks.tables import Table
from harness.tasks.tabular import Asked, Benchmark, TabularTask
from harness.tasks.target import Target
from harness.tasks.vqa import vqa

METRICS: dict[str, Scorer] = {
    "exact": exact, "vqa": vqa, "anls": anls, "relaxed": relaxed, "choice": choice, "contains": contains,
}  # fmt: skip
OPTIONAL = ("answer", "answers", "id", "image_id", "family", "category", "choices")


def from_tables(name: str, tables: Sequence[Table], metric: str | None = None) -> TabularTask:
    """Make a task of files with the columns image and question, and whichever of `OPTIONAL` there are.

    Args:
        name: the task's name: the expression that the user wrote.
        tables: the files' tables.
        metric: one of `METRICS`; by default ``choice`` where there are choices, else ``exact``.

    Raises:
        RequestError: for an unknown metric, a missing column, or a row that cannot be read. Without any answer the
            task is not scored; answers in some rows alone are an error.
    """
    if metric is not None and metric not in METRICS:
        raise RequestError(f"task {name!r}: unknown metric {metric!r}; {nearest(metric, METRICS)}")
    columns = {column for table in tables for column in table.columns}
    chosen = metric or ("choice" if "choices" in columns else "exact")
    if chosen == "choice" and "choices" not in columns:
        raise RequestError(f"task {name!r}: metric 'choice' needs a column 'choices' with a list of texts in each row")
    scored = any(row.has("answer") or row.has("answers") for table in tables for row in table.rows(OPTIONAL))
    info = TaskInfo(
        name=name,
        summary="questions on images from files",
        source=", ".join(table.name for table in tables[:3]) + (" ..." if len(tables) > 3 else ""),
        licence="the user's own",
        metric=chosen if scored else "none: there are no answers",
        split="all",
        families=(),
        knows_evidence=False,
        scored=scored,
        answer_tokens=32,
    )

    def ask(row: Row) -> Iterator[Asked]:
        choices = choices_of(row, "choices") if chosen == "choice" or row.has("choices") else ()
        text = row.text("question")
        prompt = f"{text}\n{options(choices)}{LETTER}" if choices else text
        family = row.either("family", "") or row.either("category", "question")
        target = _target(row, choices if chosen == "choice" else ()) if scored else Target(())
        yield Asked(family, prompt, target, row.short("id") if row.has("id") else None)

    return TabularTask(
        Benchmark(
            info,
            columns=("question",),
            optional=OPTIONAL,
            ask=ask,
            metric=METRICS[chosen],
            image_id=lambda row: row.short("image_id") if row.has("image_id") else None,
            strict=True,
        ),
        tables,
    )


def _target(row: Row, choices: tuple[str, ...]) -> Target:
    column = "answers" if row.has("answers") else "answer"
    if not choices:
        return Target(row.texts("answers") if column == "answers" else (row.short("answer"),))
    answer = row.value(column)
    if column == "answers" and isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    letters = ascii_uppercase[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(choices):
            raise row.error(column, f"is {answer}, and there are {len(choices)} choices, counted from 0")
        return Target((letters[answer],), choices)
    text = str(answer).strip()
    as_letter = text.upper() if len(text) == 1 and text.upper() in letters else None
    as_text = [name for name, option in zip(letters, choices) if option.strip() == text]
    found = {*as_text, *([as_letter] if as_letter else [])}
    if len(found) != 1:
        problem = "is both a letter and another option" if found else "is neither a letter nor one of the choices"
        raise row.error(column, f"{text[:40]!r} {problem}; write its place, counted from 0")
    return Target((found.pop(),), choices)
