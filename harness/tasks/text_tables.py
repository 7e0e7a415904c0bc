"""Task files of text in other forms than JSON lines: one list of JSON objects, and values set apart by commas or tabs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from harness.errors import RequestError
from harness.tasks import tables
from harness.tasks.rows import kind
from harness.tasks.tables import TextTable, parsed

LONGEST_FILE = 2 * 2**30
"""Bytes of a text file, which is read whole."""


class JsonList(TextTable):
    """A ``.json`` file: a list of objects, such as LLaVA's conversations; rows count from 0."""

    place_name = "row"

    def read(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the objects, each with its place in the list."""
        content = file.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise RequestError(
                f"{self.name}: larger than {LONGEST_FILE // 2**30} GiB; write one JSON object a line into a .jsonl"
            )
        self._total.update(content)
        values = parsed(content, self.name)
        if not isinstance(values, list):
            raise RequestError(
                f"{self.name}: is {kind(values)}, not a list of JSON objects; of one object a line, name it .jsonl"
            )
        for place, value in enumerate(values):
            if not isinstance(value, dict):
                raise RequestError(f'{self.name}, row {place}: is {kind(value)}, not an object such as {{"image": ...}}')
            yield place, value


class Delimited(TextTable):
    """A file whose first row names the columns: fields stand in double quotes where they hold the delimiter or a line's end.

    An empty field is no value. Nothing else is read as one: "None" and "NA" are texts, and may be options.
    """

    delimiter = ","
    holds_pointers = True

    def read(self, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows, each with the line on which it starts."""
        text = io.TextIOWrapper(io.BufferedReader(_Counted(file, self._total)), encoding="utf-8-sig", newline="")
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        limit = csv.field_size_limit(tables.LONGEST_LINE)
        start, header = 1, list[str]()
        try:
            for fields in reader:
                line, start = start, reader.line_num + 1
                if not any(fields):
                    continue
                if not header:
                    header = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(fields)]  # as pandas does
                    self._check_header(header, line)
                    continue
                if len(fields) != len(header):
                    raise RequestError(f"{self.name}, line {line}: has {len(fields)} fields, and the first row {len(header)}")
                yield line, {name: value for name, value in zip(header, fields) if value != ""}
        except csv.Error as error:
            raise RequestError(f"{self.name}, line {start}: cannot be read ({self._said(error)})") from None
        except UnicodeDecodeError:
            raise RequestError(f"{self.name}, line {start} or behind: not UTF-8 text") from None
        finally:
            csv.field_size_limit(limit)

    def _check_header(self, header: list[str], line: int) -> None:
        for place, name in enumerate(header):
            if name in header[:place]:
                raise RequestError(f"{self.name}, line {line}: column {name[:40]!r} stands twice")

    @staticmethod
    def _said(error: csv.Error) -> str:
        text = str(error)
        if "field larger" in text:
            return f"a field of more than {tables.LONGEST_LINE // 2**20} MiB"
        return "a field in double quotes has no end" if "unexpected end" in text else text


class TabSeparated(Delimited):
    """A ``.tsv`` file, as VLMEvalKit has its benchmarks: images as base64, or the index of the row that holds them."""

    delimiter = "\t"


class _Counted(io.RawIOBase):
    """A file whose bytes go into a digest as they are read."""

    def __init__(self, file: BinaryIO, total: Any) -> None:
        self._file, self._total = file, total

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        self._total.update(content)
        buffer[: len(content)] = content
        return len(content)
