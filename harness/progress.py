"""Progress bars: on a terminal a bar, elsewhere silence."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from harness import interrupts

Item = TypeVar("Item")


class Advance(Protocol):
    """The function that moves a progress bar on."""

    def __call__(self, steps: int = 1) -> None: ...


@contextmanager
def progress(name: str, total: int) -> Iterator[Advance]:
    """Show a progress bar on a terminal, and nothing elsewhere; give a function that moves it on.

    Args:
        name: what is counted, beside the bar.
        total: steps to the end.

    Raises:
        KeyboardInterrupt: at the start or at any step, where the command was interrupted.
    """
    interrupts.check()
    if not sys.stderr.isatty():

        def silent(steps: int = 1) -> None:
            interrupts.check()

        yield silent
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


def track(name: str, items: Iterable[Item], done: int, total: int) -> Iterator[Item]:
    """Yield the items under a progress bar that starts at ``done`` of ``total``."""
    with progress(name, total) as advance:
        advance(done)
        for item in items:
            yield item
            advance(1)
