"""Rows of a task file, read with their types checked; an error says where it was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from harness.errors import RequestError
from harness.tasks.listed import listed, looks_listed

LONGEST_TEXT, LONGEST_SHORT = 100_000, 10_000
"""Characters of a question, and of an id or an answer that is one of one."""


@dataclass(frozen=True)
class Row:
    """One row of a task file, whose cells are read with their types checked.

    ``place`` says where it stands: ``pope.jsonl, line 3`` or ``test.parquet, row 17`` (rows count from 0). The methods
    raise `RequestError` with the place and the column where a cell is missing, empty or of another type.
    """

    values: Mapping[str, Any]
    place: str
    label: str = ""  # the file's name and the line or row, as an id
    singles: frozenset[str] = frozenset()  # columns whose numbers are stored as 32-bit floats

    def error(self, column: str, problem: str) -> RequestError:
        """Return the error to raise for a problem with a column of this row."""
        return RequestError(f"{self.place}, column {column!r}: {problem}")

    def has(self, column: str) -> bool:
        """Return whether the column is there and holds something."""
        value = self.values.get(column)
        return value is not None and not (isinstance(value, float) and math.isnan(value))

    def value(self, column: str) -> Any:
        """Return what the column holds, of whatever type."""
        if column not in self.values:
            raise RequestError(f"{self.place}: {lacking(column, self.values)}")
        if not self.has(column):
            raise self.error(column, "is empty")
        return self.values[column]

    def text(self, column: str) -> str:
        """Return a text that is not blank."""
        value = self.value(column)
        if not isinstance(value, str):
            raise self.error(column, f"is {kind(value)}, not a text")
        if not value.strip():
            raise self.error(column, "is blank")
        return self._sound(column, value)

    def _sound(self, column: str, text: str, most: int = LONGEST_TEXT) -> str:
        """A text that can be stored, shown and read by a model."""
        if len(text) > most:
            raise self.error(column, f"has {len(text):,} characters; at most {most:,}")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise self.error(column, "holds half a surrogate pair, which is no text")
        return text

    def short(self, column: str) -> str:
        """Return a text, or a number as text: an id or an answer."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.error(column, f"is {kind(value)}, not a text or a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(column, "is no finite number")
        if isinstance(value, str):
            return self._sound(column, self.text(column), LONGEST_SHORT)
        return f"{value:g}" if isinstance(value, float) and value == int(value) and abs(value) < 1e6 else str(value)

    def either(self, column: str, default: str) -> str:
        """Return the text or number of a column as text, or ``default`` where it is missing, empty, blank or ``nan``."""
        if not self.has(column) or str(self.values[column]).strip() in ("", "nan"):
            return default
        return self.short(column)

    def texts(self, column: str) -> tuple[str, ...]:
        """Return a list of texts or numbers as texts, of which one at least is not blank.

        A text alone is a list of one, unless it writes a list down; of objects, as VQAv2 has them, the ``answer`` is taken.
        """
        value = self.value(column)
        if isinstance(value, str) and looks_listed(value):
            found = listed(value)
            if not isinstance(found, list):
                raise self.error(column, f"is {kind(value)}, which looks like a list and cannot be read as one")
            value = found
        if isinstance(value, str):
            return (self.text(column),)
        if not isinstance(value, (list, tuple)):
            raise self.error(column, f"is {kind(value)}, not a list of texts")
        out = []
        for place, item in enumerate(value):
            item = item.get("answer") if isinstance(item, Mapping) else item
            if isinstance(item, bool) or not isinstance(item, (str, int, float)):
                raise self.error(column, f"item {place} is {kind(item)}, not a text")
            out.append(self._sound(column, str(item)))
        if not any(item.strip() for item in out):
            raise self.error(column, "is an empty list" if not out else "holds only blank texts")
        return tuple(out)

    def answers(self, column: str) -> tuple[str, ...]:
        """Return the answers of a column that holds one: several where it is a list, or a text that writes one with texts down.

        A list of numbers as text stays as it is: it may be a box, or an interval.
        """
        value = self.value(column)
        found = listed(value) if isinstance(value, str) and looks_listed(value) else value
        if isinstance(found, (list, tuple)) and (found is value or any(isinstance(item, str) for item in found)):
            return self.texts(column)
        return (self.short(column),)

    def whole(self, column: str) -> int:
        """Return a whole number, which may stand as text."""
        value = self.value(column)
        if isinstance(value, str) and value.strip().lstrip("-").isdecimal() and len(value) < 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(column, f"is {kind(value)}, not a whole number")
        return value

    def numbers(self, column: str, count: int) -> tuple[float, ...]:
        """Return a list of exactly ``count`` finite numbers."""
        value = self.value(column)
        good = isinstance(value, (list, tuple)) and len(value) == count
        if not good or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value):
            raise self.error(column, f"is {kind(value)}, not a list of {count} numbers")
        return tuple(float(v) for v in value)


def lacking(column: str, there: Iterable[str]) -> str:
    """Return a message that a column is missing, with the nearest name, or the names, that are there."""
    there = [str(name) for name in there]
    close = get_close_matches(column, there, 1, 0.6)
    names = ", ".join(name[:40] for name in there[:12]) or "none"
    return f"no column {column!r}; " + (f"did you mean {close[0]!r}?" if close else f"there are: {names}")


def kind(value: object) -> str:
    """Describe a wrong value for a message."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (bytes, bytearray)):
        return "bytes"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
