"""Words of others in Markdown: they stay text, whatever is in them."""

from __future__ import annotations

from harness.errors import shown
from reports import wording

_CELL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "[": "\\[", "]": "\\]", "`": "'"}
_CALLS = {"*": "\\*", "_": "\\_", "~": "\\~", "$": "\\$", "@": "@\u2060", "#": "#\u2060",
          "://": ":\u2060//", "www.": "www\u2060."}  # fmt: skip


def plain(text: object) -> str:
    """Escape text so that it can neither leave its table cell nor open a tag or a link, nor steer a terminal."""
    flat = shown(" ".join(str(text).replace("\\", "\\\\").split()))
    return _marked(flat, _CELL)


def inert(text: object) -> str:
    """Escape text for a comment that others see: as `plain`, and it formats nothing, calls nobody and links nowhere."""
    return _marked(plain(text), _CALLS)


def _marked(text: str, marks: dict[str, str]) -> str:
    for mark, harmless in marks.items():
        text = text.replace(mark, harmless)
    return text


def code(text: object) -> str:
    """Write a name as code, None or an empty name as missing; a bar in it would end the table cell, a backtick the code."""
    known = "" if text is None else str(text)
    flat = shown(" ".join(known.replace("\\", "/").split())) or wording.MISSING  # a backslash would free the bar after it
    return f"`{flat.replace('`', chr(39)).replace('|', chr(92) + '|')}`"
