"""The scores of a run's cells, and the figure that ranks and tests them: the benchmark's own, made anew for every draw of images.

Of a benchmark that reports the mean score, every number comes from the functions of the mean. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.results.types import Floats, Integers, JsonObject
from harness.store.runs import RunFolder
from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.own_figures import KINDS, ScoredAnswers, SumsOverImages, sums_of
from metrics.clusters import cluster_codes
from metrics.design_effect import IntraclassCorrelation, effective_images
from metrics.differences import mean_difference
from metrics.image_figures import FigureDifference, Linearised, figure_difference, figure_interval
from metrics.intervals import proportion
from metrics.pareto import FrontShare, figure_front_share, front_share
from metrics.resampling import pooled
from metrics.statistics import Estimate
from metrics.step_down import DRAWS, FamilyTest, step_down, step_down_figures


@dataclass(frozen=True, eq=False)
class CellScores:
    """The scores of one cell, in the order of images and questions: what stays in memory of every cell."""

    score: Floats  # [n]; nan is missing
    image: Integers  # [n], not falling
    family: Integers  # [n], places in `RunQuestions.families`
    answered: NDArray[np.bool_]  # [n]; others failed, and their score is missing
    wanted: Floats | None = None  # [n] 1 where yes is right, 0 where no is; None where the figure does not read it
    said: Floats | None = None  # [n] 1 where the leading rule read yes, 0 where no, nan neither; None likewise

    @property
    def scored(self) -> bool:
        """Whether any answer has a score; a task without right answers has none."""
        return bool(np.isfinite(self.score).any())

    def at(self, rows: Integers) -> CellScores:
        """Return the scores of some samples, in the order of their rows."""
        wanted, said = (None if column is None else column[rows] for column in (self.wanted, self.said))
        return CellScores(self.score[rows], self.image[rows], self.family[rows], self.answered[rows], wanted, said)


@dataclass(frozen=True)
class LeadingFigure:
    """A benchmark's own figure, made of the answers of cells; values and differences are shares of its scale."""

    figure: OwnFigure = ACCURACY
    families: Sequence[str] = ()  # by the numbers that `CellScores.family` holds
    of_scores: IntraclassCorrelation = field(default_factory=IntraclassCorrelation)  # of the scores of an image
    of_changes: IntraclassCorrelation = field(default_factory=IntraclassCorrelation)  # of their changes from `none`
    margin: float = 0.0  # loss that counts as none, a share of the scale

    @classmethod
    def of(cls, manifest: JsonObject, families: Sequence[str]) -> LeadingFigure:
        """Return the figure that a manifest tells; the mean score of runs that are older than such figures.

        Args:
            manifest: of the run.
            families: of the run's questions, sorted.

        Raises:
            RequestError: where it is of a kind that this version does not know.
        """
        stored = (manifest.get("scoring") or {}).get("figure")
        if stored is None:
            return cls(ACCURACY, families)
        try:
            figure = OwnFigure.of(stored)
            sums_of(figure)
            if not figure.scale > 0:
                raise ValueError(figure.scale)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise RequestError(
                f"manifest.json: scoring.figure is {str(stored)[:80]}; this prunescope makes the kinds {', '.join(KINDS)}"
            ) from None
        return cls(figure, families)

    @property
    def made(self) -> SumsOverImages:
        """How it is made of sums over images."""
        return sums_of(self.figure)

    @property
    def is_mean(self) -> bool:
        """Whether it is the plain mean of scores."""
        return self.figure.kind == "mean"

    @property
    def reads_answers(self) -> bool:
        """Whether it needs what was read of the answers, beside their scores."""
        return self.made.reads_answers

    def level(self, cell: CellScores) -> float:
        """Return the figure of a cell that has scores; nan where they do not suffice for it."""
        return float(np.nanmean(cell.score) if self.is_mean else self._value(self.sums([cell])[0]))

    def knowing(self, cells: Sequence[CellScores], none: CellScores | None, margin: float) -> LeadingFigure:
        """Return the same with what the cells of a run tell of the answers of an image: how far they go together.

        Args:
            cells: of all methods, with samples of the same questions; without those that see no image.
            none: scores of the cell without pruning, to which changes are taken.
            margin: loss that counts as none, a share of the scale.
        """
        scores, changes = IntraclassCorrelation(), IntraclassCorrelation()
        for cell in cells:
            scores.add(cell.score, cell.image)
            if none is not None and cell is not none:
                changes.add(cell.score - none.score, cell.image)
        return replace(self, of_scores=scores, of_changes=changes, margin=margin)

    def estimate(self, cell: CellScores) -> Estimate:
        """Return the figure of a cell with its 95 % interval."""
        if self.is_mean:
            return proportion(cell.score, cell.image, self.of_scores.rho)
        sums = self.sums([cell])[0]
        return figure_interval(sums, self.made.value, self.made.size(sums.sum(0)), images_worth(cell), self.of_scores.rho)

    def difference(self, a: CellScores, b: CellScores) -> FigureDifference | None:
        """Return the figure of a less that of b with its 95 % interval, over the answers that both have; None of nothing."""
        if self.is_mean:
            return mean_difference(a.score, b.score, a.image, self.of_changes.rho, self.margin)
        mine, theirs = self.sums([a, b])
        return self._difference(mine, theirs, images_worth(a, b))

    def retention(self, own: CellScores, none: CellScores) -> Estimate:
        """Return the figure over that of `none`; value None where that is not above 0, no interval where it is unbounded."""
        mine, whole = self.sums([own, none])
        images = images_worth(own, none)
        gap = self._difference(mine, whole, images)
        if gap is None:
            return Estimate(None)
        size = self.made.size(whole.sum(0))
        found = gap.linearised.over(Linearised.of(whole, self.made.value, size, images, self.of_scores.rho), around=1.0)
        return found if found.lo is None else Estimate(found.value, max(0.0, found.lo), found.hi)

    def retention_adjusted(self, own: CellScores, none: CellScores, blind: CellScores) -> Estimate | None:
        """Return (own - blind) / (none - blind): 1 for all that seeing is worth, 0 for no better than `blind`.

        Returns:
            None where `none` cannot be told from `blind`: what seeing is worth is no number to divide by then.
        """
        mine, whole, unseen = self.sums([own, none, blind])
        images = images_worth(own, none, blind)
        gap, worth = self._difference(mine, whole, images), self._difference(whole, unseen, images)
        if gap is None or worth is None:
            return None
        found = gap.linearised.over(worth.linearised, around=1.0)
        return None if found.lo is None else found

    def tested(
        self, pairs: Sequence[tuple[CellScores, CellScores]], members: NDArray[np.bool_], seed: int, draws: int = DRAWS
    ) -> FamilyTest:
        """Test the differences of pairs of cells as one family; see `metrics.step_down`.

        Args:
            pairs: with samples of the same questions.
            members: [pairs] those that are corrected for each other.
            seed: of the flips.
            draws: of flips.
        """
        if not pairs:
            return FamilyTest.of_nothing()
        count = 1 + max(int(a.image.max(initial=-1)) for a, _ in pairs)
        if self.is_mean:
            totals = [pooled(_total(a.score - b.score, a.image, count)) for a, b in pairs]
            return step_down(np.stack(totals, 1), members, seed, draws)
        placed = [[pooled(_placed(sums, _images_of_both(a, b), count)) for sums in self.sums([a, b])] for a, b in pairs]
        mine, theirs = (np.stack([pair[side] for pair in placed], 1) for side in (0, 1))
        return step_down_figures(mine, theirs, self.made.value, members, seed, draws)

    def pieces_an_image(self, cell: CellScores) -> float:
        """Return of how many pieces of the figure an image consists: answers, or one where images are what is counted."""
        sums, images = self.sums([cell])[0], images_worth(cell)
        return max(1.0, self.made.size(sums.sum(0)) / images) if len(sums) else 1.0

    def _difference(self, mine: Floats, theirs: Floats, images: float) -> FigureDifference | None:
        pieces = self.made.size((mine.sum(0) + theirs.sum(0)) / 2)
        return figure_difference(mine, theirs, self.made.value, pieces, images, self.of_changes.rho, self.margin)

    def front_share(self, cells: Sequence[CellScores], costs: Floats, seed: int) -> FrontShare:
        """Return which cells are on the front of the figure and cost, and how often when images are drawn again.

        Args:
            cells: with samples of the same questions.
            costs: [C], or [C, rounds]; see `metrics.pareto.front_share`.
            seed: of the draws.
        """
        if self.is_mean:
            return front_share(np.stack([cell.score for cell in cells]), cells[0].image, costs, seed=seed)
        sums = np.stack(self.sums(cells, every=False), 1)
        return figure_front_share(sums, self.made.value, costs, seed=seed)

    def shown(self, share: Estimate) -> JsonObject | None:
        """Return ``score`` as ``summary.json`` has it, but for ``partial``; None of an estimate without a value.

        Args:
            share: of the scale.
        """
        if share.value is None:
            return None
        scale = self.figure.scale
        value, lo, hi = (None if number is None else number * scale for number in (share.value, share.lo, share.hi))
        return {"name": self.figure.name, "value": value, "lo": lo, "hi": hi, "scale": scale}

    def sums(self, cells: Sequence[CellScores], every: bool = True) -> list[Floats]:
        """Return what each image adds under each cell, [I, k] each, of the same images.

        Args:
            cells: with samples of the same questions; of another run, whose images and families are numbered otherwise, the
                numbers of the first cell count.
            every: whether only answers count that every cell has, the score of others being nan; else each cell's own do. An
                image is there where any answer counts.
        """
        known = np.isfinite(np.stack([cell.score for cell in cells]))
        counted = known.all(0) if every else known.any(0)
        rows = np.isin(cells[0].image, cells[0].image[counted])
        codes = cluster_codes(cells[0].image[rows])
        count, missing = int(codes.max()) + 1 if len(codes) else 0, np.full(len(codes), np.nan)
        return [
            self.made.by_image(
                ScoredAnswers(
                    np.where(counted, cell.score, np.nan)[rows],
                    codes,
                    cells[0].family[rows],
                    self.families,
                    missing if cell.wanted is None else cell.wanted[rows],
                    missing if cell.said is None else cell.said[rows],
                ),
                count,
            )
            for cell in cells
        ]

    def _value(self, sums: Floats) -> float:
        return float(self.made.value(sums.sum(0)))


