"""Errors that the command line turns into one clear line and exit code 2."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_LINES, _WIDTH = 3, 600  # the most lines of a message, and characters of a line
_DEPTH = 20  # causes of causes that are followed
_TOLD = "_told_by_prunescope"  # attribute of an error that was described where it was raised


class RequestError(ValueError):
    """A wrong request: the message says what is wrong, where, and the nearest thing that would work."""


class SampleError(ValueError):
    """A sample that cannot be measured: the message is the reason that is stored in the place of its answer."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the tail of a message that names the valid choice nearest to a word, or all choices where none is near."""
    known = list(known)
    close = get_close_matches(word, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(sorted(known))}"


def readable(message: str) -> str:
    """Shorten a message for a terminal: three lines at most, none endless, and nothing that steers the terminal.

    >>> readable("a\\x1b[31m\\n\\nb")
    'a\ufffd[31m\\nb'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()][:_LINES]
    return shown("\n".join(map(_shortened, lines)))


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an error's message, or the name of its class where it has none.

    Args:
        error: of other people's code, whose messages may be long.
        most: characters.

    >>> first_line(OSError("no such file\\nat all")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def shown(text: str) -> str:
    """Replace every character of a text that would steer a terminal; line breaks stay."""
    return "\n".join("".join(c if c.isprintable() else "\ufffd" for c in line) for line in text.split("\n"))


def _shortened(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH // 2]} ... {line[-_WIDTH // 2 :]}"


def unexpected(error: BaseException) -> str:
    """Describe an internal error in one line: its class, the file and line that raised it, its message, and its first cause.

    >>> unexpected(KeyError("x"))
    "internal error: KeyError: 'x'"
    """
    told: str | None = vars(error).get(_TOLD)
    if told is not None:
        return told
    first = error
    for _ in range(_DEPTH):
        first = first.__cause__ or (None if first.__suppress_context__ else first.__context__) or first
    began = f" (first cause: {_described(first)})" if first is not error else ""
    return f"internal error: {_described(error)}{began}"


def describe_here(error: BaseException, met: BaseException) -> None:
    """Note on an error what `unexpected` says of it before it is sent to another process.

    On its way it loses its causes and where it was raised.

    Args:
        error: the one that is sent.
        met: the one that was met; another where that cannot be sent.
    """
    vars(error)[_TOLD] = unexpected(met)


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(__file__).parents[1])]
    place = (own or list(frames))[-1:]
    where = f" at {Path(place[0].filename).name}:{place[0].lineno}" if place else ""
    said = readable(str(error)).partition("\n")[0]
    return f"{type(error).__name__}{where}" + (f": {said}" if said else "")
