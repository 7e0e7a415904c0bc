"""From stored samples to ``summary.json``: every figure of every cell. Needs no torch."""

from __future__ import annotations

import csv
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from harness.runs import SCHEMA_VERSION, RunFolder
from harness.summary_tokens import kept_tokens
from metrics import accuracy as acc
from metrics import evidence, latency
from metrics.pareto import front_share
from metrics.statistics import bootstrap_mean, bootstrap_median, holm, mcnemar_exact, paired_difference

TESTS = ("difference_none", "difference_like", "difference_winner")
"""The three questions asked of a method: what it loses, what its ranking is worth, whether it is the best."""
_ANSWERS = (
    "accuracy", "families", "retention", "retention_adjusted", *TESTS, "mcnemar", "non_inferior", "loyalty", "difficulty",
)  # fmt: skip


def summarise(run: RunFolder) -> dict:
    """The content of ``summary.json``; figures come from the run folder alone."""
    manifest = run.manifest()
    seed, margin = manifest["config"]["seed"], manifest["config"]["margin"]
    stored = [(ident, facts, run.columns(ident)) for ident, _, facts in run.cells()]
    by_name = {(facts["method"], facts["keep"]): columns for _, facts, columns in stored if len(columns["score"])}
    winners = _winners(stored)
    known, usual = run.layouts(), tuple(manifest["grid"])
    timings, again = run.timings(), run.timings(1)
    own_pass = {ident: number for number, ident in sorted(timings, reverse=True)}  # the first in which a cell was timed
    ident_none = next((i for i, facts, _ in stored if facts["method"] == "none"), None)
    cells = []
    for ident, facts, columns in stored:
        cell = {name: facts[name] for name in ("model", "task", "method", "params", "keep", "budget", "reference", "skipped")}
        cell |= {name: facts[name] for name in ("positions", "tokens", "flops", "schedule")}
        cell |= _answers(columns, by_name, winners, facts, seed, margin)
        cell["seeds"] = _seeds(columns, run.repeats(ident))
        cell["evidence"] = _evidence(columns, by_name.get(("none", None)), seed)
        analysed = run.analysis(ident)
        grids = {i: known[i][1] if i in known else usual for i in set(analysed["image"])}
        cell |= kept_tokens(analysed, facts, grids, seed)
        number = own_pass.get(ident)
        times = timings.get((number, ident)), timings.get((number, ident_none))
        cell["latency"] = _latency(times[0], times[1], facts, stored, ident_none) if all(times) else None
        cell["memory"] = _memory(facts)
        cell["task_figures"] = facts.get("task_figures")
        cells.append(cell)
    _adjust(cells)
    _pareto(cells, stored, {ident: times for (number, ident), times in timings.items() if number == 0}, seed)
    return {
        "schema_version": SCHEMA_VERSION,
        "cells": cells,
        "winners": {str(keep): method for keep, method in winners.items()},
        "checks": {"aa": _aa(timings, again, ident_none), "analysed_images": len(run.complexity())},
    }


def _winners(stored: list) -> dict[int, str]:
    """The most accurate method at each budget, references and controls left out; the first of equals."""
    best: dict[int, tuple[float, str]] = {}
    for _, facts, columns in stored:
        if facts["reference"] or facts["keep"] is None or not len(columns["score"]):
            continue
        level = float(np.nanmean(columns["score"])) if np.isfinite(columns["score"]).any() else None
        if level is None:
            continue
        if facts["keep"] not in best or level > best[facts["keep"]][0]:
            best[facts["keep"]] = level, facts["method"]
    return {keep: method for keep, (_, method) in best.items()}


def _answers(columns: dict, by_name: dict, winners: dict, facts: dict, seed: int, margin: float) -> dict:
    """Accuracy and everything that compares answers."""
    out: dict[str, Any] = {"n": len(columns["score"]), "n_images": len(set(columns["image"])), **dict.fromkeys(_ANSWERS)}
    if not len(columns["score"]):
        return out
    scores, images, keep = columns["score"], columns["image"], facts["keep"]
    if np.isfinite(columns["agree"]).any():
        out["loyalty"] = {"agreement": _mean(columns["agree"], images, seed), "kl": _mean(columns["kl"], images, seed)}
    if not np.isfinite(scores).any():  # a task without answers ranks by loyalty alone
        return out
    out["accuracy"] = figure = acc.accuracy(scores, images, seed=seed)
    out["families"] = acc.by_family(scores, columns["family"], images, seed=seed)
    none, blind, small = (by_name.get(key) for key in (("none", None), ("blind", None), ("downsample", keep)))
    rivals = {"none": none if facts["method"] != "none" else None, "like": by_name.get((facts["like"], keep))}
    winner = winners.get(keep)
    if winner is not None and winner != facts["method"] and not facts["reference"]:
        rivals["winner"] = by_name[winner, keep]
    for name, rival in rivals.items():
        if rival is not None:
            out[f"difference_{name}"] = paired_difference(scores, rival["score"], images, seed=seed)
    if len(set(images)) == len(images):  # questions of one image are not independent, as the test asks
        out["mcnemar"] = {name: mcnemar_exact(scores, rival["score"]) for name, rival in rivals.items() if rival is not None}
    if none is None:
        return out
    level = float(none["score"].mean())
    out["retention"] = acc.retention(figure.value, level)
    if blind is not None:
        out["retention_adjusted"] = acc.retention_adjusted(figure.value, level, float(blind["score"].mean()))
    gap = out["difference_none"]
    if gap is not None and gap.se is not None:
        out["non_inferior"] = {
            "margin": margin, "holds": acc.non_inferior(gap, margin), "smallest_detectable": acc.smallest_detectable(gap.se),
        }  # fmt: skip
    if small is not None and facts["method"] not in ("none", "downsample"):
        out["difficulty"] = acc.difficulty(scores, none["score"], small["score"], images)
    return out


