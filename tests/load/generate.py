"""A run folder of any size, as `compare` would leave it: figures are drawn, shapes and row counts are those of a real run.

python tests/load/generate.py FOLDER --samples 200000 --cells 50
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.store.arrays import pack
from harness.store.cell_results import TokenFigures
from harness.store.runs import RunFolder
from harness.store.schema import COUNTS, NUMBERS, RULING, SAMPLE_COLUMNS
from metrics.figures import LAYERS as LAYER_FIGURES

METHODS = (
    "downsample", "random", "sts", "fastv", "sparsevlm", "random[like=sts]", "random[like=fastv]", "random[like=sparsevlm]",
    "tome", "visionzip", "divprune", "dart", "holov", "vispruner", "cdpruner", "oracle",
)  # fmt: skip
BUDGETS = (192, 128, 64)
FAMILIES = ("existence", "colour", "shape", "count", "relation", "quadrant", "digit", "number", "dot")
GRID, LAYERS, STAGES, ROUNDS = 24, 12, ("vision", "projector", "selection", "prefill", "decode", "total"), 12
BATCH = 8


def generate(
    folder: Path,
    samples: int,
    cells: int,
    per_image: int = 9,
    analysed: int = 200,
    seeds: int = 5,
    seed: int = 0,
    model: str = "tiny",
    shift: float = 0.0,
) -> None:
    """Write a run whose summary has yet to be made.

    Args:
        folder: for the run; made where it is missing.
        samples: questions.
        cells: `none`, `blind`, and as many of `METHODS` x `BUDGETS` as make up the number.
        per_image: questions an image.
        analysed: images whose kept tokens were analysed.
        seeds: of `random`.
        seed: of everything drawn here, and part of the questions' names.
        model: its name.
        shift: what is added to the accuracy of every pruned cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, run = np.random.default_rng(seed), RunFolder(folder)
    images = -(-samples // per_image)
    named = [("none", None), ("blind", None), *((m, k) for k in BUDGETS for m in METHODS)][:cells]
    budgets = [k for k in BUDGETS if any(keep == k for _, keep in named)]
    run.create(_manifest(images, samples, budgets, [m for m, _ in named], analysed, seeds, seed, model))
    database = run.connection
    database.execute("PRAGMA journal_mode=OFF")
    database.execute("PRAGMA synchronous=OFF")
    ids = run.add_cells((f"{m}|{k}", {**_facts(m, k), "model": model}) for m, k in named)
    place = np.arange(samples)
    names = [f"test-{seed}-{q // per_image}-{q % per_image}" for q in range(samples)]
    in_order = np.array(sorted(range(samples), key=names.__getitem__))  # rows arrive in the order of the key
    png = _png(rng)
    with database:
        insert = lambda table, width, rows: database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * width)})", rows)
        insert("images", 6, ((f"test-{seed}-{i}", i, png, 336, 336, 40 + 20 * rng.random() if i < analysed else None)
                             for i in range(images)))  # fmt: skip
        masks = [pack(rng.random((GRID, GRID)) < 0.01) for _ in range(97)]
        insert("questions", 7, (
            (names[q], f"test-{seed}-{q // per_image}", int(place[q]), FAMILIES[q % len(FAMILIES)], "what color is the circle ?",
             "red", None if q % per_image == 0 else masks[q % 97]) for q in range(samples)
        ))  # fmt: skip
        hard = rng.random(samples)
        tens = rng.permutation(min(samples, analysed * per_image))
        for number, (method, keep) in enumerate(named):
            ident = ids[f"{method}|{keep}"]
            rows = _samples(rng, method, keep, hard, samples, per_image, analysed, shift)
            insert("samples", 2 + len(SAMPLE_COLUMNS), _ordered(ident, names, in_order, rows))
            if method == "random":
                again = (hard[in_order] + rng.normal(0, 0.2, (seeds - 1, samples)) < _level(method, keep)).astype(float)
                insert("repeats", 5, ((ident, names[q], s + 1, again[s, row], None) for row, q in enumerate(in_order)
                                      for s in range(seeds - 1)))  # fmt: skip
            if keep is not None and method != "tome" and len(tens):
                insert("analysis", 3 + len(NUMBERS), _analysis(rng, [names[q] for q in sorted(tens)], method).rows(ident))
            insert("done", 2, ((ident, start) for start in range(0, images, BATCH)))
            _progress(number + 1, len(named))
    run.add_timings(0, _timings(rng, named, list(ids.values())))
    database.execute("PRAGMA journal_mode=WAL")
    database.close()


def _ordered(ident: int, names: list[str], order: np.ndarray, columns: list) -> Iterator[tuple]:
    sorted_columns = [itertools.repeat(None) if c is None else [c[q] for q in order] for c in columns]
    return zip(itertools.repeat(ident), [names[q] for q in order], *sorted_columns)


def _level(method: str, keep: int | None) -> float:
    if keep is None:
        return 0.78 if method == "none" else 0.30
    skill = 0.02 * (METHODS.index(method) % 7) - 0.04 * method.startswith("random") + 0.1 * (method == "oracle")
    return 0.5 + skill + 0.0012 * keep


