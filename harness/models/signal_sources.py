"""Which kinds of models and tasks give the signals that not every one gives, and where in a tower none can be read."""

from __future__ import annotations

from collections.abc import Iterable

from methods.tower import block_of, depth
from methods.types import SIGNAL_NAMES, VISION_SIGNALS, ModelShape, Step

_JOINT = "a model with a CLIP companion (a folder companion/ in its own)"
_OF_CLS = frozenset(name for name in VISION_SIGNALS if name.startswith("cls_"))
_SOURCES = {
    "image_embeds": _JOINT,
    "text_embeds": _JOINT,
    **dict.fromkeys(sorted(_OF_CLS), "a vision tower with a CLS token"),
    "evidence": "a task that knows its evidence, such as shapes",
}
_BEHIND_THE_TOWER = frozenset({"vision_features", "cls_feature", "image_embeds"})
"""Signals that are states of the tower, so that those of its output are of the tokens that leave it."""


def signals_given(has_cls: bool, joint: bool) -> frozenset[str]:
    """Return the names of the signals that a model can give; the task gives ``evidence``.

    Args:
        has_cls: whether its vision tower has a CLS token.
        joint: whether it has a joint image-text space.
    """
    lacks = frozenset() if joint else frozenset({"image_embeds", "text_embeds"})
    return SIGNAL_NAMES - lacks - (frozenset() if has_cls else _OF_CLS) - {"evidence"}


def unreadable(steps: Iterable[Step], shape: ModelShape) -> str | None:
    """Return why a tower of this shape cannot be read or pruned where steps say; None where it can.

    What is read of a block before tokens leave the tower is of other tokens than those that a later step chooses among.
    """
    steps = list(steps)
    inside = [step.site.layer for step in steps if step.site.stage == 0]
    blocks = depth(shape)
    deepest = max(inside, default=-1)
    if deepest >= shape.vision_layers:
        return f"its tower runs {shape.vision_layers} blocks, so no token can leave inside block {deepest}"
    for step in steps:
        for read in step.tower_reads if step.site.stage != 0 else ():
            block = block_of(read, shape)
            if not 0 <= block < blocks:
                return f"its tower has {blocks} blocks, so {read.signal} of block {block} cannot be read"
            states = read.signal in _BEHIND_THE_TOWER and block == shape.vision_layers - 1
            if block <= deepest and not states:
                return f"tokens leave inside block {deepest} of its tower, so {read.signal} of block {block} is of other tokens"
    return None


def given_by(signals: Iterable[str]) -> str:
    """Return the tail of a message that says who gives signals, or nothing where all models do.

    >>> given_by(["cls_key", "features"])
    '; a vision tower with a CLS token gives it'
    """
    found = list(dict.fromkeys(_SOURCES[name] for name in sorted(signals) if name in _SOURCES))
    return f"; {' and '.join(found)} {'gives it' if len(found) == 1 else 'give them'}" if found else ""
