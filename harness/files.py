"""Files that are read only where reading ends, and written whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from harness.errors import RequestError

OWN = frozenset(
    {"manifest.json", "results.sqlite", "results.sqlite-wal", "results.sqlite-shm", "results.sqlite-journal", "run.lock",
     "summary.json", "summary.csv", "report.html"}
)  # fmt: skip
"""Files of a run, in whose place no command writes something else."""


class NotWritableError(RequestError):
    """A file cannot be written where it was to lie."""


_LARGEST_JSON = 2**28  # bytes
_LARGEST_TOML = 2**20  # bytes
_DIGITS = 40  # the most digits of a whole number in JSON


def regular(path: Path) -> Path:
    """Return the path if it is a regular file or a folder.

    Raises:
        OSError: where nothing is there, or a pipe, a device or a socket, reading which may never end.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "is no regular file")
    return path


def opened(path: Path) -> IO[bytes]:
    """Open a new file to write.

    Raises:
        FileExistsError: where anything has the name, a link too.
    """
    return path.open("xb")


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write that takes its name once it is complete; what has the name until then stays as it is.

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
    """Write a file whole or not at all.

    Raises:
        NotWritableError: a `RequestError` whose message begins with ``refusal``.
    """
    try:
        with whole(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise NotWritableError(f"{refusal} ({error.strerror or error})") from None


def named(option: str, path: Path) -> Path:
    """Return where the file that an option names will lie; called before anything is computed for it.

    Args:
        option: the option, for messages, such as ``--markdown``.
        path: its value.

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
    """Write the file that an option names, and make its folder where there is none.

    A terminal, a device or a pipe, such as ``/dev/stdout``, is written into as it is.

    Args:
        option: the option, for messages, such as ``--markdown``.
        path: its value.
        text: the whole content.

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


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        RequestError: where it cannot be read, is not JSON, or holds what no file of ours does: NaN, infinity, whole
            numbers of more than 40 digits, hundreds of levels.
    """
    try:
        if regular(path).stat().st_size > _LARGEST_JSON:
            raise RequestError(f"{path}: larger than {_LARGEST_JSON // 2**20} MiB")
        return parse_json(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise RequestError(f"{path}: is not JSON that can be read (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}, line {error.lineno}: is not JSON ({error.msg})") from None
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"{path}: is not JSON that can be read ({str(error)[:80]})") from None


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: where it is not JSON, or holds what no file of ours does: NaN, infinity, whole numbers of more than 40 digits.
        RecursionError: where it has hundreds of levels.
    """
    return json.loads(text, parse_constant=_refused, parse_float=_finite, parse_int=_whole)


def _refused(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refused(text)


def _whole(text: str) -> int:
    return int(text) if len(text) <= _DIGITS else _refused(text)


def read_toml(where: str, path: Path) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        RequestError: where it cannot be read or is no TOML; the message begins with ``where``.
    """
    import tomllib

    try:
        if regular(path).stat().st_size > _LARGEST_TOML:
            raise RequestError(f"{where}: larger than {_LARGEST_TOML // 2**20} MiB")
        return tomllib.loads(path.read_text("utf-8-sig"))  # an editor may begin a file with a byte order mark
    except RequestError:
        raise
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{where}: is no TOML ({error})") from None
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{where}: cannot be read (byte {error.start + 1} is not UTF-8 text)") from None
    except (OSError, ValueError) as error:  # of a number of too many digits, of a name that no file can have
        raise RequestError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
