"""Figures of the kept tokens of one cell, from its analysed questions: diversity, coverage, bias, collapse, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.results.types import Columns, Integers, JsonObject
from harness.store.arrays import unpack
from metrics.chance import summarise_z
from metrics.clusters import cluster_codes
from metrics.figures import BIAS, CLUSTERS, COVERAGE, DIVERSITY, FIGURES, LAYERS, MATCHED, SCORES
from metrics.overlap import map_overlap
from metrics.statistics import bootstrap_means, paired_difference

_NO_CHANCE = "merged tokens are no subset of the image's tokens, so chance has no meaning for them"

Grid = tuple[int, int] | None
"""(h, w) of an image's tokens; None where they are no one full grid."""


def kept_token_figures(columns: Columns, facts: JsonObject, grids: Mapping[str, Grid], seed: int) -> JsonObject:
    """Return ``diversity``, ``coverage``, ``collapse``, ``bias``, ``scores`` and ``layers`` of a cell; None is not measured.

    Args:
        columns: of `RunFolder.analysis`.
        facts: of the cell.
        grids: (h, w) of the tokens of each of these images, None of those that are no full grid.
        seed: of the bootstrap.
    """
    out: JsonObject = dict.fromkeys(("diversity", "coverage", "collapse", "bias", "scores", "layers"))
    if not len(columns["image"]):
        return out
    images = cluster_codes(columns["image"])
    seen = [grids[name] for name in dict.fromkeys(columns["image"])]
    if np.isfinite(columns["effective_rank"]).any():
        figure = _figures(columns, (*FIGURES, *BIAS), images, seed)
        out["diversity"] = {name: figure[name] for name in DIVERSITY}
        out["coverage"] = {name: figure[name] for name in COVERAGE}
        out["collapse"] = {"z": _chance(columns, images, seed), "why_no_z": None} | {name: figure[name] for name in CLUSTERS}
        if any(grid is not None for grid in seen):
            out["bias"] = _bias(columns, {name: figure[name] for name in BIAS}, seen, images, seed)
    elif facts["merges"]:
        out["collapse"] = {"z": None, "why_no_z": _NO_CHANCE} | dict.fromkeys(CLUSTERS)
    if np.isfinite(columns[SCORES[0]]).any():
        found = _figures(columns, SCORES, images, seed)
        out["scores"] = {name.removeprefix("score_"): found[name] for name in SCORES}
    out["layers"] = _layers(columns["layers"], images, seed)
    return out


def _figures(columns: Columns, names: tuple[str, ...], images: Integers, seed: int) -> dict[str, JsonObject | None]:
    found = bootstrap_means(np.stack([columns[name] for name in names], 1), images, seed=seed)
    return {name: None if figure.value is None else figure.as_dict() for name, figure in zip(names, found, strict=True)}


def _chance(columns: Columns, images: Integers, seed: int) -> JsonObject:
    return {
        name: summarise_z(columns[f"z_{name}"], columns[f"percentile_{name}"], images, higher, seed=seed)
        for name, higher in FIGURES.items()
    }


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
        found = bootstrap_means(map_overlap(kept, images)[:, None], images, seed=seed)[0]
        overlap = {**found.as_dict(), "chance": float(np.mean(kept.sum(1)) / kept.shape[1])}
    place = columns["row_position"]
    pull = paired_difference(place, np.where(np.isnan(place), np.nan, 0.5), images, seed=seed)
    row_z = {}
    for name in MATCHED:
        z = columns[f"row_z_{name}"]
        test = paired_difference(z, np.where(np.isnan(z), np.nan, 0.0), images, seed=seed)
        row_z[name] = {"value": test.value, "lo": test.lo, "hi": test.hi, "p": test.p}
    row_position = figures["row_position"]
    position = None if row_position is None else {**row_position, "p": pull.p}
    return {**figures, "row_position": position, "overlap": overlap, "row_z": row_z}


def _layers(tables: NDArray[np.float32], images: Integers, seed: int) -> dict[str, list[JsonObject | None]] | None:
    """For every name of LAYERS a figure a layer; a name that was measured nowhere is left out."""
    questions, layers, names = tables.shape
    if not layers:
        return None
    found = bootstrap_means(tables.reshape(questions, layers * names).astype(float), images, seed=seed)
    table: dict[str, list[JsonObject | None]] = {
        name: [None if (f := found[layer * names + place]).value is None else f.as_dict() for layer in range(layers)]
        for place, name in enumerate(LAYERS)
    }
    return {name: column for name, column in table.items() if any(f is not None for f in column)} or None
