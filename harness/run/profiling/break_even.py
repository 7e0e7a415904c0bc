"""Break-even: the largest number of kept tokens at which a method is faster end to end than `none`, by bisection.

What is timed, and how, stands elsewhere: a search says which count to time next and is handed the ratio of every round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import floor, log
from typing import Any, Protocol

import numpy as np

from metrics.arrays import Floats

LEAST = 6
"""Of under so many rounds nothing is known of a count: no interval of 95 % bounds a median before."""


class KnownRatio(Protocol):
    """A ratio with its interval, as `metrics.paired_ratio` gives it; None is not known."""

    @property
    def value(self) -> float | None:
        """The ratio."""

    @property
    def lo(self) -> float | None:
        """The lower end of its interval."""

    @property
    def hi(self) -> float | None:
        """The upper end."""


@dataclass(frozen=True)
class BreakEvenTrial:
    """One count of kept tokens that was timed beside `none`."""

    keep: int
    value: float  # time of `none` over that of the method: above 1 the method is faster
    lo: float | None
    hi: float | None
    rounds: int

    @property
    def faster(self) -> bool | None:
        """Whether the method is faster, where the interval says so; None where it holds 1, or where there is none."""
        if self.lo is not None and self.lo > 1:
            return True
        return False if self.hi is not None and self.hi < 1 else None


@dataclass(frozen=True)
class BreakEven:
    """At how many kept tokens a method begins to pay."""

    outcome: str  # always, never, at (so many tokens), or unknown; always and never by an interval, never by a median alone
    tokens: int | None  # of at, the most at which it is faster; of always, the most that were tried; else None
    lo: int | None  # the most at which an interval lies above 1: it pays there for certain
    hi: int | None  # the fewest at which an interval lies below 1: it does not pay there for certain
    interpolated: bool  # whether the count lies between two that were timed
    falling: bool  # False where a count pays for certain above one that does not, which bisection takes to be impossible
    trials: tuple[BreakEvenTrial, ...]  # by rising count
    why: str = ""  # of unknown
    cut: str = ""  # what ended the search before its end; empty where nothing did

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)


class BreakEvenSearch:
    """Looks for the break-even of one method: the most tokens first, then the fewest, then halves of what is between.

    It takes for granted that a method is the faster the fewer tokens it keeps. A count is settled once its interval leaves out 1,
    or after so many rounds that the median must do: to choose what to time next, and to interpolate. That a method always or
    never pays is said by an interval alone.

    Args:
        fewest: tokens that are tried at the least.
        most: tokens that are tried at the most, one less than there are.
        step: how far apart two counts may lie at the end; between them is interpolated.
        can: whether the method can keep so many tokens at all.
        interval: of the ratios [rounds] of one count; it must hold whenever the rounds end.
        rounds: of one count, at the most.
    """

    def __init__(
        self,
        fewest: int,
        most: int,
        step: int,
        can: Callable[[int], bool],
        interval: Callable[[Floats], KnownRatio],
        rounds: int,
    ) -> None:
        self._can, self._interval, self._rounds, self._step = can, interval, rounds, max(1, step)
        self._ratios: dict[int, list[float]] = {}
        self._top = next((keep for keep in range(most, fewest - 1, -1) if can(keep)), None)
        self._bottom = next((keep for keep in range(fewest, most + 1) if can(keep)), None)
        self._fewest, self._most = fewest, most

    def next(self) -> int | None:
        """Return the count of tokens to time next; None where the search is over."""
        if self._top is None or self._bottom is None:
            return None
        for keep, over in ((self._top, True), (self._bottom, False)):
            if not self._settled(keep):
                return keep
            if self._trial(keep).faster is over:
                return None
        for keep in self._ratios:
            if not self._settled(keep):
                return keep
        bracket = self._bracket()
        if bracket is None or bracket[1] - bracket[0] <= self._step:
            return None
        low, high = bracket
        between = sorted(range(low + 1, high), key=lambda keep: abs(2 * keep - low - high))
        return next((keep for keep in between if self._can(keep)), None)

    def add(self, keep: int, ratio: float) -> None:
        """Take the ratio of one round: the time of `none` over that of the method at a count of tokens."""
        self._ratios.setdefault(keep, []).append(ratio)

    def result(self, cut: str = "") -> BreakEven:
        """Return what is known by now.

        Args:
            cut: what ended the search before its end; empty where nothing did.
        """
        trials = tuple(map(self._trial, sorted(self._ratios)))
        lo, hi = self._certain()
        falling = lo is None or hi is None or lo < hi

        def found(outcome: str, tokens: int | None = None, why: str = "", interpolated: bool = False) -> BreakEven:
            return BreakEven(outcome, tokens, lo, hi, interpolated, falling, trials, why, cut)

        if self._top is None or self._bottom is None:
            return found("unknown", None, f"the method can keep no count from {self._fewest} to {self._most} tokens")
        if not falling:
            return found("unknown", None, f"{lo} tokens pay for certain and {hi} do not, so that no single count can be told")
        if lo == self._top:
            return found("always", self._top)
        if hi == self._bottom:
            return found("never")
        bracket = self._bracket()
        if bracket is not None and lo is not None and self._median(bracket[1]) <= 1:
            tokens = self._crossing(*bracket)
            return found("at", tokens, interpolated=tokens != bracket[0])
        return found("unknown", None, self._why(trials))

    def _why(self, trials: tuple[BreakEvenTrial, ...]) -> str:
        """Why nothing is told, of counts of which none pays for certain, or of which the most may pay."""
        if not trials:
            return "nothing was timed"
        few = [trial for trial in trials if trial.rounds < LEAST]
        if few:
            rounds = f"{few[-1].rounds} round{'' if few[-1].rounds == 1 else 's'}"
            are = "is" if few[-1].rounds == 1 else "are"
            return f"{rounds} at {few[-1].keep} tokens {are} too few, of under {LEAST} nothing is known"
        if trials[0].faster is False:
            return "fewer tokens were not timed"
        one = trials[-1] if trials[-1].value > 1 or len(trials) == 1 else trials[0]
        place = "most" if one.keep == self._top else "fewest"
        return (
            f"at {one.keep} tokens, the {place} that were tried, {one.rounds} rounds do not tell whether it pays "
            f"({one.value:.3f} times none's speed [{one.lo:.3f}, {one.hi:.3f}])"
        )

    def _trial(self, keep: int) -> BreakEvenTrial:
        ratios = np.array(self._ratios[keep])
        known = self._interval(ratios)
        return BreakEvenTrial(keep, float(np.median(ratios)), known.lo, known.hi, len(ratios))

    def _settled(self, keep: int) -> bool:
        count = len(self._ratios.get(keep, ()))
        return count >= self._rounds or (count >= LEAST and self._trial(keep).faster is not None)

    def _median(self, keep: int) -> float:
        return float(np.median(self._ratios[keep]))

    def _certain(self) -> tuple[int | None, int | None]:
        """The most tokens that pay for certain, and the fewest that for certain do not."""
        trials = [self._trial(keep) for keep in self._ratios]
        pays, not_so = ([trial.keep for trial in trials if trial.faster is what] for what in (True, False))
        return max(pays, default=None), min(not_so, default=None)

    def _bracket(self) -> tuple[int, int] | None:
        """The most tokens at which it pays, and the fewest above them at which it does not or, of the most, may not.

        What an interval says of a count holds for those below or above it; of the others the medians tell, if rounds suffice.
        None where the fewest are not seen to pay.
        """
        lo, hi = self._certain()
        low = None
        for keep in sorted(keep for keep, ratios in self._ratios.items() if len(ratios) >= LEAST):
            if lo is not None and keep <= lo:
                low = keep
            elif keep == self._top or (hi is not None and keep >= hi) or self._median(keep) <= 1:
                return None if low is None else (low, keep)
            else:
                low = keep
        return None

    def _crossing(self, low: int, high: int) -> int:
        """The whole number below which a straight line through the logarithms of two ratios stays above 0."""
        above, below = (log(self._median(keep)) for keep in (low, high))
        return min(high - 1, floor(low + (high - low) * above / (above - below)))
