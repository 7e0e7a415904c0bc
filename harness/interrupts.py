"""How an interrupted command ends: on Ctrl-C and SIGTERM alike, with a line that says how to go on with it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, NoReturn

CODE = 130  # the exit code, as shells have it for Ctrl-C
_asked = threading.Event()


def heed() -> None:
    """Make SIGTERM interrupt as Ctrl-C does from now on; a second one while the command is ending does nothing.

    An interruption is remembered. While a module is being imported it waits for the next `check`; libraries may make
    another exception of it, or lose it, elsewhere too.
    """
    _asked.clear()
    if threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGTERM, _interrupted)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as behind a shell's `&`
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(number: int, frame: FrameType | None) -> None:
    again = _asked.is_set()
    _asked.set()
    if number == signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if again or not _importing(frame):
        raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception there may be lost, or end the process in the middle of C++ code."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def asked() -> bool:
    """Return whether this command was interrupted, whatever became of the exception."""
    return _asked.is_set()


def check() -> None:
    """Raise `KeyboardInterrupt` where an interruption has waited for this call, or its exception was lost.

    Raises:
        KeyboardInterrupt: where the command was interrupted.
    """
    if _asked.is_set():
        raise KeyboardInterrupt


def expected() -> None:
    """Forget an interruption that is the proper end of a command, such as that of `open`."""
    _asked.clear()


class Interrupted(Exception):
    """An interrupted command: the message says how to go on with it."""


@contextmanager
def told() -> Iterator[None]:
    """Turn `KeyboardInterrupt` into `Interrupted`, so that its message passes through typer, which drops the former."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(str(error)) from None


def leave(how: str = "") -> NoReturn:
    """Say how to go on with an interrupted command, by default by repeating it, and exit with code 130."""
    print(f"interrupted; {how or 'repeat the command'}", file=sys.stderr)
    sys.exit(CODE)


def flushed(stream: IO[str] | None) -> None:
    """Flush a stream if it can still be written."""
    with suppress(OSError, ValueError, AttributeError):
        if stream is not None:
            stream.flush()
