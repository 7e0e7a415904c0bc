"""How a command ends that is interrupted: Ctrl-C and SIGTERM alike, with a line that says what goes on with it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, NoReturn

CODE = 130  # of the exit, as shells have it for Ctrl-C
_asked = threading.Event()


def heed() -> None:
    """From now on SIGTERM interrupts as Ctrl-C does; a second one while the command is ending is no matter.

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
    """Whether this command was interrupted, whatever became of the exception."""
    return _asked.is_set()


def check() -> None:
    """Interrupt where that was asked for and has waited, or did not come through."""
    if _asked.is_set():
        raise KeyboardInterrupt


def expected() -> None:
    """The interruption was what the command waited for, and its proper end."""
    _asked.clear()


class Interrupted(Exception):
    """A command was interrupted; the message says what goes on with it."""


@contextmanager
def told() -> Iterator[None]:
    """Let what an interruption says pass through typer, which drops a `KeyboardInterrupt`."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(str(error)) from None


def leave(how: str = "") -> NoReturn:
    """Say how an interrupted command goes on, or that it is begun again, and exit."""
    print(f"interrupted; {how or 'repeat the command'}", file=sys.stderr)
    sys.exit(CODE)


def flushed(stream: IO[str] | None) -> None:
    """Write what a stream holds back, if it can still be written."""
    with suppress(OSError, ValueError, AttributeError):
        stream.flush()
