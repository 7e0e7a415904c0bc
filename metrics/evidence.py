"""Whether the tokens that hold the answer were kept, and what that was worth."""

from __future__ import annotations

import numpy as np

from metrics.arrays import Clusters, Flags, Floats, Numbers
from metrics.clusters import chosen
from metrics.statistics import Estimate, bootstrap_mean, bootstrap_ratio

KEPT = 0.5
"""Evidence counts as kept from this recall on."""


def recall(kept: Flags, evidence: Flags) -> Floats:
    """Return the share of the evidence tokens among the kept: |kept and evidence| / |evidence|.

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


def summarise(recall: Numbers, scores: Numbers, images: Clusters, seed: int = 0) -> dict[str, Estimate | int | None]:
    """Return recall, and accuracy where the evidence was kept and where it was lost: an association, not a cause.

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

    def where(rows: Flags) -> Estimate | None:
        return bootstrap_mean(scores[rows], chosen(images, rows), seed=seed) if rows.any() else None

    return {
        "recall": bootstrap_mean(shares, images, seed=seed),
        "accuracy_kept": where(shares >= KEPT),
        "accuracy_lost": where(shares < KEPT),
        "n_without": int(np.isnan(shares).sum()),
    }


def swap(swapped: Numbers, scores: Numbers, none_scores: Numbers, images: Clusters, seed: int = 0) -> dict[str, Estimate | None]:
    """Return the accuracy gained by forcing the evidence into the kept set at the same K: a cause, unlike `summarise`.

    Args:
        swapped: [n] scores with the evidence swapped in; nan where there is none.
        scores: [n] of the method as it is.
        none_scores: [n] of the unpruned model.
        images: [n].
        seed: of the bootstrap.

    Returns:
        ``swap_gain``: mean of swapped - scores; ``swap_loss``: mean of none - scores on the same questions;
        ``swap_share``: gain / loss, the part of the loss that came from throwing evidence away. It can leave [0, 1]:
        above 1 the swapped set beats all tokens, below 0 the tokens that had to go were worth more. None where the
        interval of the loss reaches 0, as then there is nothing to share out.

    Raises:
        ValueError: where the lengths differ.
    """
    swapped, scores, none_scores = (np.asarray(column, dtype=np.float64) for column in (swapped, scores, none_scores))
    if not swapped.shape == scores.shape == none_scores.shape == (len(images),):
        raise ValueError(f"swapped {swapped.shape}, scores {scores.shape}, none {none_scores.shape}, {len(images)} images differ")
    known = ~np.isnan(swapped)
    images = chosen(images, known)
    gain, loss = (swapped - scores)[known], (none_scores - scores)[known]
    gained, lost = bootstrap_mean(gain, images, seed=seed), bootstrap_mean(loss, images, seed=seed)
    share = None
    if lost.lo is not None and lost.lo > 0:
        share = bootstrap_ratio(gain, loss, images, seed=seed)
    return {"swap_gain": gained, "swap_loss": lost, "swap_share": share}
