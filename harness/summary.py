"""From stored samples to ``summary.json``: every figure of every cell. Needs no torch."""

from __future__ import annotations

import csv
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from harness.runs import FIGURES, SCHEMA_VERSION, RunFolder
from metrics import accuracy as acc
from metrics import evidence, latency
from metrics.statistics import bootstrap_mean, holm, paired_difference

_DIVERSE_IS_HIGH = {"effective_rank": True, "mean_cosine": False, "cells": True}


def summarise(run: RunFolder) -> dict:
    """The content of ``summary.json``; figures come from the run folder alone."""
    manifest = run.manifest()
    seed = manifest["config"]["seed"]
    stored = [(ident, facts, run.columns(ident)) for ident, _, facts in run.cells()]
    timings = run.timings()
    by_name = {(facts["method"], facts["keep"]): columns for _, facts, columns in stored if len(columns["score"])}
    ident_none = next((i for i, facts, _ in stored if facts["method"] == "none"), None)
    none, blind = by_name.get(("none", None)), by_name.get(("blind", None))
    cells = []
    for ident, facts, columns in stored:
        cell = {name: facts[name] for name in ("model", "task", "method", "params", "keep", "budget", "reference", "skipped")}
        cell |= {
            "positions": facts["positions"],
            "tokens": facts["tokens"],
            "flops": facts["flops"],
            "schedule": facts["schedule"],
        }
        cell |= _answers(columns, none, blind, by_name, facts, seed)
        cell |= _tokens_kept(columns, facts)
        times = timings.get(ident), timings.get(ident_none)
        cell["latency"] = _latency(times[0], times[1], facts, stored, ident_none) if all(times) else None
        cell["memory"] = None if facts["flops"] is None else {"kv_bytes": facts["flops"]["kv_bytes"], "peak_bytes": None}
        cells.append(cell)
    _adjust(cells)
    return {"schema_version": SCHEMA_VERSION, "cells": cells}


def _answers(columns: dict, none: dict | None, blind: dict | None, by_name: dict, facts: dict, seed: int) -> dict:
    """Accuracy and everything that compares answers."""
    names = (
        "accuracy",
        "families",
        "retention",
        "retention_adjusted",
        "difference_none",
        "difference_like",
        "loyalty",
        "difficulty",
    )
    if not len(columns["score"]):
        return {"n": 0, "n_images": 0, **dict.fromkeys(names)}
    scores, images = columns["score"], columns["image"]
    figure = acc.accuracy(scores, images, seed=seed)
    out: dict[str, Any] = {
        "n": len(scores),
        "n_images": len(set(images)),
        "accuracy": figure,
        "families": acc.by_family(scores, columns["family"], images, seed=seed),
        "difference_none": None,
        "difference_like": None,
        "retention": None,
        "retention_adjusted": None,
        "loyalty": None,
        "difficulty": None,
    }
    if none is not None:
        level = float(none["score"].mean())
        out["retention"] = acc.retention(figure.value, level)
        if blind is not None:
            out["retention_adjusted"] = acc.retention_adjusted(figure.value, level, float(blind["score"].mean()))
        out["loyalty"] = {"agreement": _mean(columns["agree"], images, seed), "kl": _mean(columns["kl"], images, seed)}
        if facts["method"] != "none":
            out["difference_none"] = paired_difference(scores, none["score"], images, seed=seed)
        shrunken = by_name.get(("downsample", facts["keep"]))
        if shrunken is not None and facts["method"] not in ("none", "downsample"):
            out["difficulty"] = acc.difficulty(scores, none["score"], shrunken["score"], images)
    like = by_name.get((facts["like"], facts["keep"])) if facts["like"] else None
    if like is not None:
        out["difference_like"] = paired_difference(scores, like["score"], images, seed=seed)
    return out


def _tokens_kept(columns: dict, facts: dict) -> dict:
    """Evidence, diversity, coverage and collapse."""
    out: dict[str, Any] = dict.fromkeys(("evidence", "diversity", "coverage", "collapse"))
    if not len(columns["score"]):
        return out
    images = columns["image"]
    if np.isfinite(columns["recall"]).any():
        out["evidence"] = {
            **evidence.summarise(columns["recall"], columns["score"], images),
            "recall_before": _mean(columns["recall_before"], images, 0),
            "swap_gain": None,
        }
    if np.isfinite(columns["effective_rank"]).any():
        from metrics.collapse import summarise_z

        out["diversity"] = {name: _mean(columns[name], images, 0) for name in ("effective_rank", "mean_cosine")}
        out["coverage"] = {"cells": _mean(columns["cells"], images, 0)}
        out["collapse"] = {
            "z": {
                name: summarise_z(columns[f"z_{name}"], columns[f"percentile_{name}"], images, _DIVERSE_IS_HIGH[name])
                for name in FIGURES
            }
        }
    return out


def _latency(times: dict, none: dict, facts: dict, stored: list, ident_none: int | None) -> dict:
    """Stages, and the prefill's measured speed-up over the one that FLOPs promise."""
    whole = next(f for i, f, _ in stored if i == ident_none)["flops"]["llm_prefill"]
    return latency.summarise(times, none, whole / facts["flops"]["llm_prefill"])


def _mean(values: np.ndarray, images: np.ndarray, seed: int):
    known = np.isfinite(values)
    return bootstrap_mean(values[known], images[known], seed=seed) if known.any() else None


def _adjust(cells: list[dict]) -> None:
    """Holm over methods x budgets x tasks, separately for each of the two questions asked."""
    for name in ("difference_none", "difference_like"):
        chosen = [c for c in cells if c[name] is not None and not c["reference"]]
        adjusted = holm([c[name].p for c in chosen])
        for cell in cells:
            if cell[name] is not None:
                cell[name] = {**asdict(cell[name]), "p_holm": None}
        for cell, p in zip(chosen, adjusted):
            cell[name]["p_holm"] = float(p)


def plain(value: Any) -> Any:
    """Dataclasses, numpy numbers and NaN as JSON knows them."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write(run: RunFolder) -> dict:
    """Write ``summary.json`` and ``summary.csv``; returns the summary."""
    summary = plain(summarise(run))
    rows = [flat(cell) for cell in summary["cells"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (run.folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    run.write_json("summary.json", summary)
    return summary


def flat(cell: dict, prefix: str = "") -> dict:
    """Nested figures as dotted columns."""
    out: dict[str, Any] = {}
    for name, value in cell.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            out[f"{prefix}{name}"] = value
    return out
