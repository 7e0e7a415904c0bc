"""Scorers of short answers: exact, containment, edit distance, numbers within a tolerance, yes or no, boxes.

Each is a function of (prediction, target) that gives a score in [0, 1]; of several right answers the best counts.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from harness.tasks.reading.affirmation import said, yes_no
from harness.tasks.reading.folding import folded
from harness.tasks.target import Target

__all__ = [
    "Box", "anls", "box", "contains", "exact", "iou", "levenshtein", "number", "overlap", "read_box", "relaxed", "said",
    "squeezed", "yes_no",
]  # fmt: skip


_PUNCTUATION = re.compile(
    r"(?:[^\w\s]|_)+"  # every mark, of which `_without_punctuation` keeps what numbers and words of other scripts need
)
_IN_TEXT = re.compile(
    r"(?:(?<![\w)])(?P<sign>[+-])\s*)?(?P<currency>[$€£¥₹]\s*)?(?<![\w.])(?P<digits>(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<power>[eE][+-]?\d{1,4}(?![\w.]))?(?![.,:/^'-]*\d)(?:\s?(?P<unit>[$€£¥₹])(?!\s?[\d.]))?"
)
_OPERAND = r"[-+]?(?:\.?\d|[a-zα-ω](?![^\W_]))"  # a number, or a variable: a letter that stands alone
_SPACED = re.compile(
    rf"(?<=\d)\s+(?=[%‰])|(?<=[<>≤≥≠±≈√])\s+(?=[\d.])|(?<=\d,)\s+(?=\d)(?!\d{{3}}(?!\d))"
    rf"|(?:(?<=\d)|(?<=(?<![^\W\d_])[a-zα-ω]))\s+(?P<operator>[-+*/:=<>^]|x(?=\s+\d))\s+(?={_OPERAND})"
)
_SPACED_UNIT = re.compile(r"(?<=\d)\s+(?=[a-z°µμω])")
_NUMBER = re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][+-]?\d+)?")
_BRACKETED = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+")


def squeezed(text: str) -> str:
    """Return the text with runs of white space as one space, and none at the ends."""
    return " ".join(text.split())


def exact(prediction: str, target: Target) -> float:
    """Return 1.0 where prediction and an answer agree without regard to case, punctuation and white space, else 0.0.

    Numbers compare as numbers: "1,000" is "1000", "5.0" is "5" and "+5" is "5", but "1.5" is not "15". Marks that make another
    number stay: signs, points, and what stands between two digits ("3:00", "1/2", "2-3"), as do "%", "<", ">" and "+" beside a
    number, operators between numbers and single letters ("x-5", "1/x", "2^x"), and the mark of inches; "50%" is not "50". The
    space around an operator and before a unit is none: "5 - 3" is "5-3", and "3:00 pm" is "3:00pm". A currency sign on one side
    alone is left aside, as a unit that was not asked for; two must agree.
    Other units stay texts. Unicode is folded (`folding.folded`). An answer of punctuation alone is compared as it is.

    >>> exact("Yes.", Target(("yes",))), exact("1.5", Target(("15",))), exact("红色。", Target(("红色",)))
    (1.0, 0.0, 1.0)
    """
    given = _plain(prediction)
    return float(any(_same(given, _plain(answer)) for answer in target.answers))


def contains(prediction: str, target: Target) -> float:
    """Return 1.0 where the prediction contains an answer, without regard to case and in folded Unicode, else 0.0.

    OCRBench (arXiv:2305.07895), section 3; ours is that a number is not contained in a longer one. For handwritten formulas
    (``target.compact``) white space is left out and case counts, as in its code.

    >>> contains("It says COFFEE.", Target(("coffee",))), contains("15", Target(("5",)))
    (1.0, 0.0)
    """
    if target.compact:
        text = _packed(prediction)
        return float(any(answer and answer in text for answer in map(_packed, target.answers)))
    text = _on_one_line(prediction)
    return float(any(answer and _within(answer, text) for answer in map(_on_one_line, target.answers)))


def _on_one_line(text: str) -> str:
    return folded(text).lower().strip().replace("\n", " ")


def _within(answer: str, text: str) -> bool:
    """Whether the answer stands in the text, and not as a part of a longer number."""
    start = text.find(answer)
    while start >= 0:
        before, behind = text[:start][-3:], text[start + len(answer) :][:2]
        inside = answer[0].isdigit() and re.search(r"\d[.,]?$|(?:^|[^\w.)])-$|(?:^|[\s(-])\.$", before)
        inside = inside or (answer[-1].isdigit() and re.match(r"[.,]?\d", behind))
        if not inside:
            return True
        start = text.find(answer, start + 1)
    return False


def anls(prediction: str, target: Target, threshold: float = 0.5) -> float:
    """Return the normalised Levenshtein similarity to the nearest answer: 1 - distance / length, and 0 under the threshold.

    Its average over questions is ANLS: Biten et al. 2019 (arXiv:1905.13648), equation 1, as the DocVQA evaluation computes
    it. The distance is of texts in lower case with single spaces, the length is that of the longer text as given; ours is that
    composed and decomposed accents are the same.

    >>> anls("1987", Target(("1978",)))
    0.5
    """
    given = unicodedata.normalize("NFC", prediction)
    least = min(_distance_share(given, unicodedata.normalize("NFC", answer)) for answer in target.answers)
    return 1.0 - least if 1.0 - least >= threshold else 0.0


def relaxed(prediction: str, target: Target, tolerance: float = 0.05) -> float:
    """Return 1.0 where a number is within 5 % of the answer, or a text is the answer without regard to case, else 0.0.

    ChartQA (arXiv:2203.10244), section 5.1, after Methani et al. 2020. "5%" is 0.05, as in the code that lmms-eval
    took over; ours are the thousands separators, a zero that only a zero equals, and folded Unicode (a minus sign of any kind).

    >>> relaxed("1,040", Target(("1000",)))
    1.0
    """
    return float(any(_close(folded(prediction).strip(), folded(answer).strip(), tolerance) for answer in target.answers))


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


_CURRENCY = re.compile(r"[$€£¥₹]")


def _same(given: str, right: str) -> bool:
    if bool(_CURRENCY.search(given)) != bool(_CURRENCY.search(right)):
        return squeezed(_CURRENCY.sub("", given)) == squeezed(_CURRENCY.sub("", right))
    return given == right


def _plain(text: str) -> str:
    """The text in lower case, its numbers in one form, and without the punctuation that changes no number."""
    text = squeezed(folded(folded(text).casefold()))
    for ascii_mark, mark in ((">=", "≥"), ("<=", "≤"), ("!=", "≠")):
        text = text.replace(ascii_mark, mark)
    text = _SPACED.sub(lambda match: match["operator"] or "", text)
    bare = squeezed(_PUNCTUATION.sub(_kept, _IN_TEXT.sub(_one_form, text)))
    return _SPACED_UNIT.sub("", bare) or text


def _one_form(match: re.Match[str]) -> str:
    """A number without thousands separators, zeros at its ends, a plus sign, and an exponent that a shift of the point spares."""
    whole, _, part = match["digits"].replace(",", "").partition(".")
    power = int(match["power"][1:]) if match["power"] else 0
    digits, shift = (whole + part).lstrip("0"), power - len(part)
    while digits.endswith("0"):
        digits, shift = digits[:-1], shift + 1
    if 0 <= shift < 400:
        digits, shift = digits + "0" * shift, 0
    elif -400 < shift < 0:
        digits = digits.rjust(1 - shift, "0")
        digits, shift = f"{digits[:shift]}.{digits[shift:]}", 0
    number = (digits or "0") + (f"e{shift}" if shift and digits else "")
    sign = "-" if match["sign"] == "-" and number != "0" else ""
    return f"{(match['currency'] or match['unit'] or '').strip()}{sign}{number}"


def _kept(match: re.Match[str]) -> str:
    """What stays of a run of marks: all of it between two digits; signs and operators; currencies; symbols that are no marks."""
    text, start, end = match.string, match.start(), match.end()
    before, behind = text[start - 1 : start], text[end : end + 1]
    if before.isdigit() and behind.isdigit():
        return match[0]
    kept = ""
    for place, mark in enumerate(match[0], start):
        after, ahead = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
        variable_after = _is_variable(text, place - 1)
        variable_ahead = _is_variable(text, place + 1)
        signed = ahead.isdigit() or (ahead == "." and text[place + 2 : place + 3].isdigit())
        sign = mark in "-<>." and (signed or (mark in "<>" and ahead in ("-", "+"))) and not after.isalnum()
        sign = sign or (mark == "-" and not after.isalnum() and (variable_ahead or ahead in ("∞", "√")))
        unit = mark in "%‰+" and (after.isdigit() or text[max(0, place - 2) : place].rstrip()[-1:].isdigit())
        operator = mark in "-+*=<>" and (after.isdigit() or variable_after) and (signed or variable_ahead or ahead in ("-", "+"))
        operator = operator or (mark == "/" and (after.isdigit() or ahead.isdigit()) and after.isalnum() and ahead.isalnum())
        operator = operator or (mark == "^" and (ahead.isalnum() or ahead in ("-", "(")))
        inches = mark in "'\"" and after.isdigit() and not ahead.isalnum() and text.find(mark, 0, place) < 0
        other = unicodedata.category(mark)[0] not in "PS" or (unicodedata.category(mark)[0] == "S" and not mark.isascii())
        money = mark == "$" and (ahead.isdigit() or ahead in ("-", "."))
        kept += mark if sign or unit or operator or inches or other or money else ""
    return kept


def _is_variable(text: str, place: int) -> bool:
    """Whether a Latin or Greek letter that stands alone is at a place of the text."""
    letter = text[place : place + 1] if place >= 0 else ""
    alone = not text[max(0, place - 1) : max(0, place)].isalpha() and not text[place + 1 : place + 2].isalnum()
    return ("a" <= letter <= "z" or "α" <= letter <= "ω") and alone


def _packed(text: str) -> str:
    return "".join(text.split())


def _close(prediction: str, answer: str, tolerance: float) -> bool:
    given, right = number(prediction), number(answer)
    if given is None or right is None:
        return prediction.lower() == answer.lower()
    if given == right:
        return True  # too large for a difference, perhaps
    return abs(given - right) <= tolerance * abs(right)


def number(text: str) -> float | None:
    """Read the whole text as a number, with thousands separators and a percent sign; None where it is no number.

    >>> number("1,234.5"), number("12%"), number("12,34"), number("inf"), number("−３")
    (1234.5, 0.12, None, None, -3.0)
    """
    text = folded(text).strip()
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
