"""The rules by which lmms-eval scores questions that are answered with yes or no: POPE and MME."""

from __future__ import annotations

from harness.tasks.rules import Judgement
from harness.tasks.target import Target

_LETTERS = {"y": "yes", "n": "no"}


def pope(prediction: str, target: Target) -> Judgement:
    """Judge as ``pope_process_results`` does: the whole answer must be the word, whatever its case.

    >>> pope(" Yes\\n", Target(("yes",))).score, pope("Yes.", Target(("yes",))).score
    (1.0, 0.0)
    """
    said = prediction.strip().lower()
    return Judgement(float(said == target.answers[0]), said if said in ("yes", "no") else None)


def mme(prediction: str, target: Target) -> Judgement:
    """Judge as ``mme_process_results`` does: "yes", else "no", within the first four characters once full stops are gone.

    >>> mme("Not at all", Target(("no",))).score, mme("It is not", Target(("no",))).score
    (1.0, 0.0)
    """
    text = prediction.strip().lower().replace(".", "")
    if len(text) == 1:
        said = _LETTERS.get(text)
    else:
        start = text[:4]
        said = next((word for word in ("yes", "no") if word in start), None)
    return Judgement(float(said == target.answers[0]), said)
