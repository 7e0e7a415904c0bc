"""What a data set of the hub gives: where its files are from, and a table that ``datasets`` maps into memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.huggingface import Snapshot, offline
from harness.progress import progress
from harness.tasks.rows import Row
from harness.tasks.tables import columns_of_singles


@dataclass(frozen=True)
class HubFiles:
    """Where the rows of a task are from: a data set of the hub, its commit, and its files by their paths in it."""

    repository: str
    commit: str | None  # None where ``datasets`` gave the rows out of its cache
    paths: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, repository: str, snapshot: Snapshot, names: Sequence[str]) -> HubFiles:
        """Return where these files of a snapshot are from."""
        return cls(repository, snapshot.commit, {name: snapshot.folder / name for name in names})

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says: the data set, its commit (``revision``), and the SHA-256 of each file, which is read.

        Raises:
            RequestError: where a file cannot be read, or is not the one that the hub has.
        """
        digests = {}
        with progress("digests of the data", len(self.paths)) as advance:
            for name, path in self.paths.items():
                digests[name] = self._digest(name, path)
                advance(1)
        return {"repository": self.repository, "revision": self.commit, "files": digests}

    def _digest(self, name: str, path: Path) -> str:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            # The cache names a large file after its SHA-256; where the system has no links, the name is not known.
            wanted = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
        except OSError as error:
            raise RequestError(f"{self.repository}: {name} cannot be read ({error.strerror or error})") from None
        if len(wanted) == len(found) and wanted != found:
            again = f"hf download {self.repository} {name} --repo-type dataset --force-download"
            raise RequestError(f"{self.repository}: {name} is damaged: its SHA-256 is not the hub's; fetch it again: {again}")
        return found


class HubTable:
    """A split of a data set as ``datasets`` maps it into memory; images stay encoded.

    Args:
        data: the ``datasets.Dataset``.
        name: for messages.
    """

    root: Path | None = None
    holds_pointers = False

    def __init__(self, data: Any, name: str) -> None:
        self.name, self.columns = name, tuple(data.column_names)
        self._data = data.with_format("arrow")
        self._singles = columns_of_singles(data.features.arrow_schema)
        self._only = lru_cache(maxsize=4)(lambda columns: self._data.select_columns(list(columns)))
        self.digest = str(getattr(data, "_fingerprint", ""))

    def __len__(self) -> int:
        return len(self._data)

    def holds_text(self, column: str) -> bool:
        """Return False: a data set of the hub holds its images as bytes."""
        return False

    def _there(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(column for column in columns if column in self.columns)

    def _row(self, values: dict[str, Any], index: int) -> Row:
        return Row(values, f"{self.name}, row {index}", str(index), self._singles)

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows in order, with those of the named columns that there are."""
        start = 0
        for table in self._only(self._there(columns)).iter(batch_size=2048):
            for index, values in enumerate(table.to_pylist(), start):
                yield self._row(values, index)
            start += len(table)

    def row(self, index: int, columns: Sequence[str]) -> Row:
        """Return one row, counted from 0."""
        return self._row(self._only(self._there(columns))[index].to_pylist()[0], index)

    def cell(self, index: int, column: str) -> Any:
        """Return the content of one cell."""
        return self._only((column,))[index][column][0].as_py()

    def cells(self, column: str) -> Iterator[Any]:
        """Yield all cells of a column in order."""
        for table in self._only((column,)).iter(batch_size=64):
            yield from table[column].to_pylist()


@contextmanager
def datasets_offline() -> Iterator[None]:
    """Let ``datasets`` look into its cache alone; else it tries five times and waits in between."""
    try:
        import datasets
    except ImportError:
        yield
        return
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        with offline():
            yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
