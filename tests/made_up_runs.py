"""Made-up run folders with the figures of real ones, written through `RunFolder`: builds compare without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from harness.store.arrays import pack
from harness.store.cell_results import CellResult, SampleRow, TokenFigures
from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION
from metrics.figures import LAYERS
from metrics.latency import BEFORE_FIRST_TOKEN, FIRST_TOKEN, summarise

GRID, DEPTH = (12, 12), 4
TOKENS = GRID[0] * GRID[1]
FAMILIES = ("existence", "colour", "count", "digit")
SKILL = {"none": 2.2, "blind": -1.2, "downsample": 0.2, "oracle": 1.8, "random": 0.6, "sts": 1.4, "fastv": 0.4,
         "random[like=fastv]": 0.2, "tome": 1.2}  # fmt: skip
CELLS = [("none", None), ("blind", None), *((name, keep) for keep in (64, 24) for name in list(SKILL)[2:])]


@dataclass(frozen=True)
class Build:
    """One build on one machine; what is planted is by (method, keep)."""

    images: range = range(24)
    questions: int = 6  # an image
    seed: int = 0
    machine: int = 0  # rounding and speed
    worse: dict = field(default_factory=dict)  # share of right answers that become wrong
    schedule: dict = field(default_factory=dict)  # tokens that leave earlier
    drift: dict = field(default_factory=dict)  # share of the kept tokens that are others
    slower: dict = field(default_factory=dict)  # time to first token, times
    poorer: dict = field(default_factory=dict)  # effective rank, times
    dearer: dict = field(default_factory=dict)  # FLOPs of the selection, times
    without: frozenset = frozenset()
    skipped: dict = field(default_factory=dict)  # reasons
    spread: float = 0.04  # of the times of a cell, on a logarithmic scale
    rounds: int = 12  # in which the cells' time to first token is taken
    known: dict = field(default_factory=dict)  # rounds after which a cell is known and left out, by (method, keep)
    in_one_piece: bool = True  # else time to first token is the sum of stages, as older versions took it
    prompt: str = "{question}"
    analysed: int = 12
    latency: bool = True
    scoring: dict = field(default_factory=dict)  # as a manifest tells it: answers alternate between yes and no; {} of older runs
    whole: int | None = None  # questions of the whole benchmark

    @property
    def kind(self) -> str:
        """The kind of its own figure."""
        return self.scoring["figure"]["kind"] if self.scoring else "mean"

    def target(self, question: int) -> str:
        """The right answer."""
        return "no" if self.scoring and question % 2 else "yes"

    def family(self, image: int, question: int) -> str:
        """The family of a question; a category of MME is one of images."""
        return FAMILIES[(image if self.kind == "mme" else question) % len(FAMILIES)]


def stream(*parts: object) -> np.random.Generator:
    """Random numbers that depend on the parts alone."""
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big"))


def counts(method: str, keep: int | None, earlier: int) -> list[int]:
    if method == "blind":
        return [0] * DEPTH
    if keep is None:
        return [TOKENS] * DEPTH
    if "fastv" in method:
        return [TOKENS if keep == 64 else keep + 40, *[keep - earlier] * (DEPTH - 1)]
    return [keep - earlier] * DEPTH


def facts_of(method: str, keep: int | None, build: Build, text: float) -> dict:
    key = (method, keep)
    schedule = counts(method, keep, build.schedule.get(key, 0))
    lengths = [n + text for n in schedule]
    flops = {
        "vision": 0.0 if method == "blind" else 1e6 * (0.3 if method == "downsample" else 1.0), "projector": 2e4,
        "selection": 1e4 * build.dearer.get(key, 1.0) if keep and method != "downsample" else 0.0,
        "llm_prefill": sum(6e3 * n + 4.0 * n * n for n in lengths), "decode_per_token": sum(6e3 + 8.0 * n for n in lengths),
        "kv_bytes": sum(256.0 * n for n in lengths),
    }  # fmt: skip
    skipped = build.skipped.get(key)
    return {
        "model": "made-up", "task": "shapes", "method": method, "params": {}, "keep": keep, "budget": "average",
        "positions": "original", "seed": build.seed, "ranks_by": "both", "like": None, "adaptive": False,
        "reference": method in ("none", "blind", "downsample", "oracle") or "like=" in method,
        "prunes": keep is not None and method not in ("downsample", "tome"), "merges": method == "tome", "skipped": skipped,
        "grid": {"blind": [0, 0], "downsample": [8, (keep or 8) // 8]}.get(method),
        "tokens": None if skipped else {"final": schedule[-1], "average": sum(schedule) / DEPTH},
        "flops": None if skipped else {**flops, "total": sum(list(flops.values())[:4])},
        "schedule": None if skipped else schedule,
    }  # fmt: skip


def kept_of(method: str, keep: int, image: int, question: int, build: Build) -> np.ndarray:
    """The mask of the last layer; a machine's rounding swaps a token now and then."""
    count = counts(method, keep, build.schedule.get((method, keep), 0))[-1]
    luck = build.seed if method.startswith(("random", "oracle")) else "same"
    order = stream("kept", method, keep, image, question if method == "fastv" else "", luck).permutation(TOKENS)
    moved = round(build.drift.get((method, keep), 0.0) * count)
    if moved:
        order = np.concatenate([order[moved:count], order[count : count + moved], order[:moved], order[count + moved :]])
    elif stream("rounding", build.machine, method, keep, image).random() < 0.05:
        order[[count - 1, count]] = order[[count, count - 1]]
    mask = np.zeros(TOKENS, bool)
    mask[order[:count]] = True
    return mask


