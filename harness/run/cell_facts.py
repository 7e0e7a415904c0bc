"""Facts of a cell, stored beside its answers: as planned, and as measured where a method decides from the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.run.plan import Cell
from harness.run.prepare import PreparedRun
from methods.keep import keep_facts
from methods.registry import family
from methods.schedule import schedule
from methods.types import ModelShape, Schedule
from metrics.flops import flops

Facts = dict[str, Any]
"""What is known of a cell, as ``cells.facts`` holds it in JSON."""
Planned = tuple[ModelShape, Schedule, int]
"""The shape of some images, the schedule on them, and how many questions are asked about them."""


def planned_facts(cell: Cell, prepared: PreparedRun) -> Facts:
    """Return what is known of a cell before it runs.

    Args:
        cell: of the request.
        prepared: what the request needs, loaded.

    Returns:
        Identity and kind of the cell; ``tokens``, ``flops`` and ``schedule`` as they are planned, means over the questions
        where images differ, and None of a cell that is skipped. ``tokens.marks``, where images have any, is the mean number of
        newline and mark tokens of an image, which always stay and which no budget counts.
    """
    facts: Facts = {
        "model": cell.model, "task": cell.task, "method": cell.method, "params": cell.params, **keep_facts(cell.keep),
        "budget": cell.mode, "positions": cell.object.positions, "seed": cell.seed, "reference": cell.reference,
        "ranks_by": family(cell.method),
        "skipped": cell.skipped, "like": cell.like, "prunes": cell.prunes, "adaptive": cell.adaptive,
        "merges": cell.merges, "grid": cell.grid, "removes_nothing": cell.removes_nothing,
        "tokens": None, "flops": None, "schedule": None,
    }  # fmt: skip
    if cell.skipped is not None or cell.schedule is None:
        return facts
    if not cell.varies:
        facts["tower"] = [*cell.schedule.vision_attention, *cell.schedule.vision_mlp]
        return facts | _figures(cell, [(prepared.adapter.shape, cell.schedule, 1)], prepared)
    planned = [(shape, cell.plan(shape)[1], questions) for shape, questions in prepared.asked.items()]
    return facts | _figures(cell, planned, prepared)


def measured_facts(cell: Cell, columns: Mapping[str, np.ndarray], prepared: PreparedRun) -> Facts:
    """Return the measured facts of an adaptive cell: means over its answers, and an empty dict without answers.

    Args:
        cell: an adaptive one.
        columns: its samples, as `RunFolder.columns` gives them.
        prepared: what the request needs, loaded.
    """
    shapes = {sample.image_id: prepared.shape_on(place) for place, sample in enumerate(prepared.samples) if sample.count}
    answered = zip(columns["image"], columns["kept_count"], columns["failed"])
    kept = Counter((shapes[i], int(count)) for i, count, failed in answered if failed is None and i in shapes)
    if not kept:
        return {}
    planned = []
    for (shape, count), answers in kept.items():
        steps = [replace(step, after=count) for step in (cell.steps_for(shape) if cell.varies else cell.steps)]
        planned.append((shape, schedule(shape, steps), answers))
    return _figures(cell, planned, prepared)


def _figures(cell: Cell, planned: Sequence[Planned], prepared: PreparedRun) -> Facts:
    """Tokens, FLOPs and schedule of a cell: means over images, each as often as it is asked about."""
    asked = [questions for _, _, questions in planned]

    def mean(values: Sequence[float]) -> float:
        if len(values) == 1:
            return values[0]
        return sum(value * questions for value, questions in zip(values, asked)) / sum(asked)

    counted = [flops(shape, one, prepared.text_tokens) for shape, one, _ in planned]
    by_stage = [one.as_dict() for one in counted]
    return {
        "tokens": {
            "final": mean([one.final for _, one, _ in planned]),
            "average": mean([one.average for _, one, _ in planned]),
            **({"marks": prepared.marks} if prepared.marks and not cell.blind else {}),
        },
        "flops": {
            **{name: mean([stages[name] for stages in by_stage]) for name in by_stage[0]},
            "total": mean([one.total for one in counted]),
        },
        "schedule": [mean(layer) for layer in zip(*(one.llm for _, one, _ in planned))],
    }
