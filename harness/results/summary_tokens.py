"""Figures of the kept tokens of one cell, from its analysed questions: diversity, coverage, bias, collapse, layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.store.arrays import unpack
from metrics.figures import BIAS, CLUSTERS, COVERAGE, DIVERSITY, FIGURES, LAYERS, MATCHED, SCORES
from metrics.statistics import bootstrap_means, cluster_codes, paired_difference

_NO_CHANCE = "merged tokens are no subset of the image's tokens, so chance has no meaning for them"


def kept_tokens(columns: dict, facts: dict, grids: dict[str, tuple[int, int] | None], seed: int) -> dict[str, Any]:
    """``diversity``, ``coverage``, ``collapse``, ``bias``, ``scores`` and ``layers``; null is not measured.

    Args:
        columns: of `RunFolder.analysis`.
        facts: of the cell.
        grids: (h, w) of the tokens of each of these images, None of those that are no full grid.
        seed: of the bootstrap.
    """
    out: dict[str, Any] = dict.fromkeys(("diversity", "coverage", "collapse", "bias", "scores", "layers"))
    if not len(columns["image"]):
        return out
    images = cluster_codes(columns["image"])
    grids = [grids[name] for name in dict.fromkeys(columns["image"])]
    if np.isfinite(columns["effective_rank"]).any():
        figure = _figures(columns, (*FIGURES, *BIAS), images, seed)
        out["diversity"] = {name: figure[name] for name in DIVERSITY}
        out["coverage"] = {name: figure[name] for name in COVERAGE}
        out["collapse"] = {"z": _chance(columns, images, seed), "why_no_z": None} | {name: figure[name] for name in CLUSTERS}
        if any(grid is not None for grid in grids):
            out["bias"] = _bias(columns, {name: figure[name] for name in BIAS}, grids, images, seed)
    elif facts["merges"]:
        out["collapse"] = {"z": None, "why_no_z": _NO_CHANCE} | dict.fromkeys(CLUSTERS)
    if np.isfinite(columns[SCORES[0]]).any():
        found = _figures(columns, SCORES, images, seed)
        out["scores"] = {name.removeprefix("score_"): found[name] for name in SCORES}
    out["layers"] = _layers(columns["layers"], images, seed)
    return out


def _figures(columns: dict, names: tuple[str, ...], images: np.ndarray, seed: int) -> dict[str, dict | None]:
    found = bootstrap_means(np.stack([columns[name] for name in names], 1), images, seed=seed)
    return {name: None if figure.value is None else figure.as_dict() for name, figure in zip(names, found, strict=True)}


def _chance(columns: dict, images: np.ndarray, seed: int) -> dict[str, dict]:
    from metrics.collapse import summarise_z

    return {
        name: summarise_z(columns[f"z_{name}"], columns[f"percentile_{name}"], images, higher, seed=seed)
        for name, higher in FIGURES.items()
    }


def _bias(columns: dict, figures: dict, grids: list, images: np.ndarray, seed: int) -> dict[str, Any]:
    """Pull to a place, and whether it explains collapse: z against random subsets with as many tokens in every row.

    The overlap with the mean map is null where grids differ.
    """
    from metrics.coverage import map_overlap

    overlap = None
    if len(set(grids)) == 1:
        kept = np.stack([unpack(bits, grids[0]).ravel() for bits in columns["kept"]])
        found = bootstrap_means(np.asarray(map_overlap(kept, images))[:, None], images, seed=seed)[0]
        overlap = {**found.as_dict(), "chance": float(np.mean(kept.sum(1)) / kept.shape[1])}
    place = columns["row_position"]
    pull = paired_difference(place, np.where(np.isnan(place), np.nan, 0.5), images, seed=seed)
    row_z = {}
    for name in MATCHED:
        z = columns[f"row_z_{name}"]
        test = paired_difference(z, np.where(np.isnan(z), np.nan, 0.0), images, seed=seed)
        row_z[name] = {"value": test.value, "lo": test.lo, "hi": test.hi, "p": test.p}
    position = None if figures["row_position"] is None else {**figures["row_position"], "p": pull.p}
    return {**figures, "row_position": position, "overlap": overlap, "row_z": row_z}


def _layers(tables: np.ndarray, images: np.ndarray, seed: int) -> dict[str, list[dict | None]] | None:
    """For every name of LAYERS a figure a layer; a name that was measured nowhere is left out."""
    questions, layers, names = tables.shape
    if not layers:
        return None
    found = bootstrap_means(tables.reshape(questions, layers * names).astype(float), images, seed=seed)
    table = {
        name: [None if (f := found[layer * names + place]).value is None else f.as_dict() for layer in range(layers)]
        for place, name in enumerate(LAYERS)
    }
    return {name: column for name, column in table.items() if any(f is not None for f in column)} or None
