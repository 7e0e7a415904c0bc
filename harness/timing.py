"""The latency pass: one image, one question, all cells interleaved in shuffled rounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.engine import Engine
from harness.measure import Work
from harness.plan import Cell
from harness.stopwatch import Stopwatch
from harness.tasks.base import ImageSample, Task


def time_cells(
    engine: Engine,
    task: Task,
    sample: ImageSample,
    cells: list[Cell],
    seed: int,
    rounds: int = 12,
    warm: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> list[tuple[int, int, str, float]]:
    """Seconds of every stage.

    Drift of the machine hits all cells alike, since every round runs each once, in a new order.
    Nothing is shared between cells. Decoding is given per answer token.

    Args:
        sample: an image; its first question is asked.
        cells: what to time.
        rounds: timed rounds, after ``warm`` untimed ones.

    Returns:
        (place of the cell in ``cells``, round, stage, seconds).
    """
    one = ImageSample(sample.image_id, sample.image, sample.questions[:1])
    work = Work(engine, task, [one], seed, wanted=frozenset().union(*(cell.needs for cell in cells)))
    batches = [work.batch if cell.grid is None else work.make_batch(cell.grid) for cell in cells]
    random = np.random.default_rng(seed)
    device = str(engine.adapter.device)
    out = []
    for number in range(-warm, rounds):
        for place in random.permutation(len(cells)):
            cell, watch = cells[place], Stopwatch(device)
            engine.run(batches[place], cell.steps, cell.object.positions, None, cell.blind, True, watch)
            seconds = dict(watch.seconds)
            seconds["total"] = sum(seconds.values())
            seconds["decode"] /= watch.counts["decode"]
            if number >= 0:
                out += [(int(place), number, stage, value) for stage, value in seconds.items()]
        advance()
    return out
