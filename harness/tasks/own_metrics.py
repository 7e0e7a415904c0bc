"""The metrics of users' own files: by name, with their parameters, and with the answers that each of them can score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from harness.errors import RequestError, nearest
from harness.tasks.choice import judge_choice
from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.reading.affirmation import judge_yes_no
from harness.tasks.reading.folding import folded
from harness.tasks.reading.numerals import TOLERANCE, judge_numeric, value
from harness.tasks.rule_names import OURS
from harness.tasks.rules import Judge, Judgement, ScoringRule, ours
from harness.tasks.scoring import anls, contains, exact, relaxed
from harness.tasks.target import Scorer, Target
from harness.tasks.vqa import vqa

METRICS: Mapping[str, Scorer | Judge] = {
    "exact": exact, "vqa": vqa, "anls": anls, "relaxed": relaxed, "choice": judge_choice, "contains": contains,
    "yes_no": judge_yes_no, "numeric": judge_numeric,
}  # fmt: skip
FIGURES = {"vqa": "VQA accuracy", "anls": "ANLS", "relaxed": "relaxed accuracy"}
"""The names of means of scores that are more than right and wrong, or right within a tolerance."""


@dataclass(frozen=True)
class Metric:
    """A metric of users' files, with its parameters."""

    name: str  # one of `METRICS`
    text: str  # as reports show it: "numeric[tolerance=0.05]"
    rule: ScoringRule
    checked: Callable[[str], str]  # an answer as it is stored; a ValueError says what is wrong with one that cannot be scored


def metric_of(task: str, expression: str) -> Metric:
    """Return the metric of ``name`` or ``numeric[tolerance=SHARE]``.

    Args:
        task: the task's name, for messages.
        expression: what the user wrote behind ``metric=``.

    Raises:
        RequestError: for an unknown name or parameter, and a tolerance that is no share.
    """
    name, bracket, inside = expression.partition("[")
    name = name.strip()
    if name not in METRICS or (bracket and not inside.rstrip().endswith("]")):
        raise RequestError(f"task {task!r}: unknown metric {expression[:60]!r}; {nearest(name, METRICS)}")
    parameters = _parameters(task, name, inside.rstrip()[:-1]) if bracket else {}
    if name == "numeric":
        return _numeric(task, parameters.get("tolerance"))
    rule = ours(METRICS[name], OwnFigure("mean", FIGURES.get(name, ACCURACY.name)))
    return Metric(name, name, rule, _yes_or_no if name == "yes_no" else str)


def _parameters(task: str, name: str, inside: str) -> dict[str, str]:
    from methods.registry import MethodError, parameters

    try:
        found = parameters(inside, f"metric {name!r} of task {task[:60]!r}")
    except MethodError as error:
        raise RequestError(str(error)) from None
    for key in found:
        if name != "numeric":
            raise RequestError(f"task {task!r}: metric {name!r} takes no parameters; 'numeric' takes tolerance")
        if key != "tolerance":
            raise RequestError(f"task {task!r}: metric 'numeric' has no parameter {key[:40]!r}; {nearest(key, ['tolerance'])}")
    return found


def _numeric(task: str, given: str | None) -> Metric:
    tolerance = TOLERANCE if given is None else _share(given)
    if tolerance is None or not 0 <= tolerance < 1:
        raise RequestError(
            f"task {task!r}: tolerance is {str(given)[:40]!r}; give a share of the right answer from 0 to under 1, such as 0.05"
        )

    def judge(prediction: str, target: Target) -> Judgement:
        return judge_numeric(prediction, target, tolerance)

    text = f"numeric[tolerance={float(tolerance):g}]"
    function = f"{judge_numeric.__module__}.{judge_numeric.__qualname__}, tolerance {float(tolerance):g}"
    return Metric("numeric", text, ScoringRule(OURS, function, judge), _number)


def _share(text: str) -> Fraction | None:
    share = value(text.removesuffix("%"))
    return None if share is None else share / 100 if text.endswith("%") else share


def _number(answer: str) -> str:
    if value(answer.strip().removesuffix("%")) is None:
        raise ValueError(f"is {answer[:40]!r}, no number, which metric 'numeric' needs")
    return answer


def _yes_or_no(answer: str) -> str:
    plain = folded(answer).strip().rstrip(".").lower()
    if plain not in ("yes", "no"):
        raise ValueError(f"is {answer[:40]!r}, neither yes nor no, which metric 'yes_no' needs")
    return plain
