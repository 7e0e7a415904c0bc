"""The images of a task's rows: in columns of the rows themselves, or in tables of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.tasks.columns import chosen_columns, image_columns
from harness.tasks.pictures import Picture, identity, images_of, picture
from harness.tasks.rows import Row
from harness.tasks.tables import Table

_LONGEST_NAME = 200  # characters of the names of several images that are one id
_LONGEST_POINTER = 64  # characters of the index of another row, by VLMEvalKit's rule


@dataclass(frozen=True)
class ImageTable:
    """Images in a table of their own (GQA), joined on column ``key`` of a question = column ``ident`` of an image."""

    key: str
    ident: str
    config: str


class RowImages:
    """Finds the images of rows.

    Args:
        column: that holds the image, where every row has one; None where rows of users' files may have several or none,
            in any of `harness.tasks.columns.image_columns`.
        apart: how images in tables of their own are joined, where there are such tables.
        tables: those tables.
    """

    def __init__(self, column: str | None, apart: ImageTable | None = None, tables: Sequence[Table] = ()) -> None:
        self.column, self.apart, self._tables = column, apart, list(tables)
        self._pointers: dict[int, dict[str, int]] = {}  # by table: the place of the row of each index

    def columns(self, table: Table) -> tuple[str, ...]:
        """Return the columns of a table that hold its rows' images, those that count before others first."""
        return image_columns(table.columns) if self.column is None else (self.column,)

    def texts(self, table: Table) -> tuple[str, ...]:
        """Return those of the columns that are cheap to read with a row: texts, where images are paths or base64."""
        if self.apart is not None:
            return (self.apart.key,)
        return tuple(column for column in self.columns(table) if table.holds_text(column))

    def at_hand(self, table: Table) -> bool:
        """Return whether a row of the table, read with `texts`, tells all about its images."""
        return self.apart is None and set(self.texts(table)) == set(self.columns(table))

    def of_row(self, row: Row, table: Table) -> list[Picture]:
        """Return the images of a row that was read with `columns`, not yet decoded.

        Raises:
            RequestError: for a cell that holds no image.
        """
        if self.column is not None:
            return [picture(row.values.get(self.column), row, self.column, table.root)]
        held = {column: cells for column in self.columns(table) if (cells := images_of(row.values.get(column)))}
        chosen = chosen_columns(held)
        other = next((column for column in held if column not in (*chosen, "image_path")), None)
        if other is not None and not all(one in held[chosen[0]] for one in held[other]):
            raise row.error(other, f"holds an image, and so does {chosen[0]!r}; leave one of them empty")
        return [
            picture(self._followed(one, row, column, table), row, column, table.root) for column in chosen for one in held[column]
        ]

    def at(self, table: Table, place: int, columns: Sequence[str]) -> list[Picture]:
        """Return the images of a row, not yet decoded.

        Args:
            table: the row's.
            place: the row's in the table.
            columns: that are read with a row.
        """
        row = table.row(place, columns)
        if self.apart is not None:
            key = row.short(self.apart.key)
            if key not in self._places:
                raise row.error(self.apart.key, f"there is no image {key!r} in {self._tables[0].name}")
            table, place = self._places[key]
            row = table.row(place, (self.apart.ident,))
        cells = {column: table.cell(place, column) for column in self.columns(table)}
        return self.of_row(Row({**row.values, **cells}, row.place, row.label), table)

    def idents(self, table: Table) -> Iterator[str | None]:
        """Yield by row what names its images: their paths or the digests of their bytes; None of a row without any."""
        columns = self.columns(table)
        for place, cells in enumerate(zip(*(table.cells(column) for column in columns))):
            held = {column: there for column, cell in zip(columns, cells) if (there := images_of(cell))}
            chosen = chosen_columns(held)
            found: list[Any] = [one for column in chosen for one in held[column]]
            known = [identity(cell) for cell in found]
            if self.apart is None and None not in known and len(chosen) == len(held):
                yield joined([name for name in known if name is not None]) if found else None
            else:
                yield joined([one.checked().ident for one in self.at(table, place, columns)])

    def _followed(self, cell: Any, row: Row, column: str, table: Table) -> Any:
        """The image that a cell holds; of the index of another row, that row's."""
        if not table.holds_pointers or not isinstance(cell, str) or len(cell) > _LONGEST_POINTER or "index" not in table.columns:
            return cell
        if id(table) not in self._pointers:
            places = enumerate(table.rows(("index",)))
            self._pointers[id(table)] = {row.short("index"): place for place, row in places if row.has("index")}
        there = self._pointers[id(table)].get(cell.strip())
        if there is None:
            if cell.strip().isdecimal():
                raise row.error(column, f"is {cell.strip()}, and no row has that index")
            return cell
        held = images_of(table.cell(there, column))
        if len(held) != 1 or (isinstance(held[0], str) and held[0].strip() in self._pointers[id(table)]):
            raise row.error(column, f"is the index {cell.strip()} of a row that has no image of its own")
        return held[0]

    @cached_property
    def _places(self) -> dict[str, tuple[Table, int]]:
        ident = self.apart.ident if self.apart is not None else ""
        return {row.short(ident): (table, place) for table in self._tables for place, row in enumerate(table.rows((ident,)))}


def joined(names: Sequence[str]) -> str | None:
    """Return one name for several images, by their names in order; None for no image.

    >>> joined(["a.png", "b.png"])
    'a.png + b.png'
    """
    text = " + ".join(names)
    if len(names) > 1 and len(text) > _LONGEST_NAME:
        return f"{len(names)} images {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    return text or None
