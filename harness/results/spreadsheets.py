"""Rows as CSV that a spreadsheet may open: a text of a model or of a data set must not become a formula there."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters, but for tab and line feed
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_rows(names: Sequence[str], rows: Iterable[Mapping[str, Any]], file: TextIO) -> None:
    """Write a header and rows as CSV; texts that a spreadsheet would run as formulas stand behind an apostrophe.

    Args:
        names: of the columns, in their order.
        rows: values by name of column, one mapping a row.
        file: that takes text; lines end with a line feed alone.
    """
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: inert(value) for name, value in row.items()})


def inert(value: Any) -> Any:
    """Return a value that a spreadsheet shows and does not run as a formula.

    Numbers, also as texts, stay as they are. Lines end with a line feed alone; control characters, which would steer a
    terminal, are replaced.

    >>> inert("=1+1"), inert("-5"), inert(" @x"), inert(-5)
    ("'=1+1", '-5', "' @x", -5)
    """
    if not isinstance(value, str):
        return value
    text = _STEERING.sub("\ufffd", value.replace("\r\n", "\n").replace("\r", "\n"))
    if not value.lstrip(" \n\xa0\ufeff").startswith(_FORMULA):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
