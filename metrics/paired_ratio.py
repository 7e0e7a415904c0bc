"""How far a paired ratio of times is known, however the number of rounds came about. Needs no torch.

Rounds are timed until the ratio is known or time is up, so that the interval is looked at after every round. An interval made
for a number of rounds fixed in advance is then too short: it is looked at until it is short by accident. What stands here is a
*confidence sequence*: at 95 %, all of the intervals after 1, 2, 3 ... rounds hold the truth together in 95 % of runs.

What is bounded is the median of the paired ratios: the number that the next round's ratio exceeds as often as not. If it is r,
each round lies above or below r like the throw of a fair coin, whatever the distribution. Rounds that took 50 times as long
count as one throw each. A drift of the machine is common to both runs of a round and cancels; where runs of a round stand in
shuffled order, what is left of it is as likely to favour the one as the other. Rounds need not be alike, only fair: the chance
must be one half given the rounds before. Where the ratio of one cell drifts by itself, that is not so, and nothing holds.

Of n throws with k on one side, the evidence against a fair coin is the mean, over coins of every chance p, of their likelihood
over that of the fair one: M(n, k) = 2^n E[p^k (1 - p)^(n - k)]. Of a fair coin M is a martingale that starts at 1 (Ville 1939),
so that it ever reaches c with a chance of at most 1 / c. The weight of p is (1 - 2p)^2 / sqrt(p (1 - p)): Jeffreys' prior, which
finds one-sided throws early, without what it spends on coins so nearly fair that only hundreds of rounds would tell. Since M
leaps over c, 1 / c is too careful; the chance is therefore computed, exactly for the first 256 rounds and bounded by Ville behind
them. At 95 % it gives c = 12.0 in place of 20: the least and the greatest ratio bound the median from 6 rounds on, the second
from either end from 11, the third from 15, then from 18, 22, 25, 28, 32, 35 and 38. With the number of rounds fixed in advance
those would be 6, 9, 12, 15, 17, 20, 23, 25, 28 and 30 (`medians.median`).

Source: Robbins 1970, Statistical methods related to the law of the iterated logarithm, Annals of Mathematical Statistics 41
(mixtures as confidence sequences); Howard & Ramdas 2022, Sequential estimation of quantiles with applications to A/B testing and
best-arm identification, Bernoulli 28 (of quantiles, and their p values); Ville 1939, Etude critique de la notion de collectif.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from math import exp, log

import numpy as np

from metrics.arrays import Flags, Floats, Numbers, Whole
from metrics.intervals import LEVEL

KNOWN = 0.05
"""A ratio is known where the further end of its interval lies at most this share from it."""
_AHEAD = 256  # rounds up to which the chance of a fair coin is computed exactly
_DUST = 1e-9  # logarithms of evidence that differ by rounding alone


@dataclass(frozen=True)
class RatioInterval:
    """The median of paired ratios with its 95 % interval, which holds whenever one stops; what is unknown is None."""

    value: float | None
    lo: float | None
    hi: float | None
    rounds: int

    @property
    def reach(self) -> float | None:
        """How far the further end of the interval lies from the value, as a share: 0.05 says that the truth may be 5 % off."""
        if self.value is None or self.lo is None or self.hi is None:
            return None
        return reach(self.value, self.lo, self.hi)

    @property
    def known(self) -> bool:
        """Whether `reach` is at most `KNOWN`; never of under 6 rounds, unless the ratios are those of `none` to itself."""
        return self.reach is not None and self.reach <= KNOWN

    def as_dict(self) -> dict[str, float | None]:
        """Return value, lo and hi, as `summary.json` holds them."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}


def reach(value: float, lo: float, hi: float) -> float:
    """Return how far the further end of a ratio's interval lies from the ratio, as a share."""
    return max(hi / value, value / lo) - 1


