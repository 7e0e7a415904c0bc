"""VQA soft accuracy and the official normalisation of answers (VQA v2, arXiv:1612.00837; Antol et al. 2015).

An answer is right to the degree min(1, others who gave it / 3), averaged over leaving each person's answer out.
Answers are compared without punctuation, articles and case, numbers up to ten as digits, contractions with their
apostrophe: https://visualqa.org/evaluation.html
"""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.tasks.reading.folding import folded
from harness.tasks.target import Target

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_STOP = re.compile(r"\.(?!\d)")
_NEGATIVE = re.compile(r"\s*-\s*\.?\d")
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBERS)} | {"none": "0"}
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, character in enumerate(word) if character == "'"]


CONTRACTIONS = {wrong: word for word in _CONTRACTED.split() for wrong in _without_one_apostrophe(word)}
"""A contraction that lacks an apostrophe -> the contraction."""
CONTRACTIONS |= {"somebody'd": "somebodyd"}  # the official table turns this one round


def vqa(prediction: str, target: Target) -> float:
    """Return the soft accuracy of an answer as VQAv2 computes it.

    >>> vqa("two", Target(("2",) * 4 + ("3",) * 6))
    1.0
    """
    return _soft(prediction, target.answers, normalised)


def textvqa(prediction: str, target: Target) -> float:
    """Return the soft accuracy of an answer as TextVQA computes it, case, commas, question marks and possessives aside."""
    return _soft(prediction, target.answers, tokenised)


def _soft(prediction: str, answers: tuple[str, ...], normalise: Callable[[str], str]) -> float:
    """Mean over answers left out of min(1, agreeing others / 3); under four answers, 1 where any agrees."""
    given = _compared(prediction, normalise)
    agree = sum(_compared(answer, normalise) == given for answer in answers)
    if len(answers) < 4:
        return float(agree > 0)
    others = agree * min(1.0, (agree - 1) / 3) + (len(answers) - agree) * min(1.0, agree / 3)
    return others / len(answers)


def _compared(text: str, normalise: Callable[[str], str]) -> str:
    """The normalised text in folded Unicode; ours is that the minus of a number at its start stays."""
    text = folded(text)
    return ("-" if _NEGATIVE.match(text) else "") + normalise(text)


def normalised(text: str, stops: int = 0) -> str:
    """Return the text as the official VQA evaluation compares it, without its full stops; with ``stops``, without so many.

    >>> normalised("The dog doesnt have a 1,000-dollar leash.")
    "dog doesn't have 1000dollar leash"
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return _words(_without_marks(text, stops))


def tokenised(text: str, stops: int = 0) -> str:
    """Return the text as the TextVQA evaluation compares it; ``stops`` as in `normalised`.

    >>> tokenised("What's that?")
    "what 's that"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalised(text, stops)


def _without_marks(text: str, stops: int) -> str:
    """Marks beside a space, or in a text with a comma inside a number, go; others become a space; full stops go last."""
    numeric = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in _MARKS:
        alone = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if alone or numeric else " ")
    return _STOP.sub("", out, count=stops)


def _words(text: str) -> str:
    words = (_DIGITS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
