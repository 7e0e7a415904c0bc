"""Accuracy against the references: retention, loyalty, hard and easy samples, what a run can claim."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from metrics.arrays import Clusters, Flags, Floats, Numbers
from metrics.clusters import aligned, chosen, cluster_codes
from metrics.statistics import Estimate, PairedDifference, bootstrap_mean

ANSWERED = 0.5
"""A graded score counts as an answer from here on; right and wrong are 1 and 0."""

FEWEST = 6
"""Images that must differ, all one way, before a two-sided test that flips signs gets below 0.05: 2 / 2^6."""


def accuracy(scores: Numbers, images: Iterable[Hashable], seed: int = 0) -> Estimate:
    """Return the mean score with a 95 % interval clustered by image.

    Args:
        scores: [n] in [0, 1]; nan is left out.
        images: [n] the image of each sample.
        seed: of the bootstrap.

    Returns:
        The share of 1; see `bootstrap_mean`.
    """
    return bootstrap_mean(scores, images, seed=seed)


def by_family(scores: Numbers, families: Clusters, images: Clusters, seed: int = 0) -> dict[Hashable, Estimate]:
    """Return `accuracy` of each question family, in the order of their names.

    Args:
        scores: [n].
        families: [n] the family of each sample, by name or number; None is no family and left out.
        images: [n].
        seed: of the bootstrap.

    Raises:
        ValueError: where the lengths differ.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values) == len(families) == len(images):
        raise ValueError(f"{len(values)} scores, {len(families)} families, {len(images)} images; give one of each a sample")
    if isinstance(families, np.ndarray) and families.dtype.kind == "i":
        rows = {name: families == name for name in np.unique(families).tolist()}
    else:
        codes = cluster_codes(families)
        rows = {name: codes == code for code, name in enumerate(dict.fromkeys(families)) if name is not None}
    return {name: accuracy(values[rows[name]], chosen(images, rows[name]), seed) for name in sorted(rows)}


def retention(accuracy: float | None, none: float | None) -> float | None:
    """Return accuracy / accuracy of `none`; None where that is not positive or something is not measured."""
    return _ratio(accuracy, none, 0.0)


def retention_adjusted(accuracy: float | None, none: float | None, blind: float | None) -> float | None:
    """Return (accuracy - blind) / (none - blind): retention of what seeing is worth.

    Args:
        accuracy: of the method.
        none: of the unpruned model.
        blind: of the model without an image, which guessing reaches.

    Returns:
        1 for all, 0 for no better than blind; None where `none` is not above `blind`.
    """
    return None if blind is None else _ratio(accuracy, none, blind)


def _ratio(accuracy: float | None, none: float | None, origin: float) -> float | None:
    if accuracy is None or none is None or none - origin <= 0:
        return None
    return (accuracy - origin) / (none - origin)


def loyalty_agreement(
    predictions: Sequence[str], none_predictions: Sequence[str], images: Iterable[Hashable], seed: int = 0
) -> Estimate:
    """Return the share of answers equal to the unpruned model's, right or wrong; outer blanks do not count.

    Args:
        predictions: [n] answers of the method; None (failed) is left out.
        none_predictions: [n] answers of `none` to the same questions.
        images: [n].
        seed: of the bootstrap.

    Raises:
        ValueError: where the lengths differ.

    Source: EffiVLM-Bench, arXiv:2506.00479.
    """
    if len(predictions) != len(none_predictions):
        raise ValueError(f"{len(predictions)} answers against {len(none_predictions)} of none; loyalty pairs the same questions")
    equal = [
        np.nan if mine is None or theirs is None else float(str(mine).strip() == str(theirs).strip())
        for mine, theirs in zip(predictions, none_predictions, strict=True)
    ]
    return bootstrap_mean(equal, images, seed=seed)


def loyalty_kl(kl: Numbers, images: Iterable[Hashable], seed: int = 0) -> Estimate:
    """Return the mean KL(none || pruned) of the first answer token, in nats.

    Args:
        kl: [n] one divergence a sample; nan is left out.
        images: [n].
        seed: of the bootstrap.
    """
    return bootstrap_mean(kl, images, seed=seed)


def difficulty(
    scores: Numbers,
    none_scores: Numbers,
    downsample_scores: Numbers,
    images: Clusters,
    seed: int = 0,
) -> dict[str, Estimate | int | None]:
    """Return accuracy on hard and on easy samples.

    Hard: `none` answers and `downsample` at the same budget does not. Easy: both answer. Samples that
    `none` does not answer say nothing about pruning, and are in neither.

    Args:
        scores: [n] of the method.
        none_scores: [n].
        downsample_scores: [n] at the same budget.
        images: [n].
        seed: of the bootstrap.

    Returns:
        ``hard`` and ``easy`` (None where there are no such samples) and ``n_hard``.

    Raises:
        ValueError: where the lengths differ.

    Source: VTC-Bench, arXiv:2510.07143.
    """
    mine, none, small = (np.asarray(s, dtype=np.float64) for s in (scores, none_scores, downsample_scores))
    if not mine.shape == none.shape == small.shape == (len(images),):
        raise ValueError(f"scores {mine.shape}, none {none.shape}, downsample {small.shape}, {len(images)} images differ")
    answered = none >= ANSWERED
    hard, easy = answered & (small < ANSWERED), answered & (small >= ANSWERED)

    def figure(rows: Flags) -> Estimate | None:
        return accuracy(mine[rows], chosen(images, rows), seed) if rows.any() else None

    return {"hard": figure(hard), "easy": figure(easy), "n_hard": int(hard.sum())}


