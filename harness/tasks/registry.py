"""The tasks by name."""

from __future__ import annotations

from importlib import import_module

from harness.errors import RequestError, nearest
from harness.tasks.base import Task, TaskInfo

BUNDLED = {"shapes": "harness.tasks.shapes.task:ShapesTask"}


def create(name: str) -> Task:
    """The task of that name; `RequestError` with the nearest choice where there is none."""
    if name not in BUNDLED:
        raise RequestError(f"unknown task {name!r}; {nearest(name, BUNDLED)}")
    module, _, attribute = BUNDLED[name].partition(":")
    return getattr(import_module(module), attribute)()


def infos() -> list[TaskInfo]:
    return [create(name).info for name in BUNDLED]
