"""The report of a finished run, made from its folder alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RequestError
from harness.files import NotWritableError, named, write_named
from harness.literature.figures import PublishedFigure
from harness.results.against_published import held_against
from harness.results.current_summary import current_summary, made_by, renewed_summary
from harness.results.judged_samples import ruling, ruling_columns
from harness.results.types import JsonObject
from harness.store.arrays import unpack
from harness.store.cell_results import SelectionTrace
from harness.store.runs import RunFolder
from harness.tasks.target import shown
from methods.keep import Keep
from reports.view import GalleryAnswer, GalleryImage, GalleryQuestion, RunView

_CANDIDATES = 300  # images among which those to show are chosen


def write_report(run: RunFolder, images: int = 12, out: Path | None = None) -> Path:
    """Write the page of a finished run and return its path.

    Of a run of an older version, ``summary.json`` and ``summary.csv`` are written anew beside it, so that page and JSON say the
    same.

    Args:
        run: the folder, whose summary is written.
        images: how many images the gallery shows at the most.
        out: the file to write, as ``--out`` names it, and then the folder stays as it is; ``report.html`` beside the results
            where not given.

    Raises:
        RequestError: where it would take the place of a run's own file, or cannot be written.
    """
    if out is not None:
        named("--out", out)
        write_named("--out", out, page(run, current_summary(run), images))
        return out
    path = run.folder / "report.html"
    try:
        run.write_text(path.name, page(run, renewed_summary(run), images))
    except NotWritableError as error:
        raise RequestError(f"{error}; --out PAGE writes the page elsewhere and leaves the folder as it is") from None
    return path


def page(run: RunFolder, summary: JsonObject, images: int = 12, figures: Iterable[PublishedFigure] | None = None) -> str:
    """Return the page of a finished run as HTML.

    Args:
        run: the folder.
        summary: of the run, by the rules of this version.
        images: how many images the gallery shows at the most.
        figures: what was published, to hold its cells against; all that the package has where not given.
    """
    from reports.page import render

    manifest = run.manifest()
    shown_images, checks = gallery(run, images), summary.get("checks") or {}
    held = tuple(held_against(run, summary, figures))
    explained = summary.get("explained")
    return render(RunView(manifest, summary["cells"], shown_images, checks, explained, made_by(manifest), held))


def gallery(run: RunFolder, images: int) -> list[GalleryImage]:
    """Return the most telling images of a run, analysed ones first, with every cell's answer and the tokens it kept.

    Args:
        run: a finished run.
        images: how many images at the most.
    """
    database, usual = run.connection, tuple(run.manifest()["grid"])
    known = {ident: run.layouts(ident) for ident in (0, *(ident for ident, _, _ in run.cells()))}
    cells = [(ident, facts) for ident, _, facts in run.cells() if facts["skipped"] is None and facts["method"] != "blind"]
    first = _telling(run, cells, images)
    asked = (
        "SELECT image, id, family, question, target, evidence FROM questions "  # nosec B608
        f"WHERE image IN ({', '.join('?' * len(first))}) ORDER BY place"
    )  # at once, since questions have no index by image
    listed = database.execute(asked, first).fetchall()
    traces = run.traces([row[1] for row in listed])
    ruled = ruling_columns(run)
    columns = ", ".join(("prediction", "score", "kept", *ruled))
    found = f"SELECT {columns} FROM samples WHERE question = ? AND cell = ? AND failed IS NULL"  # nosec B608
    out = []
    for image in first:
        (png,) = database.execute("SELECT png FROM images WHERE id = ?", (image,)).fetchone()
        questions = []
        grid = known[0][image].grid if image in known[0] else usual  # None where the tokens are no full grid
        areas = known[0][image].areas if image in known[0] else ()
        whole = (sum(area.count for area in areas),) if areas else grid
        for ident, family, text, target, evidence in (row[1:] for row in listed if row[0] == image):
            answers = []
            for cell, facts in cells:
                row = database.execute(found, (ident, cell)).fetchone()
                if row is None:
                    continue
                shape: tuple[int, ...] | None = whole
                if facts["grid"]:
                    shape = known[cell][image].grid if image in known[cell] else tuple(facts["grid"])
                prediction, score, bits, *judged = row
                answer = _answer(facts, prediction, score, bits, shape, traces.get((cell, ident)))
                answers.append(replace(answer, ruling=ruling(ruled, judged)))
            mask = unpack(evidence, grid) if evidence is not None and grid is not None else None
            questions.append(GalleryQuestion(ident, family, text, shown(target), mask, answers))
        out.append(GalleryImage(image, png, questions, areas))
    return out


def _answer(
    facts: dict[str, Any], prediction: str, score: float | None, bits: bytes | None, shape: tuple[int, ...] | None,
    trace: SelectionTrace | None,
) -> GalleryAnswer:  # fmt: skip
    """A cell's answer to one question; of tokens without a known shape, the words alone."""
    said = facts["method"], Keep.stored(facts), prediction, score
    note = _note(facts, shape)
    if shape is None:
        return GalleryAnswer(*said, None, (1, 1), note)
    grid = (1, 1) if len(shape) == 1 else (shape[0], shape[1])  # of one length: areas, which belong to the image
    kept = unpack(bits, shape) if bits is not None else np.ones(shape, bool)
    merges = _merges(facts)
    scores, source = (trace.scores, trace.source) if trace else (None, None)
    return GalleryAnswer(*said, kept, grid, note, scores, source, merges)


