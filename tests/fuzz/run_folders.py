"""Wrong run folders: files that are missing, damaged, of another program or version, or hold what no run holds."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.store.schema import SCHEMA_VERSION
from tests.fuzz.inputs import Wrong

READERS = ("report run", "explain run", "samples run", "regress run good", "regress good run")
RESUMED = "compare --methods sts,fastv --keep 64,24 --samples 6 --resume --out run"
EXTENDED = "compare --extend run --methods random"
SUMMARY = ("report run", "explain run", "regress run good", EXTENDED)
"""Commands that read ``summary.json``."""
MANIFEST = (*READERS, RESUMED, EXTENDED)
DATABASE = (*READERS, EXTENDED)
DEEP = "[" * 100_000 + "]" * 100_000
BROKEN: tuple[str | bytes, ...] = (
    "", " ", "{", "[]", "null", "3", '"text"', "{}", "{'a': 1}", '{"schema_version": 2', DEEP, '{"a":' * 50_000, b"\xff\xfe\x00",
    b"\x00" * 100, "<html>", '{"schema_version": NaN}', '{"schema_version": 2, "a": Infinity}', '{"schema_version": 1e999}',
    '{"schema_version": ' + "9" * 5000 + "}", '{"schema_version": 2, "a": 1e400}', '{"schema_version": 2, "cells": -1e999}',
)  # fmt: skip
VERSIONS = (None, "2", 2.0, True, [], 0, 1, SCHEMA_VERSION + 1, 99, -2, 10**30, "3.0")
KINDS: tuple[Any, ...] = (None, 3, -1, 1.5, True, "text", [], [1], {}, {"a": []})
"""Values of every type that JSON has."""


def edited(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of a JSON file of the run."""

    def apply(folder: Path) -> None:
        path = folder / "run" / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def unfinished(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same change of a run that was interrupted."""

    def apply(folder: Path) -> None:
        (folder / "run" / "summary.json").unlink()
        change(folder)

    return apply


def statement(*lines: str) -> Callable[[Path], None]:
    """A change of the database."""

    def apply(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "run" / "results.sqlite")) as connection, connection:
            for line in lines:
                connection.execute(line)

    return apply


def facts(**changed: Any) -> Callable[[Path], None]:
    """A change of what the database knows of one cell."""

    def apply(folder: Path) -> None:
        with closing(sqlite3.connect(folder / "run" / "results.sqlite")) as connection, connection:
            ident, text = connection.execute("SELECT id, facts FROM cells WHERE facts LIKE '%sts%'").fetchone()
            found = {name: value for name, value in {**json.loads(text), **changed}.items() if value != "missing"}
            connection.execute("UPDATE cells SET facts = ? WHERE id = ?", (json.dumps(found), ident))

    return apply


def content(name: str, data: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / "run" / name).write_bytes(data)

    return apply


def bytes_of(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], None]:
    """A change of the bytes of the database."""

    def apply(folder: Path) -> None:
        path = folder / "run" / "results.sqlite"
        path.write_bytes(change(bytearray(path.read_bytes())))

    return apply


def overwritten(start: int, length: int, value: int = 0xFF) -> Callable[[bytearray], bytearray]:
    def apply(data: bytearray) -> bytearray:
        data[start : start + length] = bytes([value]) * len(data[start : start + length])
        return data

    return apply


def without(name: str) -> Callable[[dict], object]:
    return lambda found: found.pop(name)


def put(*keys: str | int, value: Any) -> Callable[[dict], None]:
    """Write a value at a place of nested objects and lists."""

    def apply(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return apply


def manifests() -> Iterator[tuple[str, Callable[[Path], None]]]:
    name = "manifest.json"
    for place, data in enumerate(BROKEN):
        yield f"manifest {place}", content(name, data.encode() if isinstance(data, str) else data)
    for version in VERSIONS:
        yield f"manifest of version {version!r}", edited(name, put("schema_version", value=version))
    for key in ("model", "task", "config", "fingerprints", "grid", "notes", "schema_version"):
        yield f"manifest without {key}", edited(name, without(key))
        for value in KINDS:
            fits = {"model": str, "task": str, "fingerprints": dict}.get(key, ())
            if key == "schema_version" or (fits and isinstance(value, fits)) or (key, value) == ("notes", []):
                continue
            yield f"manifest {key} {value!r}", edited(name, put(key, value=value))
    for value in ([0], [-1, 4], [10**9, 10**9], [1.5, 2], ["a", "b"], [2, 2, 2], [None, 3], [True, True]):
        yield f"grid {value}", edited(name, put("grid", value=value))
    for value in (None, -1, 1.5, "0", [], 2**70, True):
        yield f"seed {value!r}", edited(name, put("config", "seed", value=value))


def summaries() -> Iterator[tuple[str, Callable[[Path], None]]]:
    name = "summary.json"
    for place, data in enumerate(BROKEN):
        yield f"summary {place}", content(name, data.encode() if isinstance(data, str) else data)
    for version in VERSIONS[:6]:
        yield f"summary of version {version!r}", edited(name, put("schema_version", value=version))
    yield "summary without cells", edited(name, without("cells"))
    for value in (None, 3, "text", {}, [None], [3], ["text"], [[]], [{}]):
        yield f"cells {value!r}", edited(name, put("cells", value=value))
    for key in ("method", "keep", "skipped", "reference"):
        yield f"cell without {key}", edited(name, lambda found, key=key: found["cells"][3].pop(key))
    for key, values in {
        "method": (None, 3, [], {}, True), "keep": ("64", -1, [], {}, True, 10**40), "skipped": (3, [], {}, True),
        "reference": (None, 1, "yes", []), "model": (3, [], {}), "task": (3, []), "budget": (3, {}),
        "accuracy": (3, "high", [], {"value": "x"}, {"value": []}, {"value": 1, "lo": "a"}), "latency": (3, "fast", [],
        {"noisy": 3}, {"wide": 1}, {"in_one_piece": "yes"}, {"sum_gap": []}, {"ratio": 3}),
        "families": (3, "x", [1]), "flops": (3, "x", [1]), "tokens": (3, "x", [1]), "schedule": (3, "x", {}, ["a"], [-1]),
        "diversity": (3, "x", [1]), "collapse": (3, [1]), "layers": (3, [1]), "pareto": (3, [1]), "n": ("x", -1, 1.5),
        "difference_none": (3, [1], {"value": "x"}), "memory": (3, [1]), "params": (3, [1]), "evidence": (3, [1]),
    }.items():  # fmt: skip
        for value in values:
            yield f"cell {key} {value!r}", edited(name, put("cells", 3, key, value=value))


def databases() -> Iterator[tuple[str, Callable[[Path], None]]]:
    name = "results.sqlite"
    yield "no database", lambda folder: (folder / "run" / name).unlink()
    yield "a folder for a database", lambda folder: ((folder / "run" / name).unlink(), (folder / "run" / name).mkdir())
    for place, data in enumerate(
        (b"", b"x", b"hello" * 1000, b"SQLite format 3\0", b"SQLite format 3\0" + bytes(84), bytes(4096), b"\xff" * 8192)
    ):
        yield f"database {place}", content(name, data)
    for share in (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        yield f"cut at {share}", bytes_of(lambda data, share=share: data[: int(share * len(data))])
    yield "one byte short", bytes_of(lambda data: data[:-1])
    for start, length in (
        (0, 16),
        (16, 2),
        (20, 4),
        (28, 4),
        (44, 4),
        (56, 4),
        (100, 8),
        (100, 400),
        (4096, 4096),
        (8192, 8192),
        (40960, 16384),
    ):
        yield f"overwritten at {start}", bytes_of(overwritten(start, length))
    yield "zeros in the middle", bytes_of(overwritten(20480, 4096, 0))
    for table in ("cells", "images", "questions", "samples", "analysis", "repeats", "done", "timings"):
        yield f"no table {table}", statement(f"DROP TABLE {table}")
        yield f"{table} renamed", statement(f"ALTER TABLE {table} RENAME TO {table}_old")
    for table, column in (
        ("cells", "facts"),
        ("images", "complexity"),
        ("questions", "target"),
        ("samples", "recall"),
        ("analysis", "layers"),
    ):
        yield f"no column {column}", statement(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    yield (
        "a foreign database",
        statement(
            *(
                f"DROP TABLE {t}"
                for t in ("samples", "analysis", "repeats", "done", "timings", "layouts", "questions", "images", "cells")
            )
        ),
    )
    yield "a trigger", statement("CREATE TRIGGER t AFTER INSERT ON samples BEGIN DELETE FROM samples; END")
    yield "a view", statement("CREATE VIEW v AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n")
    yield "a view for a table", statement("ALTER TABLE samples RENAME TO s", "CREATE VIEW samples AS SELECT * FROM s")
    yield "a virtual table", statement("CREATE VIRTUAL TABLE t USING fts5(a)")
    for text in (
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"method": 3}',
        "NaN",
        '{"keep": NaN}',
        "x" * 100,
        '{"a":' * 5000,
        '{"keep": ' + "9" * 5000 + "}",
    ):
        yield f"facts {text[:20]} of {len(text)}", statement(f"UPDATE cells SET facts = '{text}' WHERE id = 2")
    yield "facts that are bytes", statement("UPDATE cells SET facts = x'ff00' WHERE id = 2")
    yield "facts that are a number", statement("UPDATE cells SET facts = 3 WHERE id = 2")
    for key, values in {
        "method": ("missing", None, 3, []), "keep": ("missing", "64", -1, 10**40), "skipped": ("missing", 3, []),
        "reference": ("missing", None, 3), "prunes": ("missing", None, 3), "adaptive": ("missing", "x"), "flops": ("missing", 3,
        [], {"total": "x"}),
        "tokens": ("missing", 3, {"final": "x"}), "schedule": ("missing", 3, ["a"], [-1]), "grid": ("missing", 3, [1], [10**9,
        10**9], [-1, 2]),
        "model": ("missing", 3), "task": ("missing", None), "budget": ("missing", 3), "positions": ("missing", 3),
        "params": ("missing", 3),
    }.items():  # fmt: skip
        for value in values:
            yield f"facts {key} {value!r}", facts(**{key: value})
    one = "rowid = (SELECT min(rowid) FROM images)"
    for column, value in (
        ("png", "'text'"), ("png", "3"), ("png", "1.5"), ("place", "'first'"), ("height", "'x'"), ("complexity", "'high'"),
        ("complexity", "x'00'"),
        ("complexity", "9e999"), ("place", "x'00'"),
    ):  # fmt: skip
        yield f"images {column} {value}", statement(f"UPDATE images SET {column} = {value} WHERE {one}")
    for column, value in (
        ("score", "'right'"), ("score", "x'00'"), ("score", "9e999"), ("kept", "'text'"), ("kept", "3"), ("kept_count", "'x'"),
        ("kept_count", "1.5"),
        ("recall", "'x'"), ("agree", "x'01'"), ("kl", "'nan'"), ("failed", "3"), ("prediction", "NULL"), ("prediction", "3"),
        ("prediction", "x'ff'"), ("question", "'nowhere'"), ("cell", "999"), ("swap_score", "'x'"),
    ):  # fmt: skip
        row = "(cell, question) = (SELECT cell, question FROM samples WHERE cell = 3 LIMIT 1)"
        yield f"samples {column} {value}", statement(f"UPDATE samples SET {column} = {value} WHERE {row}")
    for column, value in (
        ("image", "'nowhere'"),
        ("place", "'x'"),
        ("family", "x'ff'"),
        ("question", "3.5e0 || x'ff'"),
        ("target", "x'00'"),
        ("evidence", "'x'"),
        ("evidence", "7"),
    ):
        yield f"questions {column} {value}", statement(f"UPDATE questions SET {column} = {value} WHERE rowid = 1")
    row = "(cell, question) = (SELECT cell, question FROM analysis LIMIT 1)"
    for column, value in (
        ("effective_rank", "'x'"),
        ("layers", "'x'"),
        ("layers", "NULL"),
        ("layers", "3"),
        ("layers", "x'00'"),
        ("cells", "x'00'"),
    ):
        yield f"analysis {column} {value}", statement(f"UPDATE analysis SET {column} = {value} WHERE {row}")
    for tokens, height, width in (
        (10**9, 10**5, 10**5),
        (4, 10**9, 10**9),
        (-1, 2, 2),
        (4, -2, -2),
        ("'x'", 2, 2),
        (4, "'x'", 2),
        (4, 2**62, 2**62),
    ):
        yield f"layout {tokens} {height} {width}", statement(f"INSERT INTO layouts VALUES (0, 'i0', {tokens}, {height}, {width})")
    yield "a text that is no text", statement("UPDATE questions SET question = CAST(x'ff80' AS TEXT) WHERE rowid = 1")
    yield "an answer that is no text", statement("UPDATE samples SET prediction = CAST(x'ff80' AS TEXT) WHERE cell = 3")


def configs() -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Requests in a manifest that none can be."""
    name = "manifest.json"
    for key, values in {
        "methods": ("missing", None, [True], [["a"]], {}), "keep": (None, [True], {}, [["a"]], ["x"], ["-1"], []),
        "samples": (None, "x", 0, -1, 1.5, True, 10**30),
        "budget": (None, 3, "mean", []), "model": (None, 3, []), "task": (None, 3, []), "margin": (None, "x", 0, 7),
        "batch_size": (None, 0, "x"),
        "prompt": (None, 3, "no place"), "plugin": (None, [True], {}), "sharing": (None, 1, "on"), "latency": (None, 1, "yes"),
        "max_new_tokens": ("x", 0, 1.5), "quantize": ("x", 5), "revision": (3,), "device_map": (3,), "device": (None, 3),
        "dtype": (None, 3), "kernels": (None, 3, "cuda"),
        "analyse": (None, -1, "x"), "seeds": (None, 0, 10**30, "x"), "no_such_option": (1, None), "memory": (None, "x"),
    }.items():  # fmt: skip
        for value in values:
            if value != "missing":
                yield f"config {key} {value!r}", edited(name, put("config", key, value=value))


def run_folders() -> Iterator[Wrong]:
    """Every change with some of the commands that read what was changed."""
    for changes, commands, every in ((manifests(), MANIFEST, 3), (summaries(), SUMMARY, 2), (databases(), DATABASE, 3)):
        for place, (what, change) in enumerate(changes):
            for turn in range(every):
                command = commands[(place + turn * 2) % len(commands)]
                if command == RESUMED:
                    yield Wrong(tuple(command.split()), change=unfinished(change), what=f"{what}, interrupted")
                else:
                    yield Wrong(tuple(command.split()), change=change, what=what)
    for what, change in configs():
        yield Wrong(tuple(EXTENDED.split()), change=change, what=what)
        yield Wrong(tuple(RESUMED.split()), change=unfinished(change), what=f"{what}, interrupted")
