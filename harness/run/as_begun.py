"""How a run that goes on scores its answers and how long they may be: as it began, whatever a new run would do by now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.run.config import CompareConfig
from harness.run.manifest import add_notes
from harness.tasks.base import attribute
from harness.tasks.rule_names import OURS

if TYPE_CHECKING:
    from harness.store.runs import RunFolder
    from harness.tasks.base import Task


def as_begun(run: RunFolder, config: CompareConfig, task: Task) -> CompareConfig:
    """Return a request that scores answers by the rule of a run, and lets them be as long as those that it holds.

    Both are said in the request, so that every process that answers keeps to them. Ours is the rule of a run of a version that
    knew no other.

    Args:
        run: that goes on.
        config: the request.
        task: of the request.
    """
    manifest = run.manifest()
    scoring, length = manifest.get("scoring"), manifest.get("task_info", {}).get("answer_tokens")
    if scoring is None and task.info.scored and attribute(task, "rules"):
        add_notes(run, ["answers were scored by the rule of an older version, those of this version by ours, which may differ"])
    config = replace(config, scoring=OURS if scoring is None else scoring["rule"])
    if config.max_new_tokens is not None or length in (None, task.info.answer_tokens):
        return config
    now = task.info.answer_tokens
    add_notes(run, [f"answers end at {length} tokens, as those do that the run began with; a new run allows {now}"])
    return replace(config, max_new_tokens=length)
