"""The lock that lets one process at a time write a run folder, and that ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import RequestError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows has no such module

NAME = "run.lock"
"""The file in a run folder that is locked while a process writes there."""
_HELD: set[Path] = set()  # by this process, against which its own locks are none
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that has none


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """Keep other processes from writing a run folder inside the block.

    The lock is a POSIX record lock: processes that are forked meanwhile do not have it, so it ends with this one however
    that ends, and what it leaves of workers keeps nobody out. Without such locks (Windows, some network file systems) only
    this process is kept from holding a folder twice.

    Args:
        folder: the run folder, which exists.
        option: the option of the command line that names it, for messages.

    Raises:
        RequestError: where another process holds it, or the folder cannot be written.
    """
    path = folder.resolve() / NAME
    if path in _HELD:
        raise _taken(folder, option, str(os.getpid()))
    try:
        handle = _acquired(path)
    except BlockingIOError:
        with suppress(OSError):
            raise _taken(folder, option, path.read_text("ascii", "replace").strip()[:20]) from None
        raise _taken(folder, option, "") from None
    except OSError as error:
        raise RequestError(f"{option} {folder}: cannot write there ({error.strerror or error})") from None
    _HELD.add(path)
    try:
        yield
    finally:
        _HELD.discard(path)
        if fcntl is not None:
            with suppress(OSError):
                path.unlink()
        os.close(handle)


def _acquired(path: Path) -> int:
    """A descriptor of the locked file; `BlockingIOError` where another process holds it."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        handle = os.open(path, flags, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, f"{NAME} is no regular file")
            if fcntl is not None:
                try:
                    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except PermissionError as error:  # some systems say so where POSIX lets them
                    raise BlockingIOError(*error.args) from None
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    os.ftruncate(handle, 0)
                    os.write(handle, f"{os.getpid()}\n".encode("ascii"))
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # who held it has taken the file away in between


def _taken(folder: Path, option: str, process: str) -> RequestError:
    who = f"process {process}" if process else "another process"
    return RequestError(f"{option} {folder}: {who} is at this run; wait until it is done, or name another folder")
