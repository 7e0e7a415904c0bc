"""Published figures as a table for a terminal: what is the same in all rows stands above it, contradictions are marked."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby, zip_longest
from textwrap import wrap

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from harness.errors import shown
from harness.literature.contradictions import Contradictions, ContradictionSpread, spreads
from harness.literature.figures import PublishedFigure
from harness.literature.tables import PublishedTable

COLUMNS = (
    "model", "tokens", "task", "keep", "method", "version", "value", "metric", "split", "counts", "prompt", "origin", "table",
    "source",
)  # fmt: skip
"""The columns in their order, each a field of a figure."""
_ALWAYS = ("method", "value")  # columns, even where they are the same in all rows
_LEFT_OUT = ("table", "tokens", "split", "prompt", "version", "metric", "counts")  # first of all where a line has no room
_GAP = 2  # characters between columns
_MARK = " *"
_SPANS = 10  # contradictions that are told below the table


def print_figures(figures: Sequence[PublishedFigure], contradicted: Contradictions, table: PublishedTable | None = None) -> None:
    """Print figures as a table, then which of them others contradict and how far apart those are, then their number.

    Args:
        figures: at least one, in the order of the rows.
        contradicted: of all figures that there are, from `contradictions`.
        table: that holds all of them, whose title is told and how it was read; None where there are several.
    """
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    cells = _cells(figures, contradicted)
    same = [name for name in COLUMNS if name not in _ALWAYS and len(set(cells[name])) == 1]
    columns, left_out = _fitting([name for name in COLUMNS if name not in same], cells, console.width)
    if same:
        console.print(f"in every row: {'; '.join(f'{name} {cells[name][0]}' for name in same)}\n")
    parts: list[tuple[str, Sequence[int]]] = [("", range(len(figures)))]
    if "model" not in (*same, *columns):
        models = groupby(parts[0][1], key=lambda row: figures[row].model)
        parts = [(f"{shown(model)}:\n", list(rows)) for model, rows in models]
    widths = {name: _width(name, cells) for name in columns}
    if columns[-1] == "source":  # the only one that is broken where a line has no room for it
        rest = console.width - sum(widths[name] + _GAP for name in columns[:-1])
        widths["source"] = min(widths["source"], max(rest, len("source")))
    for above, part in parts:
        console.print(above + _line(dict(zip(columns, columns)), widths), style="bold")
        print("\n".join(_line({name: cells[name][row] for name in columns}, widths) for row in part), end="\n\n")
    if table is not None:
        console.print(shown(f"{table.name}: {table.title}, {table.url}; read: {table.read}"))
    console.print(*_notes(figures, contradicted, left_out), _count(figures, contradicted), sep="\n")


def _fitting(columns: list[str], cells: Mapping[str, list[str]], width: int) -> tuple[list[str], list[str]]:
    """The columns that a line has room for, without the model where that must stand above its rows; and those left out."""
    gone: list[str] = []
    for name in ("model", *_LEFT_OUT):
        if sum(_width(column, cells) + _GAP for column in columns) - _GAP > width and name in columns:
            columns = [column for column in columns if column != name]
            gone.append(name)
    return columns, [name for name in gone if name != "model"]


def _line(texts: Mapping[str, str], widths: Mapping[str, int]) -> str:
    """A row of the table, of more than one line where a text is wider than its column.

    Lines are put together here since rich takes milliseconds for each row of its tables, and there may be thousands.
    """
    broken = {name: wrap(text, widths[name]) if cell_len(text) > widths[name] else [text] for name, text in texts.items()}
    lines = zip_longest(*broken.values(), fillvalue="")
    return "\n".join((" " * _GAP).join(_padded(*cell) for cell in zip(widths.items(), line)).rstrip() for line in lines)


def _padded(column: tuple[str, int], text: str) -> str:
    name, width = column
    return " " * (width - cell_len(text)) + text if name in ("tokens", "keep", "value") else set_cell_size(text, width)


def _cells(figures: Sequence[PublishedFigure], contradicted: Contradictions) -> Mapping[str, list[str]]:
    """The text of every row by column; marks stand behind values so that the digits of all stay in line."""
    found = {name: [shown(str(getattr(figure, name))) for figure in figures] for name in COLUMNS}
    short = {model: model.rpartition("/")[2] for model in found["model"]}
    if 1 < len(short) == len(set(short.values())):
        found["model"] = [short[model] for model in found["model"]]
    if any(figure in contradicted for figure in figures):
        marks = [_MARK if figure in contradicted else " " * len(_MARK) for figure in figures]
        found["value"] = [value + mark for value, mark in zip(found["value"], marks, strict=True)]
    return found


def _width(column: str, cells: Mapping[str, list[str]]) -> int:
    return max(map(cell_len, {column, *cells[column]}))


def _notes(figures: Sequence[PublishedFigure], contradicted: Contradictions, left_out: Sequence[str]) -> list[str]:
    """What stands below the table: the columns that had no room, contradictions, and how a table was read where it is one."""
    notes = []
    if left_out:
        notes.append(f"no room for {', '.join(left_out)}: a wider terminal, --csv and --json have them")
    chosen = set(figures)
    spans = [spread for spread in spreads(contradicted) if chosen & set(spread.between)]
    if spans:
        several = len({figure.model for figure in figures}) > 1
        notes.append(
            "* others contradict it: the same measurement by all that is known, and values further apart than both were rounded"
        )
        notes += [f"  {span(spread, several)}" for spread in spans[:_SPANS]]
        if len(spans) > _SPANS:
            notes.append(f"  and {len(spans) - _SPANS} more of smaller spread; --json names for each figure what contradicts it")
    return notes


def span(spread: ContradictionSpread, with_model: bool = False) -> str:
    """Say how far apart figures of a cell lie that contradict each other.

    ``fastv at 64, pope: 36.1 to 59.6, 4 values in 9 sources`` is such a line.

    Args:
        spread: of `spreads`.
        with_model: whether the model is named.
    """
    first, last = spread.low, spread.high
    model = f"{first.model.rpartition('/')[2]}, " if with_model else ""
    at = "" if first.keep == "all" else f" at {first.keep}"
    values, sources = len({figure.number for figure in spread.between}), len({figure.source for figure in spread.between})
    told = f"{values} values in {sources} source{'s' * (sources != 1)}"
    return shown(f"{model}{first.method}{at}, {first.task}: {first.value} to {last.value}, {told}")


def _count(figures: Sequence[PublishedFigure], contradicted: Contradictions) -> str:
    names = {figure.table for figure in figures}
    marked = sum(figure in contradicted for figure in figures)
    told = (
        f"{len(figures)} figure{'s' * (len(figures) != 1)} in {len(names)} table{'s' * (len(names) != 1)}, {marked} contradicted"
    )
    return told
