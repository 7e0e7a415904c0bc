"""Figures of the kept tokens of one cell, from its analysed questions: diversity, coverage, bias, collapse, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.results.holm_families import adjust_by_holm
from harness.results.types import Columns, Integers, JsonObject
from harness.store.arrays import unpack
from metrics.chance import centre_p, summarise_z
from metrics.clusters import cluster_codes
from metrics.figures import BIAS, CLUSTERS, COVERAGE, DIVERSITY, FIGURES, LAYERS, MATCHED, SCORES, SKEWED, TIED
from metrics.intervals import mean_interval, mean_intervals
from metrics.overlap import map_overlap
from metrics.resampling import sign_flip

_FLIPS = 4000  # of the signs of images
_NO_CHANCE = "merged tokens are no subset of the image's tokens, so chance has no meaning for them"

_NO_RANK = "the run was begun by a version that counted ties half, so that ranks of figures that often tie have no known chance"

Grid = tuple[int, int] | None
"""(h, w) of an image's tokens; None where they are no one full grid."""


def kept_token_figures(
    columns: Columns, facts: JsonObject, grids: Mapping[str, Grid], seed: int, ranked: bool = True
) -> JsonObject:
    """Return ``diversity``, ``coverage``, ``collapse``, ``bias``, ``scores`` and ``layers`` of a cell; None is not measured.

    Args:
        columns: of `RunFolder.analysis`.
        facts: of the cell.
        grids: (h, w) of the tokens of each of these images, None of those that are no full grid.
        seed: of the sign flips.
        ranked: whether the run's percentiles are ranks among subsets of the image's own, ties broken by hash, as its manifest
            says under ``chance``. Older ones have no known null for the figures of `TIED`: their ranks and tests are None, and
            ``why_no_rank`` of ``collapse`` says so.
    """
    out: JsonObject = dict.fromkeys(("diversity", "coverage", "collapse", "bias", "scores", "layers"))
    if not len(columns["image"]):
        return out
    images = cluster_codes(columns["image"])
    seen = [grids[name] for name in dict.fromkeys(columns["image"])]
    if np.isfinite(columns["effective_rank"]).any():
        figure = _figures(columns, (*FIGURES, *BIAS), images)
        out["diversity"] = {name: figure[name] for name in DIVERSITY}
        out["coverage"] = {name: figure[name] for name in COVERAGE}
        why = {"why_no_z": None, "why_no_rank": None if ranked else _NO_RANK}
        out["collapse"] = {"z": _chance(columns, images, ranked)} | why | {name: figure[name] for name in CLUSTERS}
        if any(grid is not None for grid in seen):
            out["bias"] = _bias(columns, {name: figure[name] for name in BIAS}, seen, images, seed)
    elif facts["merges"]:
        out["collapse"] = {"z": None, "why_no_z": _NO_CHANCE, "why_no_rank": None} | dict.fromkeys(CLUSTERS)
    if np.isfinite(columns[SCORES[0]]).any():
        found = _figures(columns, SCORES, images)
        out["scores"] = {name.removeprefix("score_"): found[name] for name in SCORES}
    out["layers"] = _layers(columns["layers"], images)
    return out


def adjust_for_chance(cells: Sequence[JsonObject]) -> None:
    """Write what the tests against chance of all cells of a run say together.

    Every figure of ``collapse.z``, and ``bias.lower_half``, gets ``p_adjusted``: its p adjusted by Holm's correction over the
    cells that count, None of the others (`adjust_by_holm`). ``collapse.tests`` is the number of p of ``collapse.z`` in the
    whole run, which is how many a reader who looks at all of them looks at; a cell that is the same as another adds none.

    Args:
        cells: of ``summary.json``, all of one run, with what `kept_token_figures` returns; they are changed in place.
    """
    measured = [cell for cell in cells if cell["collapse"] and cell["collapse"]["z"]]
    for name in FIGURES:
        adjust_by_holm([(cell, cell["collapse"]["z"][name]) for cell in measured])
    adjust_by_holm([(cell, cell["bias"]["lower_half"]) for cell in cells if cell["bias"] and cell["bias"]["lower_half"]])
    tests = sum(c["collapse"]["z"][name]["p"] is not None for c in measured if not c.get("same_as") for name in FIGURES)
    for cell in cells:
        if cell["collapse"]:
            cell["collapse"]["tests"] = tests


def _figures(columns: Columns, names: tuple[str, ...], images: Integers) -> dict[str, JsonObject | None]:
    return dict(zip(names, _means(np.stack([columns[name] for name in names], 1), images), strict=True))


def _means(table: NDArray[np.float64], images: Integers) -> list[JsonObject | None]:
    """The mean of each column [n, M] with its interval; None of one that was not measured."""
    return [None if figure.value is None else figure.as_dict() for figure in mean_intervals(table, images)]


def _chance(columns: Columns, images: Integers, ranked: bool) -> JsonObject:
    return {
        name: summarise_z(
            columns[f"z_{name}"], columns[f"percentile_{name}"], images, higher,
            skewed=name in SKEWED, ranked=ranked or name not in TIED,
        )
        for name, higher in FIGURES.items()
    }  # fmt: skip


def _bias(
    columns: Columns, figures: Mapping[str, JsonObject | None], grids: Sequence[Grid], images: Integers, seed: int
) -> JsonObject:
    """Pull to a place, and whether it explains collapse: z against random subsets with as many tokens in every row.

    The overlap with the mean map is None where grids differ.
    """
    overlap = None
    grid = grids[0]
    if grid is not None and len(set(grids)) == 1:
        kept = np.stack([unpack(bits, grid).ravel() for bits in columns["kept"]])
        overlap = {**mean_interval(map_overlap(kept, images), images).as_dict(), "chance": float(kept.mean(1).mean())}
    row_z = {}
    for name in MATCHED:
        z = columns[f"row_z_{name}"]
        known = ~np.isnan(z)
        p = sign_flip(np.bincount(images[known], z[known]).astype(np.float64), seed, _FLIPS) if known.any() else None
        row_z[name] = {**mean_interval(z, images).as_dict(), "p": p}
    return {**figures, **_pulls(columns, figures, images), "overlap": overlap, "row_z": row_z}


def _pulls(columns: Columns, figures: Mapping[str, JsonObject | None], images: Integers) -> dict[str, JsonObject | None]:
    """The figures of which 0.5 is chance, with their test: a grid is symmetric about its middle, so random sets are."""
    found = {name: figures[name] for name in ("row_position", "lower_half")}
    return {name: figure and {**figure, "p": centre_p(columns[name], images, 0.5)} for name, figure in found.items()}


def _layers(tables: NDArray[np.float32], images: Integers) -> dict[str, list[JsonObject | None]] | None:
    """For every name of LAYERS a figure a layer; a name that was measured nowhere is left out."""
    questions, layers, names = tables.shape
    found = _means(tables.reshape(questions, layers * names).astype(np.float64), images)
    table = {name: found[place :: len(LAYERS)] for place, name in enumerate(LAYERS)}
    return {name: column for name, column in table.items() if any(f is not None for f in column)} or None
