"""The scores of a run's cells, and the figure that ranks and tests them: the benchmark's own, made anew for every draw of images.

Of a benchmark that reports the mean score, every number comes from the functions of the mean. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.results.types import Floats, Integers, JsonObject
from harness.store.runs import RunFolder
from harness.tasks.leading_figure import ACCURACY, OwnFigure
from harness.tasks.own_figures import KINDS, ScoredAnswers, SumsOverImages, sums_of
from metrics import accuracy as acc
from metrics.clusters import cluster_codes
from metrics.image_figures import bootstrap_figure, changes, figure_difference
from metrics.pareto import FrontShare, figure_front_share, front_share
from metrics.statistics import Estimate, PairedDifference, bootstrap_mean, paired_difference


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

    def levels(self, *cells: CellScores) -> list[float | None]:
        """Return the figure of cells over the answers that all of them have; None where that is of nothing."""
        if self.is_mean:
            table = common(*(cell.score for cell in cells))
            return list(map(float, table.mean(1))) if table.size else [None] * len(table)
        values = [self._value(sums) for sums in self.sums(cells)]
        return [None if np.isnan(value) else value for value in values]

    def estimate(self, cell: CellScores, seed: int) -> Estimate:
        """Return the figure of a cell with its 95 % interval."""
        if self.is_mean:
            return bootstrap_mean(cell.score, cell.image, seed=seed)
        return bootstrap_figure(self.sums([cell])[0], self.made.value, seed)

    def difference(self, a: CellScores, b: CellScores, seed: int) -> PairedDifference:
        """Return the figure of a less that of b, over the answers that both have."""
        if self.is_mean:
            return paired_difference(a.score, b.score, a.image, seed=seed)
        mine, theirs = self.sums([a, b])
        return figure_difference(mine, theirs, self.made.value, seed)

    def claim(self, gap: PairedDifference, cell: CellScores, none: CellScores, margin: float) -> JsonObject | None:
        """Return whether a cell is not inferior to `none`, and the loss that could have been found; see `metrics.accuracy`.

        Args:
            gap: from `difference`.
            cell: scores of the cell.
            none: scores of the cell without pruning.
            margin: the loss one is ready to call none, a share of the scale.
        """
        if gap.se is None:
            return None
        if self.is_mean:
            both = np.isfinite(cell.score) & np.isfinite(none.score)
            images, size = distinct(cell.image[both]), float(both.sum())
            p = acc.non_inferior_p(gap, cell.score, none.score, cell.image, margin)
        else:
            a, b = self.sums([cell, none])
            images, size = len(a), self.made.size((a.sum(0) + b.sum(0)) / 2)
            p = acc.no_loss_p(gap, changes(a, b, self.made.value) * size, size, margin)
        return {
            "margin": margin,
            "holds": acc.non_inferior(gap, p, margin),
            "p": p,
            "smallest_detectable": acc.smallest_detectable(gap.se, images, size),
        }

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
