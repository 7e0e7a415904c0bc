"""A run folder: ``manifest.json``, ``results.sqlite``, ``summary.json``, ``summary.csv``, ``report.html``.

Reading one needs no torch.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.errors import RequestError
from harness.tasks.base import Answered
from metrics.figures import BIAS, FIGURES, LAYERS, MATCHED, SCORES

SCHEMA_VERSION = 2
_SAMPLE_COLUMNS = (
    "prediction", "score", "agree", "kl", "kept", "kept_count", "recall", "recall_before", "swap_score", "failed",
)  # fmt: skip
_NUMBERS = (
    *FIGURES, *(f"z_{name}" for name in FIGURES), *(f"percentile_{name}" for name in FIGURES),
    *(f"row_z_{name}" for name in MATCHED), *BIAS, *SCORES,
)  # fmt: skip
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, png BLOB, height INTEGER, width INTEGER, complexity REAL);
CREATE TABLE IF NOT EXISTS layouts (
    cell INTEGER NOT NULL, image TEXT NOT NULL, tokens INTEGER NOT NULL, height INTEGER, width INTEGER,
    PRIMARY KEY (cell, image)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS questions (
    id TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images, place INTEGER NOT NULL,
    family TEXT NOT NULL, question TEXT NOT NULL, target TEXT NOT NULL, evidence BLOB);
CREATE TABLE IF NOT EXISTS samples (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions,
    {", ".join(_SAMPLE_COLUMNS)}, PRIMARY KEY (cell, question)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS analysis (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions,
    {", ".join(f"{name} REAL" for name in _NUMBERS)}, layers BLOB, PRIMARY KEY (cell, question)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeats (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions, repeat INTEGER NOT NULL,
    score REAL, PRIMARY KEY (cell, question, repeat)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done (
    cell INTEGER NOT NULL REFERENCES cells, place INTEGER NOT NULL, PRIMARY KEY (cell, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timings (
    pass INTEGER NOT NULL, cell INTEGER NOT NULL REFERENCES cells, repeat INTEGER NOT NULL, round INTEGER NOT NULL,
    stage TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (pass, cell, repeat, round, stage)) WITHOUT ROWID;
"""


Layout = tuple[str, int, int | None, int | None]
"""An image, its visual tokens, and the grid (h, w) that they are; None where they are no full grid."""


@dataclass(frozen=True)
class SampleRow:
    """One answer of one cell. Figures that a cell does not have are None."""

    question: str
    prediction: str
    score: float
    agree: float | None = None
    kl: float | None = None  # nats
    kept: bytes | None = None  # packed bool [h * w] of the tokens in the last layer
    kept_count: int | None = None
    recall: float | None = None  # of the evidence, in the last layer
    recall_before: float | None = None  # of the evidence, on entering the LLM
    swap_score: float | None = None  # with the evidence forced into the kept set; None where there is none, or not measured
    failed: str | None = None

    def values(self) -> tuple:
        return tuple(getattr(self, name) for name in _SAMPLE_COLUMNS)


@dataclass(frozen=True)
class Analysis:
    """What the kept tokens of some questions of one cell are like."""

    questions: Sequence[str]  # [R]
    numbers: Mapping[str, np.ndarray]  # float [R] each; nan or absent where a cell has no such figure
    layers: np.ndarray  # float32 [R, layers, LAYERS]; nan is not measured

    def rows(self, cell: int) -> Iterable[tuple]:
        columns = [self.numbers.get(name) for name in _NUMBERS]
        for i, question in enumerate(self.questions):
            numbers = (None if column is None or column[i] != column[i] else float(column[i]) for column in columns)
            yield cell, question, *numbers, self.layers[i].astype("<f4").tobytes()


@dataclass
class Findings:
    """What one cell gave on one batch."""

    samples: list[SampleRow]
    analysis: Analysis | None = None
    repeats: list[tuple[str, int, float]] = field(default_factory=list)  # (question, further seed, score)
    layouts: list[Layout] = field(default_factory=list)  # of images that were shrunk, each to a grid of its own


def joined(parts: Sequence[Findings]) -> Findings:
    """What one cell gave on the parts of a batch, in turn."""
    if len(parts) == 1:
        return parts[0]
    every = lambda name: [row for part in parts for row in getattr(part, name)]
    found = [part.analysis for part in parts if part.analysis is not None]
    return Findings(every("samples"), joined_analyses(found) if found else None, every("repeats"), every("layouts"))


def joined_analyses(parts: Sequence[Analysis], order: np.ndarray | None = None) -> Analysis:
    """Analyses of different questions as one, in turn or in a given order; a figure that a part lacks is nan there."""
    questions = [question for part in parts for question in part.questions]
    order = np.arange(len(questions)) if order is None else order
    names = dict.fromkeys(name for part in parts for name in part.numbers)
    missing = [np.full(len(part.questions), np.nan) for part in parts]
    columns = {n: np.concatenate([p.numbers.get(n, none) for p, none in zip(parts, missing)])[order] for n in names}
    return Analysis([questions[i] for i in order], columns, np.concatenate([part.layers for part in parts])[order])


