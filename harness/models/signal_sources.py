"""Which kinds of models and tasks give the signals that not every one gives, for messages about those that are missing."""

from __future__ import annotations

from collections.abc import Iterable

_SOURCES = {
    "image_embeds": "a model with a CLIP companion (a folder companion/ in its own)",
    "text_embeds": "a model with a CLIP companion (a folder companion/ in its own)",
    "cls_attention": "a vision tower with a CLS token",
    "cls_feature": "a vision tower with a CLS token",
    "cls_key": "a vision tower with a CLS token",
    "evidence": "a task that knows its evidence, such as shapes",
}


def given_by(signals: Iterable[str]) -> str:
    """Return the tail of a message that says who gives signals, or nothing where all models do.

    >>> given_by(["cls_key", "features"])
    '; a vision tower with a CLS token gives it'
    """
    found = list(dict.fromkeys(_SOURCES[name] for name in sorted(signals) if name in _SOURCES))
    return f"; {' and '.join(found)} {'gives it' if len(found) == 1 else 'give them'}" if found else ""
