"""From a run folder to its page: what the report may show is what the folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.runs import RunFolder, unpack
from harness.tasks.target import shown
from reports.view import GalleryAnswer, GalleryImage, GalleryQuestion, RunView


def write_report(run: RunFolder, images: int = 12) -> Path:
    """Write ``report.html`` beside the results and return its path."""
    from reports.page import render

    summary = run.summary()
    view = RunView(run.manifest(), summary["cells"], gallery(run, images), summary.get("checks") or {})
    path = run.folder / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text(render(view), encoding="utf-8")
    partial.replace(path)
    return path


def gallery(run: RunFolder, images: int) -> list[GalleryImage]:
    """The first images, with every cell's answer and the tokens it kept."""
    database, usual = run.connection, tuple(run.manifest()["grid"])
    known = {ident: run.layouts(ident) for ident in (0, *(ident for ident, _, _ in run.cells()))}
    cells = [(ident, facts) for ident, _, facts in run.cells() if facts["skipped"] is None and facts["method"] != "blind"]
    out = []
    for image, png in database.execute("SELECT id, png FROM images ORDER BY place LIMIT ?", (images,)).fetchall():
        questions = []
        grid = known[0][image][1] if image in known[0] else usual  # None where the tokens are no full grid
        asked = "SELECT id, family, question, target, evidence FROM questions WHERE image = ? ORDER BY place"
        for ident, family, text, target, evidence in database.execute(asked, (image,)).fetchall():
            found = "SELECT cell, prediction, score, kept FROM samples WHERE question = ? AND cell = ?"
            answers = []
            for cell, facts in cells:
                row = database.execute(found, (ident, cell)).fetchone()
                if row is None:
                    continue
                shape = grid
                if facts["grid"]:
                    shape = known[cell][image][1] if image in known[cell] else tuple(facts["grid"])
                note = _note(facts, shape)
                if shape is None:
                    answers.append(GalleryAnswer(facts["method"], facts["keep"] or 0, row[1], row[2], None, (1, 1), note))
                    continue
                kept = unpack(row[3], shape) if row[3] is not None else np.ones(shape, bool)
                answers.append(GalleryAnswer(facts["method"], facts["keep"] or 0, row[1], row[2], kept, shape, note))
            mask = unpack(evidence, grid) if evidence is not None and grid is not None else None
            questions.append(GalleryQuestion(ident, family, text, shown(target), mask, answers))
        out.append(GalleryImage(image, png, questions))
    return out


def _note(facts: dict, grid: tuple[int, int] | None) -> str:
    if facts["grid"] and grid is not None:
        return f"image shrunk to {grid[0]} x {grid[1]} tokens"
    if grid is None:
        return "the image's tokens are no one full grid"
    if not facts["prunes"] and facts["method"] != "none":
        return "merged: a cell shows the lowest token of each group"
    return ""
