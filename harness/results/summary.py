"""From stored samples to ``summary.json``: every figure of every cell. Needs no torch."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.results.columns import NAMES, RunQuestions, numbers
from harness.results.explain import explained
from harness.results.spreadsheets import write_rows
from harness.results.summary_tokens import kept_tokens
from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION
from methods.expressions import bare
from metrics import accuracy as acc
from metrics import evidence, latency
from metrics.pareto import front_share
from metrics.statistics import bootstrap_mean, bootstrap_median, holm, mcnemar_exact, paired_difference

TESTS = ("difference_none", "difference_like", "difference_winner")
"""The three questions asked of a method: what it loses, what its ranking is worth, whether it is the best."""
_ANSWERS = (
    "accuracy", "families", "retention", "retention_adjusted", *TESTS, "mcnemar", "non_inferior", "loyalty", "difficulty",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CellScores:
    """The answers of one cell, in the order of images and questions: what stays in memory of every cell."""

    score: np.ndarray  # float64 [n]; nan is missing
    image: np.ndarray  # int64 [n], not falling
    family: np.ndarray  # int64 [n], places in `RunQuestions.families`
    answered: np.ndarray  # bool [n]; others failed, and their score is missing

    @property
    def scored(self) -> bool:
        return bool(np.isfinite(self.score).any())


Stored = list[tuple[int, dict, CellScores]]


def summarise(run: RunFolder) -> dict:
    """The content of ``summary.json``; figures come from the run folder alone.

    Every cell is read once. What only its own samples tell is reckoned then and there, so that of a cell no more than its
    scores stays in memory.
    """
    manifest = run.manifest()
    seed, margin = manifest["config"]["seed"], manifest["config"]["margin"]
    questions = RunQuestions.of(run)
    stored, own = _read(run, questions, seed)
    by_name = {(facts["method"], facts["keep"]): scores for _, facts, scores in stored if len(scores.score)}
    winners = _winners(stored)
    known, usual = run.layouts(), tuple(manifest["grid"])
    timings, again = run.timings(), run.timings(1)
    own_pass = {ident: number for number, ident in sorted(timings, reverse=True)}  # the first in which a cell was timed
    ident_none = next((i for i, facts, _ in stored if facts["method"] == "none"), None)
    cells = []
    for ident, facts, scores in stored:
        cell = {name: facts[name] for name in ("model", "task", "method", "params", "keep", "budget", "reference", "skipped")}
        cell |= {name: facts[name] for name in ("positions", "tokens", "flops", "schedule")}
        cell |= _answers(scores, by_name, winners, facts, seed, margin)
        cell["families"] = cell["families"] and {questions.families[i]: figure for i, figure in cell["families"].items()}
        cell["loyalty"], cell["evidence"] = own[ident]
        cell["seeds"] = _seeds(scores, run.repeats(ident))
        analysed = run.analysis(ident)
        grids = {i: known[i].grid if i in known else usual for i in set(analysed["image"])}
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
        "explained": explained(run, seed),
    }


def _read(run: RunFolder, questions: RunQuestions, seed: int) -> tuple[Stored, dict[int, tuple]]:
    """The scores of every cell; by cell its ``loyalty`` and ``evidence``, for which nothing else is needed but `none`."""
    cells = run.cells()
    stored: dict[int, CellScores] = {}
    own, none = {}, None
    for ident, _, facts in sorted(cells, key=lambda cell: cell[2]["method"] != "none"):
        found = numbers(run, ident, questions, (*NAMES, "failed IS NULL"))
        columns = dict(zip((*NAMES, "answered"), found.table.T))
        answered = columns.pop("answered") > 0
        stored[ident] = scores = CellScores(columns["score"].copy(), found.image, found.family, answered)
        none = scores if none is None and facts["method"] == "none" and len(scores.score) else none
        own[ident] = _loyalty(columns, found.image, seed), _evidence(columns, scores, none, seed)
    return [(ident, facts, stored[ident]) for ident, _, facts in cells], own


def _competes(cell: dict) -> bool:
    """Whether a cell is in the race: no reference, and no random tokens, which are what the others are held against."""
    return not cell["reference"] and bare(cell["method"]) != "random"


def _winners(stored: Stored) -> dict[int, str]:
    """The most accurate method at each budget, references and controls left out; the first of equals."""
    best: dict[int, tuple[float, str]] = {}
    for _, facts, scores in stored:
        if not _competes(facts) or facts["keep"] is None or not scores.scored:
            continue
        level = float(np.nanmean(scores.score))
        if facts["keep"] not in best or level > best[facts["keep"]][0]:
            best[facts["keep"]] = level, facts["method"]
    return {keep: method for keep, (_, method) in best.items()}


def _answers(own: CellScores, by_name: dict, winners: dict, facts: dict, seed: int, margin: float) -> dict:
    """Accuracy and everything that compares answers."""
    scores, images, keep = own.score, own.image, facts["keep"]
    seen = images[own.answered]
    out: dict[str, Any] = {"n": len(seen), "n_images": _distinct(seen), **dict.fromkeys(_ANSWERS)}
    if not own.scored:  # a task without answers ranks by loyalty alone
        return out
    out["accuracy"] = acc.accuracy(scores, images, seed=seed)
    out["families"] = acc.by_family(scores, own.family, images, seed=seed)
    none, blind, small = (by_name.get(key) for key in (("none", None), ("blind", None), ("downsample", keep)))
    rivals = {"none": none if facts["method"] != "none" else None, "like": by_name.get((facts["like"], keep))}
    winner = winners.get(keep)
    if winner is not None and winner != facts["method"] and _competes(facts):
        rivals["winner"] = by_name[winner, keep]
    for name, rival in rivals.items():
        if rival is not None:
            out[f"difference_{name}"] = paired_difference(scores, rival.score, images, seed=seed)
    if out["n_images"] == len(seen):  # questions of one image are not independent, as the test asks
        there = {name: rival.score for name, rival in rivals.items() if rival is not None}
        out["mcnemar"] = {name: mcnemar_exact(*_common(scores, rival)) for name, rival in there.items()}
    if none is None:
        return out
    out["retention"] = acc.retention(*_levels(scores, none.score))
    if blind is not None:
        out["retention_adjusted"] = acc.retention_adjusted(*_levels(scores, none.score, blind.score))
    gap = out["difference_none"]
    if gap is not None and gap.se is not None:
        both = np.isfinite(scores) & np.isfinite(none.score)
        size = _distinct(images[both]), int(both.sum())
        p = acc.non_inferior_p(gap, scores, none.score, images, margin)
        out["non_inferior"] = {
            "margin": margin,
            "holds": acc.non_inferior(gap, p, margin),
            "p": p,
            "smallest_detectable": acc.smallest_detectable(gap.se, *size),
        }
    if small is not None and facts["method"] not in ("none", "downsample"):
        out["difficulty"] = acc.difficulty(scores, none.score, small.score, images)
    return out


def _distinct(images: np.ndarray) -> int:
    """How many images there are, in numbers that do not fall."""
    return int(np.count_nonzero(np.diff(images))) + min(1, len(images))


def _common(*scores: np.ndarray) -> np.ndarray:
    """Scores [cells, m] of the samples that all cells have."""
    table = np.stack(scores)
    return table[:, np.isfinite(table).all(0)]


def _levels(*scores: np.ndarray) -> list[float | None]:
    """Mean scores of cells over the samples that all have; None where there are none."""
    table = _common(*scores)
    return table.mean(1).tolist() if table.size else [None] * len(table)


def _loyalty(columns: dict, images: np.ndarray, seed: int) -> dict | None:
    if not np.isfinite(columns["agree"]).any():
        return None
    return {"agreement": _mean(columns["agree"], images, seed), "kl": _mean(columns["kl"], images, seed)}


def _seeds(own: CellScores, repeats: dict[int, float]) -> dict | None:
    """Spread of accuracy over the seeds of a random choice."""
    if not repeats or not own.scored:
        return None
    levels = np.array([np.nanmean(own.score), *repeats.values()])
    return {
        "seeds": len(levels), "mean": levels.mean(), "sd": levels.std(ddof=1), "lowest": levels.min(), "highest": levels.max(),
    }  # fmt: skip


def _evidence(columns: dict, own: CellScores, none: CellScores | None, seed: int) -> dict | None:
    """Recall, accuracy by recall, and evidence swap with the part of the loss that it gives back; of what was answered."""
    columns, images = {name: column[own.answered] for name, column in columns.items()}, own.image[own.answered]
    if not np.isfinite(columns["recall"]).any() or not np.isfinite(columns["score"]).any():
        return None
    out = {
        **evidence.summarise(columns["recall"], columns["score"], images, seed=seed),
        "recall_before": _mean(columns["recall_before"], images, seed),
        "swap_gain": None,
        "swap_loss": None,
        "swap_share": None,
    }
    swapped = columns["swap_score"]
    if none is not None and np.isfinite(swapped).any():
        out |= evidence.swap(swapped, columns["score"], none.score[own.answered], images, seed=seed)
    return out


def _latency(times: dict, none: dict, facts: dict, stored: Stored, ident_none: int | None) -> dict:
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


def _pareto(cells: list[dict], stored: Stored, timings: dict, seed: int) -> None:
    """Which cells are on the front of accuracy against TTFT and against FLOPs; blind and oracle are not in it."""
    for cell in cells:
        cell["pareto"] = {"latency": None, "flops": None}
    entered = [
        (cell, ident, scores) for cell, (ident, facts, scores) in zip(cells, stored, strict=True)
        if scores.scored and facts["method"] not in ("blind", "oracle")
    ]  # fmt: skip
    ttft = {ident: latency.ttft(times) for ident, times in timings.items()}
    for name, costs in (
        ("flops", {ident: cell["flops"]["total"] for cell, ident, _ in entered if cell["flops"]}),
        ("latency", ttft),
    ):
        there = [(cell, ident, scores) for cell, ident, scores in entered if ident in costs]
        if len(there) < 2 or len({len(scores.score) for _, _, scores in there}) > 1:
            continue
        table = np.stack([scores.score for _, _, scores in there])
        found = front_share(table, there[0][2].image, np.stack([np.asarray(costs[i]) for _, i, _ in there]), seed=seed)
        for (cell, _, _), on, share in zip(there, found.on, found.share, strict=True):
            cell["pareto"][name] = {"on": bool(on), "share": float(share)}


def _adjust(cells: list[dict]) -> None:
    """Holm over competing methods x budgets x tasks, separately for each of the questions asked."""
    for name in TESTS:
        chosen = [c for c in cells if c[name] is not None and _competes(c)]
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
    with threadpool_limits(1, user_api="blas"):  # more threads would only wait at products this small
        summary = plain(summarise(run))
    rows = [flat(cell) for cell in summary["cells"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    write_rows(names, rows, file)
    run.write_text("summary.csv", file.getvalue())
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
