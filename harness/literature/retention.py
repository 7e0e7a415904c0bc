"""What a method retains by a published table: the mean over its tasks of value over the unpruned model's."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.literature.figures import UNKNOWN, PublishedFigure, metrics_apart
from methods.keep import Keep

_ALIKE = ("split", "metric", "tokens", "prompt")
"""Fields in which a value and the unpruned model's must agree for one over the other to mean anything."""


@dataclass(frozen=True)
class PublishedRetention:
    """The mean retention of a table's methods at one budget, all over the same tasks."""

    of: dict[str, float]  # by method; 1 is the unpruned model
    tasks: tuple[str, ...]  # over which it is the mean
    left_out: tuple[str, ...]  # methods that have no such mean, each with the reason: "fastv: the table has ..."


def published_retention(
    figures: Sequence[PublishedFigure], keep: Keep, tasks: Collection[str] | None = None
) -> PublishedRetention:
    """Return the mean retention of each method of a table at a budget.

    A value is divided by that value of the unpruned model which was measured alike: no known split, metric, prompt or number of
    tokens before pruning differs. A method that lacks a task, has no such value beside it or several, or of which the table has
    several versions, is left out, so that all means are of the same tasks.

    Args:
        figures: of one model in one table.
        keep: the budget.
        tasks: those that count; all that have a value of the unpruned model where not given.
    """
    whole: dict[str, list[PublishedFigure]] = {}
    for figure in figures:
        wanted = tasks is None or figure.task in tasks
        if figure.method == "none" and figure.keep == "all" and figure.number and wanted:
            whole.setdefault(figure.task, []).append(figure)
    here = [f for f in figures if f.budget == keep and f.task in whole and f.number is not None]
    columns = tuple(task for task in whole if any(figure.task == task for figure in here))
    found: dict[str, float] = {}
    left_out: list[str] = []
    for method in dict.fromkeys(figure.method for figure in here):
        own = [figure for figure in here if figure.method == method]
        beside = {figure.task: unpruned_alike(figure, whole[figure.task]) for figure in own}
        lacking = [task for task in columns if task not in beside]
        reasons = [f"{task} {reason}" for task, reason in beside.items() if isinstance(reason, str)]
        shares = [_share(figure, alike) for figure in own if isinstance(alike := beside[figure.task], PublishedFigure)]
        if len(own) > len(beside):
            left_out.append(f"{method}: the table has several values of it, of other versions or settings")
        elif lacking:
            left_out.append(f"{method}: the table has no value for {', '.join(lacking)}")
        elif reasons:
            left_out.append(f"{method}: {'; '.join(reasons)}")
        else:
            found[method] = sum(shares) / len(columns)
    return PublishedRetention(found, columns, tuple(left_out))


def unpruned_alike(figure: PublishedFigure, whole: Iterable[PublishedFigure]) -> PublishedFigure | str:
    """Return the unpruned model's figure that was measured as another figure was: what that is divided by.

    No known split, metric, prompt or number of tokens before pruning differs. One whose split and metric are known to be the same
    goes before others; where several are left, it is not known which.

    Args:
        figure: of a method.
        whole: figures of the unpruned model on the same task.

    Returns:
        That figure; else why there is none, as a clause.
    """
    whole = tuple(whole)
    alike = [one for one in whole if not any(_known_apart(field, one, figure) for field in _ALIKE)]
    same = [
        one for one in alike if all(getattr(one, field) == getattr(figure, field) != UNKNOWN for field in ("split", "metric"))
    ]
    if len(chosen := same if len(same) == 1 else alike) == 1:
        return chosen[0]
    if alike:
        return f"may be held against {len(alike)} values of the unpruned model, and which of them is not known"
    differing = [field for field in _ALIKE if whole and all(_known_apart(field, one, figure) for one in whole)]
    of = " and ".join(f"{field} {getattr(figure, field)}" for field in differing) or "the same settings"
    return f"has no value of the unpruned model of {of}"


def _share(figure: PublishedFigure, whole: PublishedFigure) -> float:
    """A figure over that of the unpruned model, both of which have a value, and this one not 0."""
    return (figure.number or 0.0) / (whole.number or math.nan)


def _known_apart(field: str, one: PublishedFigure, other: PublishedFigure) -> bool:
    """Whether a field is known of both figures and differs."""
    values = getattr(one, field), getattr(other, field)
    if field == "metric":
        return metrics_apart(*values)
    return UNKNOWN not in values and values[0] != values[1]
