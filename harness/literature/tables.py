"""Tables of published figures: a head, ``NAME.toml``, which says where they were read, and the figures, ``NAME.csv``."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from harness.errors import RequestError, nearest
from harness.files import read_toml
from harness.literature.figures import COUNTS, METRICS, ORIGINS, PROMPTS, UNKNOWN, PublishedFigure
from harness.literature.spelling import our_method, our_task
from methods.keep import Keep
from methods.types import BudgetMode

FOLDER = Path(__file__).parent / "tables"
COLUMNS = tuple(f.name for f in fields(PublishedFigure) if f.name not in ("table", "line", "expression"))
"""The columns of a table's file, in their order."""
_PRINTED = re.compile(r"[0-9]+(\.[0-9]+)?")  # a value: what is written otherwise ("1e3", "inf") would not tell its last digit
LISTED = ("table", "line", "contradicted_by")
"""Columns that the list of the command `published` has besides, and a file that was made with it too: they are not read."""
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "counts": COUNTS, "origin": ORIGINS, "prompt": PROMPTS, "metric": (*METRICS, UNKNOWN),
}  # fmt: skip


@dataclass(frozen=True)
class Reproduction:
    """How the cells of a table are run here: what its source leaves open is settled, and said."""

    methods: Mapping[str, str] = field(default_factory=dict)  # a method of the table -> our expression
    tasks: Mapping[str, str] = field(default_factory=dict)  # a task of the table -> our task expression
    budget: str = "average"  # mode of rows whose `counts` is unknown or every
    samples: int | None = None  # images of each task; None is all
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # further options of `compare`, by their names
    notes: tuple[str, ...] = ()  # what was settled, and why, in whole sentences


@dataclass(frozen=True)
class PublishedTable:
    """The figures that one source prints, and how they were read there."""

    name: str
    title: str  # of the paper or page
    source: str  # arXiv id, or another that does not change
    url: str
    read: str  # how the figures were read: from which text, and how sure its digits are
    figures: tuple[PublishedFigure, ...]
    reproduction: Reproduction | None = None  # None: not made for `reproduce`
    ours: bool = False  # whether it holds figures of this project, which nobody else printed


def names() -> list[str]:
    """Return the names of the tables in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


@cache
def table(name: str) -> PublishedTable:
    """Return a table of the package by its name, or one of the user's own by the path of its ``.toml`` file.

    Args:
        name: of `names`, or a path that ends in ``.toml``, beside which lies a ``.csv`` file of the same name.

    Raises:
        RequestError: for an unknown name, or with the file and line of what cannot be read.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        raise RequestError(f"table {name!r}: {nearest(name, names())}")
    head = read_toml(f"table {path}", path)
    texts = {key: _text(path, head, key) for key in ("title", "source", "url", "read")}
    known = {*texts, "ours", "reproduce"}
    if unknown := sorted(set(head) - known):
        raise RequestError(f"table {path}: unknown entry {unknown[0]!r}; {nearest(unknown[0], known)}")
    if not isinstance(ours := head.get("ours", False), bool):
        raise RequestError(f"table {path}: ours must be true or false")
    figures = _figures(path.with_suffix(".csv"), path.stem)
    again = _reproduction(f"table {path}: reproduce", head.get("reproduce"), figures)
    settled = {} if again is None else again.methods
    figures = tuple(replace(figure, expression=settled.get(figure.method, "")) for figure in figures)
    return PublishedTable(path.stem, **texts, figures=figures, reproduction=again, ours=ours)


def printed() -> list[str]:
    """Return the names of the package's tables that others printed: all but those of this project's own figures."""
    return [name for name in names() if not table(name).ours]


def published() -> tuple[PublishedFigure, ...]:
    """Return the figures that others printed, of all tables of the package, in the order of tables and lines."""
    return tuple(figure for name in printed() for figure in table(name).figures)


def _text(path: Path, head: Mapping[str, Any], key: str) -> str:
    if not isinstance(value := head.get(key), str) or not value.strip():
        raise RequestError(f"table {path}: {key} must be a text")
    return value


def _figures(path: Path, name: str) -> tuple[PublishedFigure, ...]:
    """The rows of a file, each checked."""
    found: dict[tuple[object, ...], PublishedFigure] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # a spreadsheet may begin a file with a byte order mark
            reader = csv.DictReader(file)
            _check_columns(f"table {path}", tuple(reader.fieldnames or ()))
            for row in reader:
                where = f"table {path}: line {reader.line_num}"
                figure = _figure(where, row, name, reader.line_num)
                told = (*(getattr(figure, column) for column in COLUMNS if column not in ("keep", "origin")), figure.budget)
                if (first := found.setdefault(told, figure)) is not figure:
                    raise RequestError(f"{where}: has the same figure of the same source as line {first.line}; leave it away")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"table {path}: cannot be read ({error})") from None
    if not found:
        raise RequestError(f"table {path}: the table has no rows")
    return tuple(found.values())


