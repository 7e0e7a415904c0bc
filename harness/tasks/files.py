"""Find the tables of a path: one file, or the files of a folder, by split and configuration where their names have these."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from harness.errors import RequestError
from harness.tasks.tables import JsonLines, Parquet, Table
from harness.tasks.text_tables import Delimited, JsonList, TabSeparated

IN_FOLDERS: dict[str, Callable[[Path, str], Table]] = {
    ".jsonl": JsonLines, ".parquet": Parquet, ".tsv": TabSeparated, ".csv": Delimited,
}  # fmt: skip
"""What is read of a folder; a ``.json`` there may be anything, so it is read where it is named alone."""
READERS = {**IN_FOLDERS, ".json": JsonList}
_SHARD = re.compile(r"([A-Za-z0-9_]+)-\d{5}-of-(\d{5})")  # "test-00000-of-00003-<hash>.parquet", as the hub names files


def existing(path: Path, task: str) -> Path:
    """Return the path if a file or folder is there.

    Args:
        path: of a file or folder.
        task: the task's name, for the message.

    Raises:
        RequestError: where nothing is there, with the nearest name that is.
    """
    try:
        if path.exists():
            return path
        beside = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        beside = []
    close = get_close_matches(path.name, beside, 1, 0.5)
    hint = f"; did you mean {str(path.parent / close[0])!r}?" if close else ""
    raise RequestError(f"task {task[:60]!r}: no such file or folder: {str(path)[:200]}{hint}")


def tables(path: Path, task: str, split: str | None = None, config: str | None = None) -> list[Table]:
    """Open the tables of a file or a folder, in the order of their names.

    Args:
        path: a file with an ending of `READERS`, or a folder with files of `IN_FOLDERS`.
        task: its name, for messages.
        split: of a folder whose files are named after splits, the one to read.
        config: of a folder with a folder of that name in it, the part to read.

    Raises:
        RequestError: where there is no such file, or it cannot be read.
    """
    if existing(path, task).is_file():
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise RequestError(
                f"task {task!r}: {path} is none of {', '.join(READERS)}; write one JSON object a line into a .jsonl"
            )
        return [reader(path, path.name)]
    found = table_files(path)
    if config is not None:
        found = [file for file in found if config in file.relative_to(path).parts[:-1]] or found
    named = {match[1] for file in found if (match := _SHARD.match(file.name))}
    if split is not None:
        chosen = [file for file in found if file.stem == split or file.name.startswith(f"{split}-")]
        if not chosen and named:
            raise RequestError(f"task {task!r}: {path} has no files of split {split!r}; there are: {', '.join(sorted(named))}")
        found = chosen or found
    elif len(named) > 1:
        raise RequestError(f"task {task!r}: {path} has several splits; add [split=...]: {', '.join(sorted(named))}")
    if not found:
        raise RequestError(f"task {task!r}: {path} holds no {', no '.join(IN_FOLDERS)} file")
    if lacking := shards_missing(file.as_posix() for file in found):
        raise RequestError(f"task {task!r}: {lacking}; fetch the others")
    return [READERS[file.suffix.lower()](file, file.relative_to(path).as_posix()) for file in found]


def split_of(name: str, asked: str) -> str | None:
    """Return the split that the name of a parquet file tells, as the hub names files; None of another file's.

    >>> [split_of(name, "dev") for name in ("data/test-00000-of-00002-a25dbe3b44c4fda6.parquet", "en/dev.parquet", "README.md")]
    ['test', 'dev', None]
    """
    base = name.rpartition("/")[2]
    if not base.endswith(".parquet"):
        return None
    if match := _SHARD.match(base):
        return match[1]
    return asked if base == f"{asked}.parquet" or base.startswith(f"{asked}-") else None


def shards_missing(names: Iterable[str]) -> str:
    """Return which split lacks files, counted in a folder against what their names say there are; nothing where none does."""
    matches = [(name.rpartition("/")[0], match) for name in names if (match := _SHARD.match(name.rpartition("/")[2]))]
    there = Counter((folder, match[1], int(match[2])) for folder, match in matches)
    for (folder, split, whole), count in there.items():
        if count < whole:
            return f"{folder} has {count} of the {whole} files of {split!r}"
    return ""


def table_files(folder: Path) -> list[Path]:
    """Return all files below a folder that have an ending of `IN_FOLDERS`, hidden ones left out."""
    return visible(folder, IN_FOLDERS)


def visible(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files below a folder that have one of the suffixes, in the order of their names.

    Hidden files, and files in hidden folders, are left out.
    """
    endings = tuple(suffixes)
    return sorted(
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(endings)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
