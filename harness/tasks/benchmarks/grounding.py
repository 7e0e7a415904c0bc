"""Grounding: RefCOCO, where the answer is a box.

The convention is that of LLaVA's data and of lmms-eval's ``refcoco_bbox_rec``: the model is asked for (left, top,
right, bottom) as fractions of the image, as it is, without padding; an answer is right with an IoU of at least 0.5
("accuracy" of referring expression comprehension). Each expression of an object is a question of its own.
`harness.tasks.scoring.read_box` says what else is read as a box.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence

from harness.tasks.base import Answered, TaskInfo
from harness.tasks.benchmarks import OPEN_LENGTH
from harness.tasks.leading_figure import OwnFigure
from harness.tasks.official import OFFICIAL_RULES
from harness.tasks.official.boxes import given_box, official_iou, right_box
from harness.tasks.rows import Row
from harness.tasks.rule_names import OFFICIAL
from harness.tasks.rules import ScoringRule, ours
from harness.tasks.scoring import Box, box, iou, read_box
from harness.tasks.tabular import Asked, Benchmark
from harness.tasks.target import Target

ASK = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. "
    "Please provide the bounding box coordinate of the region this sentence describes: "
)
SINGLE = ("32-bit",)
"""Stands for what lmms-eval reads until the image's size is known, where the column of boxes has 32-bit floats."""
_IMAGE_NAME = re.compile(r".*?_\d{12}")  # "COCO_train2014_000000581857_16.jpg": what follows is the object's number


def _refcoco(row: Row) -> Iterator[Asked]:
    left, top, width, height = row.numbers("bbox", 4)
    if width <= 0 or height <= 0:
        raise row.error("bbox", "a box is [left, top, width, height] in pixels, width and height above 0")
    target = Target((f"[{left}, {top}, {width}, {height}]",), official=SINGLE if "bbox" in row.singles else ())
    for place, expression in enumerate(row.texts("answer")):
        if expression.strip():
            yield Asked("referring", ASK + expression, target, f"{row.short('question_id')}-{place}")


def _fractions(target: Target, size: tuple[int, int]) -> Target:
    """Pixels (left, top, width, height) as fractions (left, top, right, bottom) of an image of (width, height)."""
    left, top, width, height = (float(number) for number in target.answers[0][1:-1].split(","))
    corners = (left / size[0], top / size[1], (left + width) / size[0], (top + height) / size[1])
    kept = map(_single, corners) if target.official == SINGLE else corners
    return Target((f"[{', '.join(f'{min(value, 1.0):.6f}' for value in corners)}]",), official=tuple(map(repr, kept)))


def _single(number: float) -> float:
    """The nearest 32-bit float; lmms-eval keeps the fractions in the column of the boxes, whose type that is."""
    single: float = struct.unpack("f", struct.pack("f", number))[0]
    return single


def _image(row: Row) -> str:
    name = row.text("file_name")
    match = _IMAGE_NAME.match(name)
    return match[0] if match else name


def refcoco_figures(rows: Sequence[Answered], rule: ScoringRule) -> dict[str, float]:
    """Return the figures of RefCOCO beside accuracy, of boxes as the rule reads them.

    These are the mean IoU, the accuracy at other thresholds, the share of boxes with their centre in the right one, and
    the share of answers without a box.
    """
    targets = [Target.read(row.target) for row in rows]
    official = rule.name == OFFICIAL
    right = [right_box(target) if official else read_box(target.answers[0]) for target in targets]
    given = [given_box(row.prediction) if official else read_box(row.prediction) for row in rows]
    iou_of = official_iou if official else iou
    found = [iou_of(one, other) if one is not None and other is not None else 0.0 for one, other in zip(right, given)]
    centred = [_centred(one, other) for one, other in zip(given, right)]
    missing = [rule.judge(row.prediction, target).read is None if official else box is None
               for row, target, box in zip(rows, targets, given)]  # fmt: skip

    def share(least: float) -> float:
        return sum(value >= least for value in found) / len(rows)

    return {
        "iou": sum(found) / len(rows), "accuracy_0.1": share(0.1), "accuracy_0.3": share(0.3), "accuracy_0.7": share(0.7),
        "accuracy_0.9": share(0.9), "centre": sum(centred) / len(rows), "no_box": sum(missing) / len(rows),
    }  # fmt: skip


def _centred(one: Box | None, other: Box | None) -> bool:
    if one is None or other is None:
        return False
    x, y = (one[0] + one[2]) / 2, (one[1] + one[3]) / 2
    return other[0] <= x <= other[2] and other[1] <= y <= other[3]


REFCOCO = Benchmark(
    TaskInfo(
        name="refcoco",
        summary="the box of the thing that a phrase refers to; also [split=testA], [split=testB], [hub=lmms-lab/RefCOCOg]",
        source="lmms-lab/RefCOCO",
        licence="Apache-2.0 (expressions), CC BY 4.0 (COCO annotations; images under Flickr's terms)",
        metric="accuracy of boxes (IoU at least 0.5)",
        split="val",
        families=("referring",),
        knows_evidence=False,
        prompt=ASK + "{expression}",
        answer_tokens=OPEN_LENGTH,
    ),
    columns=("question_id", "answer", "bbox", "file_name"),
    ask=_refcoco,
    rules=(ours(box, OwnFigure("mean", "accuracy at IoU 0.5")), OFFICIAL_RULES["refcoco"]),
    image_id=_image,
    scaled=_fractions,
    total=refcoco_figures,
    repositories=("lmms-lab/RefCOCO", "lmms-lab-encoder/RefCOCO"),
)