def smallest_detectable(
    se_of_difference: float, images: int, questions: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Return the smallest true difference that a two-sided test finds: (z_{1-alpha/2} + z_power) se.

    It is no smaller than `FEWEST` answers, each of another image: with fewer images that differ, the signs of their
    differences can be flipped in so few ways that no p is below 0.05, so a small se of few images promises nothing.

    Args:
        se_of_difference: standard error of the paired difference (`PairedDifference.se`).
        images: that are compared.
        questions: about them, or the pieces of which a figure that is no mean of answers is the mean.
        power: chance of finding it.
        alpha: level of the test.

    Returns:
        A difference in the unit of the standard error; None of fewer than `FEWEST` images, where nothing is detectable.

    Source: Bland 2015, An Introduction to Medical Statistics, section 18.3.
    """
    from scipy.stats import norm

    if images < FEWEST or questions <= 0:
        return None
    return max(float((norm.ppf(1 - alpha / 2) + norm.ppf(power)) * se_of_difference), FEWEST / questions)


def non_inferior_p(
    difference: PairedDifference,
    scores: Numbers,
    reference: Numbers,
    images: Iterable[Hashable],
    margin: float,
) -> float:
    """Return the one-sided p of a loss of the margin or more.

    That is how often images like these would show no larger a loss than was seen.

    The spread is that of a world in which the margin is lost, not the one seen: the bootstrap of images that lose nothing is
    0 [0, 0], and would take three of them for proof. The answers that would have been lost and were not add their share:
    z = (difference + margin) / sqrt(se^2 + c (difference + margin) / questions), where c is the number of answers by which
    an image that changes does so, sum t^2 / sum |t| of the images' totals t, at least 1. Of one question an image, that is
    the score test of paired proportions.

    How many answers go at once on images that were not seen to lose is not known; where it is more than c, p is too small.

    Args:
        difference: of the method to its reference, from the same samples.
        scores: [n] of the method; a row with nan on either side is left out.
        reference: [n].
        images: [n].
        margin: the loss one is ready to call none, > 0, in the unit of the scores.

    Returns:
        p; 1.0 of fewer than `FEWEST` images, of which nothing is claimed.

    Raises:
        ValueError: where the lengths differ, or of a margin that is not positive.

    Source: Tango 1998, Statistics in Medicine 17; clusters as in `paired_difference`.
    """
    codes, (mine, theirs) = aligned(images, scores, reference)
    changes = np.bincount(codes, weights=mine - theirs).astype(np.float64)
    return no_loss_p(difference, changes, len(mine), margin)


def no_loss_p(difference: PairedDifference, changes: Floats, size: float, margin: float) -> float:
    """Return the p of `non_inferior_p` from what each image changes.

    Args:
        difference: of the method to its reference.
        changes: [I] of each image, in pieces of which the figure is the mean, such as questions; their sum over ``size`` is
            the difference.
        size: how many pieces there are.
        margin: the loss one is ready to call none, > 0, in the unit of the difference.

    Returns:
        p; 1.0 of fewer than `FEWEST` images, of which nothing is claimed.

    Raises:
        ValueError: of a margin that is not positive.
    """
    from scipy.special import ndtr

    if margin <= 0:
        raise ValueError(f"margin is {margin}; non-inferiority needs one above 0, such as 0.01")
    totals = np.abs(changes)
    if size <= 0 or len(totals) < FEWEST or difference.value is None or difference.se is None or difference.value <= -margin:
        return 1.0
    beyond = difference.value + margin
    together = max(1.0, float((totals**2).sum() / totals.sum())) if totals.any() else 1.0
    return float(ndtr(-beyond / (difference.se**2 + together * beyond / size) ** 0.5))


def non_inferior(difference: PairedDifference, p: float, margin: float) -> bool:
    """Return whether the whole interval of (method - reference) is above -margin and `non_inferior_p` at most 0.025.

    Args:
        difference: its 95 % interval makes this a one-sided test at 2.5 %. Without an interval nothing is claimed.
        p: of `non_inferior_p`.
        margin: the same.

    Source: Piaggio et al. 2012, CONSORT extension for non-inferiority trials.
    """
    return difference.lo is not None and difference.lo > -margin and p <= 0.025