@cache
def asked(image: int, questions: int) -> tuple[float, np.ndarray, np.ndarray]:
    """How easy an image and its questions are, and how much of the evidence a pruner keeps."""
    rng = stream("image", image)
    return rng.normal(0, 0.8), rng.logistic(size=questions), rng.random(questions)


def answers_of(method: str, keep: int | None, build: Build, images: list[int]) -> list[SampleRow]:
    rows, level = [], SKILL[method] + (0.5 if keep == 64 else 0.0)
    luck = build.seed if method.startswith(("random", "oracle")) else "same"
    pruned = keep is not None and method not in ("downsample", "tome")
    count = counts(method, keep, build.schedule.get((method, keep), 0))[-1]
    whole = pack(np.ones(TOKENS, bool))
    for image in images:
        base, hard, recall = asked(image, build.questions)
        own = stream("own", method, keep, image, luck).normal(0, 0.7, build.questions)
        right = level + base + hard + own > 0
        right ^= stream("flip", build.machine, method, keep, image).random(build.questions) < 0.003
        right &= stream("planted", method, keep, image).random(build.questions) >= build.worse.get((method, keep), 0.0)
        kept = whole if not pruned or method == "fastv" else pack(kept_of(method, keep, image, 0, build))
        for q in range(build.questions):
            score = float(right[q])
            if method == "fastv":  # its choice depends on the question
                kept = pack(kept_of(method, keep, image, q, build))
            found = float(recall[q]) if pruned and q % 3 else None
            said = build.target(q) if right[q] else {"yes": "no", "no": "yes"}[build.target(q)]
            rules = dict.fromkeys(build.scoring["rules"], score) | {"read": said} if build.scoring else {}
            rows.append(SampleRow(f"i{image}-{q}", said, score, score, 0.1, kept, count, found, **rules))
    return rows


def analysis_of(method: str, keep: int, build: Build, images: list[int]) -> TokenFigures:
    questions, rank, cells, distance = [], [], [], []
    luck = build.seed if method.startswith(("random", "oracle")) else "same"
    for image in images[: build.analysed]:
        whole, own = stream("complexity", image).normal(0, 0.08), stream("figures", method, keep, image, luck).normal(0, 0.03, 3)
        for q in range(build.questions):
            questions.append(f"i{image}-{q}")
            rank.append(0.4 * keep**0.86 * np.exp(whole + own[0]) * build.poorer.get((method, keep), 1.0))
            cells.append(min(1.0, 0.3 + keep / 200 + own[1]))
            distance.append(0.4 * np.exp(whole + own[2]))
    numbers = {"effective_rank": np.array(rank), "cells": np.array(cells), "mean_distance_to_kept": np.array(distance)}
    return TokenFigures(questions, numbers, np.full((len(questions), 0, len(LAYERS)), np.nan, np.float32))


def latency_of(method: str, keep: int | None, build: Build, none: np.ndarray) -> tuple[np.ndarray, dict]:
    """Rounds of time to first token in seconds, and the entry of summary.json."""
    rng = stream("time", build.machine, build.images, method, keep)
    length = sum(counts(method, keep, build.schedule.get((method, keep), 0))) / DEPTH
    speed = stream("speed", build.machine).lognormal(0, 0.3)
    mean = (0.01 + 1e-4 * length) * speed * rng.lognormal(0, 0.015) * build.slower.get((method, keep), 1.0)
    times = none if method == "none" and len(none) else mean * rng.lognormal(0, build.spread, build.rounds)
    times = np.where(np.arange(build.rounds) < build.known.get((method, keep), build.rounds), times, np.nan)
    return times, summarise(stages_of(times, build), stages_of(none if len(none) else times, build))


