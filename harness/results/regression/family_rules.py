"""Rules that test all cells of two runs as one family: accuracy, and diversity of the kept tokens. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from harness.results.regression.judging import VerdictMaker
from harness.results.regression.pairing import ImageSums, MatchedCell, RunPair
from harness.results.regression.thresholds import Thresholds
from harness.results.types import Floats
from harness.store.verdicts import Verdict
from harness.tasks.leading_figure import OwnFigure
from harness.tasks.own_figures import sums_of
from metrics import familywise
from metrics.figures import FIGURES


@dataclass(frozen=True)
class FamilywiseTest:
    """A test, as one family, of what many columns lost from the baseline to the candidate; a column is a figure of a cell."""

    means: tuple[Floats, Floats]  # [M] of the baseline and of the candidate, on what compares
    losses: familywise.ColumnLosses
    images: tuple[int, int]
    questions: int  # of the first column of the candidate
    paired: bool
    level: float

    @classmethod
    def of(cls, pair: RunPair, columns: Sequence[ImageSums], level: float) -> FamilywiseTest:
        """Test the losses of all columns.

        Args:
            pair: of the runs.
            columns: M of them, from `RunPair.by_image`.
            level: family-wise, at which a loss is significant.
        """
        if not columns:
            nothing = np.zeros(0)
            losses = familywise.ColumnLosses.of_nothing(level)
            return cls((nothing, nothing), losses, (0, 0), 0, pair.paired, level)
        totals, sizes = ([np.stack([c[which][side] for c in columns], 1) for side in (0, 1)] for which in (0, 1))
        told = [size.any(1) for size in sizes]  # images that say nothing must not change sides, nor count
        totals, sizes = [t[rows] for t, rows in zip(totals, told)], [n[rows] for n, rows in zip(sizes, told)]
        with np.errstate(divide="ignore", invalid="ignore"):
            before, after = (t.sum(0) / n.sum(0) for t, n in zip(totals, sizes))
        if pair.paired:
            losses = familywise.paired(totals[0] - totals[1], sizes[0], level)
        else:
            losses = familywise.unpaired((totals[0], sizes[0]), (totals[1], sizes[1]), level)
        images = len(totals[0]), len(totals[1])
        return cls((before, after), losses, images, int(sizes[1][:, 0].sum()), pair.paired, level)

    @classmethod
    def of_figure(cls, pair: RunPair, cells: Sequence[MatchedCell], level: float) -> FamilywiseTest:
        """Test the losses of the figure that both runs report, where that is no mean: a column is a cell.

        Args:
            pair: of the runs.
            cells: of `RunPair.matched`.
            level: family-wise, at which a loss is significant.
        """
        known = [(cell.figure_sums, cell.sizes) for cell in cells if cell.figure_sums is not None]
        if not known:
            return cls.of(pair, [], level)
        sums, sizes = ([np.stack([c[which][side] for c in known], 1) for side in (0, 1)] for which in (0, 1))
        told = [size.any(1) for size in sizes]  # images that say nothing must not change sides, nor count
        before, after = (table[rows] for table, rows in zip(sums, told))
        made = sums_of(pair.scoring.figure).value
        test = familywise.paired_figures if pair.paired else familywise.unpaired_figures
        means, questions = (made(before.sum(0)), made(after.sum(0))), int(sizes[1][:, 0].sum())
        return cls(means, test(before, after, made, level), (len(before), len(after)), questions, pair.paired, level)

    @property
    def underpowered(self) -> bool:
        """Whether no loss, however large, could be significant on so few images."""
        least = familywise.least_p(self.images[0]) if self.paired else familywise.least_p(*self.images)
        return least > self.level

    @property
    def samples_in_words(self) -> str:
        """The samples that compare, in words."""
        if self.paired:
            return f"on the same {self.questions} questions of {self.images[0]} images"
        return f"on {self.images[0]} and {self.images[1]} different images"

    def significant(self, column: int) -> bool:
        """Return whether chance gives the loss of a column in any column as rarely as the level says."""
        return not self.underpowered and self.losses.least_p(column) <= self.level and bool(self.losses.p[column] <= self.level)

    def too_coarse(self, column: int, most: float = float("inf")) -> str | None:
        """Return the reason why a column's loss cannot be told from chance, were it as large as can be; None where it can.

        Args:
            column: that lost.
            most: what it can lose at all, such as the accuracy that it had.
        """
        few, differing = "too few to tell that from chance", self.losses.differing
        if self.underpowered:
            return f"{min(self.images)} images are {few}"
        if differing is not None and self.losses.least_p(column) > self.level:
            return f"{differing[column]} of {self.images[0]} images count differently in the two runs, {few}"
        if not self.significant(column) and self.losses.needed()[column] >= most - 1e-6:
            return f"a loss of all that there was could not be told from chance on {min(self.images)} such images"
        return None


def accuracy_test(pair: RunPair, thresholds: Thresholds) -> FamilywiseTest:
    """Return what all cells that both runs measured lost in their own figure, a column each in the order of `RunPair.matched`."""
    if pair.scoring.figure.kind != "mean":
        return FamilywiseTest.of_figure(pair, pair.matched, thresholds.accuracy.level)
    return FamilywiseTest.of(pair, [(cell.totals, cell.sizes) for cell in pair.matched], thresholds.accuracy.level)


def accuracy(pair: RunPair, test: FamilywiseTest, thresholds: Thresholds) -> Iterator[Verdict]:
    """Judge the figure that both runs report of each cell: a drop fails where it is over the tolerance and significant.

    That is accuracy, or the benchmark's own figure, such as F1 of POPE; both are shares of their scale here, and told in points
    of it.

    Args:
        pair: of the runs.
        test: from `accuracy_test`.
        thresholds: of which the table ``accuracy`` decides.
    """
    rule, losses, figure = thresholds.accuracy, test.losses, pair.scoring.figure
    for column, cell in enumerate(pair.matched):
        partial = any(pair.scoring.is_partial(int(sizes.sum())) for sizes in cell.sizes)
        name = figure.name + (" (partial)" if partial else "")
        before, after = (float(mean[column]) for mean in test.means)
        make = _accuracy_maker(cell, figure, name, before, after)
        loss = float(losses.value[column])
        if np.isnan(loss):
            yield Verdict("accuracy", cell.label, "not judged", "no answers compare")
            continue
        low, high = losses.interval(column)
        value, least, most = (0.0 - figure.scale * part for part in (loss, high, low))  # of 0 no -0
        told = f"{value:+,.1f} {unit_of(figure)} [{least:+,.1f} to {most:+,.1f}] {test.samples_in_words}"
        if losses.differing is not None and not losses.differing[column]:
            told = f"each of {test.images[0]} images scores the same on the same {test.questions} questions"
        if name != "accuracy":
            told = f"{name} {figure.scale * before:,.1f} → {figure.scale * after:,.1f}, {told}"
        if loss <= rule.tolerance + 1e-12:
            yield make("passed", told)
        elif (reason := test.too_coarse(column, before)) is not None:
            yield make("not judged", f"{told}; {reason}")
        elif not test.significant(column):
            yield make("passed", f"{told}; chance gives such a drop in some cell with p = {losses.p[column]:.2g}")
        else:
            yield make(
                thresholds.status("accuracy"),
                f"{told}, p = {losses.p[column]:.1g} over all cells; {figure.scale * rule.tolerance:,g} points are tolerated",
            )


def untold_drops(pair: RunPair, test: FamilywiseTest, thresholds: Thresholds) -> int:
    """Return in how many cells `accuracy` judges no drop over the tolerance, since nothing could tell it from chance."""
    over = test.losses.value > thresholds.accuracy.tolerance + 1e-12
    return sum(bool(over[c]) and test.too_coarse(c, float(test.means[0][c])) is not None for c in range(len(pair.matched)))


def power_in_words(pair: RunPair, test: FamilywiseTest, thresholds: Thresholds) -> str | None:
    """Say how large a drop of accuracy may be missed, and how many images would see one that is not tolerated.

    Args:
        pair: of the runs.
        test: from `accuracy_test`.
        thresholds: of which the table ``accuracy`` decides.

    Returns:
        A sentence; None where such a drop is seen in most cells, and where nothing compares.
    """
    figure, tolerance, images = pair.scoring.figure, thresholds.accuracy.tolerance, min(test.images)
    known = ~np.isnan(test.losses.value)
    if not known.any():
        return None
    enough, many = "; use more", float(np.median(test.losses.images_for(tolerance)[known])) if tolerance > 0 else float("inf")
    if np.isfinite(many):
        enough = f"; to see a drop of {figure.scale * tolerance:,g} {unit_of(figure)} takes about {_rounded(many):,} images"
    if test.underpowered:
        return f"{images} images are too few for any drop of {figure.name} to be significant{enough}."
    seen, all_there_is = test.losses.detectable()[known], float(np.median(test.means[0][known]))
    smallest = float(np.median(np.where(np.isnan(seen), np.inf, seen)))
    if smallest <= tolerance:
        return None
    if smallest >= all_there_is:
        return f"On {images} images, even a drop of {figure.name} to nothing may be missed more than one time in five{enough}."
    drop = f"{figure.scale * smallest:,.1f} {unit_of(figure)}"
    return f"In half of the cells, a drop of {figure.name} under {drop} may be missed more than one time in five{enough}."


def _rounded(images: float) -> int:
    """A number of images to two digits, rounded up: it is an estimate."""
    step: int = 10 ** max(0, len(str(int(images))) - 2)
    return step * ceil(images / step - 1e-9)


def unit_of(figure: OwnFigure) -> str:
    """Return what differences of a figure are counted in: points of a hundred, or of another scale that is named."""
    return "points" if figure.scale == 100 else f"points of {figure.scale:,g}"


def _accuracy_maker(cell: MatchedCell, figure: OwnFigure, name: str, before: float, after: float) -> VerdictMaker:
    """Percentages stand in a verdict as shares; figures of another scale in their own points, as papers print them."""
    if figure.scale == 100:
        return VerdictMaker("accuracy", cell.label, (before, after), name, "share")
    return VerdictMaker("accuracy", cell.label, (figure.scale * before, figure.scale * after), name, "points")


def diversity(pair: RunPair, thresholds: Thresholds) -> Iterator[Verdict]:
    """Judge the diversity of each cell's kept tokens by the figure that lost most.

    A loss of any figure fails where it is over the tolerance and significant over all cells and figures.

    Args:
        pair: of the runs.
        thresholds: of which the table ``diversity`` decides.
    """
    rule = thresholds.diversity
    places: list[tuple[MatchedCell, str, float]] = []
    tables: list[ImageSums] = []
    for cell in pair.matched:
        if not cell.same_schedule:
            if cell.baseline.facts["prunes"]:
                yield Verdict("diversity", cell.label, "not judged", "the schedule differs, and diversity with it")
            continue
        columns = [side.run.analysis(c.ident) for side, c in ((pair.baseline, cell.baseline), (pair.candidate, cell.candidate))]
        rows = pair.rows(columns)
        for name in rule.figures:
            totals, sizes = pair.by_image(columns, rows, name)
            if sizes[0].any() and sizes[1].any():
                sign = 1.0 if FIGURES[name] else -1.0  # so that a loss is a loss of diversity
                places.append((cell, name, sign))
                tables.append(((sign * totals[0], sign * totals[1]), sizes))
    test = FamilywiseTest.of(pair, tables, rule.level)
    for cell in dict.fromkeys(cell for cell, _, _ in places):
        own = [(column, name, sign) for column, (owner, name, sign) in enumerate(places) if owner is cell]
        yield _worst(cell, test, own, thresholds)


def _worst(cell: MatchedCell, test: FamilywiseTest, columns: Iterable[tuple[int, str, float]], thresholds: Thresholds) -> Verdict:
    """The verdict on a cell's figures: that on the one that lost most, significant ones first."""
    rule, losses, seen = thresholds.diversity, test.losses, []
    for column, name, sign in columns:
        before, after = (sign * float(mean[column]) for mean in test.means)
        loss = float(losses.value[column]) / abs(before) if before else 0.0
        over = loss > rule.tolerance
        seen.append((over and test.significant(column), over, loss, name, before, after, column))
    significant, over, loss, name, before, after, column = max(seen)
    told = f"{name} {before:.4g} → {after:.4g} {test.samples_in_words}"
    make = VerdictMaker("diversity", cell.label, (before, after), name, "number")
    if significant:
        said = f"{told}, {100 * loss:.1f} % less diverse, p = {losses.p[column]:.1g} over all cells"
        return make(thresholds.status("diversity"), f"{said}; {100 * rule.tolerance:g} % are tolerated")
    if over and (reason := test.too_coarse(column)) is not None:
        return make("not judged", f"{told}, {100 * loss:.1f} % less diverse; {reason}")
    return make("passed", told)
