"""Errors that the command line turns into one clear line and exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RequestError(ValueError):
    """The request was wrong: the message says what, where, and the nearest thing that would work."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The tail of a message that names the nearest valid choice."""
    known = list(known)
    close = get_close_matches(word, known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(sorted(known))}"
