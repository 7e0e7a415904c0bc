"""From timed rounds to medians, paired ratios and the part of a promised gain that was realised. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from metrics.arrays import Floats
from metrics.statistics import Estimate, bootstrap_median

STAGES = ("vision", "projector", "selection", "prefill", "decode", "total", "ttft")
FIRST_TOKEN = ("vision", "projector", "selection", "prefill")
"""What time to first token is the sum of."""
NOISY = 0.15
"""Above this coefficient of variation of TTFT a comparison is marked as noisy."""


@dataclass(frozen=True)
class Timing:
    """One round of one cell, in seconds; None is not measured."""

    vision: float | None = None
    projector: float | None = None
    selection: float | None = None
    prefill: float | None = None
    decode: float | None = None  # per token
    total: float | None = None  # end to end

    @property
    def ttft(self) -> float | None:
        """Tower, projector, selection and prefill; None where one of them is."""
        parts = [getattr(self, name) for name in FIRST_TOKEN]
        return None if None in parts else sum(parts)


def columns(rounds: Sequence[Timing]) -> dict[str, Floats]:
    """Return rounds as one array [rounds] a stage, in seconds; nan is not measured, a stage never measured is absent."""
    names = [field.name for field in fields(Timing)] + ["ttft"]
    table = {name: np.array([getattr(r, name) for r in rounds], dtype=np.float64) for name in names}
    return {name: column for name, column in table.items() if not np.isnan(column).all()}


def summarise(
    times: Mapping[str, Floats],
    none_times: Mapping[str, Floats],
    flops_ratio_promised: float | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float | None] | float | bool | None]:
    """Return the latency figures of a cell.

    Args:
        times: stage of `STAGES` -> [rounds] seconds. TTFT is summed from its stages where absent.
        none_times: the same of `none`, round by round beside the method's.
        flops_ratio_promised: prefill FLOPs of `none` over those of the method; None for unknown.
        seed: of the bootstrap.

    Returns:
        For each stage ``{value, lo, hi}`` in milliseconds, the median with a 95 % bootstrap interval
        over rounds, or None where it was not measured. ``ratio`` ``{value, lo, hi}``: median over rounds of
        TTFT of `none` over TTFT of the method (2 = twice as fast). ``cv``: standard deviation of TTFT over
        its mean; ``noisy``: cv above `NOISY`. ``realised_gain`` ``{value, lo, hi}``: the same paired ratio of
        the prefill stage alone over the promise; 1 means that the whole promise was realised; None without one.

    Raises:
        ValueError: an unknown stage, stages or references of different numbers of rounds, or times below 0.
    """
    mine, reference = _with_ttft(times), _with_ttft(none_times)
    result: dict[str, dict[str, float | None] | float | bool | None] = {
        stage: bootstrap_median(mine[stage] * 1e3, seed=seed).as_dict() if stage in mine else None for stage in STAGES
    }
    ratio = _paired_ratio(mine.get("ttft"), reference.get("ttft"), seed)
    result["ratio"] = ratio.as_dict() if ratio else None
    cv = variation(mine["ttft"]) if "ttft" in mine else None
    result["cv"], result["noisy"] = cv, None if cv is None else cv > NOISY
    result["realised_gain"] = None
    gain = _paired_ratio(mine.get("prefill"), reference.get("prefill"), seed)
    if gain and flops_ratio_promised is not None and flops_ratio_promised > 0:
        parts = (gain.value, gain.lo, gain.hi)
        result["realised_gain"] = Estimate(*(None if p is None else p / flops_ratio_promised for p in parts)).as_dict()
    return result


def ttft(times: Mapping[str, Floats] | Mapping[str, float]) -> Floats:
    """Return the time to first token of each round, summed from its stages: [rounds]."""
    stages: list[Floats | float] = [times[stage] for stage in FIRST_TOKEN]
    total: Floats = np.sum(np.asarray(stages), axis=0)
    return total


def variation(seconds: Floats) -> float | None:
    """Return the standard deviation (n - 1) over the mean; None of under two rounds or a mean of 0."""
    seconds = np.asarray(seconds, dtype=np.float64)
    seconds = seconds[~np.isnan(seconds)]
    if len(seconds) < 2 or seconds.mean() == 0:
        return None
    return float(seconds.std(ddof=1) / seconds.mean())


def _with_ttft(times: Mapping[str, Floats]) -> dict[str, Floats]:
    """Checked float64 arrays, TTFT added where its stages allow."""
    unknown = sorted(set(times) - set(STAGES))
    if unknown:
        raise ValueError(f"no stage {', '.join(unknown)}; stages are {', '.join(STAGES)}")
    table = {stage: np.asarray(seconds, dtype=np.float64) for stage, seconds in times.items()}
    if len({column.shape for column in table.values()}) > 1:
        sizes = ", ".join(f"{stage} {column.shape}" for stage, column in table.items())
        raise ValueError(f"stages of different rounds: {sizes}; each is [rounds]")
    for stage, column in table.items():
        if (column < 0).any():
            raise ValueError(f"{stage} has a time below 0 s; take times from one monotonic clock")
    if "ttft" not in table and all(stage in table for stage in FIRST_TOKEN):
        table["ttft"] = ttft(table)
    return table


def _paired_ratio(mine: Floats | None, none: Floats | None, seed: int) -> Estimate | None:
    if mine is None or none is None:
        return None
    if mine.shape != none.shape:
        raise ValueError(f"{mine.shape} rounds against {none.shape} of none; the ratio is paired by round")
    usable = mine > 0
    return bootstrap_median(none[usable] / mine[usable], seed=seed) if usable.any() else None
