"""Errors that the command line turns into one clear line and exit code 2."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_LINES, _WIDTH = 3, 600  # of a message


class RequestError(ValueError):
    """The request was wrong: the message says what, where, and the nearest thing that would work."""


class SampleError(ValueError):
    """One sample cannot be measured; the message is the reason that is stored in the place of its answer."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The tail of a message that names the nearest valid choice."""
    known = list(known)
    close = get_close_matches(word, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(sorted(known))}"


def readable(message: str) -> str:
    """A message as a terminal may show it: three lines at most, none endless, and nothing that steers the terminal.

    >>> readable("a\\x1b[31m\\n\\nb")
    'a\ufffd[31m\\nb'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()][:_LINES]
    return shown("\n".join(map(_shortened, lines)))


def shown(text: str) -> str:
    """Text as a terminal may show it: what would steer it is replaced, lines stay."""
    return "\n".join("".join(c if c.isprintable() else "\ufffd" for c in line) for line in text.split("\n"))


def _shortened(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH // 2]} ... {line[-_WIDTH // 2 :]}"


def unexpected(error: BaseException) -> str:
    """One line on an error that is no wrong request: its kind, what it says, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(__file__).parents[1])]
    place = (own or list(frames))[-1:]
    where = f" at {Path(place[0].filename).name}:{place[0].lineno}" if place else ""
    said = readable(str(error)).partition("\n")[0]
    return f"internal error: {type(error).__name__}{where}" + (f": {said}" if said else "")
