"""A run folder: ``manifest.json``, ``results.sqlite``, ``summary.json``, ``summary.csv``, ``report.html``. Needs no torch."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RequestError
from harness.files import read_json, write_whole
from harness.store.arrays import columns_of
from harness.store.budgets import told_by_kind
from harness.store.cell_results import CellResult, SelectionTrace, Value
from harness.store.integrity import check_file, connected, unwritable
from harness.store.later_columns import add_later_columns, sample_columns
from harness.store.layouts import Area, ImageLayout
from harness.store.schema import NUMBERS, READ_VERSIONS, SAMPLE_COLUMNS, SCHEMA, SCHEMA_VERSION, ImageRow, QuestionRow
from harness.store.timings import PassTimes, by_stage
from harness.tasks.base import Answered
from harness.tasks.rows import kind
from metrics.figures import LAYERS

_OF_QUESTIONS = ("samples", "analysis", "repeats", "traces")
"""Tables of what cells found on a question."""


class RunFolder:
    """The files of one run, to read and to write.

    Args:
        folder: where they lie; it need not exist yet.
        read_only: leave every file as it is.
    """

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self.folder, self._read_only = folder, read_only
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection to the results, which `connect` opens when it is first used."""
        if self._connection is None:
            self._connection = self.connect()
        return self._connection

    def connect(self) -> sqlite3.Connection:
        """Check the results and open a connection to them.

        Raises:
            RequestError: where they are missing, damaged or of another program.
        """
        return connected(self.folder / "results.sqlite", SCHEMA, self._read_only)

    def close(self) -> None:
        """Close the connection to the results; using it again opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def create(self, manifest: dict[str, Any]) -> None:
        """Write the manifest and an empty database.

        Raises:
            RequestError: where results stand there already, or nothing can be written.
        """
        path = self.folder / "results.sqlite"
        if path.exists():
            raise RequestError(f"{path}: stands there without a manifest.json; name another folder")
        self.write_json("manifest.json", {"schema_version": SCHEMA_VERSION, **manifest})
        self.complete()

    def complete(self) -> None:
        """Make the database, or the tables that it lacks where a run had just begun or was made by a version without them."""
        with self.storing():
            if self._connection is None and self._begins:
                self._connection = sqlite3.connect(self.folder / "results.sqlite", timeout=30)
            self.connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            add_later_columns(self.connection)
            self.connection.execute("PRAGMA journal_mode=WAL")

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Turn what SQLite cannot store into one `RequestError` with the reason; the transaction is undone."""
        try:
            yield
        except sqlite3.Error as error:
            if (reason := unwritable(error)) is None:
                raise
            if self._connection is not None and self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.rollback()
            raise RequestError(f"{self.folder / 'results.sqlite'}: {reason}") from None

    def check(self) -> None:
        """Raise a `RequestError` where there are results that nothing can be added to."""
        if not self._begins:
            self.connection.execute("SELECT 1")

    @property
    def _begins(self) -> bool:
        """Whether no table is stored yet, as in a run that was interrupted at once."""
        path = self.folder / "results.sqlite"
        if self.finished or not path.exists() or path.stat().st_size == 0:
            return not self.finished
        try:
            with path.open("rb") as file, closing(sqlite3.connect(path, timeout=30)) as connection:
                made = file.read(6) == b"SQLite"
                return made and connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        except (OSError, sqlite3.Error):
            return False  # and `connection` says what is wrong

    @property
    def exists(self) -> bool:
        """Whether a run has begun there."""
        return (self.folder / "manifest.json").exists()

    @property
    def finished(self) -> bool:
        """Whether the run is complete and summarised."""
        return (self.folder / "summary.json").exists()

    def manifest(self) -> dict[str, Any]:
        """Read ``manifest.json``.

        Raises:
            RequestError: where the folder is no run, or one of a newer schema.
        """
        return self._read_json("manifest.json")

    def summary(self) -> dict[str, Any]:
        """Read ``summary.json``.

        Raises:
            RequestError: where the folder is no finished run, or one of a newer schema.
        """
        content = self._read_json("summary.json")
        return {**content, "cells": told_by_kind(content["cells"], self.manifest)}

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            raise RequestError(f"{self.folder}: no finished run there ({name} is missing)")
        content = read_json(path)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if not isinstance(content, dict) or type(version) is not int or version not in READ_VERSIONS:
            known = " and ".join(map(str, READ_VERSIONS))
            raise RequestError(f"{path}: schema version {kind(version)}, this prunescope reads {known}")
        check_file(path, content)
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a file of JSON whole or not at all; raise a `RequestError` where that fails."""
        self.write_text(name, json.dumps(content, indent=1, allow_nan=False))

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all; raise a `RequestError` where that fails."""
        write_whole(self.folder / name, text, f"{self.folder / name}: cannot be written")

    def add_cells(self, cells: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, int]:
        """Store cells, each a key and its facts, and return the ids of all cells by key; a known cell stays as it is."""
        self.complete()
        with self.storing(), self.connection as connection:
            for key, facts in cells:
                connection.execute("INSERT OR IGNORE INTO cells (key, facts) VALUES (?, ?)", (key, json.dumps(facts)))
        return dict(self.connection.execute("SELECT key, id FROM cells").fetchall())

    def set_facts(self, cell: int, **facts: object) -> None:
        """Add to what is known of a cell, once it has been measured."""
        with self.storing(), self.connection as connection:
            _add_facts(connection, cell, facts)

    def add_batch(
        self,
        place: int,
        images: Sequence[ImageRow],
        questions: Sequence[QuestionRow],
        results: Mapping[int, CellResult],
        layouts: Sequence[ImageLayout] = (),
    ) -> None:
        """Store one batch of images with the answers of some cells, in one transaction.

        Args:
            place: of its first image among all images.
            images: rows of the table ``images``.
            questions: rows of the table ``questions``.
            results: by id what each cell gave.
            layouts: of the images as they are, where they differ.
        """
        with self.storing(), self.connection as connection:

            def insert(table: str, width: int, rows: Iterable[tuple[Value, ...]], word: str = "REPLACE") -> None:
                connection.executemany(f"INSERT OR {word} INTO {table} VALUES ({', '.join('?' * width)})", rows)

            insert("images", 6, images, "IGNORE")
            insert("questions", 7, questions, "IGNORE")
            if layouts:
                insert("layouts", 5, [(0, *layout.row()) for layout in layouts])
            if areas := [row for layout in layouts for row in layout.area_rows()]:
                insert("areas", 8, areas)
            for cell, result in results.items():
                if result.layouts:
                    insert("layouts", 5, [(cell, *layout.row()) for layout in result.layouts])
                insert("samples", 2 + len(SAMPLE_COLUMNS), ((cell, row.question, *row.values()) for row in result.samples))
                insert("repeats", 5, ((cell, *row) for row in result.repeats))
                insert("traces", 4, ((cell, *trace.values()) for trace in result.traces))
                if result.analysis is not None:
                    insert("analysis", 3 + len(NUMBERS), result.analysis.rows(cell))
            insert("done", 2, ((cell, place) for cell in results))

    def drop(self, cell: int, reason: str) -> None:
        """Take a cell's answers away, and store the reason why it has none."""
        with self.storing(), self.connection as connection:
            _add_facts(connection, cell, {"skipped": reason, "tokens": None, "flops": None, "schedule": None})
            for table in (*_OF_QUESTIONS, "done"):
                connection.execute(f"DELETE FROM {table} WHERE cell = ?", (cell,))  # nosec B608

    def forget_failed(self, batch_size: int) -> None:
        """Take away the batches in which samples failed, whole, as if they had not been answered.

        The run is unfinished then. What other cells found in such a batch was compared with answers that may be missing.
        """
        self.complete()
        asked = (
            "SELECT DISTINCT images.place FROM samples JOIN questions ON questions.id = samples.question "
            "JOIN images ON images.id = questions.image"
        )
        places = [place for (place,) in self.connection.execute(f"{asked} WHERE failed IS NOT NULL")]  # nosec B608
        starts = sorted({place // batch_size * batch_size for place in places})
        if not starts:
            return
        for name in ("summary.json", "report.html"):
            (self.folder / name).unlink(missing_ok=True)
        with self.storing(), self.connection as connection:
            for start in starts:
                images = f"SELECT id FROM images WHERE place BETWEEN {start} AND {start + batch_size - 1}"  # nosec B608
                for table in _OF_QUESTIONS:
                    of = f"question IN (SELECT id FROM questions WHERE image IN ({images}))"  # nosec B608
                    connection.execute(f"DELETE FROM {table} WHERE {of}")  # nosec B608
                for table, column in (("layouts", "image"), ("areas", "image"), ("questions", "image"), ("images", "id")):
                    connection.execute(f"DELETE FROM {table} WHERE {column} IN ({images})")  # nosec B608
                connection.execute("DELETE FROM done WHERE place = ?", (start,))

    def has(self, table: str) -> bool:
        """Return whether there is such a table; runs that were made before some tables came up lack them."""
        return self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone() is not None

    def layouts(self, cell: int = 0, images: Sequence[str] | None = None) -> dict[str, ImageLayout]:
        """Return by id how the visual tokens of each image lie, where images differ; else, or in an older run, nothing.

        Args:
            cell: 0 for the images as they are; the id of a cell for images as it shrank them, whose areas are not stored.
            images: those to read; all where not given.
        """
        if not self.has("layouts"):
            return {}
        chosen, asked = "", tuple[str, ...]()
        if images is not None:
            chosen, asked = " AND image IN (SELECT value FROM json_each(?))", (json.dumps(list(images)),)
        areas: dict[str, list[Area]] = {}
        if cell == 0 and self.has("areas"):
            query = f"SELECT image, rows, columns, top, left, bottom, right FROM areas WHERE 1{chosen} ORDER BY image, number"  # nosec B608
            for image, *area in self.connection.execute(query, asked):
                areas.setdefault(image, []).append(Area(*area))
        query = f"SELECT image, tokens, height, width FROM layouts WHERE cell = ?{chosen}"  # nosec B608
        return {
            image: ImageLayout(image, tokens, None if height is None else (height, width), tuple(areas.get(image, ())))
            for image, tokens, height, width in self.connection.execute(query, (cell, *asked))
        }

    def done(self) -> set[tuple[int, int]]:
        """Return (cell, place of the batch's first image) of all stored answers; a batch is stored whole or not at all."""
        return set(self.connection.execute("SELECT cell, place FROM done"))

    def add_timings(
        self, number: int, rows: Iterable[tuple[int, int, int, str, float]], facts: Mapping[int, dict[str, Any]] | None = None
    ) -> None:
        """Store one latency pass, in one transaction.

        Args:
            number: of the pass, from 0 on.
            rows: (cell, repeat, round, stage, seconds); repeat 1 is a second run in the same rounds.
            facts: by cell what else was measured.
        """
        with self.storing(), self.connection as connection:
            connection.executemany("INSERT OR REPLACE INTO timings VALUES (?, ?, ?, ?, ?, ?)", ((number, *row) for row in rows))
            for cell, known in (facts or {}).items():
                _add_facts(connection, cell, known)

    def timings(self, repeat: int = 0) -> PassTimes:
        """Return seconds by (pass, cell), then by stage, in the order of the rounds. Only times of one pass compare.

        Arrays of one stage in one pass have one length, that of all its rounds: they pair by place. A cell that was left out of
        a round has nan there.

        Args:
            repeat: 1 for the second run of a cell in the same rounds.
        """
        query = "SELECT pass, cell, repeat, round, stage, seconds FROM timings ORDER BY pass, cell, stage, round"
        return by_stage(self.connection.execute(query), repeat)

    def cells(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return the id, key and facts of every cell, in the order of the ids; budgets are told as this version tells them."""
        rows = self.connection.execute("SELECT id, key, facts FROM cells ORDER BY id").fetchall()
        known = told_by_kind([json.loads(facts) for _, _, facts in rows], self.manifest)
        return [(ident, key, facts) for (ident, key, _), facts in zip(rows, known, strict=True)]

    def failed(self) -> list[tuple[int, str, str]]:
        """Return (cell, question, reason) of the samples without an answer, cell by cell in the order of images and questions."""
        query = (
            "SELECT cell, samples.question, failed FROM samples JOIN questions ON questions.id = samples.question "
            "JOIN images ON images.id = questions.image WHERE failed IS NOT NULL ORDER BY cell, images.place, questions.place"
        )
        return self.connection.execute(query).fetchall()

    def columns(self, cell: int, questions: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the samples of a cell as columns, in the order of images and questions; missing numbers are NaN.

        Args:
            cell: its id.
            questions: those to read; all where not given.
        """
        query = (
            f"SELECT samples.question, image, family, evidence IS NOT NULL, {sample_columns(self.connection)} FROM samples "
            "JOIN questions ON questions.id = samples.question JOIN images ON images.id = questions.image "
            f"WHERE cell = ? {'' if questions is None else 'AND samples.question IN (SELECT value FROM json_each(?)) '}"
            "ORDER BY images.place, questions.place"  # nosec B608
        )
        asked: tuple[int | str, ...] = (cell,) if questions is None else (cell, json.dumps(list(questions)))
        names = ("question", "image", "family", "evidence_known", *SAMPLE_COLUMNS)
        return columns_of(names, self.connection.execute(query, asked).fetchall())

    def answered(self, cell: int) -> list[Answered]:
        """Return the scored answers of a cell, with their targets."""
        query = (
            "SELECT samples.question, family, image, target, prediction, score FROM samples "
            "JOIN questions ON questions.id = samples.question JOIN images ON images.id = questions.image "
            "WHERE cell = ? AND failed IS NULL AND score IS NOT NULL ORDER BY images.place, questions.place"
        )
        return [Answered(*row) for row in self.connection.execute(query, (cell,))]

    def analysis(self, cell: int) -> dict[str, np.ndarray]:
        """Return the analysed questions of a cell as columns, with ``layers`` float32 [n, layers, LAYERS]; missing is nan."""
        names = ["question", "image", "family", "score", "kept", "kept_count", "recall", *NUMBERS, "layers"]
        query = (
            f"SELECT analysis.question, image, family, score, kept, kept_count, recall, {', '.join(NUMBERS)}, layers "
            "FROM analysis JOIN samples ON samples.cell = analysis.cell AND samples.question = analysis.question "
            "JOIN questions ON questions.id = analysis.question JOIN images ON images.id = questions.image "
            "WHERE analysis.cell = ? ORDER BY images.place, questions.place"  # nosec B608
        )
        columns = columns_of(names, self.connection.execute(query, (cell,)).fetchall())
        blobs = columns["layers"]
        tables = [np.frombuffer(blob, "<f4").reshape(-1, len(LAYERS)) for blob in blobs]
        columns["layers"] = np.stack(tables) if tables else np.zeros((0, 0, len(LAYERS)), "<f4")
        return columns

    def repeats(self, cell: int) -> dict[int, float]:
        """Return the mean score of a cell under each further seed."""
        rows = chain.from_iterable(self.connection.execute("SELECT repeat, score FROM repeats WHERE cell = ?", (cell,)))
        table = np.fromiter(rows, np.float64).reshape(-1, 2)
        seeds, codes = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
        means = np.bincount(codes, weights=table[:, 1]) / np.bincount(codes)
        return dict(zip(seeds.tolist(), means.tolist()))

    def traces(self, questions: Sequence[str]) -> dict[tuple[int, str], SelectionTrace]:
        """Return by cell and question what is known of why tokens were kept; nothing for questions that were not analysed."""
        if not self.has("traces"):
            return {}

        def read(blob: bytes | None, kind: str) -> np.ndarray | None:
            return None if blob is None else np.frombuffer(blob, kind)

        query = (
            "SELECT cell, question, scores, source FROM cells CROSS JOIN json_each(?) AS asked "
            "JOIN traces ON traces.cell = cells.id AND traces.question = asked.value"
        )
        return {
            (cell, question): SelectionTrace(question, read(scores, "<f2"), read(source, "<i2"))
            for cell, question, scores, source in self.connection.execute(query, (json.dumps(list(questions)),))
        }

    def analysed(self) -> list[str]:
        """Return the ids of the questions about images that were analysed."""
        query = "SELECT questions.id FROM images JOIN questions ON questions.image = images.id WHERE complexity IS NOT NULL"
        return [name for (name,) in self.connection.execute(query)]

    def complexity(self) -> dict[str, float]:
        """Return by image the effective rank of all its visual tokens, for images that were analysed."""
        return dict(self.connection.execute("SELECT id, complexity FROM images WHERE complexity IS NOT NULL ORDER BY place"))


def _add_facts(connection: sqlite3.Connection, cell: int, facts: Mapping[str, object]) -> None:
    (known,) = connection.execute("SELECT facts FROM cells WHERE id = ?", (cell,)).fetchone()
    connection.execute("UPDATE cells SET facts = ? WHERE id = ?", (json.dumps({**json.loads(known), **facts}), cell))
