"""The comparison of texts that lmms-eval takes over from Hugging Face's ``evaluate``: ``exact_match``, through NumPy's texts."""

from __future__ import annotations

import string

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def same(one: str, other: str) -> bool:
    """Return whether two texts are equal without regard to case and ASCII punctuation, as NumPy compares arrays of one text.

    White space counts. An array's texts keep their length in lower case, so that a text with a capital dotted I loses its
    last character, and nulls at the end are no part of them.

    >>> same("Yes.", "yes"), same("a  b", "a b")
    (True, False)
    """
    return compared(one) == compared(other)


def compared(text: str) -> str:
    """Return the text as it is compared."""
    lower = text.rstrip("\0").lower()[: len(text)]
    return lower.translate(_NO_PUNCTUATION).rstrip("\0")
