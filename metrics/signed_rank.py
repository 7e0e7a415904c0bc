"""Wilcoxon's signed-rank test, exact where images tie: few images are the rule here, and equal ranks no exception."""

from __future__ import annotations

import numpy as np

from metrics.arrays import Numbers

EXACT = 50  # differences up to which the null distribution is counted out, as in scipy without ties


def signed_rank_p(differences: Numbers) -> float:
    """Return the two-sided p of differences that are symmetric around zero.

    Zeros are left out, as Wilcoxon did, and equal magnitudes share their mean rank. Up to `EXACT` differences the
    distribution of the positive ranks' sum over all 2^n signs is counted with these very ranks, so that ties cost no
    exactness; beyond, it is the normal approximation with its correction for ties.

    Args:
        differences: [n], without nan; those that must count as equal are equal.

    Returns:
        p in (0, 1]; 1.0 where all are zero.

    Source: Wilcoxon 1945, Biometrics Bulletin 1; the count: Streitberg and Roehmel 1986, Statistical Software Newsletter 12.
    """
    from scipy.stats import rankdata, wilcoxon

    found = np.asarray(differences, dtype=np.float64)
    found = found[found != 0]
    if not len(found):
        return 1.0
    if len(found) > EXACT:
        return float(wilcoxon(found, method="approx").pvalue)
    doubled = np.rint(2 * rankdata(np.abs(found))).astype(int)  # mean ranks are halves at finest
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1
    for rank in doubled:
        ways[rank:] += ways[:-rank].copy()
    reached = doubled[found > 0].sum()
    tail = min(ways[: reached + 1].sum(), ways[reached:].sum())
    return float(min(1.0, 2 * tail / ways.sum()))