def stages_of(times: np.ndarray, build: Build) -> dict[str, np.ndarray]:
    """Seconds by stage: of a run in one piece beside the rounds of time to first token, whose stages sum to 2 % more."""
    if not build.in_one_piece:
        return {stage: share * times for stage, share in zip(FIRST_TOKEN, (0.2, 0.05, 0.05, 0.7))}
    rounds = 1.02 * np.median(times[~np.isnan(times)]) * np.array([1.0, 0.99, 1.01])[: build.rounds]
    parts = {stage: share * rounds for stage, share in zip(BEFORE_FIRST_TOKEN, (0.04, 0.2, 0.05, 0.06, 0.05, 0.6))}
    return {**parts, "decode": 0.05 * rounds, "total": 1.8 * rounds, "ttft": times}


def write_run(folder: Path, build: Build) -> RunFolder:
    """A finished run of a build."""
    run, images = RunFolder(folder), list(build.images)
    folder.mkdir(parents=True)
    whole = None if build.whole is None else {"images": None, "questions": build.whole}
    config = {"seed": build.seed, "prompt": build.prompt, "dtype": "auto", "samples": len(images), "margin": 0.02}
    run.create({
        "model": "made-up", "task": "shapes", "config": config, "dtype": "float32", "grid": list(GRID),
        "device": f"cpu {build.machine}", "samples": len(images), "seed": build.seed, "notes": [],
        "fingerprints": {"code": "c0de", "weights": "feed"},
        **({"scoring": build.scoring, "whole": whole} if build.scoring else {}),
    })  # fmt: skip
    text = 9.0 + float(np.mean([stream("text", image).integers(0, 5) for image in images]))
    chosen = [cell for cell in CELLS if cell not in build.without]
    facts = {cell: facts_of(*cell, build, text) for cell in chosen}
    keys = {(m, k): f"made-up|shapes|{m}@{k}|average|original|{build.seed}" for m, k in chosen}
    ids = run.add_cells((key, facts[cell]) for cell, key in keys.items())
    found, entries, none, timings = {}, [], np.zeros(0), []
    for method, keep in chosen:
        ident = ids[keys[method, keep]]
        entry = {**facts[method, keep], "accuracy": None, "retention": None, "latency": None, "n": 0, "n_images": 0}
        if not facts[method, keep]["skipped"]:
            rows = answers_of(method, keep, build, images)
            pruned = facts[method, keep]["prunes"] and build.analysed
            found[ident] = CellResult(rows, analysis_of(method, keep, build, images) if pruned else None)
            level = float(np.mean([row.score for row in rows]))
            top = level if method == "none" else entries[0]["accuracy"]["value"]
            entry |= {"n": len(rows), "n_images": len(images), "retention": level / top,
                      "accuracy": {"value": level, "lo": level - 0.05, "hi": level + 0.05}}  # fmt: skip
            if build.latency:
                times, entry["latency"] = latency_of(method, keep, build, none)
                none = times if method == "none" else none
                timings += [
                    (ident, 0, turn, stage, float(value)) for stage, values in stages_of(times, build).items()
                    for turn, value in enumerate(values) if not np.isnan(value)
                ]  # fmt: skip
        entries.append(entry)
    questions = [
        (f"i{i}-{q}", f"i{i}", q, build.family(i, q), f"what about {q} in {i}?", build.target(q), None)
        for i in images for q in range(build.questions)
    ]  # fmt: skip
    run.add_batch(0, [(f"i{i}", place, b"", 1, 1, None) for place, i in enumerate(images)], questions, found)
    run.add_timings(0, timings)
    run.write_json("summary.json", {"schema_version": SCHEMA_VERSION, "cells": entries, "checks": {"aa": None}})
    return run


@pytest.fixture
def make_run(tmp_path) -> Callable[..., RunFolder]:
    """Writes a run of a `Build`, given by its fields."""
    made = []

    def make(**fields) -> RunFolder:
        made.append(write_run(tmp_path / f"run{len(made)}", Build(**fields)))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def stored_run(tmp_path_factory) -> Callable[..., RunFolder]:
    """A run of a `Build` that tests share and leave as it is."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def stored(**fields) -> RunFolder:
        build = Build(**fields)
        if repr(build) not in made:
            made[repr(build)] = write_run(folder / f"run{len(made)}", build)
        return made[repr(build)]

    return stored


@pytest.fixture
def edit_facts() -> Callable[..., None]:
    """Changes what a stored run knows of a cell."""

    def edit(run: RunFolder, method: str, keep: int | None, **facts) -> None:
        ident = next(i for i, _, f in run.cells() if (f["method"], f["keep"]) == (method, keep))
        run.set_facts(ident, **facts)
        summary = json.loads((run.folder / "summary.json").read_text())
        for cell in summary["cells"]:
            if (cell["method"], cell["keep"]) == (method, keep):
                cell |= facts
        run.write_json("summary.json", summary)

    return edit
