"""What the server of a run shows: its samples a page at a time, read from the database when asked for. Needs no torch."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import prod
from pathlib import Path

from harness.errors import RequestError, nearest
from harness.results.judged_samples import ruling, ruling_columns
from harness.results.types import JsonObject
from harness.store.integrity import opened_to_read
from harness.store.runs import RunFolder
from harness.tasks.target import shown
from metrics.accuracy import ANSWERED
from metrics.evidence import KEPT

_JOINED = (
    "FROM samples JOIN questions ON questions.id = samples.question JOIN images ON images.id = questions.image "
    "WHERE samples.cell = :cell"
)
_WRONG = "(samples.score IS NULL OR samples.score < :answered OR samples.failed IS NOT NULL)"
_RIGHT_ELSEWHERE = (
    "EXISTS (SELECT 1 FROM samples AS other WHERE other.cell = :rival AND other.question = samples.question "
    "AND other.score >= :answered AND other.failed IS NULL)"
)
_ROW = (
    "id", "image", "family", "question", "target", "evidence", "prediction", "score", "recall", "kept_count", "failed", "kept",
)  # fmt: skip
_ANSWER = ("cell", "prediction", "score", "recall", "kept_count", "failed", "kept")


@dataclass(frozen=True)
class SampleFilter:
    """The samples of one cell that a page shows."""

    cell: int
    wrong: bool = False  # answered wrong, or failed
    rival: int | None = None  # a cell that answered right
    lost: bool = False  # less than half of the evidence kept
    family: str = ""
    text: str = ""  # in the question, the target or the answer; case aside


class OpenRun(RunFolder):
    """A checked run, opened read-only and anew for each HTTP request; not shared between threads.

    Args:
        folder: of the run, finished or not.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, read_only=True)

    def connect(self) -> sqlite3.Connection:
        """Open a connection to the results as they are."""
        connection = opened_to_read(self.folder / "results.sqlite")
        connection.text_factory = lambda text: text.decode(errors="replace")
        return connection


def overview(run: RunFolder) -> JsonObject:
    """Return what was run: model, task, cells and families of questions."""
    manifest = run.manifest()
    cells = [
        {
            "id": ident,
            **{name: facts.get(name) for name in ("method", "keep", "keep_label", "budget", "reference", "skipped")},
            "merges": bool(facts.get("merges")),
            "shrunk": bool(facts.get("grid")),
        }
        for ident, _, facts in run.cells()
    ]

    def one(query: str) -> int:
        number: int = run.connection.execute(query).fetchone()[0]
        return number

    families = [name for (name,) in run.connection.execute("SELECT DISTINCT family FROM questions ORDER BY family")]
    return {
        "name": run.folder.resolve().name,
        **{name: manifest.get(name) for name in ("model", "task", "created", "device")},
        "images": one("SELECT count(*) FROM images"),
        "questions": one("SELECT count(*) FROM questions"),
        "evidence": bool(one("SELECT EXISTS (SELECT 1 FROM questions WHERE evidence IS NOT NULL)")),
        "families": families,
        "cells": cells,
        "scored": _scored(manifest),
        "report": (run.folder / "report.html").is_file(),
    }


def _scored(manifest: JsonObject) -> str | None:
    """By which rule answers were scored, with its function; None of a run of an older version."""
    from reports.scoring import scoring

    return next(iter(scoring(manifest, [])), None)


def samples_page(run: RunFolder, wanted: SampleFilter, page: int, size: int) -> JsonObject:
    """Return one page of the samples of a cell, in the order of images and questions.

    Args:
        run: to read from.
        wanted: which of its samples.
        page: counted from 0; one past the end is empty.
        size: samples a page.

    Returns:
        ``total`` of all pages, and ``rows``: the columns of a sample and its question by name, masks as base64 of their bits
        with their grids (h, w).

    Raises:
        RequestError: where the run has no such cell or family.
    """
    facts = _facts(run, wanted.cell, "cell")
    conditions = [_JOINED]
    if wanted.wrong:
        conditions.append(_WRONG)
    if wanted.rival is not None:
        _facts(run, wanted.rival, "rival")
        conditions.append(_RIGHT_ELSEWHERE)
    if wanted.lost:
        conditions.append("samples.recall < :half")
    if wanted.family:
        conditions.append("questions.family = :family")
    if wanted.text:
        fields = ("questions.question", "questions.target", "samples.prediction")
        conditions.append("(" + " OR ".join(f"{field} LIKE :text ESCAPE '\\'" for field in fields) + ")")
    pattern = "%" + "".join("\\" + c if c in "\\%_" else c for c in wanted.text) + "%"
    values = {
        "cell": wanted.cell, "rival": wanted.rival, "answered": ANSWERED, "half": KEPT, "family": wanted.family, "text": pattern,
    }  # fmt: skip
    chosen = " AND ".join(conditions)
    (total,) = run.connection.execute(f"SELECT count(*) {chosen}", values).fetchone()
    ruled = ruling_columns(run)
    query = (
        f"SELECT questions.id, questions.image, family, questions.question, {', '.join((*_ROW[4:], *ruled))} "
        f"{chosen} ORDER BY images.place, questions.place LIMIT :size OFFSET :start"
    )
    found = run.connection.execute(query, {**values, "size": size, "start": page * size}).fetchall()
    rows: list[JsonObject] = [dict(zip(_ROW, row)) | _ruled(ruled, row[len(_ROW) :]) for row in found]
    usual = run.manifest()["grid"]
    for row in rows:
        whole = _grid(run, 0, row["image"], usual)
        row |= {"target": shown(row["target"]), "evidence": _bits(row["evidence"], whole), "whole": whole}
        row |= _mask(run, wanted.cell, facts, row["image"], row["kept"], whole)
    return {"total": total, "rows": rows}


