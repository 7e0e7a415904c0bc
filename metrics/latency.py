"""From timed rounds to medians, paired ratios and the part of a promised gain that was realised. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from metrics.arrays import Floats
from metrics.intervals import students_t
from metrics.medians import median
from metrics.paired_ratio import ratio_interval, ratio_p

BEFORE_FIRST_TOKEN = ("preprocess", "vision", "projector", "layout", "selection", "prefill")
"""Stages that stand before the first token, so that their times should sum to the time to first token."""
FIRST_TOKEN = ("vision", "projector", "selection", "prefill")
"""Stages of which time to first token is the sum in runs of older versions, which did not take it in one piece."""
STAGES = (*BEFORE_FIRST_TOKEN, "decode", "total", "ttft")
_TRIMMED = 0.1  # share of rounds left out at either end where two runs compare
LEAST_ROUNDS = 3
"""Under so many rounds nothing is tested."""

LatencyFigure = dict[str, float | None] | float | bool | None
"""An entry of what `summarise` returns."""


def summarise(
    times: Mapping[str, Floats], none_times: Mapping[str, Floats], flops_ratio_promised: float | None = None
) -> dict[str, LatencyFigure]:
    """Return the latency figures of a cell.

    Rounds of time to first token are other rounds than those of stages, and may be more; of each stage, round i of the cell is
    paired with round i of `none`.

    Args:
        times: stage of `STAGES` -> [rounds of the stage] seconds; nan is a round that the cell was left out of.
        none_times: the same of `none`, round by round beside the method's.
        flops_ratio_promised: prefill FLOPs of `none` over those of the method; None for unknown.

    Returns:
        For each stage ``{value, lo, hi}`` in milliseconds, the median over rounds with the interval of `medians.median`, or
        None where it was not measured. ``in_one_piece``: whether time to first token was taken so, or summed from stages as
        in runs of older versions; None without one. ``rounds``, ``stage_rounds``: how many rounds of time to first token,
        and of the other stages, the cell was measured in. ``ttft_none``: median time to first token of `none` in the very
        rounds of this cell, milliseconds. ``ratio`` ``{value, lo, hi, p}``: time to first token of `none` over that of the
        method (2 = twice as fast), by `paired_ratio.ratio_interval`, and `paired_ratio.ratio_p` against 1; that of `none` to
        itself is 1. ``wide``: whether that ratio is not known to `paired_ratio.KNOWN`; None where nothing was timed, and of
        `none` itself. ``sum_gap``: the sum of the medians of `BEFORE_FIRST_TOKEN` over the median time to first token in one
        piece, less 1. ``realised_gain`` ``{value, lo, hi, p}``: the paired ratio of the prefill stage alone over the promise,
        by `realised_gain`; 1 means that the whole promise was realised. ``cv``: standard deviation of time to first token
        over its mean.

    Raises:
        ValueError: an unknown stage, rounds of a stage that are not as many as those of `none`, or times below 0.
    """
    mine, reference = _checked(times), _checked(none_times)
    own, whole = known_ttft(mine), known_ttft(reference)
    result: dict[str, LatencyFigure] = {stage: median(mine[stage] * 1e3).as_dict() if stage in mine else None for stage in STAGES}
    result["ttft"] = None if own is None else median(own * 1e3).as_dict()
    result["in_one_piece"] = None if own is None else in_one_piece(mine)
    result["rounds"] = _measured(own)
    result["stage_rounds"] = max((_measured(column) for stage, column in mine.items() if stage != "ttft"), default=0)
    ratios = paired_ratios(own, whole)
    result["ttft_none"] = None if ratios is None or own is None or whole is None else median(whole[own > 0] * 1e3).value
    result["ratio"], result["wide"] = None, None
    if ratios is not None and (ratios == 1).all():  # `none` beside itself
        result["ratio"] = {"value": 1.0, "lo": 1.0, "hi": 1.0, "p": None}
    elif ratios is not None:
        found = ratio_interval(ratios)
        result["ratio"] = {**found.as_dict(), "p": ratio_p(ratios)}
        result["wide"] = not found.known
    result["sum_gap"] = _sum_gap(mine)
    result["cv"] = None if own is None else variation(own)
    gains = paired_ratios(mine.get("prefill"), reference.get("prefill"))
    result["realised_gain"] = None if gains is None or not flops_ratio_promised else realised_gain(gains, flops_ratio_promised)
    return result


def in_one_piece(times: Mapping[str, Floats]) -> bool:
    """Return whether time to first token was taken in one piece, and is not a sum of stages."""
    return "ttft" in times


def ttft(times: Mapping[str, Floats]) -> Floats:
    """Return the time to first token of each round: [rounds], nan of rounds that the cell was left out of.

    That is the one taken in one piece; of runs of older versions, which have none, the sum of `FIRST_TOKEN`.

    Args:
        times: stage -> [rounds] seconds.

    Raises:
        KeyError: where neither is there.
    """
    if in_one_piece(times):
        return np.asarray(times["ttft"], dtype=np.float64)
    total: Floats = np.sum([np.asarray(times[stage], dtype=np.float64) for stage in FIRST_TOKEN], axis=0)
    return total


def known_ttft(times: Mapping[str, Floats]) -> Floats | None:
    """Return the same as `ttft`; None where it was not timed, as where a stage of an older run is missing.

    Args:
        times: stage -> [rounds] seconds. Stages of later versions without a time to first token sum to none.
    """
    if in_one_piece(times):
        return None if np.isnan(times["ttft"]).all() else ttft(times)
    summed = all(stage in times for stage in FIRST_TOKEN) and len({len(times[stage]) for stage in FIRST_TOKEN}) == 1
    return ttft(times) if summed and "layout" not in times else None


def paired_ratios(mine: Floats | None, none: Floats | None) -> Floats | None:
    """Return the times of `none` over those of a method, round by round; rounds without either time are left out.

    What slows down a whole round, such as another process or heat, slows down both and leaves their ratio as it is.

    Args:
        mine: [rounds] seconds of the method, nan where it was left out; None where it was not measured.
        none: [rounds] seconds of `none` in the same rounds; None where it was not measured.

    Returns:
        [rounds] at most; None where either was not measured, or never above 0.

    Raises:
        ValueError: where the numbers of rounds differ.
    """
    if mine is None or none is None:
        return None
    if mine.shape != none.shape:
        raise ValueError(f"{mine.shape} rounds against {none.shape} of none; the ratio is paired by round")
    usable = (mine > 0) & (none > 0)
    with np.errstate(over="ignore", under="ignore"):
        ratios = none[usable] / mine[usable]
    ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
    return ratios if len(ratios) else None


def realised_gain(gains: Floats, promised: float) -> dict[str, float | None]:
    """Return the measured speed-up of a stage over the promised one, ``{value, lo, hi, p}``.

    The value is the median over rounds. Its interval is that of the median from 6 rounds on, which holds for any distribution;
    of 3 to 5 rounds, of which the least and the greatest hold the median too rarely, it is Student's on the logarithms, which
    takes them for nearly normal and is wide. Of fewer rounds there is none. p is that of `mean_log_p` against the promise.

    Args:
        gains: [rounds] paired ratios to `none`, above 0.
        promised: the ratio that FLOPs promise, above 0.
    """
    found = median(gains / promised)
    lo, hi = found.lo, found.hi
    if lo is None and len(gains) >= LEAST_ROUNDS:
        logs = np.log(gains / promised)
        half = students_t(len(logs)) * float(logs.std(ddof=1)) / np.sqrt(len(logs))
        lo, hi = (float(np.exp(logs.mean() + side * half)) for side in (-1, 1))
    return {"value": found.value, "lo": lo, "hi": hi, "p": mean_log_p(gains, promised)}


def mean_log_p(ratios: Floats, against: float = 1.0) -> float | None:
    """Return the two-sided p of Student's t on the logarithms of ratios: whether their geometric mean is another number.

    It is for a number of rounds that was fixed beforehand. It takes rounds for independent and the logarithms of ratios for
    nearly normal; few stray rounds widen their spread, and make p larger rather than smaller. What differs between whole runs,
    such as the clock rate of a machine, it does not know.

    Args:
        ratios: [rounds] above 0.
        against: the geometric mean if nothing is the matter.

    Returns:
        None of under `LEAST_ROUNDS` rounds, and where all ratios are equal.

    Source: Student 1908, Biometrika 6.
    """
    if len(ratios) < LEAST_ROUNDS:
        return None
    logs = np.log(ratios) - np.log(against)
    spread = float(logs.std(ddof=1))
    if spread < 1e-12:
        return None
    return float(2 * _below(-abs(logs.mean()) / (spread / np.sqrt(len(logs))), len(logs) - 1))


@dataclass(frozen=True)
class SpeedChange:
    """How the paired ratio of a cell changed from one run to another: a comparison of trimmed means of logarithms over rounds."""

    change: float  # of geometric means, relative; below 0 is slower
    half: float  # half of the 95 % interval of the change, relative
    p: float  # one-sided: how often chance alone makes the second run as slow, beside the first


def speed_change(before: Floats, after: Floats) -> SpeedChange | None:
    """Return how a paired ratio changed between two runs, by Yuen's t on the logarithms of the ratios of their rounds.

    Of 10 rounds the largest and the smallest ratio are left out, of 20 two each, and the spread is that of the others with those
    set to the nearest that is left: rounds that stray do not hide a loss. Of fewer rounds it is Welch's t.

    Args:
        before: [rounds] ratios of the first run, above 0.
        after: [rounds] those of the second, as many or not.

    Returns:
        None where either has under `LEAST_ROUNDS` rounds, or all of its ratios are equal.

    Source: Yuen 1974, Biometrika 61; Welch 1947, Biometrika 34.
    """
    means, shares, freedoms = [], [], []
    for ratios in (before, after):
        count, cut = len(ratios), int(_TRIMMED * len(ratios))
        if count < LEAST_ROUNDS:
            return None
        ordered = np.sort(np.log(ratios))
        kept = count - 2 * cut
        drawn_in = np.clip(ordered, ordered[cut], ordered[count - cut - 1])
        share = float(((drawn_in - drawn_in.mean()) ** 2).sum()) / (kept * (kept - 1))
        if share < 1e-24:
            return None
        means.append(float(ordered[cut : count - cut].mean()))
        shares.append(share)
        freedoms.append(kept - 1)
    freedom = sum(shares) ** 2 / sum(share**2 / own for share, own in zip(shares, freedoms))
    gap, se = means[1] - means[0], float(np.sqrt(sum(shares)))
    return SpeedChange(float(np.expm1(gap)), float(np.expm1(students_t(freedom + 1) * se)), _below(gap / se, freedom))


def _below(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, t))


def variation(seconds: Floats) -> float | None:
    """Return the standard deviation (n - 1) over the mean; None of under two rounds or a mean of 0."""
    seconds = np.asarray(seconds, dtype=np.float64)
    seconds = seconds[~np.isnan(seconds)]
    if len(seconds) < 2 or seconds.mean() == 0:
        return None
    return float(seconds.std(ddof=1) / seconds.mean())


def _sum_gap(times: Mapping[str, Floats]) -> float | None:
    """The sum of the stages' medians over the median time to first token in one piece, less 1."""
    if not in_one_piece(times) or not all(stage in times for stage in BEFORE_FIRST_TOKEN):
        return None
    whole, parts = median(times["ttft"]).value, [median(times[stage]).value for stage in BEFORE_FIRST_TOKEN]
    known = [part for part in parts if part is not None]
    return sum(known) / whole - 1 if whole and len(known) == len(parts) else None


def _measured(seconds: Floats | None) -> int:
    """In how many rounds there is a time."""
    return 0 if seconds is None else int((~np.isnan(seconds)).sum())


def _checked(times: Mapping[str, Floats]) -> dict[str, Floats]:
    """Float64 arrays of known stages, none of whose times is below 0."""
    unknown = sorted(set(times) - set(STAGES))
    if unknown:
        raise ValueError(f"no stage {', '.join(unknown)}; stages are {', '.join(STAGES)}")
    table = {stage: np.asarray(seconds, dtype=np.float64) for stage, seconds in times.items()}
    for stage, column in table.items():
        if (column < 0).any():
            raise ValueError(f"{stage} has a time below 0 s; take times from one monotonic clock")
    return table
