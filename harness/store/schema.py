"""The tables of ``results.sqlite``. Needs no torch."""

from __future__ import annotations

from metrics.figures import BIAS, FIGURES, MATCHED, SCORES

SCHEMA_VERSION = 8
"""Of what is written. It rises with new keys; `READ_VERSIONS` are read."""
READ_VERSIONS = (2, 3, 4, 5, 6, 7, 8)
HANDLING_OPTIONS = frozenset({"out", "resume", "retry_failed", "extend"})
"""Options of a request that say where a run lies and how to go on with it, and nothing of what it is."""
ANSWERING_OPTIONS = frozenset({"workers", "ray"})
"""Options of a request that say who answers, which changes no answer."""
TIMING_OPTIONS = frozenset({"rounds", "time_limit", "decode_tokens"})
"""Options of a request that say how long times are taken, which changes no answer; the manifest tells how it went."""
RULING = ("read", "undecided", "ours", "official", "authors")
"""Columns of ``samples`` that say how an answer was scored, which runs of older versions do not have.

What the rule that leads read in it; 1 where that rule's own code could not decide; the score by each rule.
"""
COUNTS = ("layer_counts", "tower_counts")
"""Columns of ``samples`` that say how many tokens a cell had on a question, where its counts follow from the image.

int32 each: the visual tokens of every LLM layer; the tokens of one tile, CLS included, in the attention of every tower block and
then in its MLP. NULL of a cell whose counts are planned, and in runs of older versions.
"""
SAMPLE_COLUMNS = (
    "prediction", "score", "agree", "kl", "kept", "kept_count", "recall", "recall_before", "swap_score", "failed", *RULING,
    *COUNTS,
)  # fmt: skip
NUMBERS = (
    *FIGURES, *(f"z_{name}" for name in FIGURES), *(f"percentile_{name}" for name in FIGURES),
    *(f"row_z_{name}" for name in MATCHED), *BIAS, *SCORES,
)  # fmt: skip
ImageRow = tuple[str, int, bytes | None, int | None, int | None, float | None]
"""A row of ``images``: id, place, PNG of a thumbnail, its height and width, and the effective rank of the visual tokens."""
QuestionRow = tuple[str, str, int, str, str, str, bytes | None]
"""A row of ``questions``: id, image, place, family, question, target, and the packed mask of the evidence."""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS cells (
    id INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, facts TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, png BLOB, height INTEGER, width INTEGER, complexity REAL);
CREATE TABLE IF NOT EXISTS layouts (
    cell INTEGER NOT NULL, image TEXT NOT NULL, tokens INTEGER NOT NULL, height INTEGER, width INTEGER,
    PRIMARY KEY (cell, image)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS areas (
    image TEXT NOT NULL, number INTEGER NOT NULL, rows INTEGER NOT NULL, columns INTEGER NOT NULL,
    top REAL NOT NULL, left REAL NOT NULL, bottom REAL NOT NULL, right REAL NOT NULL,
    PRIMARY KEY (image, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS questions (
    id TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images, place INTEGER NOT NULL,
    family TEXT NOT NULL, question TEXT NOT NULL, target TEXT NOT NULL, evidence BLOB);
CREATE TABLE IF NOT EXISTS samples (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions,
    {", ".join(SAMPLE_COLUMNS)}, PRIMARY KEY (cell, question)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS analysis (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions,
    {", ".join(f"{name} REAL" for name in NUMBERS)}, layers BLOB, PRIMARY KEY (cell, question)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS traces (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions, scores BLOB, source BLOB,
    PRIMARY KEY (cell, question)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS repeats (
    cell INTEGER NOT NULL REFERENCES cells, question TEXT NOT NULL REFERENCES questions, repeat INTEGER NOT NULL,
    score REAL, read TEXT, PRIMARY KEY (cell, question, repeat)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done (
    cell INTEGER NOT NULL REFERENCES cells, place INTEGER NOT NULL, PRIMARY KEY (cell, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timings (
    pass INTEGER NOT NULL, cell INTEGER NOT NULL REFERENCES cells, repeat INTEGER NOT NULL, round INTEGER NOT NULL,
    stage TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (pass, cell, repeat, round, stage)) WITHOUT ROWID;
"""
