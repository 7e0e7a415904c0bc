"""How a command ends that is interrupted: Ctrl-C and SIGTERM alike, with a line that says what goes on with it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

CODE = 130  # of the exit, as shells have it for Ctrl-C


def heed_termination() -> None:
    """From now on SIGTERM interrupts as Ctrl-C does; a second one while the command is ending is no matter."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


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
