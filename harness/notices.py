"""What a reader must know before trusting a figure: said on stderr at once, and kept for the manifest and the page.

What only the one who gives the command must know, such as what a run of this size cannot show, is said and not kept: `remark`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.errors import shown


@dataclass
class _Collection:
    """The sentences of one piece of work, in the order in which they were said."""

    silent: bool  # whether stderr says nothing of them
    sentences: list[str] = field(default_factory=list)


_open: list[_Collection] = []  # those under way, the innermost last


def notice(sentence: str) -> None:
    """Say a sentence on stderr, and keep it where notices are being collected; a collection says the same thing once.

    Any room may call it, at any time: `compare` writes what it collected into the manifest, whose notes the page shows.

    Args:
        sentence: one line, without "warning" and without a full stop, such as ``3 rows have no image and are left out``.
    """
    silent = False
    if _open:
        if sentence in _open[-1].sentences:
            return
        _open[-1].sentences.append(sentence)
        silent = _open[-1].silent
    if not silent:
        print(f"note: {shown(sentence)}", file=sys.stderr)


def remark(sentence: str) -> None:
    """Say a sentence on stderr, where notices are said too, and keep it nowhere.

    Args:
        sentence: one line, as of `notice`.
    """
    if not (_open and _open[-1].silent):
        print(f"note: {shown(sentence)}", file=sys.stderr)


@contextmanager
def collecting(silent: bool = False) -> Iterator[list[str]]:
    """Collect the notices that are given inside the block; the list that it yields grows with them.

    Args:
        silent: whether nothing of them is said on stderr, as in a worker, whose parent has said them.
    """
    collection = _Collection(silent)
    _open.append(collection)
    try:
        yield collection.sentences
    finally:
        _open.remove(collection)


def collected() -> list[str]:
    """Return the notices of the collection under way; none where there is none."""
    return list(_open[-1].sentences) if _open else []
