"""Intervals hold the truth as often as they say, also near 98 %, where little differs, and of ratios."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.leading_figure import LeadingFigure
from metrics import evidence
from metrics.design_effect import IntraclassCorrelation
from metrics.intervals import proportion
from tests.statistics.promises import SEED, WORLDS
from tests.statistics.worlds import SIZES, answers, cell, changed, unequal

pytestmark = pytest.mark.simulation

MARGIN = 0.02
COVERED = 0.93
"""The promise: a 95 % interval holds the truth in at least 93 % of worlds."""
COARSE = {(24, 1, 0.98): 0.90, (48, 1, 0.98): 0.91, (200, 1, 0.98): 0.92}
"""Named exceptions: one answer an image of which one in fifty is wrong, so that a few counts are all there is."""


def holds(figure, truth: float) -> bool:
    return figure is not None and figure.lo is not None and figure.lo - 1e-12 <= truth <= figure.hi + 1e-12


@pytest.mark.parametrize("level", [0.6, 0.9, 0.98])
@pytest.mark.parametrize(
    "images, questions, rho", [(i, q, r) for i in (24, 48, 100, 200) for q, r in ((1, 0.0), (9, 0.0), (9, 0.3))]
)
def test_accuracy(promise, level, images, questions, rho):
    """Of a run of six cells, whose correlation of scores is pooled as the summary pools it."""
    rng, hits, single, width = np.random.default_rng(SEED), 0, 0, 0.0
    image = np.repeat(np.arange(images), questions)
    for _ in range(WORLDS):
        pooled = IntraclassCorrelation()
        cells = [answers(rng, mean, rho, images, questions).ravel() for mean in (level, 0.9, 0.8, 0.7, 0.6, 0.5)]
        for scores in cells:
            pooled.add(scores, image)
        found = proportion(cells[0], image, pooled.rho)
        hits += holds(found, level)
        single += found.lo == found.hi
        width += found.hi - found.lo
    assert single == 0
    design = f"{100 * level:g} %, {images} x {questions}, rho {rho:g}, width {100 * width / WORLDS:.1f} points"
    promise("interval of accuracy", design, hits, WORLDS, at_least=COARSE.get((images, questions, level), COVERED))


LOSSES = [(0.02, 0.0), (0.03, 0.01), (0.07, 0.05)]


@pytest.mark.parametrize("lost, gained", LOSSES)
@pytest.mark.parametrize(
    "images, questions, rho", [(i, q, r) for i in (24, 48, 100, 200) for q, r in ((1, 0.0), (9, 0.0), (9, 0.4))]
)
def test_difference_and_retention(promise, lost, gained, images, questions, rho):
    """Of a small true loss, with few images that differ; the correlation of changes is pooled over six cells of the run."""
    rng, hits, ratios, width = np.random.default_rng(SEED), 0, 0, 0.0
    level = 0.8
    truth = -lost * level + gained * (1 - level)
    for _ in range(WORLDS):
        none = answers(rng, level, 0.2, images, questions)
        runs = [changed(rng, none, lost, gained, rho), *(changed(rng, none, r, 0.02, rho) for r in (0.02, 0.05, 0.1, 0.1, 0.2))]
        cells = [cell(one) for one in runs]
        whole = cell(none)
        leading = LeadingFigure().knowing(cells, whole, MARGIN)
        found = leading.difference(cells[0], whole)
        hits += holds(found, truth)
        width += found.hi - found.lo
        ratios += holds(leading.retention(cells[0], whole), 1 + truth / level)
    design = f"true {100 * truth:+.1f} points, gains {100 * gained:g} %, {images} x {questions}, rho {rho:g}"
    told = f"{design}, width {100 * width / WORLDS:.1f} points"
    promise("interval of a difference", told, hits, WORLDS, at_least=COVERED)
    promise("interval of retention", design, ratios, WORLDS, at_least=COVERED)


@pytest.mark.parametrize("methods", [1, 2])
@pytest.mark.parametrize("lost, gained", [(0.025, 0.0), (0.075, 0.05)])
@pytest.mark.parametrize("images, rho", [(48, 0.3), (48, 0.6), (100, 0.6), (200, 0.6)])
def test_difference_in_a_run_of_few_methods(promise, methods, lost, gained, images, rho):
    """The correlation of changes is pooled over one method or two, and so hardly known."""
    rng, hits, level = np.random.default_rng(SEED), 0, 0.8
    for _ in range(WORLDS):
        none = answers(rng, level, 0.2, images, 9)
        cells, whole = [cell(changed(rng, none, lost, gained, rho)) for _ in range(methods)], cell(none)
        hits += holds(
            LeadingFigure().knowing(cells, whole, MARGIN).difference(cells[0], whole), gained * (1 - level) - lost * level
        )
    what = f"{methods} method{'s' * (methods > 1)}, {images} x 9, rho {rho:g}, gains {100 * gained:g} %"
    promise("interval of a difference, few methods", what, hits, WORLDS, at_least=COVERED)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("images, rho", [(50, 0.3), (200, 0.6)])
def test_images_with_different_numbers_of_questions(promise, kind, images, rho):
    """Accuracy and its difference, in a run of six methods."""
    rng, level, covered, hits = np.random.default_rng(SEED), 0.8, 0, 0
    for _ in range(WORLDS):
        there = unequal(rng, kind, images)
        none = answers(rng, level, rho, images, 40)
        runs = [changed(rng, none, share, 0.0, rho) * there for share in (0.025, 0.02, 0.05, 0.1, 0.1, 0.2)]
        cells, whole = [cell(one) for one in runs], cell(none * there)
        leading = LeadingFigure().knowing([whole, *cells], whole, MARGIN)
        hits += holds(leading.difference(cells[0], whole), -0.025 * level)
        covered += holds(leading.estimate(whole), level)
    promise("interval of a difference, unequal images", f"{images} images, {kind}, rho {rho:g}", hits, WORLDS, at_least=COVERED)
    promise("interval of accuracy, unequal images", f"{images} images, {kind}, rho {rho:g}", covered, WORLDS, at_least=COVERED)


@pytest.mark.parametrize("worth", [0.03, 0.1, 0.4])
@pytest.mark.parametrize("images", [24, 100])
def test_adjusted_retention(promise, images, worth):
    """Near `blind` there is none rather than a number outside of all sense; where there is one, it holds the truth."""
    rng, hits, shown, wild, questions, level = np.random.default_rng(SEED), 0, 0, 0, 9, 0.6
    for _ in range(WORLDS):
        none = answers(rng, level, 0.2, images, questions)
        blind = changed(rng, none, 0.3 + worth, 0.3 * level / (1 - level), 0.2)  # falls by level * worth
        runs = [changed(rng, none, share, 0.0, 0.2) for share in (0.5 * worth, 0.05, 0.1, 0.2)]
        cells = [cell(one) for one in runs]
        whole = cell(none)
        leading = LeadingFigure().knowing(cells, whole, MARGIN)
        found = leading.retention_adjusted(cells[0], whole, cell(blind))
        shown += found is not None
        hits += holds(found, 0.5)
        wild += found is not None and not -0.2 <= found.value <= 1.2
    design = f"image worth {100 * worth * level:.0f} points, {images} x {questions}, shown in {100 * shown / WORLDS:.0f} %"
    promise("interval of adjusted retention that is shown and wrong", design, shown - hits, WORLDS, at_most=1 - COVERED)
    if shown > WORLDS / 2:  # of fewer, those that are shown are chosen by what they show
        promise("interval of adjusted retention", design, hits, shown, at_least=COVERED)
    promise("adjusted retention outside [-0.2, 1.2]", design, wild, WORLDS, at_most=0.03)


@pytest.mark.parametrize("images, questions", [(12, 3), (12, 9), (24, 6), (48, 6)])
def test_swap_share(promise, images, questions):
    """Half of the loss comes back with the evidence; of the worlds in which a share is shown."""
    rng, hits, shown, level, lost = np.random.default_rng(SEED), 0, 0, 0.9, 0.4
    for _ in range(WORLDS):
        none = answers(rng, level, 0.2, images, questions)
        pruned = changed(rng, none, lost, 0.0, 0.3)
        back = np.where((none == 1) & (pruned == 0) & (rng.random(none.shape) < 0.5), 1.0, pruned)
        whole, own = cell(none), cell(pruned)
        leading = LeadingFigure().knowing([own], whole, MARGIN)
        found = evidence.swap(back.ravel(), own.score, whole.score, own.image, leading.of_changes.rho, MARGIN)
        if found is not None and found.share is not None:
            shown += 1
            hits += holds(found.share, 0.5)
    design = f"{images} x {questions}, loss {100 * lost * level:.0f} points, shown in {100 * shown / WORLDS:.0f} %"
    promise("interval of the swap share", design, hits, shown, at_least=COVERED)
