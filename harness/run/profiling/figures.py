"""The figures of a profile's cells, from the seconds of their rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.engine.stopwatch import STAGES
from harness.run.cell_facts import measured_schedule
from harness.run.plan import Cell
from harness.run.profiling.bounds import MachineRates, StageBound, bound, stage_work
from harness.run.profiling.rounds import CellTimer, CellTimes
from harness.run.profiling.sharing_gain import planned
from harness.store.arrays import unpacked_counts
from methods.keep import keep_facts
from methods.types import ModelShape, Schedule
from metrics.arrays import Floats, Numbers
from metrics.flops import Flops
from metrics.paired_ratio import ratio_interval


def quantiles(seconds: Numbers) -> dict[str, float | int | None]:
    """Return the median and the 95th percentile in milliseconds, and of how many times they are.

    The percentile is the smallest time that at least 95 of 100 times do not exceed: of fewer than 20 times the largest.

    Args:
        seconds: [n] times.
    """
    times = np.asarray(seconds, dtype=np.float64)
    if not len(times):
        return {"p50": None, "p95": None, "times": 0}
    p95 = np.quantile(times, 0.95, method="inverted_cdf")
    return {"p50": 1e3 * float(np.median(times)), "p95": 1e3 * float(p95), "times": len(times)}


def ratio_figure(none: Numbers, mine: Numbers) -> dict[str, float | int | None]:
    """Return the time of `none` over that of a cell, round by round, with the interval of `ratio_interval`.

    Args:
        none: [rounds] seconds.
        mine: [rounds] seconds of the same rounds; the first ones, where there are fewer.
    """
    count = min(len(none), len(mine))
    ratios: Floats = np.asarray(none, dtype=np.float64)[:count] / np.asarray(mine, dtype=np.float64)[:count]
    if not count:
        return {"value": None, "lo": None, "hi": None, "rounds": 0}
    found = ratio_interval(ratios)
    return {"value": found.value, "lo": found.lo, "hi": found.hi, "rounds": count}


def as_it_ran(cell: Cell, times: CellTimes, shape: ModelShape) -> Schedule:
    """Return the schedule of a cell, as it ran where it decides its counts from the image: a plan is a bound alone there."""
    if not cell.adaptive:
        return planned(cell)
    tower = times.block_counts if cell.in_tower else None
    return measured_schedule(cell.steps, shape, unpacked_counts(times.layer_counts)[-1], times.layer_counts, tower)


def identity(cell: Cell, batch: int, text: int) -> dict[str, Any]:
    """Return what a cell of a profile is, as JSON holds it.

    Args:
        cell: of the request.
        batch: prompts.
        text: tokens of a prompt beside the image.
    """
    return {
        "method": cell.method, **keep_facts(cell.keep), "budget": cell.mode, "reference": cell.reference,
        "batch_size": batch, "text_tokens": text, "skipped": cell.skipped,
    }  # fmt: skip


def cell_figures(
    timer: CellTimer, none: CellTimer, counted: Flops, none_counted: Flops, schedule: Schedule
) -> dict[str, Any]:  # fmt: skip
    """Return what was measured of one cell at one batch size and length of text; times in milliseconds for the whole batch.

    Args:
        timer: of the cell, after its rounds.
        none: of `none` in the same rounds.
        counted: FLOPs of one prompt.
        none_counted: those of `none`.
        schedule: as the cell ran.
    """
    times, batch, tokens = timer.times, timer.count, timer.tokens
    medians, reference = times.medians(), none.times.medians()
    whole = float(np.median(times.whole)) if times.whole else None
    step = float(np.median(times.steps)) if times.steps else None
    prefill, promise = medians.get("prefill", 0.0), none_counted.llm_prefill / counted.llm_prefill
    at_a_time = batch // timer.groups  # prompts whose tokens come together
    return {
        "tokens": {"final": schedule.final, "average": schedule.average},
        "flops": {**counted.as_dict(), "total": counted.total},
        "rounds": len(times.whole), "stage_rounds": len(times.stages),
        "ttft": quantiles(times.first), "answer": quantiles(times.whole), "token": quantiles(times.steps),
        "throughput": {
            "answers_per_second": None if whole is None else batch / whole,
            "tokens_per_second": None if whole is None else batch * tokens / whole,
            "decoded_per_second": None if step is None else at_a_time / step,
        },
        "ratio": {
            "ttft": ratio_figure(none.times.first, times.first), "answer": ratio_figure(none.times.whole, times.whole),
        },
        "stages": {stage: 1e3 * medians[stage] for stage in STAGES if stage in medians},
        "selection_share": medians["selection"] / prefill if prefill else None,
        "realised_gain": reference["prefill"] / prefill / promise if prefill and reference else None,
        "memory": {
            "kv_measured": None if times.failed else times.kv_bytes,
            "kv_predicted": None if timer.cell.adaptive else round(batch * counted.kv_bytes),
            **({"kind": None, "peak_bytes": None, "working_bytes": None} if times.peak is None else times.peak.as_dict()),
        },
        "failed": times.failed,
    }  # fmt: skip


def cell_bounds(
    timer: CellTimer, schedule: Schedule, shape: ModelShape, counted: Flops, text: float, rates: MachineRates
) -> list[StageBound]:
    """Return what bounds every stage of a cell that was timed.

    Args:
        timer: of the cell, after its rounds.
        schedule: as it ran.
        shape: the model.
        counted: FLOPs of one prompt.
        text: tokens of a prompt that are not visual.
        rates: of the machine.
    """
    times, number = timer.times, timer.model.adapter.dtype.itemsize
    work = stage_work(shape, schedule, counted, text, timer.count, number, times.operations, times.decoded, timer.groups)
    medians: Mapping[str, float] = times.medians()
    return [
        bound(stage, medians[stage], work[stage], rates)
        for stage in STAGES
        if stage != "preprocess" and medians.get(stage, 0.0) > 0 and stage in work
    ]
