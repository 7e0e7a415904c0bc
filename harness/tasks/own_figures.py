"""The figure that a benchmark reports: a function of sums over images, so that images can be drawn again or swapped.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.tasks.leading_figure import OwnFigure

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoredAnswers:
    """The answers of one cell, as a figure reads them: [n] each, in the order of images and questions."""

    score: Floats  # in [0, 1]; nan is missing
    image: Integers  # the image, counted from 0; not falling
    category: Integers  # place of the question's family in `categories`
    categories: Sequence[str]
    wanted: Floats  # of questions with yes and no: 1 where yes is right, 0 where no is; nan of others
    said: Floats  # what the rule read: 1 yes, 0 no, nan neither


class SumsOverImages(Protocol):
    """How a kind of figure is made: what each image adds, and the figure that sums of it give."""

    @property
    def reads_answers(self) -> bool:
        """Whether it needs `ScoredAnswers.wanted` and `ScoredAnswers.said`, and not the scores alone."""
        ...

    def by_image(self, answers: ScoredAnswers, images: int) -> Floats:
        """Return what each image adds, [images, k]; an image without an answer adds zeros."""
        ...

    def value(self, sums: Floats) -> Floats:
        """Return the figure as a share of its scale, [...], of sums [..., k]; nan of nothing."""
        ...

    def size(self, sums: Floats) -> float:
        """Return of how many equal pieces the figure is the mean, of sums [k]: losing one piece costs 1 / size."""
        ...


class MeanScore:
    """The mean score: an image adds its scores and their number."""

    reads_answers = False

    def by_image(self, answers: ScoredAnswers, images: int) -> Floats:
        """Return [images, 2]: the sum of scores, and how many there are."""
        known = np.isfinite(answers.score)
        image = answers.image[known]
        total = np.bincount(image, answers.score[known], images)
        return np.stack([total, np.bincount(image, minlength=images)], 1)

    def value(self, sums: Floats) -> Floats:
        """Return the mean, [...], of sums [..., 2]; nan of no score."""
        return _quotient(sums[..., 0], sums[..., 1], np.nan)

    def size(self, sums: Floats) -> float:
        """Return how many scores there are, of sums [2]."""
        return float(sums[1])


@dataclass(frozen=True)
class F1OfYes:
    """F1 of "yes" among questions with yes and no: POPE (arXiv:2305.10355), section 3.3.

    ``unread_missed`` says whether a right "yes" is missed by every answer that does not say yes, or only by one that says no,
    as in lmms-eval 0.7.3 (``lmms_eval.tasks.pope.utils.pope_aggregate_f1_score``).
    """

    unread_missed: bool = True
    reads_answers = True

    def by_image(self, answers: ScoredAnswers, images: int) -> Floats:
        """Return [images, 4]: right and wrong "yes", missed "yes", and the number of answers."""
        known = np.isfinite(answers.score) & np.isfinite(answers.wanted)
        wanted, yes = answers.wanted == 1, answers.said == 1
        missed = ~yes if self.unread_missed else answers.said == 0
        counted = (known & wanted & yes, known & ~wanted & yes, known & wanted & missed, known)
        return np.stack([np.bincount(answers.image[rows], minlength=images) for rows in counted], 1).astype(np.float64)

    def value(self, sums: Floats) -> Floats:
        """Return F1, [...], of sums [..., 4]; 0 where nothing is right, nan of no answer."""
        right, wrong, missed, asked = np.moveaxis(sums, -1, 0)
        precision, recall = _quotient(right, right + wrong, 0.0), _quotient(right, right + missed, 0.0)
        return np.where(asked > 0, _quotient(2 * (precision * recall), precision + recall, 0.0), np.nan)

    def size(self, sums: Floats) -> float:
        """Return the number of "yes" that are right or are said, of sums [4]: F1 is the share of them that is both."""
        return float(2 * sums[0] + sums[1] + sums[2])


class MmeScore:
    """The mean over MME's categories of their scores: MME (arXiv:2306.13394), section 2.2.

    A category's score is the mean over its images of (acc + acc+) / 2: the share of the image's two questions that is right,
    and whether both are. Of 200 each and 14 categories, that is the total of perception and cognition over 2800. Images of
    which not exactly two questions have a score are left out, and so are categories without any image.
    """

    reads_answers = False

    def by_image(self, answers: ScoredAnswers, images: int) -> Floats:
        """Return [images, 2 C]: the image's score under its category of C, then whether it counts there."""
        known, kinds = np.isfinite(answers.score), len(answers.categories)
        place = answers.image[known] * kinds + answers.category[known]
        total = np.bincount(place, answers.score[known], images * kinds)
        pairs = np.bincount(place, minlength=images * kinds) == 2
        score = np.where(pairs, (total / 2 + (total == 2)) / 2, 0.0)
        return np.concatenate([score.reshape(images, kinds), pairs.reshape(images, kinds)], 1)

    def value(self, sums: Floats) -> Floats:
        """Return the mean of the categories' shares, [...], of sums [..., 2 C]; nan where there is no category."""
        score, images = np.split(sums, 2, axis=-1)
        shares = _quotient(score, images, 0.0)
        return _quotient(shares.sum(-1), (images > 0).sum(-1), np.nan)

    def size(self, sums: Floats) -> float:
        """Return the effective number of images where each category counts alike, of sums [2 C] (Kish 1965)."""
        images = np.split(sums, 2)[1]
        there = images[images > 0]
        return len(there) ** 2 / float((1 / there).sum()) if len(there) else 0.0


class CircularAccuracy:
    """The share of images whose answers are all right: MMBench (arXiv:2307.06281), section 4.2.

    An image of MMBench is one question, put under each rotation of its options.
    """

    reads_answers = False

    def by_image(self, answers: ScoredAnswers, images: int) -> Floats:
        """Return [images, 2]: whether all answers are right, and whether all are there; an image that lacks one is left out."""
        asked = np.bincount(answers.image, minlength=images)
        lacking = np.bincount(answers.image, ~np.isfinite(answers.score), images)
        wrong = np.bincount(answers.image, answers.score != 1, images)
        whole = (asked > 0) & (lacking == 0)
        return np.stack([whole & (wrong == 0), whole], 1).astype(np.float64)

    def value(self, sums: Floats) -> Floats:
        """Return the share, [...], of sums [..., 2]; nan of no image."""
        return _quotient(sums[..., 0], sums[..., 1], np.nan)

    def size(self, sums: Floats) -> float:
        """Return how many images there are, of sums [2]."""
        return float(sums[1])


KINDS: Mapping[str, Callable[..., SumsOverImages]] = {
    "mean": MeanScore, "f1": F1OfYes, "mme": MmeScore, "circular": CircularAccuracy,
}  # fmt: skip
"""The kinds of figures; the options of a figure are what its kind is made with."""


def _quotient(above: Floats, below: Floats | Integers, of_nothing: float) -> Floats:
    found: Floats = np.divide(above, below, out=np.full(np.shape(above), of_nothing), where=below > 0)
    return found


def sums_of(figure: OwnFigure) -> SumsOverImages:
    """Return how a figure is made.

    Raises:
        KeyError: where it is of an unknown kind.
        TypeError: where its kind does not take its options.
    """
    return KINDS[figure.kind](**dict(figure.options))
