"""Opening stored runs to read from: in a folder, or ``REF:PATH`` for one that a git repository holds."""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import RequestError
from harness.store.integrity import fault, unreadable
from harness.store.runs import RunFolder

_FILES = ("manifest.json", "summary.json", "results.sqlite")
_POINTER = b"version https://git-lfs"


@contextmanager
def reading(*folders: Path) -> Iterator[tuple[RunFolder, ...]]:
    """Open runs to read from, and leave each as it is; a fault of theirs that shows inside is a `RequestError` that names it."""
    runs = tuple(RunFolder(folder, read_only=True) for folder in folders)
    try:
        for run in runs:
            run.manifest()  # of a schema that is known
        with examined(*runs):
            yield runs
    finally:
        for run in runs:
            run.close()


@contextmanager
def examined(*runs: RunFolder) -> Iterator[None]:
    """On a read error inside the block, check every row of these runs, and raise a `RequestError` that names the first fault.

    Where the runs are sound, the error is one of prunescope, and passes through.
    """
    try:
        yield
    except RequestError:
        raise
    except (sqlite3.Error, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, MemoryError) as error:
        for run in runs:
            path = run.folder / "results.sqlite"
            if path.exists() and (found := fault(run.connection)) is not None:
                raise RequestError(f"{path}: {found}") from None
        if isinstance(error, sqlite3.OperationalError):
            raise RequestError(f"{' and '.join(str(run.folder) for run in runs)}: {unreadable(error)}") from None
        raise


@contextmanager
def database(run: RunFolder) -> Iterator[sqlite3.Connection]:
    """Open the results of a run to read from; what is wrong with them is a `RequestError`."""
    with examined(run):
        yield run.connection


@contextmanager
def opened(name: str) -> Iterator[Path]:
    """Give the folder of a run or the file of a benchmark; of ``REF:PATH`` a temporary copy, which is gone afterwards.

    Args:
        name: a path that exists, or a git revision, a colon and a path in its tree (``main:runs/baseline``; ``./`` before
            the path makes it relative to the working folder, as git has it).

    Raises:
        RequestError: where there is no such path, or git cannot give it.
    """
    path = Path(name)
    ref, colon, inside = name.partition(":")
    if path.exists() or not colon:
        yield path
        return
    if not ref or not inside or ref.startswith("-"):
        raise RequestError(f"{name!r}: neither a folder nor REF:PATH, such as main:runs/baseline")
    with tempfile.TemporaryDirectory(prefix="prunescope-") as folder:
        copy = Path(folder) / (Path(inside).name or "run")
        if inside.endswith(".json"):
            _fetch(ref, inside, copy)
        else:
            copy.mkdir()
            for file in _FILES:
                _fetch(ref, f"{inside.rstrip('/')}/{file}", copy / file)
        yield copy


def _fetch(ref: str, inside: str, target: Path) -> None:
    """Write a file of a revision; contents never stand in memory, since a database may be large."""
    command = ["git", "show", "--no-textconv", "--end-of-options", f"{ref}:{inside}"]
    with target.open("wb") as file:
        try:
            done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=False)  # nosec B603
        except OSError as error:
            raise RequestError(f"{ref}:{inside}: git cannot be run ({error.strerror})") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise RequestError(f"{ref}:{inside}: git has no such file ({(said or ['no reason given'])[0].removeprefix('fatal: ')})")
    with target.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise RequestError(f"{ref}:{inside}: is a pointer of Git LFS; check the run out, and name its folder")
