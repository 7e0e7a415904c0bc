"""How far two orders of the same few things agree: Spearman's rank correlation, with a p value that few things allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_ALL_ORDERS = 9  # up to so many things every order is taken: 362,880
_ORDERS = 99_999  # drawn, of more


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's rank correlation of two lists of values, and how often chance gives as large a one."""

    rho: float | None  # -1 to 1; None where a list has no two different values, or there are under three things
    p: float | None  # two-sided: the share of orders of one list whose |rho| is at least as large
    n: int  # things that were ranked
    exact: bool = True  # whether p is of all n! orders, not of some that were drawn

    @property
    def least_p(self) -> float:
        """The smallest p that so many things allow where nothing ties: of the same order and of the opposite one."""
        return min(1.0, 2 / factorial(self.n))


def rank_agreement(first: Sequence[float], second: Sequence[float]) -> RankAgreement:
    """Return how far two lists rank the same things alike.

    Equal values share the mean of their ranks. The p value is exact up to nine things: all orders of one list against the other
    (Pitman 1937), so that it holds however few they are; of more, 99,999 orders are drawn with a fixed seed.

    Args:
        first: [n], a value of each thing.
        second: [n], another value of each, in the same order of things.

    Raises:
        ValueError: where the lists differ in length, or hold what is no finite number.

    >>> rank_agreement([1, 2, 3, 4, 5], [2, 1, 3, 4, 5])
    RankAgreement(rho=0.9, p=0.08333333333333333, n=5, exact=True)
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"two lists of one length are ranked, not {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("every value must be a finite number")
    n, exact = len(a), len(a) <= _ALL_ORDERS
    if n < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankAgreement(None, None, n, exact)
    x, y = (_scores(values) for values in (a, b))
    rho = float(x @ y)
    if exact:
        orders = np.array(list(permutations(range(n))), np.int8)
        p = float(_as_large(x[orders] @ y, rho).mean())
    else:
        drawn = np.random.default_rng(0).permuted(np.tile(x, (_ORDERS, 1)), axis=1)
        p = float(_as_large(drawn @ y, rho).sum() + 1) / (_ORDERS + 1)  # the order found is one of them (Good 2005, section 3.3)
    return RankAgreement(round(rho, 12), p, n, exact)


def _as_large(of_orders: NDArray[np.float64], rho: float) -> NDArray[np.bool_]:
    """Which orders give as large a correlation, whichever way it points; the last bits of a sum are no difference."""
    return np.abs(of_orders) >= abs(rho) - 1e-9


def without_each(first: Sequence[float], second: Sequence[float]) -> list[RankAgreement]:
    """Return the agreement of all things but one, leaving each out in turn.

    Args:
        first: [n], a value of each thing.
        second: [n], another value of each.

    Returns:
        As many as there are things, in their order.
    """
    places = range(len(first))
    return [rank_agreement([first[i] for i in places if i != out], [second[i] for i in places if i != out]) for out in places]


def _scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mid-ranks, centred and of length 1: the product of two such lists is Spearman's rho."""
    ranks = stats.rankdata(values)
    centred = ranks - ranks.mean()
    return np.asarray(centred / np.sqrt((centred**2).sum()), np.float64)
