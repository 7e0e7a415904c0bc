"""The averages that papers print beside their rows follow from the rows that we took, so that no digit was misread unseen.

An average is a mean over a row's columns, of the values or of their shares of the unpruned model's, as each paper says; some
divide a column first. A paper computes it from values before they are rounded, so ours may differ by what the columns' rounding
allows.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.literature.figures import PublishedFigure
from harness.literature.tables import table

MEAN = {"mme": 20.0, "ocrbench": 10.0}
"""What these papers divide columns by before they take a mean; MME by 20 even where it is the total of both parts."""
MEANS = {
    "eadp-llava-next-7b": MEAN,
    "eadp-llava-1.5-13b": MEAN,
    "eadp-qwen2.5-vl-7b": MEAN,
    "eadp-qwen2.5-vl-3b": MEAN,
    "tops-llava-next-7b": MEAN,
    "tops-llava-1.5-13b": MEAN,
    "tops-qwen2.5-vl-7b": {**MEAN, "pope": 10.0},  # a slip of the paper's: all its averages of these two models have it
    "tops-internvl3-8b": {**MEAN, "pope": 10.0},
}
RETENTIONS = (
    "pace-qwen2.5-vl-7b", "pace-qwen2.5-vl-3b", "cen-prune-qwen2.5-vl-7b", "cen-prune-llava-next-7b", "cen-prune-llava-1.5-13b",
    "flowcut-llava-next-7b", "idpruner-qwen2.5-vl-7b", "idpruner-qwen2.5-vl-3b",
)  # fmt: skip
TABLES = (*MEANS, *RETENTIONS)
UNREPRODUCED = {("tops-llava-1.5-13b", "pyramiddrop", "128")}
"""Rows whose printed average does not follow: a slip in the paper, or in its stored text."""


class Printed(NamedTuple):
    """An average as a paper prints it."""

    table: str
    method: str
    keep: str
    average: str


def _printed() -> list[Printed]:
    with (Path(__file__).parent / "printed_averages.csv").open(encoding="utf-8", newline="") as file:
        return [Printed(**row) for row in csv.DictReader(file)]


def _row(name: str, method: str, keep: str) -> list[PublishedFigure]:
    """The figures of a method at a budget, in the order of the table's columns."""
    return [figure for figure in table(name).figures if (figure.method, figure.keep) == (method, keep)]


def _term(figure: PublishedFigure, whole: PublishedFigure, off: float) -> float:
    """What a value adds to its row's average, if it was rounded by `off` of its rounding and the unpruned one's against it."""
    assert figure.number is not None
    assert whole.number is not None
    value = figure.number + off * figure.rounding
    if figure.table in MEANS:
        return value / MEANS[figure.table].get(figure.task, 1.0)
    return 100 * value / (whole.number - off * whole.rounding)


def _average(printed: Printed, off: float = 0.0) -> float:
    """The average of a row; with `off` of 1 or -1 the most or least that unrounded values could have."""
    row, whole = _row(printed.table, printed.method, printed.keep), _row(printed.table, "none", "all")
    terms = [_term(figure, unpruned, off) for figure, unpruned in zip(row, whole, strict=True)]
    return sum(terms) / len(terms)


def _half(text: str) -> float:
    """Half a unit of the last printed digit, and a little for the sums of binary numbers."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


def _exact(printed: Printed) -> bool:
    return abs(_average(printed) - float(printed.average)) <= _half(printed.average)


@pytest.mark.parametrize("printed", _printed(), ids=lambda row: f"{row.table}-{row.method}-{row.keep}")
def test_a_printed_average_follows_from_its_row(printed: Printed) -> None:
    value, half = float(printed.average), _half(printed.average)
    follows = _average(printed, -1) - half <= value <= _average(printed, 1) + half
    assert follows == (printed[:3] not in UNREPRODUCED)


@pytest.mark.parametrize("name", TABLES)
def test_the_head_says_how_many_averages_come_out_to_the_digit(name: str) -> None:
    rows = [row for row in _printed() if row.table == name]
    assert f"{sum(map(_exact, rows))} of the {len(rows)} printed averages to the digit" in table(name).read


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_every_column_and_a_printed_average(name: str) -> None:
    figures = table(name).figures
    columns = [figure.task for figure in _row(name, "none", "all")]
    assert len(columns) == len(set(columns)) >= 7
    rows = list(dict.fromkeys((figure.method, figure.keep) for figure in figures))
    assert rows == [(row.method, row.keep) for row in _printed() if row.table == name]
    for method, keep in rows:
        assert [figure.task for figure in _row(name, method, keep)] == columns


@pytest.mark.parametrize("name", TABLES)
def test_a_column_has_one_metric_and_the_whole_table_one_model(name: str) -> None:
    figures = table(name).figures
    assert len({figure.model for figure in figures}) == 1
    for task in {figure.task for figure in figures}:
        assert len({(f.metric, f.split, f.prompt) for f in figures if f.task == task}) == 1
