"""Files that are read only where reading ends, and written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.errors import RequestError

OWN = frozenset(
    {"manifest.json", "results.sqlite", "results.sqlite-wal", "results.sqlite-shm", "results.sqlite-journal", "run.lock",
     "summary.json", "summary.csv", "report.html"}
)  # fmt: skip
"""Files of a run, in whose place no command writes something else."""


def regular(path: Path) -> Path:
    """The path; `OSError` where nothing is there, or a pipe, a device or a socket, reading which may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "is no regular file")
    return path


def opened(path: Path) -> IO[bytes]:
    """A new file to write; `FileExistsError` where anything has the name, a link too."""
    return path.open("xb")


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name once it is complete; what has the name until then stays as it is.

    Nothing is written through a link, which in a folder from elsewhere may lead anywhere.

    Raises:
        OSError: where it cannot be written, or something that is no regular file has the name.
    """
    with suppress(FileNotFoundError):
        regular(path)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a process that was killed
    try:
        with opened(partial) as file:
            yield file
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_whole(path: Path, text: str, refusal: str) -> None:
    """Write a file whole or not at all; where that fails, a `RequestError` that begins with ``refusal``."""
    try:
        with whole(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise RequestError(f"{refusal} ({error.strerror or error})") from None


def named(option: str, path: Path) -> Path:
    """Where the file that an option names will lie, asked before anything is computed for it.

    Raises:
        RequestError: where it would take the place of a run's own file.
    """
    try:
        place = path.parent.resolve() / path.name
        mine = place.name.removesuffix(".partial") in OWN and (place.parent / "manifest.json").is_file()
        if mine and any((place.parent / name).exists() for name in ("results.sqlite", "summary.json")):
            raise RequestError(f"{option} {path}: is a file of the run itself; choose another name")
    except OSError as error:
        raise RequestError(f"{option} {path}: cannot write there ({error.strerror or error})") from None
    return place


def write_named(option: str, path: Path, text: str) -> None:
    """Write the file that an option names, its folder with it; into a terminal, a device or a pipe, such as ``/dev/stdout``,
    as it is.

    Raises:
        RequestError: where it would take the place of a run's own file, or cannot be written.
    """
    refusal = f"{option} {path}: cannot write there"
    try:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(number)):  # whatever it leads to
                    stream.write(text)
                    return
        path = named(option, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_char_device() or path.is_fifo():
            with open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "w", encoding="utf-8") as file:  # of no reader, an error
                os.set_blocking(file.fileno(), True)
                file.write(text)
            return
    except OSError as error:
        raise RequestError(f"{refusal} ({error.strerror or error})") from None
    write_whole(path, text, refusal)
