"""Whether the tokens that hold the answer were kept, and what that was worth."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from metrics.statistics import Figure, bootstrap_mean, paired_difference

KEPT = 0.5
"""Evidence counts as kept from this recall on."""


def recall(kept: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Share of the evidence tokens among the kept: |kept and evidence| / |evidence|.

    Args:
        kept: bool [n, N] the tokens still present.
        evidence: bool [n, N] the tokens that hold the answer.

    Returns:
        float64 [n] in [0, 1]; nan where a question has no evidence ("no" has none).

    Raises:
        ValueError: where the shapes differ.
    """
    kept, evidence = np.asarray(kept, dtype=bool), np.asarray(evidence, dtype=bool)
    if kept.shape != evidence.shape:
        raise ValueError(f"kept is {kept.shape}, evidence {evidence.shape}; both are [samples, visual tokens]")
    size = evidence.sum(-1)
    found = (kept & evidence).sum(-1)
    return np.where(size > 0, found / np.maximum(size, 1), np.nan)


def summarise(
    recall: np.ndarray, scores: np.ndarray, images: Sequence[Hashable], seed: int = 0
) -> dict[str, Figure | int | None]:
    """Recall, and accuracy where the evidence was kept and where it was lost: an association, not a cause.

    Args:
        recall: [n] of `recall`; nan where there is no evidence.
        scores: [n].
        images: [n].
        seed: of the bootstrap.

    Returns:
        ``recall``, ``accuracy_kept`` and ``accuracy_lost`` (None where no sample is such), and
        ``n_without``, the questions left out for having no evidence.

    Raises:
        ValueError: where the lengths differ.
    """
    shares, scores = np.asarray(recall, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not shares.shape == scores.shape == (len(images),):
        raise ValueError(f"recall {shares.shape}, scores {scores.shape}, {len(images)} images differ")

    def where(rows: np.ndarray) -> Figure | None:
        return bootstrap_mean(scores[rows], [images[i] for i in np.flatnonzero(rows)], seed=seed) if rows.any() else None

    return {
        "recall": bootstrap_mean(shares, images, seed=seed),
        "accuracy_kept": where(shares >= KEPT),
        "accuracy_lost": where(shares < KEPT),
        "n_without": int(np.isnan(shares).sum()),
    }


def swap_gain(swapped_scores: np.ndarray, scores: np.ndarray, images: Sequence[Hashable], seed: int = 0) -> Figure:
    """Accuracy gained by forcing the evidence into the kept set, at the same K: a cause.

    Args:
        swapped_scores: [n] with the evidence swapped in; nan where there is none.
        scores: [n] of the method as it is.
        images: [n].
        seed: of the bootstrap.

    Returns:
        The mean paired gain with its interval.

    Raises:
        ValueError: where the lengths differ.
    """
    gain = paired_difference(swapped_scores, scores, images, seed=seed, permutations=1)
    return Figure(gain.value, gain.lo, gain.hi)
