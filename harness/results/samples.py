"""The command `samples`: what a run answered, one sample at a time, straight from its database. Needs no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TextIO

from harness.errors import RequestError, nearest
from harness.results.judged_samples import ruling_columns
from harness.results.spreadsheets import write_rows
from harness.results.types import JsonObject
from harness.store.budgets import read_keep
from harness.store.open_runs import database
from harness.store.runs import RunFolder
from harness.tasks.target import shown as target_shown
from methods.keep import Keep
from metrics.accuracy import ANSWERED
from metrics.evidence import KEPT

FIELDS = (
    "method", "keep", "id", "image", "family", "question", "target", "prediction", "score", "agree", "kl", "recall",
    "kept_count", "failed",
)  # fmt: skip
"""What is told of a sample, in this order; ``keep`` is a number where it is a count, and a text such as ``34%`` of a share.

Where the run tells how it was scored, there follow what the rule that leads ``read``, 1 where it was ``undecided``, and of a task
with several rules the score by each.
"""
_QUERY = """
SELECT questions.id, questions.image, family, questions.question, target, prediction, score, agree, kl, recall, kept_count, failed
{rulings} FROM samples JOIN questions ON questions.id = samples.question JOIN images ON images.id = questions.image
WHERE cell = ? {conditions} ORDER BY images.place, questions.place
"""


def samples(
    run: RunFolder,
    method: str | None = None,
    keep: Keep | float | str | None = None,
    wrong: bool = False,
    family: str | None = None,
    evidence_lost: bool = False,
    failed: bool = False,
) -> Iterator[JsonObject]:
    """Return the samples of a run, cell by cell, in the order of images and questions; memory does not grow with their number.

    Args:
        run: finished or not.
        method: its full expression, as reports print it; all where not given.
        keep: the budget; all where not given.
        wrong: only samples that were answered wrong (a score under 0.5) or failed.
        family: only questions of this family.
        evidence_lost: only samples whose kept tokens hold less than half of the evidence.
        failed: only samples that have no answer, with the reason.

    Returns:
        An iterator of `FIELDS` by name, and of how each was scored where the run tells; what was not measured is None.

    Raises:
        RequestError: where the run cannot be read, or has no such method, budget or family.
    """
    run.manifest()
    with database(run) as connection:
        cells = run.cells()
        families = [name for (name,) in connection.execute("SELECT DISTINCT family FROM questions")]
    methods = list(dict.fromkeys(facts["method"] for _, _, facts in cells))
    if method is not None and method not in methods:
        raise RequestError(f"--method {method!r}: not in {run.folder}; {nearest(method, methods)}")
    if family is not None and family not in families:
        raise RequestError(f"--family {family!r}: not in {run.folder}; {nearest(family, families)}")
    chosen = [(i, facts) for i, _, facts in cells if method in (None, facts["method"])]
    if keep is not None:
        keep = read_keep(keep)
        budgets = {known for _, facts in chosen if (known := Keep.stored(facts)) is not None}
        if keep not in budgets:
            there = f"its budgets are {', '.join(map(str, sorted(budgets)))}" if budgets else "it has no budgets"
            raise RequestError(f"--keep {keep}: not in {run.folder}; {there}")
        chosen = [(i, facts) for i, facts in chosen if Keep.stored(facts) == keep]
    return _rows(run, chosen, wrong, family, evidence_lost, failed)


def _rows(
    run: RunFolder, cells: Sequence[tuple[int, JsonObject]], wrong: bool, family: str | None, evidence_lost: bool, failed: bool
) -> Iterator[JsonObject]:
    conditions = ""
    values: list[str | float] = []
    if wrong:
        conditions += "AND (score IS NULL OR score < ? OR failed IS NOT NULL) "
        values.append(ANSWERED)
    if family is not None:
        conditions += "AND family = ? "
        values.append(family)
    if evidence_lost:
        conditions += "AND recall < ? "
        values.append(KEPT)
    if failed:
        conditions += "AND failed IS NOT NULL "
    rulings = ruling_columns(run)
    query = _QUERY.format(rulings="".join(f", {name}" for name in rulings), conditions=conditions)
    fields = (*FIELDS, *rulings)
    for ident, facts in cells:
        budget = Keep.stored(facts)
        keep = None if budget is None else str(budget) if budget.share else budget.value
        for row in run.connection.execute(query, (ident, *values)):
            yield dict(zip(fields, (facts["method"], keep, *row), strict=True))


def write_jsonl(rows: Iterator[JsonObject], file: TextIO) -> None:
    """Write one JSON object a line for each sample."""
    for row in rows:
        file.write(json.dumps(row) + "\n")


def write_csv(rows: Iterator[JsonObject], file: TextIO) -> None:
    """Write samples as comma-separated values under a header of their names, fit for a spreadsheet."""
    first = next(rows, None)
    write_rows(FIELDS if first is None else tuple(first), rows if first is None else chain([first], rows), file)


def print_table(rows: Iterator[JsonObject], limit: int, file: TextIO | None = None) -> None:
    """Print the first samples as a table for a terminal, and how many there are in all.

    Args:
        rows: from `samples`; read to their end.
        limit: how many the table shows.
        file: that takes text; standard output where not given.
    """
    from rich.console import Console
    from rich.table import Table

    file = file or sys.stdout
    table = Table(box=None, pad_edge=False)
    first = list(islice(rows, limit))
    read = ("read",) if first and "read" in first[0] else ()
    columns = ("method", "keep", "image", "family", "question", "target", "prediction", *read, "score", "recall")
    for name in columns:
        table.add_column(name, justify="right" if name in ("keep", "score", "recall") else "left", overflow="fold")
    for row in first:
        table.add_row(*(_cell(row, name) for name in columns))
    shown, rest = len(first), sum(1 for _ in rows)
    Console(file=file, width=None if file.isatty() else 160, markup=False, highlight=False).print(table)
    said = f"{shown} of {shown + rest} samples; --limit, --jsonl or --csv give more" if rest else f"{shown} samples"
    print(said, file=file)


def _cell(row: JsonObject, name: str) -> str:
    """A value as a terminal may show it: an answer must not steer it."""
    value = row[name]
    if name == "keep" and value is not None:
        return read_keep(value).shown
    if name == "target" and value is not None:
        value = target_shown(value)
    if name == "prediction" and row["failed"] is not None:
        value = f"failed: {row['failed']}"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "".join(c if c.isprintable() else "�" for c in " ".join(str(value).split()))
