"""A made-up run with the figures a real one has, so that the page is tested without a model."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from reports.view import GalleryAnswer, GalleryImage, GalleryQuestion, RunView

FAMILIES = ("existence", "colour", "shape", "count", "relation", "quadrant", "digit", "number", "dot")
HARD = {"digit": 0.16, "number": 0.2, "dot": 0.25, "count": 0.08}
SKILL = {
    "sts": 0.035,
    "fastv": 0.0,
    "sparsevlm": 0.012,
    "tome": 0.03,
    "random": -0.02,
    "downsample": -0.045,
    "oracle": 0.09,
    "random[like=fastv]": -0.015,
    "random[like=sts]": -0.02,
    "random[like=sparsevlm]": -0.012,
}
BUDGETS = (192, 128, 64)
TOKENS, LAYERS, WIDTH, GRID = 576, 12, 512, 24


def spread(value: float, half: float, digits: int = 6) -> dict:
    return {"value": round(value, digits), "lo": round(value - half, digits), "hi": round(value + half, digits)}


def tested(value: float, half: float, null: float = 0.0) -> dict:
    p = float(min(1.0, 2 * np.exp(-0.9 * (abs(value - null) / half * 1.96) ** 1.3)))
    return {**spread(value, half), "p": round(p, 5), "p_adjusted": round(min(1.0, 6 * p), 5)}


def against_chance(value: float | None, percentile: float, share: float, p: float, competes: bool) -> dict:
    """A figure held against random subsets; z is null where their distribution is skewed."""
    z = dict.fromkeys(("value", "lo", "hi")) if value is None else spread(value, 0.5)
    return {**z, "percentile": spread(percentile, 0.03), "share_below_chance": share, "p": p,
            "p_adjusted": min(1.0, 18 * p) if competes else None}  # fmt: skip


NO_FAMILY = {"p_adjusted": None}
"""What is tested alone: a reference competes with nothing."""


def flops_of(average: float, vision: float = 0.42e9) -> dict:
    prefill = LAYERS * ((average + 40) * 24 * WIDTH**2 + 4 * (average + 40) ** 2 * WIDTH)
    total = vision + 0.02e9 + prefill + 0.004e9
    return {
        "vision": vision,
        "projector": 0.02e9,
        "selection": 0.004e9,
        "llm_prefill": prefill,
        "decode_per_token": 24 * LAYERS * WIDTH**2,
        "kv_bytes": average * LAYERS * WIDTH * 4,
        "total": total,
    }


def cell_of(method: str, keep: int | None, rng: np.random.Generator) -> dict:
    whole = method in ("none", "blind")
    average = TOKENS if method == "none" else 0 if method == "blind" else keep
    lost = 0.0 if method == "none" else 0.48 if method == "blind" else 0.02 + 0.22 * (1 - keep / TOKENS) ** 4
    families = {}
    for family in FAMILIES:
        value = 0.86 - HARD.get(family, 0) - lost * (1.4 if family in HARD else 0.8)
        value += 0 if whole else SKILL[method] * (1.5 - keep / 192) + rng.normal(0, 0.012)
        families[family] = spread(min(max(value, 0.02), 0.99), 0.055)
    accuracy = float(np.mean([f["value"] for f in families.values()]))
    pruner = method not in ("none", "blind", "tome", "downsample")
    control = method in ("fastv", "sts", "sparsevlm")
    base = flops_of(TOKENS)["llm_prefill"]
    flops = flops_of(average)
    speed = 1 + 0.62 * (base / flops["llm_prefill"] - 1) if average else 6.0
    stages = {"vision": 21.0, "projector": 0.9, "selection": 0.0 if whole else 1.6 + rng.uniform(0, 1.2),
              "prefill": 96 / speed, "decode": 9.1}  # fmt: skip
    ttft = sum(stages.values()) - stages["decode"]
    stages |= {"preprocess": 0.02 * ttft, "layout": 0.03 * ttft}
    random = method.startswith("random")
    fastv, oracle = method == "fastv", method == "oracle"
    bent = {"effective_rank": -0.1 if random else -5 - 4 * fastv - 12 * oracle - 40 / (keep or 1),
            "mean_cosine": 0.05 if random else 4 + 5 * (method == "fastv") + 11 * (method == "oracle"),
            "cells": 0.1 if random else (3.5 if method == "sts" else -6 - 8 * (method == "oracle"))}  # fmt: skip
    competes = method in ("sts", "fastv", "sparsevlm", "tome")
    z = {}
    for name, shift in bent.items():
        less = (shift < 0) != (name == "mean_cosine")
        rank = (0.03 if shift < 0 else 0.97) if not random else 0.5
        z[name] = against_chance(shift + rng.normal(0, 0.15), rank, 0.5 if random else 0.93 if less else 0.07,
                                 0.5 if random else 0.0004, competes)  # fmt: skip
    for name in ("k_centre_radius", "mean_distance_to_kept", "residual"):
        rank = 0.5 if random else 0.97 if fastv or oracle else 0.81
        z[name] = against_chance(None, rank, 0.5 if random else 0.9, 0.5 if random else 0.0007, competes)
    one_sided = (0.002, 0.04) if method == "sts" and keep == 192 else (0.4, 1.0)
    like_base = 0.02 if method == "fastv" else 0.055 if method == "sts" else 0.008
    return {
        "model": "tiny", "task": "shapes", "method": method, "params": {}, "keep": keep, "budget": "average",
        "reference": whole or method == "downsample", "n": 1800, "n_images": 200,
        "accuracy": spread(accuracy, 0.021), "families": families,
        "retention": spread(accuracy / 0.784, 0.02),
        "retention_adjusted": None if method == "tome" else spread((accuracy - 0.30) / (0.784 - 0.30), 0.04),
        "difference_none": None if method == "none" else tested(accuracy - 0.784, 0.014) | ({} if competes else NO_FAMILY),
        "difference_downsample": tested(SKILL[method] - SKILL["downsample"], 0.02) if competes else None,
        "non_inferior": {"margin": 0.02, "p": one_sided[0], "p_best": 4 * one_sided[0], "p_adjusted": one_sided[1],
                         "holds": one_sided[0] <= 0.025, "smallest_detectable": 0.031} if competes else None,
        "difference_like": tested(like_base * (1.4 - (keep or 0) / 192), 0.016) if control else None,
        "loyalty": {"agreement": 1.0 if method == "none" else 0.83, "kl": 0.0 if method == "none" else 0.31},
        "evidence": None if whole or not pruner else {
            "recall": spread(min(0.97, (keep / TOKENS) ** 0.75 + 6 * max(0, SKILL[method])), 0.02),
            "accuracy_kept": spread(0.81, 0.03), "accuracy_lost": spread(0.52, 0.04),
            "recall_over_control": tested(-0.05 if fastv else 0.08, 0.02) if control else None,
            "swap_gain": tested(0.06, 0.02) if method in ("sts", "fastv") else None, "swap_loss": spread(0.09, 0.02),
            "swap_share": spread(0.66, 0.2) if method == "fastv" else None},
        "difficulty": {"hard": 0.41, "easy": 0.85, "n_hard": 212},
        "tokens": {"final": average * (0.5 if method in ("sts", "fastv") else 1), "average": average},
        "flops": flops,
        "latency": {**{k: spread(v, 0.04 * v) for k, v in stages.items()}, "total": spread(ttft + 9.1, 2.0),
                    "ttft": spread(ttft, 1.9), "cv": 0.03,
                    "ratio": spread(118.5 / ttft, 0.4 if method == "tome" and keep == 64 else 0.03),
                    "wide": None if method == "none" else method == "tome" and keep == 64, "rounds": 24, "stage_rounds": 3,
                    "in_one_piece": True, "sum_gap": 0.05, "ttft_none": 118.5,
                    "realised_gain": None if whole else tested(speed / (base / flops["llm_prefill"]), 0.06, 1.0)},
        "memory": {"kv_bytes": flops["kv_bytes"]},
        "diversity": None if method == "blind" else {"effective_rank": spread(0.42 * average**0.86, 1.2),
                                                      "mean_cosine": spread(0.31 + 0.04 * (method == "fastv"), 0.006)},
        "coverage": None if whole else {"cells": spread(min(1, 0.35 + keep / 330), 0.012)},
        "collapse": None if not pruner else {"z": z, "tests": 108},
        "bias": None if not pruner else {
            "lower_half": tested(0.8 if fastv else 0.5, 0.02, 0.5),
            "row_z": {"effective_rank": spread(bent["effective_rank"] / 2, 0.5)}},
        "layers": None if method == "blind" else {
            "recall": [spread(1 - 0.05 * layer * (not whole), 0.01) for layer in range(LAYERS)],
            **({name: [spread(0.3 - 0.02 * layer, 0.01) for layer in range(LAYERS)] for name in
                ("mass", "entropy", "evidence_top")} if method == "none" else {})},
        "pareto": {name: {"on": method in ("none", "oracle", "sts"), "share": 0.7} for name in ("latency", "flops")},
        "seeds": {"seeds": 5, "mean": 0.7, "sd": 0.01, "lowest": 0.69, "highest": 0.72} if method == "random" else None,
        "skipped": None,
    }  # fmt: skip


def synthetic_cells(seed: int = 0) -> list[dict]:
    """33 cells, the last of them skipped: a method that wants a CLS token on a tower that has none."""
    rng = np.random.default_rng(seed)
    cells = [cell_of("none", None, rng), cell_of("blind", None, rng)]
    cells += [cell_of(name, keep, rng) for keep in BUDGETS for name in SKILL]
    gone = dict.fromkeys(cells[0]) | {
        "model": "tiny",
        "task": "shapes",
        "method": "visionzip",
        "keep": 64,
        "budget": "average",
        "reference": False,
        "skipped": "the tower has no CLS token; use visionzip[score=received]",
    }
    return [*cells, gone]


def synthetic_image(rng: np.random.Generator, size: int = 192) -> bytes:
    image = Image.new("RGB", (size, size), tuple(int(v) for v in rng.integers(20, 235, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = rng.integers(0, size - 50, 2)
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        (draw.rectangle if rng.random() < 0.5 else draw.ellipse)((x, y, x + 45, y + 45), fill=colour)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def traced(name: str, kept: np.ndarray, rng: np.random.Generator) -> dict:
    """Scores that favour the kept tokens, some tokens gone by then; or groups of neighbours, each with a kept token."""
    if name in ("fastv", "sparsevlm"):
        scores = rng.exponential(size=kept.size) + 5 * kept.ravel()
        scores[::17] = np.nan
        return {"scores": scores.astype(np.float16)}
    if name == "tome":
        places = np.stack(np.unravel_index(np.arange(kept.size), kept.shape), 1)
        heads = places[kept.ravel()]
        source = np.linalg.norm(places[:, None] - heads[None], axis=2).argmin(1).astype(np.int16)
        source[:GRID] = -1
        return {"source": source, "merges": True}
    return {}


def synthetic_gallery(images: int = 6, questions: int = 3, seed: int = 1) -> list[GalleryImage]:
    rng = np.random.default_rng(seed)
    gallery = []
    for i in range(images):
        asked = []
        for q in range(questions):
            evidence = np.zeros((GRID, GRID), bool)
            top, left = rng.integers(2, GRID - 7, 2)
            evidence[top : top + 4, left : left + 5] = True
            answers = [GalleryAnswer("none", TOKENS, "red", 1.0, np.ones((GRID, GRID), bool), (GRID, GRID), "")]
            for keep in BUDGETS:
                for name in ("sts", "fastv", "sparsevlm", "tome", "random", "random[like=fastv]", "downsample", "oracle"):
                    side = int(np.sqrt(keep)) if name == "downsample" else GRID
                    kept = np.ones((side, side), bool)
                    if name != "downsample":
                        order = rng.permutation(GRID * GRID) if name != "fastv" else np.arange(GRID * GRID)[::-1]
                        kept = np.zeros(GRID * GRID, bool)
                        kept[order[:keep]] = True
                        kept = kept.reshape(GRID, GRID) | (evidence if name == "oracle" else False)
                    right = float(rng.random() < 0.6)
                    note = "the image was shrunk" if name == "downsample" else ""
                    more = traced(name, kept, rng)
                    answers.append(GalleryAnswer(name, keep, "red" if right else "blue", right, kept, (side, side), note, **more))
            asked.append(GalleryQuestion(f"{i}-{q}", FAMILIES[q], f"What colour is shape {q + 1}?", "red",
                                         evidence if q else None, answers))  # fmt: skip
        gallery.append(GalleryImage(f"image-{i}", synthetic_image(rng), asked))
    return gallery


MANIFEST = {
    "model": "tiny", "task": "shapes", "created": "2026-11-25T00:48:00Z",
    "command": "python -m harness compare --methods sts,fastv,sparsevlm,tome,random --keep 192,128,64",
    "versions": {"prunescope": "0.1.0", "torch": "2.13.0", "transformers": "5.24.0", "python": "3.11.2"},
    "device": "cpu (2 threads)", "dtype": "float32", "seed": 0, "samples": 200, "questions": 1800,
    "duration_s": 412.5, "failures": 2, "budgets": list(BUDGETS),
    "notes": ["timings taken while another process ran"],
}  # fmt: skip


CHECKS = {
    "aa": {**spread(1.001, 0.004), "rounds": 24, "cv": 0.02}, "analysed_images": 100,
    "needed_images": {"one": 310, "best": 480, "methods": 4},
    "correlation": {"rho": 0.12, "cells": 30, "questions_an_image": 9},
}  # fmt: skip


def synthetic_run() -> RunView:
    return RunView(MANIFEST, synthetic_cells(), synthetic_gallery(), CHECKS, made_by=5)


@pytest.fixture(scope="session")
def run() -> RunView:
    return synthetic_run()


@pytest.fixture(scope="session")
def page(run: RunView) -> str:
    from reports.page import render

    return render(run)
