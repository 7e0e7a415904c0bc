"""The latency pass: one image, one question, all cells interleaved in shuffled rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from harness.engine.batch import Batch
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.stopwatch import Stopwatch
from harness.progress import progress
from harness.run.asked_prompts import text_length
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.manifest import add_notes
from harness.run.plan import Cell
from harness.run.prepare import PreparedRun
from harness.run.twins import on_question, original_of, stored_counts
from harness.store.arrays import packed_counts
from harness.store.runs import RunFolder
from harness.tasks.base import ImageSample, Task
from metrics.flops import flops
from metrics.memory import device_peaks, reset_device_peaks

MOST_TOKENS = 128
"""Answer tokens that are timed where a task allows more and the request does not say: the times of a token tell the rest."""


@dataclass
class LatencyRounds:
    """What the rounds of a latency pass gave. Cells go by their place in the list that was timed."""

    rows: list[tuple[int, int, int, str, float]] = field(default_factory=list)  # (cell, repeat, round, stage, seconds)
    kv_bytes: dict[int, int] = field(default_factory=dict)  # of the caches after the prompt, measured
    peak_bytes: dict[int, dict[str, int]] = field(default_factory=dict)  # of the allocator of each GPU; empty on a CPU
    text_tokens: dict[int, int] = field(default_factory=dict)  # of the prompt that was timed
    layer_counts: dict[int, bytes] = field(default_factory=dict)  # visual tokens of each LLM layer on its first question, packed
    block_counts: dict[int, bytes] = field(default_factory=dict)  # tower tokens of each block there, as `EngineOutput` has them

    def seconds(self, cell: int, repeat: int = 0) -> dict[str, np.ndarray]:
        """Return the seconds of each stage of a cell, float [rounds] each.

        Args:
            cell: its place in the list that was timed.
            repeat: 1 for its second run in the same rounds.
        """
        found: dict[str, list[float]] = {}
        for place, again, _, stage, value in self.rows:
            if (place, again) == (cell, repeat):
                found.setdefault(stage, []).append(value)
        return {stage: np.array(values) for stage, values in found.items()}

    def medians(self, cell: int) -> dict[str, float]:
        """Return the median seconds of each stage of a cell.

        Args:
            cell: its place in the list that was timed.
        """
        return {stage: float(np.median(values)) for stage, values in self.seconds(cell).items()}


def run_latency_pass(config: CompareConfig, run: RunFolder, prepared: PreparedRun, ids: dict[str, int]) -> None:
    """Time the cells that were not timed yet, and `none` beside them; nothing is shared between cells.

    Args:
        config: the request.
        run: the folder that times, caches and peaks go to; it holds the answers already.
        prepared: what the request needs, loaded.
        ids: of the cells in the run, by their keys.
    """
    before = run.timings()
    timed_before = {cell for _, cell in before}
    cells = [cell for cell in prepared.active if cell.method == "none" or ids[cell.key] not in timed_before]
    if before and len(cells) == 1:
        return
    place, cells = _what_to_time(run, prepared, cells, ids)
    if place is None:
        add_notes(run, ["no times: there is no image on which no cell failed"])
        return
    cells = [_as_it_ran(cell, run, prepared, ids, place) for cell in cells]
    with progress("latency", config.rounds + 1) as advance:
        longest = prepared.answer_tokens(config)
        engine = Engine(prepared.adapter, longest if config.max_new_tokens is not None else min(longest, MOST_TOKENS))
        sample = prepared.samples[place]
        timed = time_cells(
            engine, prepared.task, sample, cells, config.seed, config.rounds, template=config.prompt, advance=lambda: advance(1)
        )
    facts: dict[int, dict[str, object]] = {}
    for number, measured in timed.kv_bytes.items():
        cell, shape, predicted = cells[number], prepared.shape_on(place), None
        if cell.schedule is not None and not cell.adaptive:
            planned = cell.plan(shape)[1] if cell.varies else cell.schedule
            predicted = round(flops(shape, planned, timed.text_tokens[number]).kv_bytes)
        facts[ids[cell.key]] = {"kv": {"measured": measured, "predicted": predicted}}
        if number in timed.peak_bytes:
            by_device = timed.peak_bytes[number]
            # GPUs peak at different times: the sum is an upper bound
            facts[ids[cell.key]]["peak"] = {"peak_bytes": sum(by_device.values()), "by_device": by_device}
    latest = max((number for number, _ in before), default=-1)
    rows = ((ids[cells[n].key], repeat, turn, stage, seconds) for n, repeat, turn, stage, seconds in timed.rows)
    run.add_timings(latest + 1, rows, facts)


def _what_to_time(run: RunFolder, prepared: PreparedRun, cells: list[Cell], ids: dict[str, int]) -> tuple[int | None, list[Cell]]:
    """The image to take times on, by its place, and the cells to time: of both only such as did not fail.

    A cell without any answer is left out; then the first image is taken whose first question all cells answered.
    """
    failed = {(cell, question) for cell, question, _ in run.failed()}
    asked = sum(len(sample.questions) for sample in prepared.samples)
    lost = Counter(cell for cell, _ in failed)
    cells = [cell for cell in cells if lost[ids[cell.key]] < asked]
    there = {ids[cell.key] for cell in cells}
    bad = {question for cell, question in failed if cell in there}
    timed = ((place, sample) for place, sample in enumerate(prepared.samples) if sample.count)  # of text alone no token leaves
    good = (place for place, sample in timed if sample.questions[0].sample_id not in bad)
    return (next(good, None) if cells and cells[0].method == "none" else None), cells


def _as_it_ran(cell: Cell, run: RunFolder, prepared: PreparedRun, ids: dict[str, int], place: int) -> Cell:
    """A cell with the counts that it had on the question that is timed, where it takes another's."""
    if cell.copies is None:
        return cell
    question = prepared.samples[place].questions[0].sample_id
    known = stored_counts(run, ids[original_of(cell, prepared.active).key], [question])
    return on_question(cell, prepared.active, known, question, prepared.shape_on(place))