def _samples(
    rng, method: str, keep: int | None, hard: np.ndarray, n: int, per_image: int, analysed: int, shift: float
) -> list:  # fmt: skip
    """The columns of the table, [n] each; None for one that this cell does not have."""
    level = _level(method, keep) + (0.0 if keep is None else shift)
    score = (hard + rng.normal(0, 0.12, n) < level).astype(float)
    prediction = np.where(score > 0, "red", rng.choice(["blue", "green", "circle", "4"], n)).tolist()
    agree = (rng.random(n) < (1.0 if method == "none" else 0.6 + 0.3 * level)).astype(float).tolist()
    kl = (np.zeros(n) if method == "none" else rng.exponential(0.3, n)).tolist()
    whole = keep is None
    recall = None if whole else np.where(np.arange(n) % per_image == 0, np.nan, rng.beta(2 * level, 1, n)).round(3)
    known = None if recall is None else [None if r != r else r for r in recall.tolist()]
    swap = None
    if not whole and method != "downsample":
        upto = min(n, analysed * per_image)
        better = np.maximum(score[:upto], rng.random(upto) < 0.5).astype(float)
        swap = [None if recall[q] != recall[q] else better[q] for q in range(upto)] + [None] * (n - upto)
    pool = [pack(rng.random((GRID, GRID)) < (keep or 1) / GRID**2) for _ in range(499)] if not whole else None
    kept = None if pool is None else [pool[q % 499] for q in range(n)]
    count = None if whole else [keep] * n
    return [prediction, score.tolist(), agree, kl, kept, count, known, known, swap, None, *[None] * len((*RULING, *COUNTS))]


def _analysis(rng, questions: list[str], method: str) -> TokenFigures:
    n = len(questions)
    shift = {"z": 0.0 if method.startswith("random") else -3.0, "percentile": 0.5 if method.startswith("random") else 0.2}
    numbers = {
        name: np.clip(rng.normal(shift["percentile"], 0.2, n), 0, 1)
        if name.startswith("percentile")
        else rng.normal(shift["z"], 1.0, n)
        if name.startswith(("z_", "row_z_"))
        else rng.random(n)
        for name in NUMBERS
    }
    return TokenFigures(questions, numbers, rng.random((n, LAYERS, len(LAYER_FIGURES))).astype("<f4"))


def _timings(rng, named: list, idents: list[int]) -> Iterator[tuple]:
    for (method, keep), ident in zip(named, idents, strict=True):
        for repeat, turn in itertools.product((0, 1) if method == "none" else (0,), range(ROUNDS)):
            times = dict(zip(STAGES, (0.020, 0.001, 0.004, 0.01 + 0.0001 * (keep or 576), 0.004, 0.05), strict=True))
            for stage, seconds in times.items():
                yield ident, repeat, turn, stage, seconds * float(rng.normal(1, 0.02))


def _facts(method: str, keep: int | None) -> dict:
    tokens = {"none": GRID**2, "blind": 0}.get(method, keep)
    prefill = 4e7 + 7.5e6 * tokens
    like = method in ("sts", "fastv", "sparsevlm")
    return {
        "model": "tiny", "task": "shapes", "method": method, "params": {}, "keep": keep, "budget": "average",
        "positions": "original", "seed": 0, "reference": keep is None or method in ("downsample", "oracle") or "like=" in method,
        "ranks_by": "attention" if like else "none", "skipped": None, "like": f"random[like={method}]" if like else None,
        "prunes": keep is not None and method not in ("tome", "downsample"), "adaptive": False, "merges": method == "tome",
        "grid": [12, 16] if method == "downsample" else None, "tokens": {"final": tokens, "average": float(tokens)},
        "flops": {"vision": 1.8e9, "projector": 3.8e7, "selection": 1e6, "llm_prefill": prefill, "decode_per_token": 4e6,
                  "kv_bytes": 12288.0 * tokens, "total": 1.84e9 + prefill},
        "schedule": [tokens] * LAYERS, "tower": [GRID**2 + 1] * 10,
        "kv": {"measured": 12288 * tokens, "predicted": 12288 * tokens},
    }  # fmt: skip


def _manifest(
    images: int, samples: int, budgets: list, methods: list, analysed: int, seeds: int, seed: int, model: str
) -> dict:  # fmt: skip
    config = {
        "model": model, "task": "shapes", "methods": list(dict.fromkeys(methods)), "keep": [str(k) for k in budgets],
        "budget": "average", "samples": images, "out": None, "resume": False, "extend": None, "seed": seed, "batch_size": BATCH,
        "device": "auto", "dtype": "auto", "latency": True, "sharing": True, "memory": False, "analyse": analysed, "seeds": seeds,
        "margin": 0.02, "max_new_tokens": None, "prompt": "{question}", "plugin": [],
    }  # fmt: skip
    return {
        "created": "2026-01-01T00:00:00+00:00", "command": "python tests/load/generate.py", "model": model, "task": "shapes",
        "config": config, "samples": images, "seed": seed, "device": "drawn, not measured", "dtype": "float32",
        "grid": [GRID, GRID], "versions": {}, "fingerprints": {"weights": f"those of {model}", "code": "none", "data": None},
        "budgets": [str(k) for k in budgets], "task_info": {}, "notes": ["Drawn by tests/load/generate.py."],
        "questions": samples, "failures": 0, "duration_s": 0.0,
    }  # fmt: skip


def _png(rng) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.repeat(np.repeat(rng.integers(0, 255, (21, 21, 3), np.uint8), 16, 0), 16, 1)).save(out, "PNG")
    return out.getvalue()


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {of} cells", end="\n" if done == of else "", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--cells", type=int, default=50)
    parser.add_argument("--per-image", type=int, default=9)
    parser.add_argument("--analysed", type=int, default=200)
    asked = parser.parse_args()
    started = time.perf_counter()
    generate(asked.folder, asked.samples, asked.cells, asked.per_image, asked.analysed)
    size = (asked.folder / "results.sqlite").stat().st_size
    print(f"{asked.samples:,} x {asked.cells}: {size / 2**20:,.0f} MiB in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