def _telling(run: RunFolder, cells: list[tuple[int, dict[str, Any]]], images: int) -> list[str]:
    """Return the images whose questions part the pruned cells most, and in a run without scores the first.

    Of a large run the first `_CANDIDATES` are looked at, analysed ones before all others.
    """
    from reports.gallery import most_telling

    budgets = {ident: Keep.stored(facts) for ident, facts in cells if facts["keep"] is not None}
    ranked = "SELECT id, place FROM images WHERE png IS NOT NULL ORDER BY complexity IS NULL, place LIMIT ?"
    places = dict(run.connection.execute(ranked, (_CANDIDATES,)))
    seen: dict[str, list[str]] = {image: [] for image in sorted(places, key=places.__getitem__)}
    for question, image in run.connection.execute("SELECT id, image FROM questions ORDER BY place"):
        if image in seen:
            seen[image].append(question)
    asked = json.dumps([question for questions in seen.values() for question in questions])
    given = "question IN (SELECT value FROM json_each(?))"
    query = f"SELECT question, score FROM samples WHERE cell = ? AND failed IS NULL AND {given}"  # nosec B608
    ids = budgets or [ident for ident, _ in cells[:1]]  # without a budget, one cell tells which images were answered
    scores = {cell: dict(run.connection.execute(query, (cell, asked))) for cell in ids}
    answers = (
        (image, question, budgets.get(cell), known[question] if cell in budgets else None)
        for image, questions in seen.items() for question in questions
        for cell, known in scores.items() if question in known
    )  # fmt: skip
    return most_telling(answers, images, frozenset(run.complexity()))


def _merges(facts: dict[str, Any]) -> bool:
    """Whether a cell's tokens are made of several, so that what is drawn is the lowest of each."""
    whole = facts["method"] == "none" or bool(facts.get("removes_nothing"))
    return not facts["prunes"] and not facts["grid"] and not whole


def _note(facts: dict[str, Any], grid: tuple[int, ...] | None) -> str:
    """What a reader must know about how an answer's tokens are drawn."""
    if facts["grid"] and grid is not None:
        return f"image shrunk to {grid[0]} x {grid[1]} tokens"
    if grid is None:
        return "the image's tokens are no one full grid"
    if _merges(facts):
        return "merged: a cell shows the lowest token of each group"
    return ""