class RunFolder:
    """Reads and writes one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self.folder / "results.sqlite", timeout=30)
        return self._connection

    def create(self, manifest: dict) -> None:
        """Write the manifest and an empty database."""
        self.write_json("manifest.json", {"schema_version": SCHEMA_VERSION, **manifest})
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.executescript(_SCHEMA)

    @property
    def exists(self) -> bool:
        return (self.folder / "manifest.json").exists()

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    def manifest(self) -> dict:
        """The manifest, or `RequestError` where the folder is no run or of a newer schema."""
        return self._read_json("manifest.json")

    def summary(self) -> dict:
        return self._read_json("summary.json")

    def _read_json(self, name: str) -> dict:
        path = self.folder / name
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise RequestError(f"{self.folder}: no finished run there ({name} is missing)") from None
        except (OSError, ValueError) as error:
            raise RequestError(f"{path}: cannot be read ({error})") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise RequestError(f"{path}: schema version {version}, this prunescope reads {SCHEMA_VERSION}")
        return content

    def write_json(self, name: str, content: dict) -> None:
        """Write a file whole or not at all."""
        partial = self.folder / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=1, allow_nan=False))
        partial.replace(self.folder / name)

    def add_cells(self, cells: Iterable[tuple[str, dict]]) -> dict[str, int]:
        """Store cells and return their ids by key."""
        with self.connection as connection:
            for key, facts in cells:
                connection.execute("INSERT OR IGNORE INTO cells (key, facts) VALUES (?, ?)", (key, json.dumps(facts)))
        return dict(self.connection.execute("SELECT key, id FROM cells").fetchall())

    def set_facts(self, cell: int, **facts: object) -> None:
        """Add to what is known of a cell, once it has been measured."""
        with self.connection as connection:
            (known,) = connection.execute("SELECT facts FROM cells WHERE id = ?", (cell,)).fetchone()
            connection.execute("UPDATE cells SET facts = ? WHERE id = ?", (json.dumps({**json.loads(known), **facts}), cell))

    def add_batch(
        self,
        place: int,
        images: Sequence[tuple],
        questions: Sequence[tuple],
        findings: Mapping[int, Findings],
        layouts: Sequence[Layout] = (),
    ) -> None:
        """One batch of images with the answers of some cells, in one transaction; ``place`` is that of its first image.

        Args:
            layouts: of the images as they are, where they differ.
        """
        with self.connection as connection:
            insert = lambda table, width, rows, word="REPLACE": connection.executemany(
                f"INSERT OR {word} INTO {table} VALUES ({', '.join('?' * width)})", rows
            )
            insert("images", 6, images, "IGNORE")
            insert("questions", 7, questions, "IGNORE")
            if layouts:
                insert("layouts", 5, [(0, *layout) for layout in layouts])
            for cell, found in findings.items():
                if found.layouts:
                    insert("layouts", 5, [(cell, *layout) for layout in found.layouts])
                insert("samples", 2 + len(_SAMPLE_COLUMNS), ((cell, row.question, *row.values()) for row in found.samples))
                insert("repeats", 4, ((cell, *row) for row in found.repeats))
                if found.analysis is not None:
                    insert("analysis", 3 + len(_NUMBERS), found.analysis.rows(cell))
            insert("done", 2, ((cell, place) for cell in findings))

    def drop(self, cell: int, reason: str) -> None:
        """Take a cell's answers away and give the reason why it has none."""
        self.set_facts(cell, skipped=reason, tokens=None, flops=None, schedule=None)
        with self.connection as connection:
            for table in ("samples", "analysis", "repeats", "done"):
                connection.execute(f"DELETE FROM {table} WHERE cell = ?", (cell,))

    def layouts(self, cell: int = 0) -> dict[str, tuple[int, tuple[int, int] | None]]:
        """By image its visual tokens and their grid, where images differ: as they are, or as a cell shrank them."""
        if not self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'layouts'").fetchone():
            return {}  # of a run that was made before
        rows = self.connection.execute("SELECT image, tokens, height, width FROM layouts WHERE cell = ?", (cell,)).fetchall()
        return {image: (tokens, None if height is None else (height, width)) for image, tokens, height, width in rows}

    def done(self) -> set[tuple[int, int]]:
        """(cell, place of the batch's first image) of the answers that are stored; a batch is stored whole or not at all."""
        return set(self.connection.execute("SELECT cell, place FROM done"))

    def add_timings(self, number: int, rows: Iterable[tuple[int, int, int, str, float]]) -> None:
        """Rows (cell, repeat, round, stage, seconds) of one latency pass; repeat 1 is a second run in the same rounds."""
        with self.connection as connection:
            connection.executemany("INSERT OR REPLACE INTO timings VALUES (?, ?, ?, ?, ?, ?)", ((number, *row) for row in rows))

    def timings(self, repeat: int = 0) -> dict[tuple[int, int], dict[str, np.ndarray]]:
        """Seconds by pass and cell, then by stage, in the order of the rounds. Only times of one pass compare."""
        out: dict[tuple[int, int], dict[str, list[float]]] = {}
        query = "SELECT pass, cell, stage, seconds FROM timings WHERE repeat = ? ORDER BY pass, cell, stage, round"
        for number, cell, stage, seconds in self.connection.execute(query, (repeat,)):
            out.setdefault((number, cell), {}).setdefault(stage, []).append(seconds)
        return {key: {stage: np.array(v) for stage, v in stages.items()} for key, stages in out.items()}

    def cells(self) -> list[tuple[int, str, dict]]:
        return [
            (i, key, json.loads(facts))
            for i, key, facts in self.connection.execute("SELECT id, key, facts FROM cells ORDER BY id")
        ]

    def columns(self, cell: int) -> dict[str, np.ndarray]:
        """All samples of a cell as columns, in the order of images and questions; missing numbers are NaN."""
        names = ["question", "image", "family", "evidence_known", *_SAMPLE_COLUMNS]
        query = (
            f"SELECT samples.question, image, family, evidence IS NOT NULL, {', '.join(_SAMPLE_COLUMNS)} FROM samples "
            "JOIN questions ON questions.id = samples.question JOIN images ON images.id = questions.image "
            "WHERE cell = ? ORDER BY images.place, questions.place"
        )
        return _columns(names, self.connection.execute(query, (cell,)).fetchall())

    def answered(self, cell: int) -> list[Answered]:
        """The scored answers of a cell, with their targets."""
        query = (
            "SELECT samples.question, family, image, target, prediction, score FROM samples "
            "JOIN questions ON questions.id = samples.question JOIN images ON images.id = questions.image "
            "WHERE cell = ? AND failed IS NULL AND score IS NOT NULL ORDER BY images.place, questions.place"
        )
        return [Answered(*row) for row in self.connection.execute(query, (cell,))]

    def analysis(self, cell: int) -> dict[str, np.ndarray]:
        """The analysed questions of a cell as columns, with ``layers`` float32 [n, layers, LAYERS]; missing is nan."""
        names = ["question", "image", "family", "score", "kept", "kept_count", "recall", *_NUMBERS, "layers"]
        query = (
            f"SELECT analysis.question, image, family, score, kept, kept_count, recall, {', '.join(_NUMBERS)}, layers "
            "FROM analysis "
            "JOIN samples ON samples.cell = analysis.cell AND samples.question = analysis.question "
            "JOIN questions ON questions.id = analysis.question JOIN images ON images.id = questions.image "
            "WHERE analysis.cell = ? ORDER BY images.place, questions.place"
        )
        columns = _columns(names, self.connection.execute(query, (cell,)).fetchall())
        blobs = columns["layers"]
        tables = [np.frombuffer(blob, "<f4").reshape(-1, len(LAYERS)) for blob in blobs]
        columns["layers"] = np.stack(tables) if tables else np.zeros((0, 0, len(LAYERS)), "<f4")
        return columns

    def repeats(self, cell: int) -> dict[int, np.ndarray]:
        """Scores of a cell under further seeds, by seed, in the order of images and questions."""
        query = (
            "SELECT repeat, score FROM repeats JOIN questions ON questions.id = repeats.question "
            "JOIN images ON images.id = questions.image WHERE cell = ? ORDER BY repeat, images.place, questions.place"
        )
        out: dict[int, list[float]] = {}
        for repeat, score in self.connection.execute(query, (cell,)):
            out.setdefault(repeat, []).append(score)
        return {repeat: np.array(scores) for repeat, scores in out.items()}

    def complexity(self) -> dict[str, float]:
        """Effective rank of all visual tokens of each analysed image."""
        return dict(self.connection.execute("SELECT id, complexity FROM images WHERE complexity IS NOT NULL ORDER BY place"))


_TEXTS = frozenset({"question", "image", "family", "prediction", "kept", "failed", "layers"})


def _columns(names: list[str], rows: list[tuple]) -> dict[str, np.ndarray]:
    """Rows as columns: texts and bytes as objects, numbers as floats with nan for null."""
    columns = dict(zip(names, zip(*rows))) if rows else {name: () for name in names}
    return {
        name: np.array(values, dtype=object)
        if name in _TEXTS
        else np.array([np.nan if v is None else v for v in values], dtype=float)
        for name, values in columns.items()
    }


def pack(mask: np.ndarray) -> bytes:
    """A bool mask as bits."""
    return np.packbits(mask.ravel()).tobytes()


def unpack(bits: bytes, shape: tuple[int, int]) -> np.ndarray:
    """The mask of `pack`, bool [h, w]."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=shape[0] * shape[1]).astype(bool).reshape(shape)
