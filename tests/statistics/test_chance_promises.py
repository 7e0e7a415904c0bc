"""What the tests against chance promise, simulated: methods that choose at random are found no more often than said.

The tokens are made up as an image's are: regions of near-identical tokens on a grid, so that the figures that count cells,
clusters and directions tie often. Every kept set is a uniform random subset from a stream of its own, and goes through the
analysis of a run. To draw that anew for every image of 2,000 worlds is dear. So a pool of images is drawn once, each with a
null and several kept sets of its own, and a world takes some of the images, none twice, and some of their sets. The pool's
own mean rank is then off by some 10 % of the standard error of a world of 48 or 200 images, which moves a share of 5 % by
0.1 % (of the second design: 18 % and 0.4 %); the interval of 2,000 worlds is 1.7 % wide on either side. The intervals hold for
all eighteen figures of a design at once. ``pytest -m simulation -s`` prints what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.engine.batch import EngineOutput
from harness.engine.recorder import Recorder
from harness.run.analysis import TokenAnalysis
from metrics.chance import centre_p, share_below
from metrics.figures import FIGURES

pytestmark = pytest.mark.simulation

WORLDS, LEVEL = 2000, 0.05
Z = 3.45  # of intervals that hold for eighteen figures at once in 99 % of cases (Bonferroni)
BATCH = 50  # images analysed at once


@dataclass(frozen=True)
class Design:
    """Images of a kind with random kept sets, and the worlds that take some of them."""

    side: int
    keep: int
    spare: int  # tokens that a set has over `keep`, up to, so that questions keep different counts; 0: none
    pool: int
    sets: int  # of each image in the pool
    worlds: tuple[tuple[int, int], ...]  # images, sets of each


DESIGNS = {
    "12 x 12, 16 kept": Design(12, 16, 0, 2000, 12, ((24, 1), (48, 4), (200, 1))),
    "12 x 12, 65 to 79 kept": Design(12, 64, 15, 400, 6, ((24, 3),)),
}


def tokens(images: int, side: int, generator: torch.Generator, width: int = 32, regions: int = 12) -> torch.Tensor:
    """Return visual tokens [images, side * side, width] in regions around random points, some nearly equal and some not."""
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).view(-1, 2).float()
    seeds = torch.rand(images, regions, 2, generator=generator) * side
    region = torch.cdist(place.expand(images, -1, -1), seeds).argmin(-1)
    means = torch.randn(images, regions, width, generator=generator) + torch.randn(1, 1, width, generator=generator)
    noise = 0.1 + 0.5 * torch.rand(images, regions, 1, generator=generator)
    pick = region[..., None].expand(-1, -1, width)
    own = noise.gather(1, region[..., None]) * torch.randn(images, side * side, width, generator=generator)
    return means.gather(1, pick) + own


def analysed(projected: torch.Tensor, side: int, seeds: torch.Tensor, kept: torch.Tensor, exact: bool) -> dict[str, np.ndarray]:
    """Return what the analysis of a run says of kept sets [images, sets, K], -1 where there is none: [images * sets] each."""
    images, sets, keep = kept.shape
    names = [f"{image}-{place}" for image in range(images) for place in range(sets)]
    image = torch.arange(images).repeat_interleave(sets)
    analyst = TokenAnalysis(projected, (side, side), image, seeds, None, names)
    step = SimpleNamespace(after=keep, keep=keep if exact else keep + 1)
    cell = SimpleNamespace(prunes=True, reads_text=True, steps=(step,), merges=False, grid=None)
    flat = kept.flatten(0, 1)
    return analyst.run(cell, EngineOutput([], torch.zeros(0), flat, flat, (side, side)), Recorder()).numbers


@cache
def pool(name: str) -> dict[str, np.ndarray]:
    """Return z and percentile of every figure of random kept sets of many images, [images, sets] each."""
    design, generator, parts = DESIGNS[name], torch.Generator().manual_seed(0), []
    for start in range(0, design.pool, BATCH):
        projected = tokens(BATCH, design.side, generator)
        order = torch.rand(BATCH, design.sets, design.side**2, generator=generator).argsort(-1)
        kept = order[..., : design.keep + design.spare].clone()
        if design.spare:
            counts = torch.randint(design.keep + 1, design.keep + design.spare + 1, kept.shape[:2], generator=generator)
            kept[torch.arange(kept.shape[-1]) >= counts[..., None]] = -1
        found = analysed(projected, design.side, torch.arange(start, start + BATCH), kept, not design.spare)
        parts.append({k: v.reshape(BATCH, -1) for k, v in found.items() if k.startswith(("z_", "percentile_"))})
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def worlds(name: str, images: int, sets: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return p and share below chance of every figure in `WORLDS` runs with a method that chooses at random."""
    rng = np.random.default_rng(0)
    drawn = pool(name)
    size, most = drawn["z_cells"].shape
    codes, found = np.repeat(np.arange(images), sets), {f: (np.empty(WORLDS), np.empty(WORLDS)) for f in FIGURES}
    for world in range(WORLDS):
        rows = rng.choice(size, images, replace=False)[:, None]
        columns = rng.permuted(np.tile(np.arange(most), (images, 1)), axis=1)[:, :sets]
        for figure, higher in FIGURES.items():
            percentile = drawn[f"percentile_{figure}"][rows, columns].ravel()
            found[figure][0][world] = centre_p(percentile, codes, 0.5)
            found[figure][1][world] = share_below(percentile if higher else 1.0 - percentile)
    return found


