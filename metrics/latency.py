"""From timed rounds to medians, paired ratios and the part of a promised gain that was realised. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from metrics.arrays import Floats
from metrics.intervals import students_t
from metrics.medians import median

STAGES = ("vision", "projector", "selection", "prefill", "decode", "total", "ttft")
FIRST_TOKEN = ("vision", "projector", "selection", "prefill")
"""What time to first token is the sum of."""
NOISY = 0.05
"""A cell is noisy where the 95 % interval of its paired ratio reaches further than this share from the ratio; see `reach`."""
LEAST_KNOWN = 4
"""Under so many rounds a cell is noisy whatever its times are: of three, Student's interval is short by accident too often."""
_TRIMMED = 0.1  # share of rounds left out at either end where two runs compare
LEAST_ROUNDS = 3
"""Under so many rounds nothing is tested."""

LatencyFigure = dict[str, float | None] | float | bool | None
"""An entry of what `summarise` returns."""


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
    times: Mapping[str, Floats], none_times: Mapping[str, Floats], flops_ratio_promised: float | None = None
) -> dict[str, LatencyFigure]:
    """Return the latency figures of a cell.

    Args:
        times: stage of `STAGES` -> [rounds] seconds. TTFT is summed from its stages where absent.
        none_times: the same of `none`, round by round beside the method's.
        flops_ratio_promised: prefill FLOPs of `none` over those of the method; None for unknown.

    Returns:
        For each stage ``{value, lo, hi}`` in milliseconds, the median over rounds with the interval of `medians.median`, or
        None where it was not measured. ``rounds``: how many were measured. ``ratio`` ``{value, lo, hi, p}``: median over rounds
        of TTFT of `none` over TTFT of the method (2 = twice as fast), and the p of `mean_log_p` against 1. ``realised_gain``
        ``{value, lo, hi, p}``: the same paired ratio of the prefill stage alone over the promise; 1 means that the whole
        promise was realised, and p is against that; None without one. ``cv``: standard deviation of TTFT over its mean.
        ``noisy``: whether `reach` of the paired ratios, of `none` itself of its TTFT, is above `NOISY`, so that the digits
        cannot be trusted. True of under `LEAST_KNOWN` rounds too, of which nothing is known; None where nothing was measured.

    Raises:
        ValueError: an unknown stage, stages or references of different numbers of rounds, or times below 0.
    """
    mine, reference = _with_ttft(times), _with_ttft(none_times)
    result: dict[str, LatencyFigure] = {stage: median(mine[stage] * 1e3).as_dict() if stage in mine else None for stage in STAGES}
    result["rounds"] = max((int((~np.isnan(column)).sum()) for column in mine.values()), default=0)
    ratios = paired_ratios(mine.get("ttft"), reference.get("ttft"))
    result["ratio"] = _tested(ratios, 1.0)
    result["cv"] = variation(mine["ttft"]) if "ttft" in mine else None
    own = ratios is None or bool((ratios == 1).all())  # `none` beside itself, or nothing to stand beside
    judged = mine.get("ttft", np.zeros(0)) if own or ratios is None else ratios
    far = reach(judged)
    result["noisy"] = (far is None or far > NOISY) if (judged > 0).any() else None
    gains = paired_ratios(mine.get("prefill"), reference.get("prefill"))
    promised = flops_ratio_promised is not None and flops_ratio_promised > 0
    result["realised_gain"] = _tested(gains, flops_ratio_promised) if promised else None
    return result


def paired_ratios(mine: Floats | None, none: Floats | None) -> Floats | None:
    """Return the times of `none` over those of a method, round by round; rounds without either time are left out.

    What slows down a whole round, such as another process or heat, slows down both and leaves their ratio as it is.

    Args:
        mine: [rounds] seconds of the method; None where it was not measured.
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
    return none[usable] / mine[usable] if usable.any() else None


def reach(values: Floats | None) -> float | None:
    """Return how far from the median its 95 % interval reaches, as a share: 0.05 says that the truth may be 5 % off.

    Of two intervals on the logarithms the narrower one counts: that between order statistics (`medians.median`), which stray
    rounds leave as it is where there are many rounds, and Student's about the mean, which is narrower where there are few. Of
    rounds too few for the first one, under 6, Student's counts alone.

    Args:
        values: [rounds] times or ratios; what is not above 0 is left out.

    Returns:
        None of under `LEAST_KNOWN` rounds.
    """
    if values is None:
        return None
    logs = np.log(values[values > 0])
    if len(logs) < LEAST_KNOWN:
        return None
    middle, furthest = median(logs), students_t(len(logs)) * float(logs.std(ddof=1)) / np.sqrt(len(logs))
    if middle.value is not None and middle.lo is not None and middle.hi is not None:
        furthest = min(furthest, max(middle.hi - middle.value, middle.value - middle.lo))
    return float(np.expm1(furthest))


def mean_log_p(ratios: Floats, against: float = 1.0) -> float | None:
    """Return the two-sided p of Student's t on the logarithms of ratios: whether their geometric mean is another number.

    It takes rounds for independent and the logarithms of ratios for nearly normal; few stray rounds widen their spread, and
    make p larger rather than smaller. What differs between whole runs, such as the clock rate of a machine, it does not know.

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


def _tested(ratios: Floats | None, promise: float | None) -> dict[str, float | None] | None:
    """The median of ratios over a promise, with its interval and p."""
    if ratios is None or promise is None:
        return None
    return {**median(ratios / promise).as_dict(), "p": mean_log_p(ratios, promise)}


def _below(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, t))


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
