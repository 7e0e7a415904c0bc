"""What a rule that scores answers is: ours, the official one of lmms-eval, or the one of a benchmark's authors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import RequestError
from harness.tasks.base import Task, attribute
from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.rule_names import OFFICIAL, OURS
from harness.tasks.target import Scorer, Target


@dataclass(frozen=True)
class Judgement:
    """What a rule says of one answer.

    ``decided`` is false where the rule's own code would ask a language model behind an API, or draw a letter at random: such an
    answer has the score 0 and is counted apart.
    """

    score: float  # in [0, 1]
    read: str | None = None  # what the rule took for the answer, "B" or "yes"; None where it found none, or reads none
    decided: bool = True


Judge = Callable[[str, Target], Judgement]
"""Judges a prediction by the right answers of its question."""


@dataclass(frozen=True)
class ScoringRule:
    """A rule that scores an answer, and the figure that a benchmark reports under it."""

    name: str  # one of `rule_names.RULES`
    function: str  # the code that it is, as a reader would look it up
    judge: Judge
    figure: OwnFigure = ACCURACY
    undecided: str = ""  # what its code does with an answer that it cannot decide, as a clause: "draws a letter at random"


@dataclass(frozen=True)
class Judged:
    """What all rules of a task say of one answer."""

    leading: Judgement  # of the rule that leads
    scores: Mapping[str, float]  # by each rule that the task has; empty for tasks that have but a `score`


def ours(rule: Scorer | Judge, figure: OwnFigure = ACCURACY) -> ScoringRule:
    """Return our own rule that a function of this package is.

    Args:
        rule: gives a score, or a judgement.
        figure: that leads under it.
    """

    def judge(prediction: str, target: Target) -> Judgement:
        found = rule(prediction, target)
        return found if isinstance(found, Judgement) else Judgement(found)

    return ScoringRule(OURS, f"{rule.__module__}.{rule.__qualname__}", judge, figure)


def leading_rule(rules: Sequence[ScoringRule], name: str | None, task: str) -> ScoringRule:
    """Return the rule that leads: the named one; where none is named, the official one, else ours.

    Args:
        rules: of a task.
        name: one of `RULES`, or None.
        task: its name, for messages.

    Raises:
        RequestError: where the task has no such rule.
    """
    by_name = {rule.name: rule for rule in rules}
    chosen = name or (OFFICIAL if OFFICIAL in by_name else OURS)
    if chosen not in by_name:
        raise RequestError(f"--scoring {chosen}: task {task!r} has no such rule; choose {' or '.join(by_name)}")
    return by_name[chosen]


def scored_by(task: Task, name: str | None) -> Task:
    """Return a task whose answers are scored by a rule.

    Args:
        task: with several rules, or with none but its ``score``, which counts as ours.
        name: one of `RULES`; None for what leads by default.

    Raises:
        RequestError: where the task has no such rule.
    """
    led = attribute(task, "scored_by")
    if led is not None:
        found: Task = led(name)
        return found
    if name not in (None, OURS):
        raise RequestError(f"--scoring {name}: task {task.info.name!r} has no such rule; choose {OURS}")
    return task


def judged(task: Task, prediction: str, answer: str) -> Judged:
    """Return what the rules of a task say of an answer.

    Args:
        task: which may have but a ``score``.
        prediction: of a model.
        answer: the question's ``answer``.
    """
    judge = attribute(task, "judge")
    if judge is None:
        return Judged(Judgement(task.score(prediction, answer)), {})
    found: Judged = judge(prediction, answer)
    return found


def scoring_facts(task: Task) -> dict[str, Any] | None:
    """Return what a manifest says of the rules of a task: which leads, the code of each, and the figure that leads.

    Args:
        task: whose rule that leads is chosen.

    Returns:
        ``rule``, ``rules`` by name, ``undecided`` and ``figure``; None of a task without answers.
    """
    if not task.info.scored:
        return None
    rules: Sequence[ScoringRule] = attribute(task, "rules") or ()
    if not rules:
        kind = type(task)
        return {
            "rule": OURS, "rules": {OURS: f"{kind.__module__}.{kind.__qualname__}.score"}, "undecided": "",
            "figure": ACCURACY.stored(),
        }  # fmt: skip
    leading: ScoringRule = attribute(task, "leading")
    return {
        "rule": leading.name, "rules": {rule.name: rule.function for rule in rules}, "undecided": leading.undecided,
        "figure": leading.figure.stored(),
    }  # fmt: skip
