"""Progress bars: on a terminal a bar, elsewhere silence."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from harness import interrupts


@contextmanager
def progress(name: str, total: int):
    """A progress bar on a terminal, silence elsewhere; gives a function that advances it."""
    interrupts.check()
    if not sys.stderr.isatty():
        yield lambda steps=1: interrupts.check()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)

        def advance(steps: int = 1) -> None:
            interrupts.check()
            bar.advance(task, steps)

        yield advance


def track(name: str, items: Iterable, done: int, total: int) -> Iterator:
    """The items, with a bar that starts at ``done`` of ``total``."""
    with progress(name, total) as advance:
        advance(done)
        for item in items:
            yield item
            advance(1)
