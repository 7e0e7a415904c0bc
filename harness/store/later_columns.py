"""Columns that runs of older versions do not have. Needs no torch."""

from __future__ import annotations

import sqlite3

from harness.store.schema import COUNTS, RULING, SAMPLE_COLUMNS


def add_later_columns(connection: sqlite3.Connection) -> None:
    """Give tables the columns that they lack, so that rows of this version can be added.

    Args:
        connection: to the results of a run that is written.
    """
    for table, names in (("samples", (*RULING, *COUNTS)), ("repeats", ("read",))):
        there = _there(connection, table)
        for name in names:
            if name not in there:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name}")


def sample_columns(connection: sqlite3.Connection) -> str:
    """Return what to select for `SAMPLE_COLUMNS`, in SQL: NULL for a column that an older run does not have.

    Args:
        connection: to the results of a run.
    """
    there = _there(connection)
    return ", ".join(name if name in there else "NULL" for name in SAMPLE_COLUMNS)


def has_rulings(connection: sqlite3.Connection) -> bool:
    """Return whether a run says how its answers were scored: what was read, and the score by each rule.

    Args:
        connection: to the results of a run.
    """
    return set(RULING) <= _there(connection)


def _there(connection: sqlite3.Connection, table: str = "samples") -> set[str]:
    return {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
