"""Task files as tables of rows: what a table is, JSON lines and parquet; images are read one at a time."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

from harness.errors import RequestError, first_line
from harness.tasks.rows import Row

LONGEST_LINE = 16 * 2**20  # characters of one JSON line
_FOOTER = 2**16  # bytes at the end of a parquet file that hold its statistics


class Table(Protocol):
    """Rows under named columns; ``root`` is the folder that paths of images are relative to, or None."""

    name: str
    columns: tuple[str, ...]
    root: Path | None
    holds_pointers: bool  # whether a cell of an image may be the index of another row, which has it

    def __len__(self) -> int: ...

    def holds_text(self, column: str) -> bool:
        """Return whether reading the column is cheap: it holds texts, not bytes of images."""
        ...

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows in order, with those of the named columns that there are."""
        ...

    def row(self, index: int, columns: Sequence[str]) -> Row:
        """Return one row, counted from 0."""
        ...

    def cell(self, index: int, column: str) -> Any:
        """Return the content of one cell; for images."""
        ...

    def cells(self, column: str) -> Iterator[Any]:
        """Yield all cells of a column in order; for images."""
        ...

    @property
    def digest(self) -> str:
        """A fingerprint of the content, as hexadecimal digits."""
        ...


class TextTable:
    """Rows of a text file, which is read whole: images are paths in it, or base64.

    Args:
        path: of the file.
        name: for messages; the file's name where not given.

    Raises:
        RequestError: for what is no such file, with the line and where there is one the column of the first fault.
    """

    place_name = "line"  # what messages count in
    holds_pointers = False  # whether a cell may hold the index of the row that has its image, as VLMEvalKit's tables do

    def __init__(self, path: Path, name: str = "") -> None:
        self.name = name or path.name
        self.root: Path | None = path.parent
        self._objects: list[dict[str, Any]] = []
        self._places: list[int] = []
        self._total = hashlib.blake2b(digest_size=8)
        try:
            with path.open("rb") as file:
                for place, values in self.read(file):
                    self._objects.append(values)
                    self._places.append(place)
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
        if not self._objects:
            raise RequestError(f"{path}: holds no rows")
        self.columns = tuple(dict.fromkeys(key for values in self._objects for key in values))

    @property
    def digest(self) -> str:
        """A fingerprint of the content, as hexadecimal digits."""
        return self._total.hexdigest()

    def read(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of a file, each with its place; what is read goes into the digest too."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._objects)

    def holds_text(self, column: str) -> bool:
        """Return True: a text file holds no bytes."""
        return True

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Return all rows in order, each with all of its columns."""
        return (self.row(index, columns) for index in range(len(self)))

    def row(self, index: int, columns: Sequence[str]) -> Row:
        """Return one row, counted from 0, with all of its columns."""
        place = self._places[index]
        return Row(self._objects[index], f"{self.name}, {self.place_name} {place}", f"{_stem(self.name)}-{place}")

    def cell(self, index: int, column: str) -> Any:
        """Return the content of one cell; None where the row lacks the column."""
        return self._objects[index].get(column)

    def cells(self, column: str) -> Iterator[Any]:
        """Return all cells of a column in order; None where a row lacks the column."""
        return (values.get(column) for values in self._objects)


class JsonLines(TextTable):
    """A file of JSON objects, one a line; blank lines do not count."""

    def read(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the objects, each with its line."""
        for line, content in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
            self._total.update(content)
            if not content.strip():
                continue
            place = f"{self.name}, line {line}"
            if len(content) > LONGEST_LINE:
                raise RequestError(f"{place}: longer than {LONGEST_LINE // 2**20} MiB; write one JSON object a line")
            value = parsed(content.rstrip(b"\r\n"), place, first=line == 1)
            if not isinstance(value, dict):
                raise RequestError(f'{place}: a JSON object is expected, such as {{"image": ..., "question": ...}}')
            yield line, value


def parsed(content: bytes, place: str, first: bool = True) -> Any:
    """Return the value that JSON text holds.

    Args:
        content: UTF-8 text; a byte order mark may stand before the first line of a file.
        place: where it stands, for messages.
        first: whether it is the start of a file.

    Raises:
        RequestError: where it is no JSON, or an object has a key twice, of which all but the last would be lost.
    """
    try:
        text = content.decode("utf-8-sig" if first else "utf-8")
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise RequestError(f"{place}, byte {error.start + 1}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        where = f"character {error.colno}" if "\n" not in text else f"line {error.lineno}, character {error.colno}"
        raise RequestError(f"{place}, {where}: not JSON ({_said(text, error)})") from None
    except RecursionError:
        raise RequestError(f"{place}: nested too deeply") from None
    except RequestError as error:
        raise RequestError(f"{place}: {error}") from None
    except ValueError as error:
        raise RequestError(f"{place}: not JSON ({str(error)[:80]})") from None


def _said(text: str, error: json.JSONDecodeError) -> str:
    """What is wrong with JSON text; a comma before a bracket that closes is named, which Python does from 3.13 on alone."""
    before, behind = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    at = text[error.pos : error.pos + 1]
    trailing = (before.endswith(",") and behind[:1] in ("}", "]")) or (at == "," and behind[1:].lstrip()[:1] in ("}", "]"))
    return "a comma stands before the end of an object or a list" if trailing else error.msg


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise RequestError(f"key {twice[:40]!r} stands twice in one object; leave one of them")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def require_pyarrow(place: str) -> None:
    """Check that pyarrow is installed.

    Args:
        place: what needs it, for the message.

    Raises:
        RequestError: with the remedy where it is not.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise RequestError(f'{place}: parquet needs pyarrow: pip install "prunescope[hub]"') from None


def columns_of_singles(schema: Any) -> frozenset[str]:
    """Return the columns of an Arrow schema that hold 32-bit floats, or lists of them; Arrow calls these ``float``."""
    return frozenset(field.name for field in schema if re.search(r"\bfloat\b", str(field.type)))


class Parquet:
    """A parquet file: texts are kept in memory, images are read by row group when they are asked for.

    Raises:
        RequestError: where pyarrow is missing, or the file is no parquet or has no rows.
    """

    holds_pointers = False

    def __init__(self, path: Path, name: str = "") -> None:
        require_pyarrow(str(path))
        from pyarrow import parquet

        self.name, self._path = name or path.name, path
        self.root: Path | None = path.parent
        try:
            self._file = parquet.ParquetFile(path)
            self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
            self._singles = columns_of_singles(self._file.schema_arrow)
        except Exception as error:  # pyarrow raises its own kinds and plain OSError
            self._broken(error)
        groups = range(self._file.metadata.num_row_groups)
        self._ends = list(accumulate(self._file.metadata.row_group(group).num_rows for group in groups))
        if not len(self):
            raise RequestError(f"{path}: holds no rows")
        self._kept = lru_cache(maxsize=2)(self._read)
        self._group = lru_cache(maxsize=1)(self._read_group)

    def _broken(self, error: Exception) -> NoReturn:
        first = first_line(error, 120)
        raise RequestError(f"{self._path}: cannot be read as parquet ({first})") from None

    def _read(self, columns: tuple[str, ...]) -> Any:
        try:
            return self._file.read(columns=list(columns))
        except Exception as error:
            self._broken(error)

    def _read_group(self, group: int, column: str) -> Any:
        try:
            return self._file.read_row_group(group, columns=[column])
        except Exception as error:
            self._broken(error)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def holds_text(self, column: str) -> bool:
        """Return whether the column's type is a string."""
        return column in self.columns and str(self._file.schema_arrow.field(column).type).endswith("string")

    def _there(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(column for column in columns if column in self.columns)

    def _row(self, values: dict[str, Any], index: int) -> Row:
        return Row(values, f"{self.name}, row {index}", f"{_stem(self.name)}-{index}", self._singles)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows in order, with those of the named columns that there are."""
        start = 0
        for batch in self._kept(self._there(columns)).to_batches(max_chunksize=2048):
            for index, values in enumerate(batch.to_pylist(), start):
                yield self._row(values, index)
            start += len(batch)

    def row(self, index: int, columns: Sequence[str]) -> Row:
        """Return one row, counted from 0, with those of the named columns that there are."""
        return self._row(self._kept(self._there(columns)).slice(index, 1).to_pylist()[0], index)

    def cell(self, index: int, column: str) -> Any:
        """Return the content of one cell; the last row group of a column stays in memory."""
        group = bisect_right(self._ends, index)
        start = self._ends[group - 1] if group else 0
        return self._group(group, column)[column][index - start].as_py()

    def cells(self, column: str) -> Iterator[Any]:
        """Yield all cells of a column in order, a few rows in memory at a time."""
        try:
            for batch in self._file.iter_batches(batch_size=64, columns=[column]):
                yield from batch.column(0).to_pylist()
        except RequestError:
            raise
        except Exception as error:
            self._broken(error)

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the size and of the footer, which has the place and the range of every column chunk."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            file.seek(max(0, size - _FOOTER))
            return hashlib.blake2b(f"{size}|".encode() + file.read(), digest_size=8).hexdigest()


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]
