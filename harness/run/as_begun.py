"""How a run that goes on scores its answers and how long they may be: as it began, whatever a new run would do by now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.run.config import CompareConfig
from harness.run.manifest import add_notes
from harness.tasks.base import attribute
from harness.tasks.rule_names import OURS
from harness.tasks.rules import scored_by

if TYPE_CHECKING:
    from harness.store.runs import RunFolder
    from harness.tasks.base import Task


def long_as_begun(run: RunFolder, config: CompareConfig, task: Task) -> CompareConfig:
    """Return a request whose answers may be as long as those that a run holds, where the task allows another length by now.

    Args:
        run: that goes on.
        config: the request.
        task: of the request.
    """
    known = run.manifest().get("task_info", {}).get("answer_tokens")
    if config.max_new_tokens is not None or known in (None, task.info.answer_tokens):
        return config
    add_notes(
        run, [f"answers end at {known} tokens, as those do that the run began with; a new run allows {task.info.answer_tokens}"]
    )
    return replace(config, max_new_tokens=known)


def led_as_begun(run: RunFolder, task: Task) -> Task:
    """Return a task led by the rule by which a run scores its answers; ours for a run of a version without others.

    Args:
        run: that goes on.
        task: of its request.

    Raises:
        RequestError: where the task has that rule no more.
    """
    scoring = run.manifest().get("scoring")
    if scoring is None and task.info.scored and attribute(task, "rules"):
        add_notes(run, ["answers were scored by the rule of an older version, those of this version by ours, which may differ"])
    return scored_by(task, OURS if scoring is None else scoring["rule"])
