"""Numbers in free text: what number an answer gives, and whether it is near enough to the right one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from harness.tasks.reading.folding import folded, spoken
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

TOLERANCE = Fraction(1, 20)
"""The tolerance of `numeric` where none is given: 5 % of the right answer, as relaxed accuracy has it."""

_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_TIMES_TEN = r"(?:[eE][+-]?\d{1,3}(?!\d)|\s*[x*·]\s*10\s*\^\s*\(?[+-]?\d{1,3}\)?)"
_PLAIN = re.compile(
    rf"(?P<sign>[+-]?)(?:(?P<whole>\d{{1,9}})\s+(?=\d+/))?(?P<digits>{_DIGITS})(?P<times>{_TIMES_TEN})?(?:/(?P<by>\d{{1,9}}))?"
)
_MARKS = r"[.,:/^'-]"
_FOUND = re.compile(
    rf"(?<![\w.^])(?<![A-Za-z]-)(?:(?<![\d)]\s)(?<!\d)[+-]\s?(?=[$€£¥]?\s?[\d.])|(?:minus|negative)\s+(?=[\d.]))?[$€£¥]?\s?(?:\d{{1,9}}\s+(?=\d+/\d))?"
    rf"(?:{_DIGITS})(?:{_TIMES_TEN})?(?:/\d{{1,9}})?",
    re.IGNORECASE,
)
_UNREADABLE = re.compile(
    rf"{_MARKS}*\d|[\^_]|\+(?!\s*\d)|\s?(?:or|and)\s+(?:more|less|fewer|above|below|over|under|up)\b|\s?(?:[kKMBT]|bn|mn)\b"
    r"|[\s-]+(?:and\s+(?:an?|one)[\s-]+)?(?:half|halves|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand|million"
    r"|billion)ths?|dozens?|score|grand|lakh|crore|point|squared|cubed|factorial|doubled|tripled)\b"
    r"|\s?(?i:mil|mio|mln)\b|\s[A-Za-z]+\s+and\s+an?\s+(?:half|third|quarter)\b"
)
"""Begins behind digits or words that are a part of a number written otherwise: "5:00", "5k", "two thirds", "3 dozen"."""
_ORDINAL = re.compile(r"(?:st|nd|rd|th|[-]?[A-Za-z]*\d)\b", re.IGNORECASE)
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE)
_SMALL = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
"""
_TENFOLD = "twenty thirty forty fifty sixty seventy eighty ninety"
_UNITS = {word: number for number, word in enumerate(_SMALL.split())}
_TENS = {word: 10 * number for number, word in enumerate(_TENFOLD.split(), 2)}
_WORD = "|".join((*_UNITS, *_TENS, *_LARGE))
_IN_WORDS = re.compile(
    rf"(?<![\w-])(?:(?:minus|negative)\s+)?(?:{_WORD})(?:(?:\s+and\s+|[\s-]+)(?:{_WORD}))*(?![\w])(?!-[a-z])", re.IGNORECASE
)
_NO_COUNT = re.compile(
    r"\b(?:the|this|that|which|no|any|every|each|some|another|other|only|last|first|the\s+\w+)\s+$", re.IGNORECASE
)
_NOT_MEANT = re.compile(
    r"(?:\bnot|n't|\brather\s+than|\binstead\s+of)(?:\s+(?:be|exactly|equal|to|there|are|is|have|has|just|only))*\s*$",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:\b(?:more|less|fewer|greater|larger|smaller|higher|lower)\s+than|\b(?:over|under|above|below|beyond|at\s+least|at\s+most|up\s+to"
    r"|no\s+(?:more|less|fewer)\s+than|not\s+(?:more|less|fewer)\s+than|nearly\s+up\s+to|exceeds?|maximum\s+of|minimum\s+of)|[<>≤≥±√]"
    r"|(?:[+-]|\b(?:minus|negative)\s)\s?/?[+-]|\b(?:half|third|quarter|tenth|dozen)(?:\s+(?:an?|of|past|to))*|\b(?:point|twice|thrice|double|triple|(?:ten|dozen|hundred|thousand|million)s\s+of|few|several|couple(?:\s+of)?"
    r"|root\s+of|logarithm\s+of))\s*$",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"(?:\banswer\s*(?:is|would\s+be|must\s+be|should\s+be|[:=])|\bfinal\s+answer\b[:\s]*|\\boxed\s*\{|####)\s*", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")


def numeric(prediction: str, target: Target, tolerance: Fraction = TOLERANCE) -> float:
    """Return 1.0 where the one number that a text gives is within the tolerance of an answer, else 0.0.

    Args:
        prediction: free text, read by `number_in`.
        target: answers that `number_in` reads.
        tolerance: a share of the right answer, as in relaxed accuracy (ChartQA, arXiv:2203.10244, section 5.1); only zero
            equals zero.

    >>> numeric("about 5 apples", Target(("5",))), numeric("between 3 and 5", Target(("5",)))
    (1.0, 0.0)
    """
    return judge_numeric(prediction, target, tolerance).score


def judge_numeric(prediction: str, target: Target, tolerance: Fraction = TOLERANCE) -> Judgement:
    """Return the score of `numeric`, and the number that was read, as a text.

    >>> judge_numeric("1,234.5 km", Target(("1234.5",)))
    Judgement(score=1.0, read='1234.5', decided=True)
    """
    given = number_in(prediction)
    if given is None:
        return Judgement(0.0)
    wanted = (number_in(answer) for answer in target.answers)
    near = any(right is not None and abs(given - right) <= tolerance * abs(right) for right in wanted)
    return Judgement(float(near), f"{float(given):.12g}")


def number_in(text: str) -> Fraction | None:
    """Return the one number that a text gives, in digits or in English words; None where there is none, or several.

    Signs (U+2212 and "minus" too), thousands separators, decimal points, powers of ten ("1.5e3", "2 × 10^3"), fractions
    ("1/2") and "million" are part of a number. Units, a percent sign and a currency among them, are not: "5 %" is 5.
    A number that is given twice is one. Behind "the answer is" that one alone counts; one behind "not" is left out.
    What is a bound ("more than 5", "5+"), a time ("3:00"), a date, a decimal comma ("1,5"), a short form ("5k", "5 M") or a
    fraction or a multiple in words ("two thirds", "5 and a half", "half a million", "3 dozen") gives no
    number, nor do ordinals, digits inside names ("B2"), and "one" where it is a pronoun ("the one on the left").

    >>> number_in("about 5 apples"), number_in("−3 °C"), number_in("twenty-five"), number_in("3:00"), number_in("3 or 4")
    (Fraction(5, 1), Fraction(-3, 1), Fraction(25, 1), None, None)
    """
    text = folded(spoken(text)).replace("**", "")
    if text.strip(" .!").lower() == "none":
        return Fraction(0)
    concluded = list(_CONCLUSION.finditer(text))
    if concluded:
        behind = text[concluded[-1].end() :].lstrip("*$ \n")
        end = _SENTENCE_END.search(behind)
        found = _distinct(behind[: end.start()] if end else behind)
        if found != set():
            return _only(found)
    return _only(_distinct(text))


def value(text: str) -> Fraction | None:
    """Return the number that the whole text is, in digits or in a word; None where it is no number, or more than that.

    >>> value("1,000"), value("two"), value("5 km"), value("1:00")
    (Fraction(1000, 1), Fraction(2, 1), None, None)
    """
    text = folded(text).strip()
    match = _PLAIN.fullmatch(text)
    if match is not None:
        return _of_digits(match)
    return _of_words(text) if len(text) < 80 and _IN_WORDS.fullmatch(text) else None


def _only(found: set[Fraction | None]) -> Fraction | None:
    return next(iter(found)) if len(found) == 1 else None


def _distinct(text: str) -> set[Fraction | None]:
    """The numbers that a text gives; None among them for what looks like one and is not."""
    return {number for number, meant in [*_in_digits(text), *_in_words(text)] if meant}


def _in_digits(text: str) -> Iterator[tuple[Fraction | None, bool]]:
    for match in _FOUND.finditer(text):
        before, behind = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 24]
        if _ORDINAL.match(behind) and not _UNREADABLE.match(behind):
            continue
        number = None
        if not _UNREADABLE.match(behind) and not _BOUND.search(before + match[0][:1].strip("0123456789.$€£¥")):
            written = re.sub(r"(?i)minus\s+|negative\s+", "-", match[0])
            plain = _PLAIN.fullmatch(re.sub(r"[$€£¥]\s?", "", re.sub(r"^([+-])\s", r"\1", written)).strip())
            number = None if plain is None else _of_digits(plain)
            scale = _SCALE.match(behind)
            if number is not None and scale is not None:
                number *= _LARGE[scale[1].lower()]
        yield number, _NOT_MEANT.search(before) is None


def _in_words(text: str) -> Iterator[tuple[Fraction | None, bool]]:
    for match in _IN_WORDS.finditer(text):
        before, behind = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 24]
        words = match[0].lower()
        if words in _LARGE and re.search(r"[\d.]\s*$", before):
            continue  # "3 million" was read with its digits
        if words == "one" and (
            _NO_COUNT.search(before) or re.match(r"\s+(?:of|that|who|which|with|can|could|another)\b", behind)
        ):
            continue
        bound = _BOUND.search(before) or _UNREADABLE.match(behind)
        yield None if bound else _of_words(words), _NOT_MEANT.search(before) is None


