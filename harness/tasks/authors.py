"""The rules of the authors of POPE and ScienceQA, which differ from lmms-eval's and which many papers report.

POPE: ``evaluate.py`` of RUCAIBox/POPE (kept at AoiDragon/POPE, commit f3ec604), by which LLaVA's ``eval_pope.py`` scores too.
ScienceQA: ``models/run_gpt3.py`` of lupantech/ScienceQA (commit 360b71c). LLaVA's ``eval_science_qa.py`` is another rule, which
also takes a letter alone or a letter with a full stop at the start, and draws none.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.rule_names import AUTHORS
from harness.tasks.rules import Judgement, ScoringRule
from harness.tasks.target import Target

_DENIALS = {"No", "no", "not"}
_CONCLUSION = re.compile(r"The answer is ([A-Z]).")  # the full stop of the pattern is any character, and one there must be
_OPTIONS = ascii_uppercase[:5]


def pope(prediction: str, target: Target) -> Judgement:
    """Judge as POPE's ``evaluate.py`` does: "no" where the first sentence has the word "No", "no" or "not", else "yes".

    Words are what spaces set apart once commas are gone, so that "NO" and "No!" say yes, as an empty answer does.

    >>> [pope(text, Target(("no",))).read for text in ("No, there is none", "It is not", "no!", "")]
    ['no', 'no', 'yes', 'yes']
    """
    sentence = prediction.partition(".")[0].replace(",", "")
    said = "no" if _DENIALS.intersection(sentence.split(" ")) else "yes"
    return Judgement(float(said == target.answers[0]), said)


def scienceqa(prediction: str, target: Target) -> Judgement:
    """Judge as ScienceQA's ``run_gpt3.py`` does: "The answer is B." once, and an option of that letter.

    Of any other answer that code draws an option at random: such an answer counts as wrong and is not decided.

    >>> scienceqa("The answer is B.", Target(("B",), ("no", "yes")))
    Judgement(score=1.0, read='B', decided=True)
    >>> scienceqa("B", Target(("B",), ("no", "yes")))
    Judgement(score=0.0, read=None, decided=False)
    """
    found = _CONCLUSION.findall(prediction.strip())
    if len(found) != 1 or found[0] not in _OPTIONS[: len(target.choices)]:
        return Judgement(0.0, decided=False)
    return Judgement(float(found[0] == target.answers[0]), found[0])


AUTHORS_RULES: dict[str, ScoringRule] = {
    "pope": ScoringRule(
        AUTHORS, "evaluate.py of RUCAIBox/POPE", pope, OwnFigure("f1", "F1", 100.0, (("unread_missed", True),))
    ),
    "scienceqa": ScoringRule(
        AUTHORS, "models/run_gpt3.py of lupantech/ScienceQA", scienceqa, ACCURACY, "draws an option at random"
    ),
}  # fmt: skip
"""The authors' rule of a benchmark, by the name of its task."""
