"""The rule by which lmms-eval scores RefCOCO: the task ``refcoco_bbox_rec``, accuracy at an IoU of 0.5."""

from __future__ import annotations

import re

from harness.tasks.rules import Judgement
from harness.tasks.scoring import Box
from harness.tasks.target import Target

LEAST = 0.5
_BOX = re.compile(r"\[\s*" + r",\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


def refcoco(prediction: str, target: Target) -> Judgement:
    """Judge as ``refcoco_bbox_rec_acc05`` does: the first four numbers in square brackets are the box, whatever they are.

    No such box is the box of four zeros. A box whose corners are the wrong way round has a negative area, and where the
    union is nothing, lmms-eval ends with an error: such an answer is not decided.

    >>> right = Target(("[0.1, 0.1, 0.5, 0.5]",), official=("0.1", "0.1", "0.5", "0.5"))
    >>> refcoco("It is at [0.1,0.1,0.5,0.31].", right)
    Judgement(score=1.0, read='[0.1,0.1,0.5,0.31]', decided=True)
    """
    match = _BOX.search(prediction.strip())
    read = match[0] if match else None
    try:
        return Judgement(float(_overlap(right_box(target), given_box(prediction)) >= LEAST), read)
    except ZeroDivisionError:
        return Judgement(0.0, read, decided=False)


def given_box(prediction: str) -> Box:
    """Return the box that an answer gives: the first four numbers in square brackets, else four zeros."""
    match = _BOX.search(prediction.strip())
    left, top, right, bottom = (float(number) for number in match.groups()) if match else (0.0,) * 4
    return left, top, right, bottom


def right_box(target: Target) -> Box:
    """Return the right box: unrounded, and beyond the edge of the image where the annotation is."""
    numbers = target.official or target.answers[0].strip("[]").split(",")
    left, top, right, bottom = (float(number) for number in numbers)
    return left, top, right, bottom


def official_iou(right: Box, given: Box) -> float:
    """Return the intersection over union as lmms-eval reckons it; 0 where it would divide by zero."""
    try:
        return _overlap(right, given)
    except ZeroDivisionError:
        return 0.0


def _overlap(right: Box, given: Box) -> float:
    """Intersection over union by lmms-eval's arithmetic, whose order counts where a number is huge, nan or negative.

    Raises:
        ZeroDivisionError: where the union is 0.
    """
    wide = max(0, min(right[2], given[2]) - max(right[0], given[0]))
    high = max(0, min(right[3], given[3]) - max(right[1], given[1]))
    shared = wide * high
    return shared / (_area(right) + _area(given) - shared)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
