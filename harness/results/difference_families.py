"""The differences that a run asks about, each kind one family of tests over all methods and budgets, and its claims of no loss.

Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.results.cell_kinds import is_tested
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.types import Floats, Integers, JsonObject
from methods.keep import Keep
from metrics import non_inferiority
from metrics.arrays import Flags
from metrics.image_figures import FigureDifference
from metrics.intervals import mean_interval
from metrics.loss_power import found_loss, normal_critical
from metrics.resampling import pooled
from metrics.statistics import holm
from metrics.step_down import DRAWS, LEVEL, FamilyTest, step_down

DIFFERENCES = ("difference_none", "difference_like", "difference_winner", "difference_downsample")
"""What is asked of a method: what it loses, what its ranking is worth, whether it is the best, and whether it beats a smaller
image."""


_ALL_ONE_WAY = non_inferiority.FEWEST**0.5
"""The statistic of as few images as can be significant, all of which change one way."""


@dataclass(frozen=True)
class _NoLoss:
    """What a claim of no loss needs of a difference to `none`: a few numbers, whatever the number of images."""

    entry: JsonObject  # ``non_inferior`` of ``summary.json``
    p: float
    se: float
    piece: float  # what an image loses if it loses anything, in the unit of the difference
    images: int

    @classmethod
    def of(cls, found: FigureDifference, margin: float) -> _NoLoss:
        p = non_inferiority.no_loss_p(found, margin)
        return cls({}, p, found.se, found.together / found.pieces if found.pieces > 0 else 0.0, found.images)


@dataclass(frozen=True, eq=False)
class _Asked:
    """One difference, where its p goes, and whether its cell competes."""

    entry: JsonObject  # of ``summary.json``
    own: CellScores
    rival: CellScores
    keep: Keep | None
    competes: bool
    claim: _NoLoss | None  # where it is held against `none`


@dataclass(eq=False)
class DifferenceFamilies:
    """The differences between cells of a run, by kind; `test` fills in what needs all of them.

    Args:
        leading: the figure that is compared, with what is known of the answers of an image.
        seed: of the sign flips.
        draws: sign flips of a family.
    """

    leading: LeadingFigure
    seed: int
    draws: int = DRAWS
    asked: dict[str, list[_Asked]] = field(default_factory=dict)

    def add(self, name: str, own: CellScores, rival: CellScores, facts: JsonObject, cell: JsonObject) -> None:
        """Take in a difference and write its entry, whose p values `test` fills in, into a cell of ``summary.json``.

        A difference to `none` brings ``non_inferior`` with it. Nothing is written where the two have no answer in common.

        Args:
            name: of `DIFFERENCES`.
            own: scores of the cell.
            rival: scores of the cell that it is held against.
            facts: of the cell.
            cell: its entry of ``summary.json``.
        """
        found = self.leading.difference(own, rival)
        if found is None:
            return
        cell[name] = {"value": found.value, "lo": found.lo, "hi": found.hi, "p": None, "p_adjusted": None}
        claim = None
        if name == "difference_none":
            claim = _NoLoss.of(found, self.leading.margin)
            cell["non_inferior"] = claim.entry
        asked = _Asked(cell[name], own, rival, Keep.stored(facts), is_tested(facts), claim)
        self.asked.setdefault(name, []).append(asked)

    def test(self) -> JsonObject:
        """Test every kind as one family over the cells that compete, and claim no loss where that is shown.

        Returns:
            By kind the number of ``tests`` of its family, and the ``critical`` value in standard errors; None where nothing
            changed.
        """
        told: JsonObject = {}
        for name, asked in self.asked.items():
            members = np.array([one.competes for one in asked], dtype=bool)
            test = self.leading.tested([(one.own, one.rival) for one in asked], members, self.seed, self.draws)
            _fill([one.entry for one in asked], test, members)
            told[name] = {"tests": test.members, "critical": test.critical}
            self._claim([(one, one.claim) for one in asked if one.claim is not None], test)
        return told

    def _claim(self, claimed: list[tuple[_Asked, _NoLoss]], test: FamilyTest) -> None:
        """Write ``non_inferior`` of every cell that is held against `none`."""
        adjusted = holm([claim.p if one.competes else None for one, claim in claimed])
        racing: dict[Keep | None, int] = {}
        for one, _ in claimed:
            racing[one.keep] = racing.get(one.keep, 0) + one.competes
        for (one, claim), over_cells in zip(claimed, adjusted, strict=True):
            critical = test.critical if one.competes else normal_critical(LEVEL, 1)
            if np.isnan(critical):  # nothing changed in any cell that competes
                critical = normal_critical(LEVEL, test.members)
            least = found_loss(claim.se, claim.piece, claim.images, max(critical, _ALL_ONE_WAY))
            claim.entry.update(
                {
                    "margin": self.leading.margin,
                    "holds": claim.p <= non_inferiority.ONE_SIDED,
                    "p": claim.p,
                    "p_best": min(1.0, claim.p * racing[one.keep]) if one.competes else None,
                    "p_adjusted": over_cells,
                    "smallest_detectable": least if least is not None and least <= 1 else None,
                }
            )


def _fill(entries: list[JsonObject], test: FamilyTest, members: Flags) -> None:
    for entry, p, adjusted, member in zip(entries, test.p, test.p_adjusted, members, strict=True):
        entry["p"], entry["p_adjusted"] = float(p), float(adjusted) if member else None


@dataclass(frozen=True, eq=False)
class _Mean:
    """A mean over images that is tested against 0: its entry, and the image's sums."""

    entry: JsonObject
    totals: Floats  # [images of the run, or groups of them]
    competes: bool


@dataclass(eq=False)
class MeanFamily:
    """Differences of a mean per answer, such as evidence recall, that are tested against 0 as one family over cells.

    Args:
        images: of the run.
        seed: of the sign flips.
        draws: sign flips of the family.
    """

    images: int
    seed: int
    draws: int = DRAWS
    asked: list[_Mean] = field(default_factory=list)

    def add(self, values: Floats, image: Integers, facts: JsonObject, found: FigureDifference | None = None) -> JsonObject | None:
        """Take in a difference and return its entry of ``summary.json``, whose p values `test` fills in.

        Args:
            values: [n] differences; nan is left out.
            image: [n] the image of each, from 0.
            facts: of the cell.
            found: its value and interval, where these are those of answers that rarely change; else Student's t gives them.

        Returns:
            None of no value.
        """
        known = np.isfinite(values)
        if not known.any():
            return None
        shown = found or mean_interval(values[known], image[known])
        entry: JsonObject = {"value": shown.value, "lo": shown.lo, "hi": shown.hi, "p": None, "p_adjusted": None}
        totals = pooled(np.bincount(image[known], values[known], self.images).astype(np.float64, copy=False))
        self.asked.append(_Mean(entry, totals, is_tested(facts)))
        return entry

    def test(self) -> None:
        """Fill in the p values."""
        if self.asked:
            members = np.array([one.competes for one in self.asked], dtype=bool)
            test = step_down(np.stack([one.totals for one in self.asked], 1), members, self.seed, self.draws)
            _fill([one.entry for one in self.asked], test, members)
