"""Tasks: images, questions, answers, scoring. A plug-in needs the names below; docs/tasks.md shows one."""

from harness.tasks.base import Answered, ImageSample, Question, Task, TaskInfo
from harness.tasks.registry import register

__all__ = ["Answered", "ImageSample", "Question", "Task", "TaskInfo", "register"]
