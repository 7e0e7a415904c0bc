"""Checks of a run folder: whether its files hold what `compare` writes, before anything is read from them.

A folder may be damaged, of another program or of a newer version. What is wrong is one `RequestError` that names the
file and the place; nothing is written. Needs no torch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from struct import iter_unpack
from typing import Any

from harness.errors import RequestError
from harness.files import parse_json, regular
from harness.store.schema import COUNTS, RULING
from harness.tasks.rows import kind
from methods.keep import Keep
from metrics.figures import LAYERS

MOST_TOKENS = 2**20
"""Visual tokens of one image; a grid of more is no grid of a model, and would fill the memory."""
_WHOLLY = 2**25  # bytes of a database of which every page and row is checked; of a larger one where reading it fails
_LOGS = ("-wal", "-journal")  # of a database that is being written, or whose writer died
_MAGIC = b"SQLite format 3\0"
_LATER = frozenset({"layouts", "areas", "traces"})  # tables that runs made before do not have
_LATER_COLUMNS = {"samples": frozenset((*RULING, *COUNTS)), "repeats": frozenset({"read"})}  # columns that they do not have

Check = Callable[[Any], bool]
_text: Check = lambda value: isinstance(value, str)
_flag: Check = lambda value: isinstance(value, bool)
_count: Check = lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
_number: Check = lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
_table: Check = lambda value: isinstance(value, dict)
_list: Check = lambda value: isinstance(value, list)
_texts: Check = lambda value: _list(value) and all(map(_text, value))
_counts: Check = lambda value: _list(value) and len(value) <= 10_000 and all(map(_count, value))
_budget: Check = lambda value: _number(value) and 0 <= value < 2**63
_schedule: Check = lambda value: _list(value) and len(value) <= 10_000 and all(map(_budget, value))
_numbers: Check = lambda value: _table(value) and all(v is None or _number(v) for v in value.values())
_grid: Check = lambda value: _counts(value) and len(value) == 2 and value[0] * value[1] <= MOST_TOKENS
_open: Callable[[Check], Check] = lambda check: lambda value: value is None or check(value)
_parts: Callable[..., Check] = lambda **parts: (
    lambda value: _table(value) and all(check(value.get(name)) for name, check in parts.items())
)
_repository = _parts(
    repository=_text, revision=_open(_text), files=_open(lambda value: _table(value) and all(map(_text, value.values())))
)
_figure = _open(_parts(value=_open(_number), lo=_open(_number), hi=_open(_number)))
_ratio: Check = lambda value: value is None or _number(value) or _figure(value)  # a number up to schema version 4
_tested = _open(_parts(**{name: _open(_number) for name in ("value", "lo", "hi", "p", "p_adjusted", "p_holm")}))
"""A figure and its test; the p value that is corrected for several was called ``p_holm`` up to schema version 4."""
_chance: Check = lambda value: value is None or _number(value) or (_tested(value) and _figure((value or {}).get("percentile")))
_by_name: Callable[[Check], Check] = lambda check: (
    lambda value: value is None or (_table(value) and all(map(check, value.values())))
)

_calibration: Check = lambda value: _table(value) and _parts(method=_text, level=_number, images=_count, tokens=_number)(value)

_selecting: Check = lambda value: value in ("torch", "triton")
_loop = _parts(loop=_text, ran=_selecting, tokens=lambda value: _counts(value) and len(value) == 2, reason=_text)

_MANIFEST = {
    "model": _text, "task": _text, "config": _parts(seed=_count, margin=_open(_number)), "grid": _grid, "notes": _texts,
    "fingerprints": _parts(code=_open(_text), weights=_open(_text), data=_open(_text)),
}  # fmt: skip
_MANIFEST_MAY = {
    "command": _text, "created": _text, "device": _text, "dtype": _text, "samples": _count, "seed": _count, "questions": _count,
    "begun_by": _count, "failures": _count, "duration_s": _number, "versions": _table, "budgets": _list, "task_info": _table,
    "digest": _text, "failed": lambda value: _list(value) and all(_parts(reason=_text, samples=_count)(part) for part in value),
    "extensions": lambda value: _list(value) and all(map(_table, value)),
    "hub": lambda value: _table(value) and all(map(_repository, value.values())),
    "scoring": _open(_parts(
        rule=_text, rules=_table, undecided=_text, figure=_parts(kind=_text, name=_text, scale=_number, options=_table),
    )),
    "calibrations": lambda value: _list(value) and all(map(_calibration, value)),
    "chance": lambda value: _table(value) and all(map(_text, value.values())),
    "kernels": _parts(
        asked=_text, chosen=_selecting, triton=_open(_text), why=_open(_text),
        loops=lambda value: _list(value) and all(map(_loop, value)),
    ),
    "tf32": _flag,
    "timing": _open(_parts(
        **{name: _open(_number) for name in ("time_limit", "used")},
        **{name: _open(_count) for name in ("decode_tokens", "stage_rounds", "ttft_rounds", "known", "of")},
        before=_open(lambda value: _list(value) and all(map(_table, value))),
    )),
    "answered_on": _texts,
    "whole": _open(_parts(images=_open(_count), questions=_open(_count))),
}  # fmt: skip
_CELL = {"method": _text, "keep": _open(_budget), "skipped": _open(_text), "reference": _flag}
_FACTS = {
    **_CELL, "model": _text, "task": _text, "budget": _text, "positions": _text, "prunes": _flag, "adaptive": _flag,
    "params": _table, "tokens": _open(_numbers), "flops": _open(_numbers), "schedule": _open(_schedule), "grid": _open(_grid),
}  # fmt: skip
_counting: Check = lambda value: value in (None, "all", "each")
_FACTS_MAY = {
    "keep_label": _open(_text), "removes_nothing": _flag, "unverified": _open(_text), "tiles": _counting,
    "calibration": _open(_parts(level=_number, images=_count, tokens=_number)),
}  # fmt: skip
_SUMMARY_CELL = {
    **_FACTS_MAY,
    **{name: _open(_text) for name in ("model", "task", "budget", "positions", "same_as")},
    **{name: _open(_count) for name in ("n", "n_images")},
    **{name: _open(_table) for name in (
        "params", "families", "loyalty", "difficulty", "memory", "diversity", "coverage", "scores", "layers", "pareto",
        "mcnemar", "seeds", "task_figures", "tokens", "flops",
    )},
    "accuracy": _figure, "retention": _ratio, "retention_adjusted": _ratio,
    **{f"difference_{name}": _tested for name in ("none", "like", "winner", "downsample")},
    "non_inferior": _open(_parts(
        margin=_open(_number), holds=_open(_flag), smallest_detectable=_open(_number),
        **{name: _open(_number) for name in ("p", "p_best", "p_adjusted")},
    )),
    "evidence": _open(_parts(
        recall=_figure, swap_gain=_tested, swap_share=_ratio, recall_over_control=_tested, recall_before=_figure,
    )),
    "collapse": _open(_parts(z=_by_name(_chance), tests=_open(_count), why_no_rank=_open(_text))),
    "bias": _open(_parts(lower_half=_tested)),
    "score": _open(_parts(name=_text, value=_open(_number), lo=_open(_number), hi=_open(_number), scale=_number, partial=_flag)),
    "scoring": _open(_parts(rule=_text, n=_count, differ=_table, undecided=_count)),
    "latency": _open(_parts(
        ratio=_tested, realised_gain=_tested, ttft=_figure,
        **{name: _open(_flag) for name in ("wide", "in_one_piece", "noisy")},  # noisy: up to schema version 7
        **{name: _open(_count) for name in ("rounds", "stage_rounds")},
        **{name: _open(_number) for name in ("sum_gap", "ttft_none", "cv")},
    )),
    "schedule": _open(_schedule),
}  # fmt: skip
_CHECKS = _parts(
    aa=_open(_table), analysed_images=_open(_count), needed_images=_open(_numbers),
    correlation=_open(_parts(rho=_open(_number), cells=_open(_count), questions_an_image=_open(_number))),
    families=_by_name(_open(_parts(tests=_open(_count), critical=_open(_number)))),
)  # fmt: skip
_SUMMARY_MAY = {
    "checks": _open(_CHECKS), "winners": _open(_table), "explained": _open(_table), "run_schema_version": _open(_count),
}  # fmt: skip


def check_file(path: Path, content: Mapping[str, Any]) -> None:
    """Raise a `RequestError` where ``manifest.json`` or ``summary.json`` lacks what readers need, or holds another type."""
    if path.name == "manifest.json":
        _check(str(path), content, _MANIFEST, _MANIFEST_MAY)
        return
    _check(str(path), content, {"cells": _list}, _SUMMARY_MAY)
    for place, cell in enumerate(content["cells"]):
        where = f"{path}, cell {place}"
        if not isinstance(cell, dict):
            raise RequestError(f"{where}: is {kind(cell)}, not an object")
        _check(where, cell, _CELL, _SUMMARY_CELL)
        _check_keep(where, cell)


def _check_keep(where: str, cell: Mapping[str, Any]) -> None:
    """Raise a `RequestError` where the budget of a cell, or what its label says of it, cannot be."""
    try:
        Keep.stored(cell)
    except ValueError:
        told = f"{cell['keep']!r}" + (f" ({cell['keep_label']!r})" if cell.get("keep_label") is not None else "")
        raise RequestError(f"{where}: 'keep' is {told[:60]}, which no run of prunescope has") from None


def _check(where: str, content: Mapping[str, Any], needed: Mapping[str, Check], may: Mapping[str, Check]) -> None:
    for name in needed:
        if name not in content:
            raise RequestError(f"{where}: {name!r} is missing, which every run has; is it a file of prunescope?")
    for name, check in (*needed.items(), *may.items()):
        if name in content and not check(content[name]):
            raise RequestError(f"{where}: {name!r} is {kind(content[name])}, which no run of prunescope has")


def connected(path: Path, schema: str, read_only: bool = False) -> sqlite3.Connection:
    """Check the results of a run, and open a connection to them.

    Args:
        path: ``results.sqlite``.
        schema: the statements that make an empty one.
        read_only: whether nothing may be written, not even files for locks where no process writes.

    Raises:
        RequestError: where it is missing, truncated, of another program, or damaged.
    """
    try:
        with regular(path).open("rb") as file:
            head = file.read(100)
        size = path.stat().st_size
    except FileNotFoundError:
        raise RequestError(f"{path}: is missing; a run folder holds manifest.json, results.sqlite and summary.json") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
    if head[:16] != _MAGIC:
        raise RequestError(f"{path}: is no SQLite database")
    page = int.from_bytes(head[16:18], "big")
    logged = any(path.with_name(path.name + suffix).exists() for suffix in _LOGS)
    if not logged and size < (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big"):
        raise RequestError(f"{path}: is truncated; its copy or download was broken off")
    try:
        connection = opened_to_read(path)
        _check_tables(path, connection, schema)
        for place, text in connection.execute("SELECT id, facts FROM cells"):
            _check_facts(f"{path}, cell {place}", text)
        if size <= _WHOLLY and (found := fault(connection)) is not None:
            raise RequestError(f"{path}: {found}")
        if read_only:
            return connection
        connection.close()
        return _opened(path, "rw")
    except sqlite3.Error as error:
        raise RequestError(f"{path}: {unreadable(error)}") from None


def opened_to_read(path: Path) -> sqlite3.Connection:
    """Open a database to read from, without checking it.

    Where no process has a log beside it, it is read without files for locks.
    """
    logged = any(path.with_name(path.name + suffix).exists() for suffix in _LOGS)
    return _opened(path, "ro" if logged else "ro&immutable=1")


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def unreadable(error: sqlite3.Error) -> str:
    """Return in words why a database cannot be read."""
    if "locked" in str(error):
        return "another process is writing it; try again when that is done"
    return f"cannot be read ({error})"


_UNWRITABLE = {
    "SQLITE_FULL": "the disk is full; make room",
    "SQLITE_BUSY": "another process is writing it; end that one",
    "SQLITE_LOCKED": "another process is writing it; end that one",
    "SQLITE_READONLY": "it may not be written; give it the right",
    "SQLITE_CANTOPEN": "it may not be written; give it the right",
    "SQLITE_IOERR": "the disk does not take what is written; see to it",
}


def unwritable(error: sqlite3.Error) -> str | None:
    """Return in words why a database cannot be written; None for an error that is of another kind."""
    name = getattr(error, "sqlite_errorname", None) or ""
    said = next((text for start, text in _UNWRITABLE.items() if name.startswith(start)), None)
    return said and f"{said}, and the same command with --resume goes on ({error})"


@cache
def _columns(schema: str) -> dict[str, dict[str, str]]:
    """By table the declared types of its columns."""
    empty = sqlite3.connect(":memory:")
    empty.executescript(schema)
    names = [name for (name,) in empty.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: {column: declared for _, column, declared, *_ in empty.execute(f"PRAGMA table_info({name})")} for name in names}


def _check_tables(path: Path, connection: sqlite3.Connection, schema: str) -> None:
    """`RequestError` where tables or columns are missing, or there is what reading would run: views and triggers."""
    there = {}
    for sort, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if sort in ("view", "trigger") or (sort == "table" and not str(sql).upper().startswith("CREATE TABLE")):
            raise RequestError(f"{path}: has a {sort} {str(name)[:40]!r}, which no run of prunescope has")
        there[name] = sort
    for table, columns in _columns(schema).items():
        if table not in there and table not in _LATER:
            raise RequestError(f"{path}: has no table {table!r}; is it the database of a run?")
        found = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
        needed = columns.keys() - _LATER_COLUMNS.get(table, frozenset())
        if table in there and (missing := [name for name in columns if name in needed and name not in found]):
            raise RequestError(f"{path}: its table {table!r} has no column {missing[0]!r}; was it made by another version?")


def _check_facts(where: str, text: object) -> None:
    try:
        facts = parse_json(str(text))
    except (ValueError, RecursionError):
        raise RequestError(f"{where}: its facts are not JSON that can be read") from None
    if not isinstance(facts, dict):
        raise RequestError(f"{where}: its facts are {kind(facts)}, not an object")
    _check(where, facts, _FACTS, _FACTS_MAY)
    _check_keep(where, facts)


_NEVER = {
    "INTEGER": "typeof({0}) NOT IN ('integer', 'null')",
    "REAL": "typeof({0}) NOT IN ('integer', 'real', 'null')",
    "TEXT": "typeof({0}) NOT IN ('text', 'null')",
    "BLOB": "typeof({0}) NOT IN ('blob', 'null')",
}
"""What a value of a declared type cannot be."""
_UNDECLARED = {
    "prediction": "TEXT", "score": "REAL", "agree": "REAL", "kl": "REAL", "kept": "BLOB", "kept_count": "INTEGER",
    "recall": "REAL", "recall_before": "REAL", "swap_score": "REAL", "failed": "TEXT",
    "read": "TEXT", "undecided": "INTEGER", "ours": "REAL", "official": "REAL", "authors": "REAL",
    "layer_counts": "BLOB", "tower_counts": "BLOB",
}  # fmt: skip
"""Types of the columns of ``samples``, which are declared without one."""
_ALSO = {
    "cells": "0",
    "images": "length(png) > 100000000 OR abs(complexity) > 1e300",
    "layouts": f"tokens NOT BETWEEN 0 AND {MOST_TOKENS} OR height * width > {MOST_TOKENS} OR height < 0 OR width < 0",
    "areas": f"rows < 0 OR columns < 0 OR rows * columns > {MOST_TOKENS} OR min(top, left, 1 - bottom, 1 - right) < 0",
    "questions": "0",
    "samples": "prediction IS NULL OR abs(score) > 1e300",
    "analysis": f"layers IS NULL OR length(layers) % {4 * len(LAYERS)} <> 0",
    "repeats": "abs(score) > 1e300",
    "done": "0",
    "timings": "seconds < 0 OR seconds > 1e300",
    "traces": "0",
}
"""What a row of each table cannot hold, beside a wrong type."""
_UNEQUAL = "SELECT 1 FROM analysis GROUP BY cell HAVING min(length(layers)) <> max(length(layers))"


def fault(connection: sqlite3.Connection) -> str | None:
    """Return the first fault of a database in words, or None where it has none; every page and row is read."""
    try:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            return f"is damaged ({str(said).splitlines()[-1][:120]})"
        for table, never in _ALSO.items():
            declared = {name: sort for _, name, sort, *_ in connection.execute(f"PRAGMA table_info({table})")}
            kinds = {name: sort or _UNDECLARED.get(name, "TEXT") for name, sort in declared.items()}
            checks = {name: _NEVER[sort].format(f'"{name}"') for name, sort in kinds.items()}
            for where in (" OR ".join(checks.values()), never) if checks else ():
                if connection.execute(f"SELECT 1 FROM {table} WHERE {where} LIMIT 1").fetchone():  # nosec B608
                    return _row(connection, table, checks)
            texts = [f'"{name}"' for name, sort in kinds.items() if sort == "TEXT"]
            for _ in connection.execute(f"SELECT {', '.join(texts)} FROM {table}") if texts else ():  # nosec B608
                pass  # a text that is not UTF-8 raises here
        if connection.execute(_UNEQUAL).fetchone():
            return "holds layers of different lengths in one cell of analysis"
        if (found := _fault_of_counts(connection)) is not None:
            return found
        orphan = connection.execute("PRAGMA foreign_key_check").fetchone()
        if orphan is not None:
            return f"is damaged (a row of {orphan[0]} belongs to none of {orphan[2]})"
    except sqlite3.Error as error:
        return f"is damaged ({error})"
    return None


def _fault_of_counts(connection: sqlite3.Connection) -> str | None:
    """The first fault of counts: one a layer of the cell's schedule, two a block of its tower, each that of some tokens."""
    if not {name for _, name, *_ in connection.execute("PRAGMA table_info(samples)")} >= set(COUNTS):
        return None
    for cell, text in connection.execute("SELECT id, facts FROM cells").fetchall():
        facts = parse_json(str(text))
        for name, planned in zip(COUNTS, (facts.get("schedule"), facts.get("tower"))):
            held = connection.execute(f"SELECT {name} FROM samples WHERE cell = ? AND {name} IS NOT NULL", (cell,))  # nosec B608
            size = 4 * len(planned) if isinstance(planned, list) else None
            for (blob,) in held:
                size = len(blob) if size is None else size
                if not blob or len(blob) != size or len(blob) % 4:
                    return f"holds {len(blob)} bytes in samples.{name} of cell {cell}, where its layers take {size}"
                if not all(0 <= count <= MOST_TOKENS for (count,) in iter_unpack("<i", blob)):
                    return f"holds counts in samples.{name} of cell {cell} that no image has"
    return None


def _row(connection: sqlite3.Connection, table: str, checks: Mapping[str, str]) -> str:
    """The fault of a row: a value of a wrong type, or a row that is wrong as a whole."""
    for name, never in checks.items():
        found = connection.execute(f'SELECT typeof("{name}") FROM {table} WHERE {never} LIMIT 1').fetchone()  # nosec B608
        if found is not None:
            return f"holds {found[0]} in {table}.{name}, which no run of prunescope has"
    return f"holds a row of {table} that cannot be ({_ALSO[table]})"