def _of_digits(match: re.Match[str]) -> Fraction | None:
    """The value of what `_PLAIN` matched; None beyond a float's range, or over zero."""
    text = match["digits"].replace(",", "")
    power = int(re.sub(r"^(?:[eE]|\s*[x*·]\s*10\s*\^)|[\s()]", "", match["times"])) if match["times"] else 0
    if len(text) > 400 or abs(power) > 308 or (match["by"] and int(match["by"]) == 0):
        return None
    number = Fraction(text) * Fraction(10) ** power / (int(match["by"]) if match["by"] else 1) + int(match["whole"] or 0)
    return -number if match["sign"] == "-" else number


def _of_words(text: str) -> Fraction | None:
    """The value of "two hundred and five"; None of words that make no number, such as "three four"."""
    total, part, least = 0, 0, 10**18
    words = re.split(r"[\s-]+", text.lower())
    sign = -1 if words[0] in ("minus", "negative") else 1
    for word in words[1:] if sign < 0 else words:
        if word == "and":
            continue
        size = _UNITS.get(word, _TENS.get(word))
        if size is not None:
            fits = part == 0 or (part % 100 == 0 and part > 0) or (size < 10 and size > 0 and part % 10 == 0 and part % 100 >= 20)
            if not fits or (part % 100 and word in _TENS):
                return None
            part += size
        elif word == "hundred":
            if part > 99:
                return None
            part = max(part, 1) * 100
        else:
            if _LARGE[word] >= least:
                return None
            least = _LARGE[word]
            total, part = total + max(part, 1) * least, 0
    return Fraction(sign * (total + part))