def _seeds(columns: dict, repeats: dict[int, np.ndarray]) -> dict | None:
    """Spread of accuracy over the seeds of a random choice."""
    if not repeats or not np.isfinite(columns["score"]).any():
        return None
    levels = np.array([columns["score"].mean(), *(scores.mean() for scores in repeats.values())])
    return {
        "seeds": len(levels), "mean": levels.mean(), "sd": levels.std(ddof=1), "lowest": levels.min(), "highest": levels.max(),
    }  # fmt: skip


def _evidence(columns: dict, none: dict | None, seed: int) -> dict | None:
    """Recall, accuracy by recall, and evidence swap with the part of the loss that it gives back."""
    if not np.isfinite(columns["recall"]).any() or not np.isfinite(columns["score"]).any():
        return None
    images, swapped = columns["image"], columns["swap_score"]
    out = {
        **evidence.summarise(columns["recall"], columns["score"], images, seed=seed),
        "recall_before": _mean(columns["recall_before"], images, seed),
        "swap_gain": None,
        "swap_loss": None,
        "swap_share": None,
    }
    if none is not None and np.isfinite(swapped).any():
        out |= evidence.swap(swapped, columns["score"], none["score"], images, seed=seed)
    return out


def _latency(times: dict, none: dict, facts: dict, stored: list, ident_none: int | None) -> dict:
    """Stages, and the prefill's measured speed-up over the one that FLOPs promise."""
    whole = next(f for i, f, _ in stored if i == ident_none)["flops"]["llm_prefill"]
    return latency.summarise(times, none, whole / facts["flops"]["llm_prefill"])


def _aa(timings: dict, again: dict, ident_none: int | None) -> dict | None:
    """`none` against itself in the same rounds: the ratio of times to first token, which is 1 but for the machine."""
    ratios, times = [], []
    for (number, ident), second in again.items():
        if ident == ident_none and (number, ident) in timings:
            first = timings[number, ident]
            ttft = [latency.ttft(stages) for stages in (first, second)]
            ratios.append(ttft[0] / ttft[1])
            times.append(ttft[0])
    if not ratios:
        return None
    ratio = np.concatenate(ratios)
    return {**bootstrap_median(ratio).as_dict(), "rounds": len(ratio), "cv": max(filter(None, map(latency.variation, times)))}


def _memory(facts: dict) -> dict | None:
    """KV bytes by formula over all prompts; measured and by formula for the prompt that was timed; peaks where measured."""
    if facts["flops"] is None:
        return None
    kv, peak = facts.get("kv") or {}, facts.get("peak") or {}
    return {
        "kv_bytes": facts["flops"]["kv_bytes"],
        "kv_measured": kv.get("measured"),
        "kv_predicted": kv.get("predicted"),
        "peak_bytes": peak.get("peak_bytes"),
        "working_bytes": peak.get("working_bytes"),
    }


def _mean(values: np.ndarray, images: np.ndarray, seed: int):
    known = np.isfinite(values)
    return bootstrap_mean(values[known], images[known], seed=seed) if known.any() else None


def _pareto(cells: list[dict], stored: list, timings: dict, seed: int) -> None:
    """Which cells are on the front of accuracy against TTFT and against FLOPs; blind and oracle are not in it."""
    for cell in cells:
        cell["pareto"] = {"latency": None, "flops": None}
    entered = [
        (cell, ident, columns) for cell, (ident, facts, columns) in zip(cells, stored, strict=True)
        if np.isfinite(columns["score"]).any() and facts["method"] not in ("blind", "oracle")
    ]  # fmt: skip
    ttft = {ident: latency.ttft(times) for ident, times in timings.items()}
    for name, costs in (
        ("flops", {ident: cell["flops"]["total"] for cell, ident, _ in entered if cell["flops"]}),
        ("latency", ttft),
    ):
        there = [(cell, ident, columns) for cell, ident, columns in entered if ident in costs]
        if len(there) < 2 or len({len(columns["score"]) for _, _, columns in there}) > 1:
            continue
        scores = np.stack([columns["score"] for _, _, columns in there])
        found = front_share(scores, there[0][2]["image"], np.stack([np.asarray(costs[i]) for _, i, _ in there]), seed=seed)
        for (cell, _, _), on, share in zip(there, found.on, found.share, strict=True):
            cell["pareto"][name] = {"on": bool(on), "share": float(share)}


def _adjust(cells: list[dict]) -> None:
    """Holm over methods x budgets x tasks, separately for each of the questions asked."""
    for name in TESTS:
        chosen = [c for c in cells if c[name] is not None and not c["reference"]]
        adjusted = holm([c[name].p for c in chosen])
        for cell in cells:
            if cell[name] is not None:
                cell[name] = {**asdict(cell[name]), "p_holm": None}
        for cell, p in zip(chosen, adjusted):
            cell[name]["p_holm"] = None if p is None else float(p)


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