def ratio_interval(ratios: Numbers, level: float = LEVEL) -> RatioInterval:
    """Return the median of paired ratios with an interval that holds at any stopping time; see the head of this file.

    The interval is what the rounds of every look so far leave over, so that one round never widens it. Rounds that contradict
    each other, because the ratio itself drifted, may leave nothing over, or not the median of all of them: the interval is then
    widened to hold the median and both ends, and is as wide as they are apart.

    Args:
        ratios: [rounds] time of `none` over that of the method in the same round, in the order of the rounds; nan is left out.
        level: of the interval.

    Returns:
        The median; None of no rounds. lo and hi are None of rounds too few to bound it, at 95 % under 6. Where every ratio is
        exactly 1, as of `none` to itself in the same rounds, both are 1 of any number of rounds: nothing was measured there.

    Raises:
        ValueError: not one row of numbers, a ratio that is not above 0 or not finite, or a level not between 0 and 1.

    >>> ratio_interval([2.0, 2.1, 1.9, 2.02, 60.0, 1.98])
    RatioInterval(value=2.01, lo=1.9, hi=60.0, rounds=6)
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of {level}; it lies between 0 and 1, such as {LEVEL}")
    usable = _checked(ratios)
    count = len(usable)
    if not count:
        return RatioInterval(None, None, None, 0)
    value = float(np.median(usable))
    if (usable == 1).all():
        return RatioInterval(1.0, 1.0, 1.0, count)
    lo, hi, rank = 0.0, float("inf"), 0
    while (look := _first_look(rank, level, count)) is not None:
        ordered = np.sort(usable[:look])
        lo, hi, rank = max(lo, float(ordered[rank])), min(hi, float(ordered[-rank - 1])), rank + 1
    if not rank:
        return RatioInterval(value, None, None, count)
    return RatioInterval(value, min(lo, hi, value), max(lo, hi, value), count)


def ratio_p(ratios: Numbers, against: float = 1.0) -> float | None:
    """Return the p of a paired ratio's median being another number, which holds at any stopping time.

    It is the smallest 1 - level at which the interval of `ratio_interval` leaves the number out, and so is at most 0.05 where the
    95 % interval does: the chance that rounds as likely above as below the number ever give as much evidence against it.

    Args:
        ratios: [rounds] as of `ratio_interval`.
        against: the median if nothing is the matter, above 0.

    Returns:
        None of no rounds; 1 where no interval leaves the number out, as where all ratios equal it.

    Raises:
        ValueError: as `ratio_interval`, and where ``against`` is not above 0 or not finite.
    """
    if not (np.isfinite(against) and against > 0):
        raise ValueError(f"a ratio against {against}; it is a finite number above 0")
    usable = _checked(ratios)
    if not len(usable):
        return None
    value = float(np.median(usable))
    # a round that equals the number counts for neither side, as the interval holds its own ends
    up, down = _most_evidence(usable > against), _most_evidence(usable < against)
    if value == against or (up <= down if against < value else down <= up):
        return 1.0
    return _chance(max(up, down))


def _checked(ratios: Numbers) -> Floats:
    """The ratios as an array without nan."""
    array = np.asarray(ratios, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"ratios of shape {array.shape}; give one row of them, one a round")
    usable: Floats = array[~np.isnan(array)]
    wrong = usable[~((usable > 0) & np.isfinite(usable))]
    if len(wrong):
        raise ValueError(f"a ratio of {wrong[0]}; ratios of two times are finite numbers above 0")
    return usable


def _log_evidence(rounds: Whole, fewer: Whole) -> Floats:
    """log M(n, k), by n and k of one shape; see the head of this file. Greatest at k = 0, least at n / 2."""
    from scipy.special import betaln

    n, k = rounds.astype(np.float64), fewer.astype(np.float64)
    # the mean of (1 - 2p)^2 under Beta(k + 1/2, n - k + 1/2); over it, 1/2, its mean where nothing was thrown
    far = 1 - (2 * k + 1) * (2 * (n - k) + 1) / ((n + 1) * (n + 2))
    evidence: Floats = n * log(2) + betaln(k + 0.5, n - k + 0.5) - log(np.pi) + np.log(2 * far)
    return evidence


def _most_evidence(beyond: Flags) -> float:
    """The largest log M after any round, of rounds that lie beyond the number or not; none while most of them do not."""
    rounds = np.arange(1, len(beyond) + 1)
    fewer = rounds - np.cumsum(beyond)
    found = _log_evidence(rounds, np.minimum(fewer, rounds // 2))
    return max(0.0, float(found.max()))


@lru_cache(maxsize=4096)
def _chance(evidence: float) -> float:
    """The chance that a fair coin ever gives so much evidence (log M) against itself, at most."""
    if evidence <= _DUST:
        return 1.0
    crossed, left = 0.0, np.ones(1)  # left: chance of each number of heads that never gave so much
    for table in _evidence_tables():
        left = np.convolve(left, [0.5, 0.5])
        over = table >= evidence - _DUST
        crossed += float(left[over].sum())
        left[over] = 0.0
    # Ville's inequality from there on
    return min(1.0, crossed + float((left * np.exp(table)).sum()) * exp(-evidence))


@cache
def _evidence_tables() -> list[Floats]:
    """log M of 0 ... n heads after n rounds, for n up to `_AHEAD`."""
    counts = [np.arange(n + 1) for n in range(1, _AHEAD + 1)]
    return [_log_evidence(np.full(len(heads), len(heads) - 1), heads) for heads in counts]


@cache
def _needed(level: float) -> float:
    """The least evidence (log M) that a fair coin ever gives with a chance of at most 1 - level."""
    alpha = (1 - level) * (1 + 1e-12)
    little, enough = 0.0, -log(alpha) + _DUST  # Ville alone is enough
    for _ in range(36):
        middle = (little + enough) / 2
        little, enough = (little, middle) if _chance(middle) <= alpha else (middle, enough)
    return enough


def _first_look(rank: int, level: float, rounds: int) -> int | None:
    """The round from which on ratios of this rank from either end, 0 the outermost, bound the median; None behind ``rounds``."""
    looks = _looks(level)
    while len(looks) <= rank:
        n = looks[-1] + 1 if looks else 1
        # more rounds on one side, and as few on the other, are more evidence: the first number that is enough
        while n <= rounds and float(_log_evidence(np.array(n), np.array(min(len(looks), n // 2)))) < _needed(level) - _DUST:
            n += 1
        if n > rounds:
            return None
        looks.append(n)
    return looks[rank] if looks[rank] <= rounds else None


@cache
def _looks(level: float) -> list[int]:
    """The first looks found so far, by rank: `_first_look` appends to it."""
    return []
