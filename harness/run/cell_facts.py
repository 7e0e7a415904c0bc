"""Facts of a cell, stored beside its answers: as planned, and as measured where a method decides from the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.run.plan import Cell
from harness.run.prepare import PreparedRun
from harness.store.arrays import unpacked_counts
from harness.store.schema import COUNTS
from methods.keep import keep_facts
from methods.registry import Counting, counting, family, unverified
from methods.schedule import cached, schedule
from methods.types import ModelShape, Schedule, Step
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
        where images differ, and None of a cell that is skipped. ``unverified`` is why nothing but our own slow version proves
        the method's rule, and ``tiles`` how its budget counts where images are in several tiles, else None. ``tokens.marks``,
        where images have any, is the mean number of newline and mark tokens of an image, which always stay and which no budget
        counts. ``calibration`` of a tuned method is the level that was found for it, on how many images, and the mean tokens
        that they kept.
    """
    facts: Facts = {
        "model": cell.model, "task": cell.task, "method": cell.method, "params": cell.params, **keep_facts(cell.keep),
        "budget": cell.mode, "positions": cell.object.positions, "seed": cell.seed, "reference": cell.reference,
        "ranks_by": family(cell.method), "unverified": unverified(cell.method), "tiles": _counted_tiles(cell, prepared),
        "skipped": cell.skipped, "like": cell.like, "prunes": cell.prunes, "adaptive": cell.adaptive,
        "merges": cell.merges, "grid": cell.grid, "removes_nothing": cell.removes_nothing,
        "tokens": None, "flops": None, "schedule": None,
    }  # fmt: skip
    if cell.object.tuned:
        facts["calibration"] = cell.calibration
    if cell.skipped is not None or cell.schedule is None:
        return facts
    if not cell.varies:
        facts["tower"] = [*cell.schedule.vision_attention, *cell.schedule.vision_mlp]
        return facts | _figures(cell, [(prepared.adapter.shape, cell.schedule, 1)], prepared)
    planned = [(shape, cell.plan(shape)[1], questions) for shape, questions in prepared.asked.items()]
    return facts | _figures(cell, planned, prepared)


def _counted_tiles(cell: Cell, prepared: PreparedRun) -> Counting | None:
    """How a budget counts, where any image of the run is in several tiles and the cell has a budget."""
    tiled = prepared.adapter.shape.tiles > 1 or any(shape.tiles > 1 for shape, _ in prepared.asked.items())
    return counting(cell.method) if tiled and cell.keep is not None else None


def measured_facts(cell: Cell, columns: Mapping[str, np.ndarray], prepared: PreparedRun) -> Facts:
    """Return the measured facts of an adaptive cell: means over its answers, and an empty dict without answers.

    Args:
        cell: an adaptive one.
        columns: its samples, as `RunFolder.columns` gives them.
        prepared: what the request needs, loaded.
    """
    shapes = {sample.image_id: prepared.shape_on(place) for place, sample in enumerate(prepared.samples) if sample.count}
    answered = zip(columns["image"], columns["kept_count"], columns["failed"], *(columns[name] for name in COUNTS))
    counted = Counter(
        (shapes[image], int(kept), layers, tower)
        for image, kept, failed, layers, tower in answered
        if failed is None and image in shapes
    )
    if not counted:
        return {}
    planned = [
        (shape, measured_schedule(cell.steps_for(shape) if cell.varies else cell.steps, shape, kept, layers, tower), answers)
        for (shape, kept, layers, tower), answers in counted.items()
    ]
    found = _figures(cell, planned, prepared)
    if not cell.varies:
        answers = sum(count for _, _, count in planned)
        blocks = [[*one.vision_attention, *one.vision_mlp] for _, one, _ in planned]
        found["tower"] = [
            sum(tokens * count for tokens, (_, _, count) in zip(block, planned)) / answers for block in zip(*blocks)
        ]
    return found


def measured_schedule(steps: Sequence[Step], shape: ModelShape, kept: int, layers: bytes | None, tower: bytes | None) -> Schedule:
    """The schedule of one question from the tokens that were counted on it.

    An answer of an older version tells the last layer's alone, which is the count of the one step that such methods had then.
    """
    if layers is None:
        return schedule(shape, [replace(step, after=kept) for step in steps])
    counts = unpacked_counts(layers)
    made = []
    for step in steps:
        if step.site.stage > 0:
            step = replace(step, after=counts[step.site.layer if step.site.stage == 2 else 0])
        made.append(step)
    planned = replace(schedule(shape, made), llm=counts, cached=cached(counts, made))
    if tower is None:
        return planned
    blocks = unpacked_counts(tower)
    half = len(blocks) // 2
    left = blocks[-1] - int(shape.has_cls)  # what the tower hands on
    projected = planned.projector if any(step.site.stage == 1 and step.space == "tower" for step in steps) else left
    return replace(planned, vision_attention=blocks[:half], vision_mlp=blocks[half:], projector=projected)


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