def _check_columns(where: str, given: tuple[str, ...]) -> None:
    """Refuse a first line of other columns; those of a list that was saved with ``--csv`` may follow."""
    if given in (COLUMNS, (*COLUMNS, *LISTED)):
        return
    lacking, beside = [name for name in COLUMNS if name not in given], [name for name in given if name not in COLUMNS]
    if len(given) == 1 and ";" in given[0]:
        why = "it separates them by semicolons"
    elif lacking or beside:
        why = " and ".join(
            f"it {verb} {','.join(map(repr, wrong))}" for verb, wrong in (("lacks", lacking), ("has besides", beside)) if wrong
        )
    else:
        why = "it has them in another order, or twice"
    raise RequestError(f"{where}: line 1 must name the columns {','.join(COLUMNS)}; {why}")


def _figure(where: str, row: Mapping[str | None, Any], name: str, line: int) -> PublishedFigure:
    """A row as a figure.

    Raises:
        RequestError: for a field that is missing or empty, or holds what it cannot.
    """
    if None in row or None in row.values():
        raise RequestError(f"{where}: must have {len(row) - (None in row)} fields")
    for column in COLUMNS:
        if not row[column].strip():
            raise RequestError(f"{where}: {column} is empty; write {UNKNOWN} where the source does not say")
        if row[column] != row[column].strip():
            raise RequestError(f"{where}: {column} {row[column]!r} begins or ends with a space; write {row[column].strip()!r}")
    for column, ours in (("method", our_method), ("task", our_task)):
        if row[column] != (name_here := ours(row[column])):
            raise RequestError(f"{where}: {column} {row[column]!r}: write {name_here!r}, its name here")
    for column, choices in _CHOICES.items():
        if row[column] not in choices:
            raise RequestError(f"{where}: {column} {row[column]!r}: {nearest(row[column], choices)}")
    if row["value"] != UNKNOWN and _PRINTED.fullmatch(row["value"]) is None:
        raise RequestError(f"{where}: value {row['value']!r} must be a number as printed, or {UNKNOWN}")
    if row["tokens"] != UNKNOWN and not (row["tokens"].isascii() and row["tokens"].isdigit() and int(row["tokens"])):
        raise RequestError(f"{where}: tokens {row['tokens']!r} must be a count of visual tokens such as 576, or {UNKNOWN}")
    figure = PublishedFigure(**{column: row[column] for column in COLUMNS}, table=name, line=line)
    value, scale = figure.number, figure.scale
    if value is not None and scale is not None and value > scale:
        raise RequestError(f"{where}: value {figure.value} must lie between 0 and {scale:g}, the most of {figure.metric}")
    try:
        if figure.keep not in ("all", UNKNOWN):
            Keep.parse(figure.keep)
    except ValueError as error:
        raise RequestError(f"{where}: keep {figure.keep!r}: {error}; all for the unpruned model") from None
    return figure


def _reproduction(where: str, stored: object, figures: Sequence[PublishedFigure]) -> Reproduction | None:
    """The entry ``reproduce`` of a head, each part of it of its type.

    Raises:
        RequestError: for a part that is unknown or of another type, or names what the table does not have.
    """
    if stored is None:
        return None
    known = {f.name: f.default for f in fields(Reproduction)}
    if not isinstance(stored, dict) or (unknown := sorted(set(stored) - set(known))):
        what = f"unknown entry {unknown[0]!r}; {nearest(unknown[0], known)}" if isinstance(stored, dict) else "must be a table"
        raise RequestError(f"{where}: {what}")
    for name, of in (("methods", "method"), ("tasks", "task")):
        if not _texts(settled := stored.get(name, {}), dict):
            raise RequestError(f"{where}: {name} must be a table of texts, such as {{{_EXAMPLES[name]}}}")
        have = dict.fromkeys(getattr(figure, of) for figure in figures)
        if wrong := [one for one in settled if one not in have]:
            raise RequestError(f"{where}: {name}: {wrong[0]!r} is no {of} of the table; {nearest(wrong[0], have)}")
    modes = get_args(BudgetMode)
    if (budget := stored.get("budget", "average")) not in modes:
        raise RequestError(f"{where}: budget {budget!r}: {nearest(str(budget), modes)}")
    if type(samples := stored.get("samples", 1)) is not int or samples < 1:
        raise RequestError(f"{where}: samples {samples!r} must be a whole number above 0; leave it away for all")
    if type(seed := stored.get("seed", 0)) is not int or seed < 0:
        raise RequestError(f"{where}: seed {seed!r} must be a whole number of 0 or more")
    if not isinstance(stored.get("options", {}), dict):
        raise RequestError(f"{where}: options must be a table of options of compare, such as {{{_EXAMPLES['options']}}}")
    if not _texts(notes := stored.get("notes", []), list):
        raise RequestError(f"{where}: notes must be a list of sentences, such as [{_EXAMPLES['notes']}]")
    return Reproduction(**{**stored, "notes": tuple(notes)})


_EXAMPLES = {
    "methods": 'holov = "holov[rule=code]"', "tasks": 'textvqa = "textvqa[ocr=true]"', "options": 'dtype = "float16"',
    "notes": '"The source does not print its precision: here it is float16."',
}  # fmt: skip


def _texts(value: Any, kind: type) -> bool:
    """Whether a value is a list or a table whose members are texts, none of them empty."""
    members = value.values() if isinstance(value, dict) else value
    return isinstance(value, kind) and all(isinstance(one, str) and one.strip() for one in members)
