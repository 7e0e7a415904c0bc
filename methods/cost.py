"""FLOPs of selections, a multiply-add counted as 2. The same formulas serve schedules and reports."""

from __future__ import annotations


def similarity(tokens: int, width: int) -> float:
    """Normalising N tokens of width D and all their products: 2N^2 D + 3ND."""
    return 2.0 * tokens * tokens * width + 3.0 * tokens * width


def attention_rows(heads: int, rows: int, keys: int, head_dim: int) -> float:
    """The probed rows beside SDPA: QK' for the rows, their softmax (5 a score), the mean over heads."""
    return heads * rows * keys * (2.0 * head_dim + 5.0 + 1.0)


def ranking(tokens: int) -> float:
    """Choosing the top of N scores: about N log2 N comparisons."""
    from math import log2

    return tokens * log2(max(tokens, 2))


def greedy(tokens: int, keep: int, per_token: float = 2.0) -> float:
    """K rounds that update and compare N candidates."""
    return per_token * tokens * keep


def merging(left: int, right: int, width: int, merged: int) -> float:
    """Bipartite matching of two halves (cosines, maxima) and the weighted mean of the merged."""
    return 2.0 * left * right * width + left * right + 3.0 * (left + right) * width + 3.0 * merged * width
