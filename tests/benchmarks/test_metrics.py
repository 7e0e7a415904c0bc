"""What the figures of one kept set and of its 64 random subsets cost, one thread, beside one N x N similarity in float32.

``pytest --benchmark -k metrics`` prints the table of ratios at its end.
"""

import pytest
import torch

from metrics.attention import attention_figures
from metrics.collapse import (
    SUBSETS,
    cluster_mass,
    percentiles,
    random_subsets,
    score_collapse,
    set_hashes,
    z_scores,
)
from metrics.coverage import coverage, row_bias
from metrics.subsets import FIGURES, TIE, Space, figures, null

GRID, COUNT = (24, 24), 576


pytestmark = pytest.mark.usefixtures("one_thread")


def similarity(tokens: torch.Tensor) -> torch.Tensor:
    """One normalised N x N similarity."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def metrics(width: int, keep: int, batch: int = 1):
    """Everything that is measured of a kept set an image: figures, null, z, bias, scores, clusters, attention."""
    g = torch.Generator().manual_seed(0)
    features, scores = torch.randn(batch, COUNT, width, generator=g), torch.rand(batch, COUNT, generator=g)
    evidence, images = torch.rand(batch, COUNT, generator=g) < 0.1, torch.arange(batch)
    chosen = scores.topk(keep).indices
    kept = torch.zeros(batch, COUNT, dtype=torch.bool).scatter_(1, chosen, True)

    def run():
        space = Space.of(features, GRID)
        found, chance = figures(space, images, chosen), null(space, keep, images, SUBSETS)
        ties = set_hashes(COUNT, chosen[:, None], images)[:, 0]
        return (
            {name: z_scores(found[name], chance[name]) for name in FIGURES},
            {name: percentiles(found[name], chance[name], ties, chance[TIE]) for name in FIGURES},
            row_bias(kept, GRID),
            score_collapse(scores),
            cluster_mass(space.clusters, scores),
            attention_figures(scores, evidence),
        )

    return run, lambda: similarity(features)


@pytest.mark.benchmark(group="metrics, one image")
@pytest.mark.parametrize(("width", "keep", "bound"), [(4096, 64, 8.0), (4096, 192, None), (256, 64, None)])
def test_metrics_of_one_kept_set(against_floor, width, keep, bound):
    """Of the null, `test_metrics_coverage_null` times the part of the coverage figures alone."""
    run, floor = metrics(width, keep)
    against_floor(run, floor, bound)


@pytest.mark.benchmark(group="metrics, eight images of the embedded model")
@pytest.mark.parametrize("keep", [64, 192])
def test_metrics_of_eight_kept_sets(against_floor, keep):
    run, floor = metrics(128, keep, 8)
    against_floor(run, floor, None, 9)


@pytest.mark.benchmark(group="metrics, coverage of the random subsets of one image")
@pytest.mark.parametrize("keep", [64, 192])
def test_metrics_coverage_null(against_floor, keep):
    tokens = torch.randn(1, COUNT, 4096)
    chosen = random_subsets(COUNT, keep, generator_seed=torch.tensor([0]))[0]
    kept = torch.zeros(SUBSETS, COUNT, dtype=torch.bool).scatter_(1, chosen, True)
    against_floor(lambda: coverage(kept, GRID), lambda: similarity(tokens), None, 9)
