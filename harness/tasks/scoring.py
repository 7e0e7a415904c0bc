"""Scorers of short answers: exact, containment, edit distance, numbers within a tolerance, yes or no, boxes.

Each is a function of (prediction, target) that gives a score in [0, 1]; of several right answers the best counts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from itertools import pairwise

from harness.tasks.target import Target

Scorer = Callable[[str, Target], float]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?")
_BRACKETED = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+")


def squeezed(text: str) -> str:
    """Return the text with runs of white space as one space, and none at the ends."""
    return " ".join(text.split())


def exact(prediction: str, target: Target) -> float:
    """Return 1.0 where prediction and an answer agree without regard to case, ASCII punctuation and white space, else 0.0.

    The rule of GQA in lmms-eval (``exact_match`` with ``ignore_case`` and ``ignore_punctuation``). An answer of
    punctuation alone is compared as it is.

    >>> exact("Yes.", Target(("yes",)))
    1.0
    """
    return float(any(_plain(prediction) == _plain(answer) for answer in target.answers))


def contains(prediction: str, target: Target) -> float:
    """Return 1.0 where the prediction contains an answer, without regard to case and to full-width forms, else 0.0.

    OCRBench (arXiv:2305.07895), section 3; for handwritten formulas (``target.compact``) white space is left out and
    case counts, as in its code.

    >>> contains("It says COFFEE.", Target(("coffee",)))
    1.0
    """
    fold = _packed if target.compact else _folded
    text = fold(prediction)
    return float(any(answer and answer in text for answer in map(fold, target.answers)))


def anls(prediction: str, target: Target, threshold: float = 0.5) -> float:
    """Return the normalised Levenshtein similarity to the nearest answer: 1 - distance / length, and 0 under the threshold.

    Its average over questions is ANLS: Biten et al. 2019 (arXiv:1905.13648), equation 1, as the DocVQA evaluation computes
    it. The distance is of texts in lower case with single spaces, the length is that of the longer text as given.

    >>> anls("1987", Target(("1978",)))
    0.5
    """
    least = min(_distance_share(prediction, answer) for answer in target.answers)
    return 1.0 - least if 1.0 - least >= threshold else 0.0


def relaxed(prediction: str, target: Target, tolerance: float = 0.05) -> float:
    """Return 1.0 where a number is within 5 % of the answer, or a text is the answer without regard to case, else 0.0.

    ChartQA (arXiv:2203.10244), section 5.1, after Methani et al. 2020. "5%" is 0.05, as in the code that lmms-eval
    took over; ours are the thousands separators, and a zero that only a zero equals.

    >>> relaxed("1,040", Target(("1000",)))
    1.0
    """
    return float(any(_close(prediction.strip(), answer.strip(), tolerance) for answer in target.answers))


def yes_no(prediction: str, target: Target) -> float:
    """Return 1.0 where prediction and answer both say yes or both say no, as `said` reads the prediction, else 0.0.

    >>> yes_no("Yes, there is.", Target(("yes",)))
    1.0
    """
    return float(said(prediction) in {answer.strip().lower() for answer in target.answers})


def said(prediction: str) -> str:
    """Read an answer as ``yes``, ``no`` or ``other`` by the rule of MME's evaluation.

    Full stops go; a single letter is y or n; else ``yes`` or ``no`` must stand within the first four characters.

    >>> said("Not at all"), said("It is not")
    ('no', 'other')
    """
    text = prediction.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    start = text if text in ("yes", "no") else text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of the image


def box(prediction: str, target: Target, least: float = 0.5) -> float:
    """Return 1.0 where the predicted box overlaps an answer's with an IoU of at least 0.5 (accuracy of RefCOCO), else 0.0.

    >>> box("[0.1, 0.1, 0.5, 0.5]", Target(("[0.1, 0.1, 0.5, 0.6]",)))
    1.0
    """
    return float(any(overlap(prediction, answer) >= least for answer in target.answers))


def overlap(prediction: str, answer: str) -> float:
    """Return the intersection over union of two boxes given as texts; 0 where one of them holds no box."""
    one, other = read_box(prediction), read_box(answer)
    return iou(one, other) if one is not None and other is not None else 0.0


def read_box(text: str) -> Box | None:
    """Read a box from a text: the first four numbers in brackets, or the only four, as (left, top, right, bottom).

    Fractions of the image are the convention of the prompt; coordinates above 2 are read as thousandths of it, which
    Qwen-VL and InternVL give whatever they are asked for.

    >>> read_box("(100,200),(300,400)")
    (0.1, 0.2, 0.3, 0.4)
    """
    groups = [[float(number) for number in _DECIMAL.findall(inside)] for inside in _BRACKETED.findall(text)]
    whole = [float(number) for number in _DECIMAL.findall(text)]
    pairs = [a + b for a, b in pairwise(groups) if len(a) == len(b) == 2]
    found = next((group for group in [*groups, *pairs] if len(group) == 4), whole if len(whole) == 4 else None)
    if found is None:
        return None
    scale = 1000.0 if max(found) > 2 else 1.0
    left, top, right, bottom = (value / scale for value in found)
    return left, top, right, bottom


def iou(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes; a box of no area overlaps nothing."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    union = _area(one) + _area(other) - shared
    return shared / union if union > 0 else 0.0


def _area(one: Box) -> float:
    return max(one[2] - one[0], 0.0) * max(one[3] - one[1], 0.0)


def _plain(text: str) -> str:
    text = squeezed(text.lower())
    return squeezed(text.translate(_NO_PUNCTUATION)) or text


def _folded(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


def _packed(text: str) -> str:
    return "".join(text.split())


def _close(prediction: str, answer: str, tolerance: float) -> bool:
    given, right = number(prediction), number(answer)
    if given is None or right is None:
        return prediction.lower() == answer.lower()
    return abs(given - right) <= tolerance * abs(right)


def number(text: str) -> float | None:
    """Read the whole text as a number, with thousands separators and a percent sign; None where it is no number.

    >>> number("1,234.5"), number("12%"), number("12,34"), number("inf")
    (1234.5, 0.12, None, None)
    """
    share = text.endswith("%")
    digits = text.rstrip("%").strip() if share else text
    if not any(character.isdigit() for character in digits) or _NUMBER.fullmatch(digits) is None:
        return None
    try:
        value = float(digits.replace(",", ""))
    except ValueError:
        return None
    return value / 100 if share else value


def _distance_share(prediction: str, answer: str) -> float:
    """Edit distance over the length of the longer text."""
    length = max(len(prediction.upper()), len(answer.upper()))
    return levenshtein(squeezed(prediction.lower()), squeezed(answer.lower())) / length if length else 0.0


def levenshtein(one: str, other: str) -> int:
    """Count the insertions, deletions and substitutions between two texts (Wagner & Fischer 1974).

    >>> levenshtein("kitten", "sitting")
    3
    """
    if len(one) < len(other):
        one, other = other, one
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        after = [row]
        for column, wanted in enumerate(other, 1):
            after.append(min(before[column] + 1, after[-1] + 1, before[column - 1] + (letter != wanted)))
        before = after
    return before[-1]
