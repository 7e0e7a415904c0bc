"""What an accuracy pass gains from shared work, from the stages of cells that were timed alone."""

from __future__ import annotations

from collections.abc import Mapping

from harness.run.plan import Cell
from methods.types import Schedule

QUESTIONS = (1, 5, 18, 32)
"""Questions an image for which the gain of shared work is stated: captions, VQAv2, POPE, GQA."""


def planned(cell: Cell) -> Schedule:
    """Return the schedule of a cell that is not skipped."""
    assert cell.schedule is not None, "cells that are timed are not skipped"
    return cell.schedule


def sharing_gain(
    cells: list[Cell], stages: Mapping[int, Mapping[str, float]], visual: int, text: int, questions: int
) -> dict[str, float]:
    """Return what an accuracy pass over these cells would gain from shared work, from the stages measured alone.

    Args:
        cells: of the sweep.
        stages: by place of a cell, seconds of each stage for one image and one question.
        visual: tokens of the image.
        text: tokens of a prompt beside them.
        questions: asked of one image.

    Returns:
        ``across_questions``: time of each question alone over that of an image's questions together, tower and projector
        once a cell. What stands before the first step that reads the question is run once an image: of prefill the part
        of the layers before it, at the length of the image and all questions; the rest once a question.
        ``across_cells``: the further gain of running tower and projector once for all cells that do not act inside it,
        and of taking the layers before the first step inside the LLM from the unpruned model's run.
        ``both``: their product.
    """
    alone = per_cell = shared = 0.0
    longer = (visual + questions * text) / (visual + text)
    for place, cell in enumerate(cells):
        own = stages[place]
        seeing, rest = own["vision"] + own["projector"], own["selection"] + own["decode"]
        alone += questions * (seeing + own["selection"] + own["prefill"] + own["decode"])
        first = next((step.site for step in cell.steps if step.reads_text), None)
        if first is None:
            together = own["selection"] + own["prefill"] * longer + questions * own["decode"]
        else:
            layers = planned(cell).llm
            whole = sum(layers[: first.layer]) / sum(layers) if first.stage == 2 and sum(layers) > 0 else 0.0
            together = own["prefill"] * (whole * longer + (1 - whole) * questions) + questions * rest
        per_cell += seeing + together
        shared += together + (seeing if cell.in_tower or cell.grid is not None else 0.0)
        if cell.steps and all(step.site.stage == 2 for step in cell.steps):
            layers = planned(cell).llm
            shared -= own["prefill"] * longer * sum(layers[: cell.steps[0].site.layer]) / sum(layers)
    shared += max(stages[0]["vision"] + stages[0]["projector"], 0.0)
    return {"across_questions": alone / per_cell, "across_cells": per_cell / shared, "both": alone / shared}
