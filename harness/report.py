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
    database, grid = run.connection, tuple(run.manifest()["grid"])
    cells = [(ident, facts) for ident, _, facts in run.cells() if facts["skipped"] is None and facts["method"] != "blind"]
    out = []
    for image, png in database.execute("SELECT id, png FROM images ORDER BY place LIMIT ?", (images,)).fetchall():
        questions = []
        asked = "SELECT id, family, question, target, evidence FROM questions WHERE image = ? ORDER BY place"
        for ident, family, text, target, evidence in database.execute(asked, (image,)).fetchall():
            found = "SELECT cell, prediction, score, kept FROM samples WHERE question = ? AND cell = ?"
            answers = []
            for cell, facts in cells:
                row = database.execute(found, (ident, cell)).fetchone()
                if row is None:
                    continue
                shape = tuple(facts["grid"]) if facts["grid"] else grid
                kept = unpack(row[3], shape) if row[3] is not None else np.ones(shape, bool)
                answers.append(GalleryAnswer(facts["method"], facts["keep"] or 0, row[1], row[2], kept, shape, _note(facts)))
            mask = unpack(evidence, grid) if evidence is not None else None
            questions.append(GalleryQuestion(ident, family, text, shown(target), mask, answers))
        out.append(GalleryImage(image, png, questions))
    return out


def _note(facts: dict) -> str:
    if facts["grid"]:
        return f"image shrunk to {facts['grid'][0]} x {facts['grid'][1]} tokens"
    if not facts["prunes"] and facts["method"] != "none":
        return "merged: a cell shows the lowest token of each group"
    return ""
