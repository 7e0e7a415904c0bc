"""``python -m harness``, and the command ``prunescope``."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from harness import interrupts


def run() -> NoReturn:
    """Run the command line in a process of its own; interruptions are handled before anything heavy is imported.

    An interrupted process leaves at once with its exit code. Python would else end it by a signal where the interruption
    had passed through a library's ``exec``, and wait for threads that are still at work.
    """
    interrupts.heed()
    try:
        try:
            from harness.cli.app import main

            interrupts.check()
            main()
        except KeyboardInterrupt:
            interrupts.leave()
    except SystemExit as end:
        if end.code != interrupts.CODE:
            raise
        for stream in (sys.stdout, sys.stderr):
            interrupts.flushed(stream)
        os._exit(interrupts.CODE)


if __name__ == "__main__":
    run()
