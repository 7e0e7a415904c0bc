"""The latency pass: one image, one question, all cells interleaved in shuffled rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from harness.engine.batch import Batch
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.stopwatch import Stopwatch
from harness.run.batch_run import BatchRun
from harness.run.plan import Cell
from harness.tasks.base import ImageSample, Task
from metrics.memory import device_peak_bytes, reset_device_peak


@dataclass
class LatencyRounds:
    """What the rounds gave. Cells go by their place in the list that was timed."""

    rows: list[tuple[int, int, int, str, float]] = field(default_factory=list)  # (cell, repeat, round, stage, seconds)
    kv_bytes: dict[int, int] = field(default_factory=dict)  # of the caches after the prompt, measured
    peak_bytes: dict[int, int] = field(default_factory=dict)  # of the device's allocator; empty on a CPU
    text_tokens: dict[int, int] = field(default_factory=dict)  # of the prompt that was timed

    def seconds(self, cell: int, repeat: int = 0) -> dict[str, np.ndarray]:
        """Seconds of each stage of a cell, [rounds] each."""
        found: dict[str, list[float]] = {}
        for place, again, _, stage, value in self.rows:
            if (place, again) == (cell, repeat):
                found.setdefault(stage, []).append(value)
        return {stage: np.array(values) for stage, values in found.items()}

    def medians(self, cell: int) -> dict[str, float]:
        """Median seconds of each stage of a cell."""
        return {stage: float(np.median(values)) for stage, values in self.seconds(cell).items()}


def one_question(sample: ImageSample) -> ImageSample:
    """The image with its first question alone."""
    return ImageSample(sample.image_id, sample.image, sample.questions[:1])


def time_cells(
    engine: Engine,
    task: Task,
    sample: ImageSample,
    cells: list[Cell],
    seed: int,
    rounds: int = 12,
    warm: int = 1,
    template: str = "{question}",
    advance: Callable[[], None] = lambda: None,
) -> LatencyRounds:
    """`time_batches` on an image and its first question.

    Args:
        sample: the image.
        template: what the model is asked.
    """
    wanted = frozenset().union(*(cell.needs for cell in cells))
    work = BatchRun(engine, task, [one_question(sample)], seed, wanted=wanted, template=template)
    batches = [work.batch_for(cell) for cell in cells]
    return time_batches(engine, cells, batches, seed, rounds, warm, advance)


def time_batches(
    engine: Engine,
    cells: list[Cell],
    batches: list[Batch],
    seed: int,
    rounds: int = 12,
    warm: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> LatencyRounds:
    """Seconds of every stage, and memory.

    Drift of the machine hits all cells alike, since every round runs each once, in a new order. `none` runs twice a
    round: what its two runs differ by is what the machine cannot tell apart (A/A check). Nothing is shared between
    cells. Decoding is given per answer token.

    Args:
        cells: what to time.
        batches: what each is run on.
        rounds: timed rounds, after ``warm`` untimed ones, in the last of which the device's peak memory is taken.
    """
    runs = [(place, 0) for place in range(len(cells))] + [(i, 1) for i, cell in enumerate(cells) if cell.method == "none"]
    random, device, timed = np.random.default_rng(seed), engine.adapter.device, LatencyRounds()
    for number in range(-warm, rounds):
        for choice in random.permutation(len(runs)):
            place, repeat = runs[choice]
            cell, batch, watch = cells[place], batches[place], Stopwatch(str(device))
            reset_device_peak(device)
            output = engine.run(EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind, True, watch))
            seconds = dict(watch.seconds)
            seconds["total"] = sum(seconds.values())
            seconds["decode"] /= watch.counts["decode"]
            if number >= 0:
                timed.rows += [(place, repeat, number, stage, value) for stage, value in seconds.items()]
                continue
            timed.kv_bytes[place] = output.kv_bytes
            marks = 0 if cell.blind else sum(block.marks for block in batch.pixels.spans[0])
            timed.text_tokens[place] = len(batch.prefix) + marks + len(batch.questions[0])
            peak = device_peak_bytes(device)
            if peak is not None:
                timed.peak_bytes[place] = peak
        advance()
    return timed