def common(*scores: Floats) -> Floats:
    """Return scores [cells, m] of the samples that all cells have."""
    table = np.stack(scores)
    return table[:, np.isfinite(table).all(0)]


def images_worth(*cells: CellScores) -> float:
    """Return how many images of equal size those are worth of whose answers all cells have a score."""
    known = np.isfinite(np.stack([cell.score for cell in cells])).all(0)
    return effective_images(np.bincount(cluster_codes(cells[0].image[known])))


def _total(values: Floats, images: Integers, count: int) -> Floats:
    """Sums over the images 0..count-1, [count]; nan adds nothing."""
    found: Floats = np.bincount(images, np.nan_to_num(values), count).astype(np.float64, copy=False)
    return found


def _images_of_both(a: CellScores, b: CellScores) -> Integers:
    """The images of which `LeadingFigure.sums` tells."""
    return np.unique(a.image[np.isfinite(a.score) & np.isfinite(b.score)])


def _placed(sums: Floats, images: Integers, count: int) -> Floats:
    """Sums [I, k] at the places of their images, [count, k]; zeros elsewhere."""
    table = np.zeros((count, sums.shape[1]))
    table[images] = sums
    return table


def distinct(images: Integers) -> int:
    """Return how many images there are, in numbers that do not fall."""
    return int(np.count_nonzero(np.diff(images))) + min(1, len(images))


def partial(run: RunFolder, cell: int, whole: JsonObject | None) -> bool:
    """Return whether a cell is not known to have a score of every question of the whole benchmark.

    Args:
        run: of the cell.
        cell: its id.
        whole: how many ``images`` and ``questions`` the benchmark has. Where the number of questions is None, it is not known,
            and no figure can be told to be whole. None of a task without end, and of an older run, which does not tell: there
            no figure is called partial, which is not to say that it is whole.
    """
    if whole is None:
        return False
    every = whole.get("questions")
    if every is None:
        return True
    scored = run.connection.execute("SELECT count(*) FROM samples WHERE cell = ? AND score IS NOT NULL", (cell,)).fetchone()[0]
    return bool(scored < every)
