"""Words of others in Markdown: they stay text, whatever is in them."""

from __future__ import annotations

from harness.errors import shown
from reports import wording

_MARKS = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "[": "\\[", "]": "\\]", "`": "'", "*": "\\*", "_": "\\_",
          "@": "@\u2060", "#": "#\u2060", "://": ":\u2060//", "www.": "www\u2060."}  # fmt: skip
"""What a text could do to a comment, and what it may do: nobody is called, nothing linked, no cell left."""


def plain(text: object) -> str:
    """Text that can neither leave its table cell nor format, link, call or open anything, nor steer a terminal."""
    flat = shown(" ".join(str(text).replace("\\", "\\\\").split()))
    for mark, harmless in _MARKS.items():
        flat = flat.replace(mark, harmless)
    return flat


def code(text: object) -> str:
    """A name as code, that of None or nothing as missing; a bar in it would end the table cell, a backtick the code."""
    known = "" if text is None else str(text)
    flat = shown(" ".join(known.replace("\\", "/").split())) or wording.MISSING  # a backslash would free the bar after it
    return f"`{flat.replace('`', chr(39)).replace('|', chr(92) + '|')}`"