def one_question(sample: ImageSample) -> ImageSample:
    """Return an image with its first question alone."""
    return ImageSample(sample.image_id, tuple(sample.images), sample.questions[:1])


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
    """Time cells on an image and its first question, as `time_batches` does.

    Args:
        engine: runs the model.
        task: of the question.
        sample: the image.
        cells: what to time.
        seed: of the order of the cells in each round, and of the cells' random streams.
        rounds: timed rounds.
        warm: untimed rounds before them.
        template: what the model is asked; ``{question}`` stands for the question.
        advance: is called after every round.
    """
    wanted = frozenset[str]().union(*(cell.needs for cell in cells))
    batch_run = BatchRun(engine, task, [one_question(sample)], seed, wanted=wanted, template=template)
    batches = [batch_run.batch_for(cell) for cell in cells]
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
    """Measure the seconds of every stage of cells, and their memory.

    Drift of the machine hits all cells alike, since every round runs each once, in a new order. `none` runs twice a
    round: what its two runs differ by is what the machine cannot tell apart (A/A check). Nothing is shared between
    cells. Decoding is given per answer token.

    Args:
        engine: runs the model.
        cells: what to time.
        batches: what each is run on.
        seed: of the order of the cells in each round.
        rounds: timed rounds, after ``warm`` untimed ones, in the last of which the peak memory of the devices is taken.
        warm: untimed rounds.
        advance: is called after every round.
    """
    runs = [(place, 0) for place in range(len(cells))] + [(i, 1) for i, cell in enumerate(cells) if cell.method == "none"]
    random, devices, timed = np.random.default_rng(seed), engine.adapter.devices, LatencyRounds()
    for number in range(-warm, rounds):
        for choice in random.permutation(len(runs)):
            place, repeat = runs[choice]
            cell, batch, watch = cells[place], batches[place], Stopwatch(*map(str, devices))
            reset_device_peaks(devices)
            output = engine.run(EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind, True, watch))
            seconds = dict(watch.seconds)
            seconds["total"] = sum(seconds.values())
            seconds["decode"] /= watch.counts["decode"]
            if number >= 0:
                timed.rows += [(place, repeat, number, stage, value) for stage, value in seconds.items()]
                continue
            timed.kv_bytes[place] = output.kv_bytes
            timed.layer_counts[place], timed.block_counts[place] = (
                packed_counts(counts[0]) for counts in (output.layer_counts, output.block_counts)
            )
            timed.text_tokens[place] = text_length(batch.prefix, () if cell.blind else batch.pixels.spans[0], batch.questions[0])
            if by_device := device_peaks(devices):
                timed.peak_bytes[place] = by_device
        advance()
    return timed
