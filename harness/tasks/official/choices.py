"""The rules by which lmms-eval scores multiple choice in ScienceQA, SEED-Bench and AI2D; MMBench's has a file of its own."""

from __future__ import annotations

import re
from string import ascii_uppercase

from harness.tasks.official.exact import compared, same
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

_LETTER_AND_STOP = re.compile(r"\s*([A-Z])\.")


def scienceqa(prediction: str, target: Target) -> Judgement:
    """Judge as ``sqa_process_results`` does: the letter alone, in either case, or a capital and a full stop at the start.

    >>> [scienceqa(text, Target(("B",))).score for text in ("b", "B. a dog", "b. a dog", "The answer is B.")]
    [1.0, 1.0, 0.0, 0.0]
    """
    text, right = prediction.strip(), target.answers[0].lower()
    said = text
    if text.lower() != right and text[:1].isupper() and text[1:2] == ".":
        said = text[0]
    return Judgement(float(said.lower() == right), _option(said, target))


def seedbench(prediction: str, target: Target) -> Judgement:
    """Judge as ``seed_process_result`` does: the first character is the letter, so that "Because" is B.

    >>> seedbench("because of that", Target(("B",))).score, seedbench("(B)", Target(("B",))).score
    (1.0, 0.0)
    """
    said = prediction.strip()[:1]
    return Judgement(float(said.lower().strip() == target.answers[0].lower()), _option(said, target))


def ai2d(prediction: str, target: Target) -> Judgement:
    """Judge as the task's filter and ``exact_match`` do: a capital and a full stop at the start, else the whole answer.

    The whole answer is compared without regard to case and ASCII punctuation.

    >>> [ai2d(text, Target(("B",))).score for text in ("(b)", "B. a dog", "B a dog")]
    [1.0, 1.0, 0.0]
    """
    match = _LETTER_AND_STOP.match(prediction)
    said = match[1] if match else prediction.strip()
    return Judgement(float(same(said, target.answers[0])), _option(compared(said), target))


def _option(said: str, target: Target) -> str | None:
    """The letter that was read, where an option has it."""
    letters = ascii_uppercase[: len(target.choices)] if target.choices else ascii_uppercase
    letter = said.upper()
    return letter if len(letter) == 1 and letter in letters else None
