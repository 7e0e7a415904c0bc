"""What the sentences of an answer say of the options that they name: which are taken, which are ruled out, and how firmly.

A sentence is read mention by mention, or list by list ("A, C and D"): what stands between the mention before and this one, and
what stands between this one and the next, decide. `option_phrases` has the phrases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from harness.tasks.reading.option_mentions import MARK, place_of
from harness.tasks.reading.option_phrases import (
    ALL,
    ANSWER_BEFORE,
    ARE_WRONG,
    BUT,
    CLAUSES,
    CLOSING,
    CONCLUDES,
    CORRECTS,
    DESCRIBES,
    IF,
    IF_BEHIND,
    IS_RIGHT,
    LIKEWISE,
    LIST,
    NEXT,
    NONE,
    RIGHT_BEHIND,
    RULED_OUT_BEFORE,
    RULED_OUT_BEHIND,
    SINGULAR,
    TENTATIVE,
    VERDICT,
    is_opening,
)


class Firmness(IntEnum):
    """How firmly a sentence takes an option."""

    MENTIONED = 1  # "A has whiskers"
    GIVEN = 2  # "A", "A because ...", "It is A": nothing else in the place of an answer
    ANSWERED = 3  # "The answer is A", "A is correct"
    CONCLUDED = 4  # the same, or an option alone, behind "so", "but", "no, wait"; a boxed answer


@dataclass(frozen=True)
class Statement:
    """What is said of one option, or of several in one breath."""

    places: frozenset[int]  # the options, counted from 0
    taken: bool  # or ruled out
    firmness: Firmness
    line: int
    phrase: bool = False  # whether it is of the form "the answer is A"
    label: bool = False  # whether it is a letter at the start of a line, before a text: "A: has whiskers"


_MARKS = re.compile(MARK)
_ALONE = re.compile(rf"\W*{MARK}\W*")
_SENTENCE_END = re.compile(r"(?<=[.!?;])(?=\s)|(?<=[。!?;])|\n")
_LABEL = re.compile(r"\s*[:)-]\s*[^\s\uf8ff]")
_TICK = re.compile(rf"([✓✔✅☑✗✘❌✖🚫])\s*(\(?{MARK}\)?)")
_TICKED = re.compile(r"(?m)^\s*[✓✔✅☑✗✘❌✖🚫].*$")
"""Lines on which ticks stand before the options, not behind them."""
_ADDED = re.compile(
    rf"(?im)({MARK}\)?)[.!:;]\s+(?:(?:(?:or|and|but|also|maybe|perhaps|possibly|alternatively|additionally|likewise)[\s,]+)+(?:it\s+could\s+be\s+)?(?=\(?{MARK}\)?[\s.!]*$)"
    rf"|(?=\(?{MARK}\)?\s+(?:too|as\s+well)[\s.!]*$))(\(?{MARK})"
)
"""A sentence that adds an option to the one before, such as "Also C" behind "A"."""
_NUMBERED = re.compile(rf"({MARK}\)?)[.,;:]?\s+\d+[.):]\s*(?=\(?{MARK})")
"""Between the options of a numbered list: "1. A 2. B"."""
_NEAR = 110
"""Characters beside a mention that are looked at."""


def statements(text: str) -> Iterator[Statement]:
    """Yield what a text says of the options that it names, in its order.

    Args:
        text: as `option_mentions.marked` returns it.
    """
    text = _NUMBERED.sub(r"\1, ", text)
    text = _ADDED.sub(r"\1 and \2", _TICKED.sub(lambda line: _TICK.sub(r"\2 \1", line[0]), text))
    sentences = [
        (line, part) for line, whole in enumerate(text.split("\n")) for part in _SENTENCE_END.split(whole) if part.strip()
    ]
    carried, corrected = "", False
    for number, (line, sentence) in enumerate(sentences):
        corrected |= CORRECTS.match(sentence) is not None
        if _MARKS.search(sentence) is None:
            carried = sentence if len(sentence) < 40 and is_opening(sentence) else ""
            continue
        behind = sentences[number + 1][1] if number + 1 < len(sentences) else ""
        alone = corrected and _ALONE.fullmatch(sentence) is not None  # once a sentence: it may name thousands
        for one in _of_sentence(sentence, carried, behind, line):
            stands_alone = alone and one.firmness is Firmness.GIVEN
            if corrected and one.taken and (one.firmness is Firmness.ANSWERED or stands_alone):
                one, corrected = replace(one, firmness=Firmness.CONCLUDED), False
            yield one
        carried = ""


def _of_sentence(sentence: str, carried: str, following: str, line: int) -> Iterator[Statement]:
    lists = list(_parts(sentence))
    asked = sentence.rstrip().endswith("?")
    conditional = IF.search(sentence)
    last: Statement | None = None
    for number, (start, end, places) in enumerate(lists):
        begin = lists[number - 1][1] if number else 0
        stop = lists[number + 1][0] if number + 1 < len(lists) else len(sentence)
        before = sentence[max(begin, start - _NEAR) : start]
        behind = sentence[end : min(stop, end + _NEAR)] + (NEXT if stop < len(sentence) else "")
        if number and before.strip().lower() in ("yes", "no") and sentence[start] < "\ue040":
            before = ""  # of "A) no B) yes" it is the verdict on the letter before
        if number == 0 and carried:
            before = f"{carried} {before}"
        if asked and number == len(lists) - 1:
            verdict = VERDICT.match(following)
            if verdict is None and not (
                is_opening(before) and behind.strip() == "?" and not re.search(r"(?i)\b(?:is|are)\b", before)
            ):
                continue
            taken = verdict is None or verdict["no"] is None
            yield Statement(places, taken, Firmness.ANSWERED if verdict else Firmness.GIVEN, line)
        elif asked or _supposed(sentence, conditional, start, behind):
            continue
        else:
            said = _said(sentence, before, behind, places, line, start)
            if last is not None and LIKEWISE.search(before):
                said = replace(said, taken=last.taken, firmness=last.firmness)
            elif number and sentence[begin - 1] < "\ue040" <= sentence[start] and DESCRIBES.fullmatch(before):
                said = replace(said, firmness=Firmness.MENTIONED)
            label = number == 0 and not before.strip() and _LABEL.match(behind) is not None
            last = replace(said, label=label and said.firmness is Firmness.GIVEN)
            yield last


def _parts(sentence: str) -> Iterator[tuple[int, int, frozenset[int]]]:
    """Mentions and lists of them: start, end, options. "A and B is wrong" is two, and so is "not A, B"."""
    for match in LIST.finditer(sentence):
        marks = [(match.start() + found.start(), found[0]) for found in _MARKS.finditer(match[0])]
        cut = 0
        if len(marks) > 1:
            joint = sentence[marks[-2][0] + 1 : marks[-1][0]]
            denied = RULED_OUT_BEFORE.search(sentence[max(0, match.start() - _NEAR) : match.start()]) is not None
            only_singular = SINGULAR.match(sentence[match.end() : match.end() + 12]) and not re.search(
                r"\bor\b|\bnor\b|/|&", joint
            )
            if only_singular or (denied and len(marks) == 2 and joint.strip() == ","):
                cut = len(marks) - 1
        if cut:
            yield marks[0][0], marks[cut - 1][0] + 1, frozenset(place_of(one) for _, one in marks[:cut])
        yield marks[cut][0], match.end(), frozenset(place_of(one) for _, one in marks[cut:])


def _supposed(sentence: str, conditional: re.Match[str] | None, start: int, behind: str) -> bool:
    """Whether the mention stands under an "if", which says nothing of how things are."""
    if IF_BEHIND.match(behind):
        return True
    return (
        conditional is not None
        and conditional.start() < start
        and not re.search(r"\b(?:but|so|therefore)\b", sentence[conditional.end() : start])
    )


def _said(sentence: str, before: str, behind: str, places: frozenset[int], line: int, start: int) -> Statement:
    ruled_out_before = RULED_OUT_BEFORE.search(before) is not None
    ruled_out_behind = RULED_OUT_BEHIND.match(behind) is not None
    right = RIGHT_BEHIND.match(behind) is not None and not ruled_out_behind
    if BUT.search(before) and _others_are_wrong(sentence[max(0, start - _NEAR) : start + _NEAR]):
        return Statement(places, True, Firmness.ANSWERED, line)
    if ruled_out_before or ruled_out_behind:
        twice = ruled_out_before and ruled_out_behind
        return Statement(places, twice, Firmness.MENTIONED, line) if twice else Statement(places, False, Firmness.ANSWERED, line)
    phrase = ANSWER_BEFORE.search(before) is not None
    firmness = Firmness.MENTIONED
    if TENTATIVE.search(CLAUSES.split(before)[-1]) is None:
        if phrase or right:
            firmness = Firmness.ANSWERED
        elif is_opening(before) and CLOSING.match(behind):
            firmness = Firmness.GIVEN
        if firmness > Firmness.MENTIONED and CONCLUDES.search(before):
            firmness = Firmness.CONCLUDED
    return Statement(places, True, firmness, line, phrase)


def _others_are_wrong(text: str) -> bool:
    """Whether a sentence with "except B" says that all others are wrong, or that none is right."""
    return bool((ALL.search(text) and ARE_WRONG.search(text)) or (NONE.search(text) and IS_RIGHT.search(text)))
