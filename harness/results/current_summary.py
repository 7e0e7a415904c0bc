"""The summary of a finished run by the rules of this version, whichever version made the run. Needs no torch.

A run of an older version holds its answers, and a summary by the rules of that version. Readers take the summary from here:
where it is of an older version, it is made anew from the answers, in memory, and the folder stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import notices
from harness.errors import RequestError
from harness.results.cell_kinds import CellRow
from harness.results.remembered import RecentResults
from harness.results.summary import as_json, write
from harness.results.types import JsonObject
from harness.store.older_runs import begun_by
from harness.store.open_runs import examined
from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION

_Stamp = tuple[Path, tuple[int | None, ...]]
"""A run folder, and when each of its files was written."""
_made: RecentResults[JsonObject] = RecentResults()  # summaries that were made anew, by the stamp of their run


def current_summary(run: RunFolder) -> JsonObject:
    """Return the content of ``summary.json`` by the rules of this version.

    Of a run of this version it is what the folder holds. Of an older one it is made from the stored answers, once a process, and
    stderr says so; nothing is written.

    Args:
        run: a finished run; folders that may only be read will do.

    Raises:
        RequestError: where it is no finished run, one of a newer schema, or what it stores cannot be summarised.
    """
    stored = run.summary()
    if stored["schema_version"] == SCHEMA_VERSION:
        return stored
    return _made.get(_stamp(run), lambda: _made_anew(run, stored, written=False))


def renewed_summary(run: RunFolder) -> JsonObject:
    """Return the same as `current_summary`, and write it into the folder where the one that lies there is of an older version.

    Args:
        run: a finished run whose folder may be written.

    Raises:
        RequestError: as `current_summary` does, and where a file cannot be written.
    """
    stored = run.summary()
    return stored if stored["schema_version"] == SCHEMA_VERSION else _made_anew(run, stored, written=True)


def outdated(run: RunFolder) -> bool:
    """Return whether the summary that a finished run holds is of an older version.

    Args:
        run: a finished run.

    Raises:
        RequestError: where it is no finished run, or one of a newer schema.
    """
    return bool(run.summary()["schema_version"] != SCHEMA_VERSION)


def tell_version(run: RunFolder) -> None:
    """Say on stderr by whose rules a run is told, where the summary that it holds is of an older version.

    Args:
        run: a finished run.

    Raises:
        RequestError: where it is no finished run, or one of a newer schema.
    """
    if outdated(run):
        _tell(run, run.summary())


def version_note(manifest: Mapping[str, Any]) -> str | None:
    """Return in words which older version began a run, ``was begun by schema version 4 and ...``; None of a run of this version.

    Args:
        manifest: of the run.
    """
    version = made_by(manifest)
    return None if version is None else f"was begun by schema version {version} and is summarised by the rules of this one"


def _tell(run: RunFolder, stored: JsonObject, written: bool = False) -> None:
    now = f"is summarised by the rules of schema version {SCHEMA_VERSION}"
    files = ", and its summary.json and summary.csv are written anew" if written else ""
    notices.notice(f"{run.folder}: was made by schema version {stored['schema_version']} and {now}{files}")


def made_by(manifest: Mapping[str, Any]) -> int | None:
    """Return the schema version that began a run where it is an older one, also where this one went on with the run.

    Args:
        manifest: of the run.

    Returns:
        None where this version began it.
    """
    version = begun_by(manifest)
    return version if version < SCHEMA_VERSION else None


class _SummarisedCells(RunFolder):
    """A run with the cells alone that its summary tells of: those that an interrupted extension has begun are left out.

    Args:
        run: finished.
        summary: as it is stored.
    """

    def __init__(self, run: RunFolder, summary: JsonObject) -> None:
        super().__init__(run.folder, read_only=True)
        self._told = {CellRow.of(cell) for cell in summary["cells"]}

    def cells(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return the id, key and facts of the cells that the summary tells of, in the order of the ids."""
        return [cell for cell in super().cells() if CellRow.of(cell[2]) in self._told]


def _stamp(run: RunFolder) -> _Stamp:
    times: list[int | None] = []
    for name in ("manifest.json", "summary.json", "results.sqlite"):
        time = None
        with suppress(OSError):
            time = (run.folder / name).stat().st_mtime_ns
        times.append(time)
    return run.folder.resolve(), tuple(times)


def _made_anew(run: RunFolder, stored: JsonObject, written: bool) -> JsonObject:
    """The summary of a run by the rules of this version, which stderr tells; `written` says whether it goes into the folder."""
    if (margin := run.manifest()["config"].get("margin")) is None or not 0 < margin < 1:
        told = f"{run.folder / 'manifest.json'}: its config has no 'margin' between 0 and 1"
        raise RequestError(f"{told}, so the run cannot be summarised by the rules of this version")
    view = _SummarisedCells(run, stored)
    try:
        with examined(view):
            found = write(view) if written else as_json(view)
    finally:
        view.close()
    _tell(run, stored, written)
    return found