@pytest.mark.parametrize(
    ("name", "images", "sets"), [(name, *world) for name, design in DESIGNS.items() for world in design.worlds]
)
def test_random_choice_is_found_no_more_often_than_said(tell, name, images, sets):
    """The share of p <= .05 is at most .05, and the mean share below chance is .5, by intervals of 99 % over all 18 figures."""
    found, drawn = worlds(name, images, sets), pool(name)
    wrong = []
    for figure, higher in FIGURES.items():
        p, share = found[figure]
        rate, mean = np.mean(p <= LEVEL), np.mean(share)
        own = np.array([share_below(row if higher else 1.0 - row) for row in drawn[f"percentile_{figure}"]])
        error = Z * np.hypot(share.std() / WORLDS**0.5, own.std() / len(own) ** 0.5)
        z = drawn[f"z_{figure}"]
        spread = f"{np.nanstd(z):.2f}" if np.isfinite(z).any() else "-"
        measured = f"{rate:.3f}, {mean:.3f} +- {error:.3f}, {spread}"
        tell("chance: p <= 0.05, share below, sd of z", f"{figure}, {name}, {images} x {sets}", "<= 0.05, 0.5, 1", measured)
        if rate - Z * (rate * (1 - rate) / WORLDS) ** 0.5 > LEVEL or abs(mean - 0.5) > error:
            wrong.append(figure)
    assert not wrong, wrong


def test_a_block_of_tokens_is_found_less_diverse(tell):
    """A method that keeps 4 x 4 tokens side by side, somewhere, is found by every figure in nearly all of 200 runs."""
    generator, rng, parts, images = torch.Generator().manual_seed(0), np.random.default_rng(0), [], 24
    square = (torch.arange(4)[:, None] * 12 + torch.arange(4)).flatten()
    for start in range(0, 400, BATCH):
        corner = torch.randint(0, 9, (BATCH, 2, 1), generator=generator)
        kept = (corner[:, 0] * 12 + corner[:, 1] + square)[:, None]
        found = analysed(tokens(BATCH, 12, generator), 12, torch.arange(start, start + BATCH), kept, True)
        parts.append({figure: found[f"percentile_{figure}"] for figure in FIGURES})
    drawn = {figure: np.concatenate([part[figure] for part in parts]) for figure in FIGURES}
    takes = [rng.choice(400, images, replace=False) for _ in range(200)]
    for figure, higher in FIGURES.items():
        power = np.mean([centre_p(drawn[figure][take], np.arange(images), 0.5) <= LEVEL for take in takes])
        share = share_below(drawn[figure] if higher else 1.0 - drawn[figure])
        tell(
            "chance: a block of 4 x 4 tokens is found, share below",
            f"{figure}, 24 images",
            "> 0.8, > 0.75",
            f"{power:.2f}, {share:.2f}",
        )
        assert power > 0.8 and share > 0.75, figure
