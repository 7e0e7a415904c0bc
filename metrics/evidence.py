"""Whether the tokens that hold the answer were kept, and what that was worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metrics.arrays import Clusters, Flags, Floats, Numbers
from metrics.clusters import chosen
from metrics.differences import mean_difference
from metrics.image_figures import FigureDifference
from metrics.intervals import proportion
from metrics.statistics import Estimate

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


def summarise(
    recall: Numbers, scores: Numbers, images: Clusters, rho: float = 0.0, recall_rho: float = 0.0
) -> dict[str, Estimate | int | None]:
    """Return recall, and accuracy where the evidence was kept and where it was lost: an association, not a cause.

    Args:
        recall: [n] of `recall`; nan where there is no evidence.
        scores: [n].
        images: [n].
        rho: correlation of the scores of an image.
        recall_rho: correlation of the recalls of an image.

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
        return proportion(scores[rows], chosen(images, rows), rho) if rows.any() else None

    return {
        "recall": proportion(shares, images, recall_rho),
        "accuracy_kept": where(shares >= KEPT),
        "accuracy_lost": where(shares < KEPT),
        "n_without": int(np.isnan(shares).sum()),
    }


@dataclass(frozen=True)
class SwapEffect:
    """What forcing the evidence into the kept set at the same K gave back."""

    gain: FigureDifference  # mean of swapped - scores
    loss: FigureDifference  # mean of none - scores on the same questions
    share: Estimate | None  # gain / loss; None where the interval of the loss reaches 0, or the share is unbounded


def swap(
    swapped: Numbers, scores: Numbers, none_scores: Numbers, images: Clusters, rho: float = 1.0, rate: float = 0.0
) -> SwapEffect | None:
    """Return the accuracy gained by forcing the evidence into the kept set at the same K: a cause, unlike `summarise`.

    The share of the loss that it gives back has Fieller's interval. It can leave [0, 1]: above 1 the swapped set beats all
    tokens, below 0 the tokens that had to go were worth more. There is none where the loss cannot be told from none, as then
    there is nothing to share out.

    Args:
        swapped: [n] scores with the evidence swapped in; nan where there is none.
        scores: [n] of the method as it is.
        none_scores: [n] of the unpruned model.
        images: [n].
        rho: correlation of the changes of an image, pooled over cells.
        rate: how often an answer changes by itself; see `intervals.difference_width`.

    Returns:
        None where no sample has all three scores.

    Raises:
        ValueError: where the lengths differ.
    """
    swapped, scores, none_scores = (np.asarray(column, dtype=np.float64) for column in (swapped, scores, none_scores))
    if not swapped.shape == scores.shape == none_scores.shape == (len(images),):
        raise ValueError(f"swapped {swapped.shape}, scores {scores.shape}, none {none_scores.shape}, {len(images)} images differ")
    known = ~(np.isnan(swapped) | np.isnan(scores) | np.isnan(none_scores))
    where = chosen(images, known)
    gain = mean_difference(swapped[known], scores[known], where, rho, rate)
    loss = mean_difference(none_scores[known], scores[known], where, rho, rate)
    if gain is None or loss is None:
        return None
    share = None
    if loss.lo is not None and loss.lo > 0:
        found = gain.as_seen.over(loss.as_seen)
        share = None if found.lo is None else found
    return SwapEffect(gain, loss, share)