def question(run: RunFolder, ident: str) -> JsonObject:
    """Return one question with the answers of all cells, the tokens that each kept, and why, where that is recorded.

    Returns:
        ``answers`` have the columns of a sample by name, and beside the mask ``ranks`` (one byte a token, see
        `reports.gallery.ranks`) and ``source`` (int16 a token: the merged token that it went into, -1 for none), both base64 or
        None.

    Raises:
        RequestError: where the run has no such question.
    """
    from reports.gallery import ranks

    asked = "SELECT id, image, family, question, target, evidence FROM questions WHERE id = ?"
    row = run.connection.execute(asked, (ident,)).fetchone()
    if row is None:
        raise RequestError(f"question {ident[:80]!r}: not in {run.folder}")
    found: JsonObject = dict(zip(("id", "image", "family", "question", "target", "evidence"), row, strict=True))
    whole = _grid(run, 0, found["image"], run.manifest()["grid"])
    found |= {"target": shown(found["target"]), "evidence": _bits(found["evidence"], whole), "whole": whole, "answers": []}
    known, traces = {ident: facts for ident, _, facts in run.cells()}, run.traces([ident])
    rules = ruling_columns(run)
    columns = ", ".join((*_ANSWER, *rules))
    for cell in known:
        answer = run.connection.execute(
            f"SELECT {columns} FROM samples WHERE cell = ? AND question = ?",  # nosec B608
            (cell, ident),
        ).fetchone()
        if answer is not None:
            answers = dict(zip(_ANSWER, answer)) | _ruled(rules, answer[len(_ANSWER) :])
            answers |= _mask(run, cell, known[cell], found["image"], answers["kept"], whole)
            trace = traces.get((cell, ident))
            count = prod(answers["grid"]) if answers["grid"] else sum(rows * columns for rows, columns, *_ in answers["areas"])
            scores, source = (trace.scores, trace.source) if trace else (None, None)
            answers["ranks"] = ranks(scores) if scores is not None and len(scores) == count else None
            whole_source = source if source is not None and len(source) == count else None
            answers["source"] = None if whole_source is None else base64.b64encode(whole_source.tobytes()).decode()
            found["answers"].append(answers)
    return found


def picture(run: RunFolder, ident: str) -> bytes:
    """Return the PNG of an image.

    Raises:
        RequestError: where the run has none.
    """
    row = run.connection.execute("SELECT png FROM images WHERE id = ?", (ident,)).fetchone()
    png = row[0] if row is not None else None
    if not isinstance(png, bytes) or not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise RequestError(f"image {ident[:80]!r}: no picture of it in {run.folder}")
    return png


def _ruled(columns: Sequence[str], values: Sequence[object]) -> JsonObject:
    """What a page says of how an answer was scored; nothing where the run does not say."""
    from reports.gallery import ruled

    found = ruling(columns, values)
    return {} if found is None else ruled(found)


def _facts(run: RunFolder, cell: int, name: str) -> JsonObject:
    row = run.connection.execute("SELECT facts FROM cells WHERE id = ?", (cell,)).fetchone()
    if row is None:
        raise RequestError(f"{name}={cell}: not in {run.folder}; {nearest(str(cell), [str(i) for i, _, _ in run.cells()])}")
    facts: JsonObject = json.loads(row[0])
    return facts


def _grid(run: RunFolder, cell: int, image: str, usual: list[int] | None) -> list[int] | None:
    """(h, w) of an image's tokens, as they are (cell 0) or as a cell shrank them; None where they are no full grid."""
    layout = run.layouts(cell, [image]).get(image)
    if layout is None:
        return usual
    return None if layout.grid is None else list(layout.grid)


def _mask(run: RunFolder, cell: int, facts: JsonObject, image: str, kept: bytes | None, whole: list[int] | None) -> JsonObject:
    """The tokens that a cell kept of an image, and their grid, or the areas that they cover where they are no full grid."""
    grid = _grid(run, cell, image, facts["grid"]) if facts.get("grid") else whole
    layout = None if grid is not None or facts.get("grid") else run.layouts(images=[image]).get(image)
    areas = layout.areas if layout is not None else ()
    shape = [1, sum(area.count for area in areas)] if areas else grid
    return {"kept": _bits(kept, shape), "grid": grid, "areas": [astuple(area) for area in areas]}


def _bits(mask: bytes | None, grid: list[int] | None) -> str | None:
    """A stored mask as base64, row by row, the first token in the highest bit; None where it is no picture."""
    if not mask or grid is None or len(mask) != -(-grid[0] * grid[1] // 8):
        return None
    return base64.b64encode(mask).decode("ascii")
