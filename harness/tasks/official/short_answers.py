"""The rules by which lmms-eval scores short free answers: GQA, VQAv2, TextVQA, ChartQA, DocVQA and OCRBench."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import mean

from harness.tasks.official.exact import same
from harness.tasks.rules import Judgement
from harness.tasks.scoring import levenshtein, squeezed
from harness.tasks.target import Target
from harness.tasks.vqa import normalised, tokenised

STOPS = int(re.UNICODE)
"""How many full stops go: EvalAI's code hands the flag to ``re.sub`` where the count belongs, and the flag is the number 32."""
TOLERANCE, LEAST_SIMILAR = 0.05, 0.5
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def gqa(prediction: str, target: Target) -> Judgement:
    """Judge as ``exact_match`` with ``ignore_case`` and ``ignore_punctuation`` does; white space inside counts.

    >>> gqa(" Yes.", Target(("yes",))).score
    1.0
    """
    return Judgement(float(same(prediction.strip(), target.answers[0])))


def vqav2(prediction: str, target: Target) -> Judgement:
    """Judge as ``vqav2_process_results`` does; under four answers nothing is wholly right.

    >>> vqav2("two", Target(("2",) * 4 + ("3",) * 6)).score
    1.0
    """
    return _by_people(prediction, target, normalised)


def textvqa(prediction: str, target: Target) -> Judgement:
    """Judge as ``textvqa_process_results`` does, which also takes commas, question marks and possessives apart.

    >>> textvqa("Nokia?", Target(("nokia",) * 10)).score
    1.0
    """
    return _by_people(prediction, target, tokenised)


def _by_people(prediction: str, target: Target, normalise: Callable[[str, int], str]) -> Judgement:
    """Mean over the people of how many of the others agree, three being all of it."""
    given = normalise(prediction, STOPS)
    agrees = [normalise(answer, STOPS) == given for answer in target.answers]
    return Judgement(float(mean(min(1, (sum(agrees) - own) / 3) for own in agrees)))


def chartqa(prediction: str, target: Target) -> Judgement:
    """Judge as ``relaxed_correctness`` does: within 5 % of a number other than 0, else the same text whatever the case.

    >>> [chartqa(text, Target(("1000",))).score for text in ("1_040", "1,000")]
    [1.0, 0.0]
    """
    text, answer = prediction.strip(), target.answers[0]
    given, right = _number(text), _number(answer)
    if given is not None and right:
        return Judgement(float(abs(given - right) / abs(right) <= TOLERANCE))
    return Judgement(float(text.lower() == answer.lower()))


def _number(text: str) -> float | None:
    """What Python's ``float`` reads, "nan", "1_000" and digits of other scripts too; of a text that ends in "%" a hundredth."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def docvqa(prediction: str, target: Target) -> Judgement:
    """Judge as ``anls`` of lmms-eval does: one minus the least share of characters to edit, and 0 under a half.

    >>> docvqa("1987", Target(("1978",))).score
    0.5
    """
    text = prediction.strip()
    similar = 1.0 - min(_edited(text, answer) for answer in target.answers)
    return Judgement(similar if similar >= LEAST_SIMILAR else 0.0)


def _edited(text: str, answer: str) -> float:
    """The distance of the texts in lower case with single spaces, over the length of the longer one as it is in capitals."""
    length = max(len(answer.upper()), len(text.upper()))
    return levenshtein(squeezed(answer.lower()), squeezed(text.lower())) / length if length else 0.0


def ocrbench(prediction: str, target: Target) -> Judgement:
    """Judge as ``ocrbench_process_results`` does: an answer is inside, whatever the case; a blank one is inside everything.

    In formulas of HME100k (``target.compact``) case counts and spaces do not.

    >>> ocrbench("It says ＣＯＦＦＥＥ", Target(("coffee",))).score
    1.0
    """
    fold = _packed if target.compact else _folded
    text = fold(prediction.strip())
    return Judgement(float(any(fold(answer) in text for answer in target.answers)))


def _folded(text: str) -> str:
    return text.translate(_HALF_WIDTH).lower().strip().replace("\n", " ")


def _packed(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
