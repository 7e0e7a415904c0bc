"""What a large sweep costs on many GPUs, and how well they are used: the tables of docs/scaling.md.

python tests/load/scaling.py sweep     costs by model and a simulation of the whole sweep; the same at every call
python tests/load/scaling.py sweep --profile FILE    the same by what `profile --json` measured, as far as it did
python tests/load/scaling.py writer    what one writer stores a second on this machine
python tests/load/scaling.py stages    seconds of LLaVA-1.5-7B's stages on one thread of this machine, beside their FLOPs
"""

from __future__ import annotations

import heapq
import pickle
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.errors import RequestError
from harness.files import read_json
from harness.models.shapes import shape_of
from harness.run.config import CompareConfig
from harness.run.plan import Cell, make_cells
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.profile import profile
from harness.run.profiling.sharing_gain import sharing_gain
from harness.run.shards import ShardResult
from harness.store.arrays import pack
from harness.store.cell_results import CellResult, SampleRow
from harness.store.runs import RunFolder
from methods.types import ModelShape
from metrics.flops import flops

METHODS = (
    "sts", "fastv", "sparsevlm", "tome", "visionzip", "prumerge", "pyramiddrop", "divprune", "cdpruner", "vispruner", "dart",
    "holov", "otprune", "vtw", "grid", "pool", "fps",
)  # fmt: skip
MODELS = {
    "LLaVA-1.5-7B": "llava-1.5-7b", "ShareGPT4V-7B": "llava-1.5-7b", "LLaVA-1.5-13B": "llava-1.5-13b",
    "LLaVA-NeXT-7B": "llava-next-7b", "Qwen2.5-VL-3B": "qwen2.5-vl-3b", "Qwen2.5-VL-7B": "qwen2.5-vl-7b",
    "InternVL3-1B": "internvl3-1b", "InternVL3-2B": "internvl3-2b", "InternVL3-8B": "internvl3-8b", "SmolVLM2": "smolvlm2",
}  # fmt: skip
TASKS = {
    "pope": (500, 9_000), "gqa": (398, 12_578), "vqav2": (40_504, 214_354), "textvqa": (3_166, 5_000), "mme": (1_187, 2_374),
    "mmbench": (4_329, 4_329), "scienceqa": (2_017, 2_017), "seedbench": (14_233, 14_233), "ai2d": (3_088, 3_088),
    "chartqa": (1_509, 2_500), "docvqa": (1_286, 5_349), "ocrbench": (1_000, 1_000),
}  # fmt: skip
"""Images and questions of the public splits, as published; rounded where sources differ."""

TEXT, ANSWER, ROWS, SEEDS = 64, 4, 32, CompareConfig.seeds
"""Tokens of a prompt beside the image, answer tokens, questions a batch, seeds of `random`."""
ONE, THREE = ("0.111",), ("0.333", "0.222", "0.111")  # of LLaVA's 576 tokens 64, and 192, 128 and 64
GPUS = 64
THUMBNAIL = 120_000  # bytes of a photograph's, as PNG of 336 x 224 pixels


@dataclass(frozen=True)
class Card:
    """A GPU, or whatever a profile was measured on, as far as costs need it. What a profile did not measure is assumed."""

    name: str
    peak: float  # FLOP/s: dense bf16 by the data sheet, or of a large matrix product as measured
    bandwidth: float  # bytes/s
    used: float = 0.35  # of the peak, in matrix products of tower and prefill
    selecting: float = 0.02  # of the peak, in selection
    reading: float = 0.6  # of the bandwidth, in decode
    launch: float = 0.02  # s that a pass through the LLM takes at the least, whatever it computes
    layers: int | None = None  # of the LLM that ``launch`` was measured on: it grows with them; None where it is one for all
    number: int = 2  # bytes of a weight
    measured: dict[str, str] = field(default_factory=dict)  # by name of a field, on what it was measured

    def least(self, shape: ModelShape) -> float:
        """Seconds that a pass through a model's LLM takes at the least."""
        return self.launch if self.layers is None else self.launch * shape.layers / self.layers


CARDS = (Card("H100", 989e12, 3.35e12), Card("A100", 312e12, 2.04e12))


def card_of(found: dict) -> Card:
    """The device of a profile, with what the profile measured in the place of assumptions.

    Shares are of what the device reached in a large product, and in a large copy or product with a vector. Tower and prefill, and
    selection, are taken at the largest batch that was timed, as a sweep has large ones; decoding without an image
    at the smallest, as it is the floor. Where launching bounds decoding
    it tells nothing of the bandwidth, and the other way round.
    """
    rates = found["rates"]
    known = {"peak": "a large product", "bandwidth": "a large copy or a product with a vector"}
    rows = [row for row in found["cells"] if row.get("bounds")]
    stages = lambda row: {one["stage"]: one for one in row["bounds"]}
    values: dict[str, float] = {}
    if nones := [row for row in rows if row["method"] == "none"]:
        row = max(nones, key=lambda row: row["batch_size"])
        products = [one for name, one in stages(row).items() if name in ("vision", "projector", "prefill")]
        seconds = sum(one["measured_ms"] for one in products) / 1e3
        values["used"] = sum(one["flops"] for one in products) / seconds / rates["flops"]
        known["used"] = f"none, batch {row['batch_size']}"
    largest = max((row["batch_size"] for row in rows), default=0)
    picked = [stages(row)["selection"] for row in rows if row["batch_size"] == largest and "selection" in stages(row)]
    if shares := [1e3 * one["flops"] / one["measured_ms"] / rates["flops"] for one in picked if one["flops"]]:
        values["selecting"] = median(shares)
        known["selecting"] = f"the median of {len(shares)} cells, batch {largest}"
    if blinds := [row for row in rows if row["method"] == "blind" and "decode" in stages(row)]:
        row = min(blinds, key=lambda row: row["batch_size"])
        one, at = stages(row)["decode"], f"decoding without an image, batch {row['batch_size']}"
        if one["bound"] == "bandwidth":
            values["reading"], known["reading"] = one["explained"], at
        elif one["bound"] != "arithmetic":
            values["launch"], known["launch"] = one["measured_ms"] / 1e3, at
            values["layers"] = found["layers"]
    values["number"] = {"float32": 4}.get(found["dtype"], 2)
    return Card(found["device"].partition(",")[0], rates["flops"], rates["bytes"], **values, measured=known)


def read_profile(path: Path) -> dict:
    """What `profile --json` wrote.

    Raises:
        RequestError: where the file cannot be read, or is something else.
    """
    found = read_json(path)
    needed = ("rates", "cells", "layers", "dtype", "device", "model")
    lacking = [name for name in needed if not isinstance(found, dict) or name not in found]
    if lacking:
        raise RequestError(f"{path}: is no profile, it has no {', '.join(lacking)}; write one with profile --json")
    return found


def assumptions(card: Card, found: dict | None = None) -> Iterator[str]:
    """What costs rest on, and what of it was measured."""
    where = "" if found is None else f" (profile of {found['model']}, {found['layers']} LLM layers, {found['dtype']})"
    rows = {
        "peak": f"{card.peak / 1e12:.3g} TFLOP/s", "used": f"{card.used:.2g} of the peak",
        "selecting": f"{card.selecting:.2g} of the peak", "bandwidth": f"{card.bandwidth / 1e12:.3g} TB/s",
        "reading": f"{card.reading:.2g} of the bandwidth",
        "launch": f"{1e3 * card.launch:.3g} ms" + ("" if card.layers is None else f" of {card.layers} layers"),
    }  # fmt: skip
    names = {
        "peak": "products at best", "used": "reached in tower and prefill", "selecting": "reached in selection",
        "bandwidth": "copies at best", "reading": "reached in decode", "launch": "a pass through the LLM at the least",
    }  # fmt: skip
    sheet = ("peak", "bandwidth")
    yield f"| on {card.name}{where} | value | measured or assumed |"
    yield "|---|---|---|"
    for name, value in rows.items():
        how = f"measured: {card.measured[name]}" if name in card.measured else "data sheet" if name in sheet else "assumed"
        yield f"| {names[name]} | {value} | {how} |"
    yield "| loading, stragglers, failures | as below | assumed |"


def stages(card: Card, shape: ModelShape, cell: Cell) -> dict[str, float]:
    """Seconds of one image and one question in a batch of `ROWS`."""
    counted = flops(shape, cell.schedule, TEXT)
    read = counted.decode_per_token * card.number / 2  # bytes: 2 FLOPs a weight
    least, rate = card.least(shape), card.peak * card.used
    return {
        "vision": counted.vision / rate, "projector": counted.projector / rate,
        "selection": counted.selection / (card.peak * card.selecting),
        "prefill": max(counted.llm_prefill / rate, least / ROWS),
        "decode": ANSWER * max(read / (card.bandwidth * card.reading), least) / ROWS,
    }  # fmt: skip


@cache
def cells_of(model: str, budgets: tuple[str, ...]) -> tuple[Cell, ...]:
    """What `compare` runs for `METHODS`, reference cells and all; `random` once for each of its seeds."""
    asked = CompareConfig(model=model, task="any", methods=(*METHODS, "random"), keep=budgets)
    cells = [cell for cell in make_cells(asked, shape_of(model), False, text_tokens=TEXT) if cell.skipped is None]
    return tuple(cell for cell in cells for _ in range(SEEDS if cell.method == "random" else 1))


@dataclass(frozen=True)
class Cost:
    """Of one model on one task."""

    alone: float  # s of GPU time, each cell and question by itself
    shared: float  # s
    shards: int
    rows: int  # of answers

    @property
    def shard(self) -> float:
        return self.shared / self.shards


def cost(card: Card, model: str, task: str, budgets: tuple[str, ...]) -> Cost:
    """Of all cells of a model on a task, from FLOPs."""
    shape, cells = shape_of(model), list(cells_of(model, budgets))
    images, questions = TASKS[task]
    timed = {place: stages(card, shape, cell) for place, cell in enumerate(cells)}
    alone = questions * sum(sum(one.values()) for one in timed.values())
    gain = sharing_gain(cells, timed, shape.visual_tokens, TEXT, max(1, round(questions / images)))["both"]
    at_a_time = max(1, round(ROWS * images / questions))
    return Cost(alone, alone / gain, -(-images // at_a_time), questions * len(cells))


@dataclass(frozen=True)
class World:
    """What disturbs a sweep, and what it costs beside answering; seconds."""

    load: float = 60.0  # a worker's: interpreter, weights, samples
    begin: float = 60.0  # the driver's own model, before workers start
    end: float = 120.0  # latency pass, summary and report, after they are gone
    jitter: float = 0.2  # sigma of the logarithm of a shard's time
    late: float = 0.01  # share of shards that take five times as long
    slow: float = 0.05  # share of workers at half speed
    failures: float = 1 / 50  # a worker and hour
    detect: float = 30.0  # until a dead worker is known to be dead
    take: float = 0.002  # the writer's, a thousand rows received
    store: float = 0.014  # the writer's, a thousand rows stored


QUIET = World(jitter=0, late=0, slow=0, failures=0)


def run_time(cost: Cost, workers: int, world: World, rng: random.Random) -> float:
    """Seconds from the start of a run to its end, by events: a worker loads, answers a shard, waits for the writer, goes on.

    A worker that dies loses its shard, which the next free one gets; another takes its place.
    """
    thousands = cost.rows / cost.shards / 1000
    waiting, left, writer, last = cost.shards, cost.shards, 0.0, 0.0
    events: list[tuple[float, int, str]] = []  # time, worker, and what happens: it is free, brings a result, or dies
    speed = {}
    idle: list[int] = []

    def begin(worker: int, now: float) -> None:
        speed[worker] = 2.0 if rng.random() < world.slow else 1.0
        heapq.heappush(events, (now + world.load, worker, "free"))

    def give(worker: int, now: float) -> None:
        nonlocal waiting
        waiting -= 1
        took = cost.shard * speed[worker] * rng.lognormvariate(0, world.jitter) * (5 if rng.random() < world.late else 1)
        dies = rng.expovariate(world.failures / 3600) if world.failures else float("inf")
        heapq.heappush(events, (now + dies + world.detect, worker, "dead") if dies < took else (now + took, worker, "result"))

    for worker in range(min(workers, cost.shards)):
        begin(worker, world.begin)
    while left:
        now, worker, what = heapq.heappop(events)
        free = now
        if what == "result":
            free = max(now, writer) + world.take * thousands
            writer = last = free + world.store * thousands
            left -= 1
        if what == "dead":
            waiting += 1
            begin(worker, now)
        else:
            idle.append(worker)
        while idle and waiting:
            give(idle.pop(), free)
    return last + world.end


def sweep(costs: list[Cost], lanes: int, world: World, seed: int = 0) -> float:
    """Seconds of all runs, longest first, as many at a time as there are lanes; each lane has its part of the GPUs."""
    rng, free = random.Random(seed), [0.0] * lanes
    for one in sorted(costs, key=lambda c: -c.shared):
        heapq.heapreplace(free, free[0] + run_time(one, GPUS // lanes, world, rng))
    return max(free)


def gpu_hours(costs: list[Cost]) -> tuple[float, float]:
    """Of all cells and questions alone, and with shared work."""
    return sum(one.alone for one in costs) / 3600, sum(one.shared for one in costs) / 3600


def of_all(card: Card, budgets: tuple[str, ...]) -> dict[tuple[str, str], Cost]:
    return {(name, task): cost(card, model, task, budgets) for name, model in MODELS.items() for task in TASKS}


def by_model(costs: dict[tuple[str, str], Cost], card: Card) -> Iterator[str]:
    """What each model costs on all tasks."""
    yield "| model | LLM, GB | cells | `none`, ms a question | alone, GPU h | shared, GPU h | gain |"
    yield "|---|---|---|---|---|---|---|"
    for name, model in MODELS.items():
        shape, cells = shape_of(model), cells_of(model, THREE)
        weights = flops(shape, cells[0].schedule, TEXT).decode_per_token / 1e9  # 2 FLOPs and 2 bytes a weight
        none = 1e3 * sum(stages(card, shape, cells[0]).values())
        alone, shared = gpu_hours([one for (whose, _), one in costs.items() if whose == name])
        figures = f"{weights:.1f} | {len(cells)} | {none:.1f} | {alone:,.0f} | {shared:,.0f} | {alone / shared:.1f}"
        yield f"| {name} | {figures} |"


def by_card(cards: tuple[Card, ...]) -> Iterator[str]:
    """What the whole sweep costs."""
    yield f"| sweep | answers | alone, GPU h | shared, GPU h | hours on {GPUS} GPUs without loss |"
    yield "|---|---|---|---|---|"
    for card in cards:
        for label, budgets in (("one budget", ONE), ("three budgets", THREE)):
            costs = list(of_all(card, budgets).values())
            alone, shared = gpu_hours(costs)
            rows = sum(one.rows for one in costs) / 1e6
            yield f"| {card.name}, {label} | {rows:,.0f} M | {alone:,.0f} | {shared:,.0f} | {shared / GPUS:.1f} |"


def by_world(costs: dict[tuple[str, str], Cost]) -> Iterator[str]:
    """Hours of the whole sweep, and the share of them in which GPUs answered."""
    every, lanes = list(costs.values()), (1, 2, 4, 8, 16, 64)
    yield f"| hours (efficiency) | {' | '.join(f'{n} x {GPUS // n}' for n in lanes)} |"
    yield "|---" * (1 + len(lanes)) + "|"
    worlds = {
        "undisturbed": QUIET, "stragglers": replace(World(), failures=0), "and failures": World(),
        "and ten times as many": replace(World(), failures=World.failures * 10),
        "and loading takes 10 min": replace(World(), load=600.0),
    }  # fmt: skip
    answering = sum(one.shared for one in every)
    for label, world in worlds.items():
        spans = [median(sweep(every, n, world, seed) for seed in range(3)) for n in lanes]
        cells = [f"{span / 3600:.1f} ({100 * answering / (GPUS * span):.0f} %)" for span in spans]
        yield f"| {label} | {' | '.join(cells)} |"


def by_workers(one: Cost, counts: tuple[int, ...] = (8, 64, 128, 256, 512)) -> Iterator[str]:
    """How long one writer keeps up with the workers of one run."""
    yield f"| workers of one run | {' | '.join(map(str, counts))} |"
    yield "|---" * (1 + len(counts)) + "|"
    calm = replace(QUIET, load=0, begin=0, end=0)
    spans = [run_time(one, n, calm, random.Random(0)) for n in counts]
    shares = [f"{100 * one.shared / (n * span):.0f} %" for n, span in zip(counts, spans)]
    yield f"| efficiency of answering | {' | '.join(shares)} |"
    rows = one.rows / one.shards
    busy = (World.take + World.store) * rows / 1000
    yield ""
    yield f"A shard has {rows:,.0f} rows; it takes a worker {one.shard:.1f} s and the writer {1e3 * busy:.0f} ms."
    yield f"One writer is enough for {one.shard / busy:,.0f} workers."


def tables(found: dict | None = None) -> str:
    """All of them, as Markdown; by a profile where there is one."""
    cards = CARDS if found is None else (card_of(found), *CARDS)
    costs = of_all(cards[0], THREE)
    vqa = by_workers(costs["LLaVA-1.5-7B", "vqav2"])
    parts = assumptions(cards[0], found), by_model(costs, cards[0]), by_card(cards), by_world(costs), vqa
    return "\n\n".join("\n".join(part) for part in parts)


def writer(shards: int = 120, questions: int = ROWS, cells: int = 85, images: int = 6, seed: int = 0) -> dict[str, float]:
    """Receive and store shards as a driver does, and time it.

    Args:
        shards: how many.
        questions: of a shard.
        cells: that answer each.
        images: of a shard, each with a thumbnail of `THUMBNAIL` bytes.
        seed: of what is stored.

    Returns:
        ``take`` and ``store`` in ms a thousand rows (medians over the second half), ``rows_per_second``, ``sent`` and
        ``stored`` in bytes a row, thumbnails apart.
    """
    rng = np.random.default_rng(seed)
    times: dict[str, list[float]] = {"take": [], "store": []}
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.create({})
        ids = run.add_cells((f"cell {i}", {}) for i in range(cells))
        sent = 0
        for shard in range(shards):
            names, shown = [f"test-{shard}-{i}" for i in range(questions)], [f"image {shard}-{i}" for i in range(images)]
            asked = "what color is the circle ?"
            kept = lambda: pack(rng.random((24, 24)) < 0.11)
            row = lambda name: SampleRow(name, "a red circle", 1.0, 1.0, float(rng.random()), kept(), 64)
            made = ShardResult(
                [(image, shard, rng.bytes(THUMBNAIL), 224, 336, None) for image in shown],
                [(name, shown[i % images], i, "colour", asked, "red", None) for i, name in enumerate(names)],
                cell_results={key: [CellResult([row(name) for name in names])] for key in ids},
            )  # fmt: skip
            message = pickle.dumps(made)
            sent += len(message)
            start = time.perf_counter()
            found = pickle.loads(message)
            taken = time.perf_counter()
            run.add_batch(shard, found.images, found.questions, {ids[k]: parts[0] for k, parts in found.cell_results.items()})
            times["take"].append(taken - start)
            times["store"].append(time.perf_counter() - taken)
        run.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = (Path(folder) / "results.sqlite").stat().st_size
        run.close()
    rows = questions * cells
    ms = {name: 1e6 * median(values[shards // 2 :]) / rows for name, values in times.items()}
    apart = lambda total: (total / shards - images * THUMBNAIL) / rows
    return {**ms, "rows_per_second": 1e6 / sum(ms.values()), "sent": apart(sent), "stored": apart(size)}


MEASURED = {"model": "llava-1.5-7b", "layers": 4, "methods": ("sts", "divprune", "fastv", "tome"), "keep": ("192", "64")}


def measured() -> dict:
    """A profile of random weights of the true size but for the number of layers, in CPU seconds of one thread.

    They are what the clock gives on a machine that does nothing else.
    """
    import torch

    clock, time.perf_counter = time.perf_counter, time.process_time
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        short = {"batch_size": (1,), "answer_tokens": ANSWER, "rounds": 3, "time_limit": 3600.0, "break_even": False}
        return profile(ProfileConfig(random_weights=True, device="cpu", **short, **MEASURED))
    finally:
        time.perf_counter = clock
        torch.set_num_threads(threads)


def by_stage(found: dict) -> Iterator[str]:
    """A profile's stages, the speed at which they ran, and the gain of shared work from them and from FLOPs alone."""
    yield "| method | tokens | tower, s | selection, s | prefill, s | decode, s | GFLOP/s |"
    yield "|---|---|---|---|---|---|---|"
    speeds = []
    for cell in found["cells"]:
        if cell["skipped"] or cell["method"] == "blind":
            continue
        times = {stage: cell["stages"][stage] / 1e3 for stage in ("vision", "projector", "selection", "prefill", "decode")}
        counted = cell["flops"]
        products = counted["vision"] + counted["projector"] + counted["llm_prefill"]
        speeds.append(products / 1e9 / (times["vision"] + times["projector"] + times["prefill"]))
        figures = [times["vision"] + times["projector"], times["selection"], times["prefill"], times["decode"]]
        row = " | ".join(f"{seconds:.2f}" for seconds in figures)
        yield f"| `{cell['method']}` | {cell['tokens']['average']:.0f} | {row} | {speeds[-1]:.0f} |"
    shape = replace(shape_of(MEASURED["model"]), layers=MEASURED["layers"])
    asked = CompareConfig(model=shape.name, task="any", methods=MEASURED["methods"], keep=MEASURED["keep"])
    made = make_cells(asked, shape, False, text_tokens=TEXT)  # of which a profile runs no random tokens in a method's place
    cells = [c for c in made if c.skipped is None and c.method != "blind" and not c.method.startswith("random")]
    by_flops = {}
    for place, counted in enumerate(flops(shape, cell.schedule, TEXT) for cell in cells):
        seconds = {**counted.as_dict(), "prefill": counted.llm_prefill, "decode": ANSWER * counted.decode_per_token}
        by_flops[place] = seconds
    yield ""
    yield f"Median speed {median(speeds):.0f} GFLOP/s, {min(speeds):.0f} to {max(speeds):.0f}."
    for questions, gain in found["sharing"].items():
        counted = sharing_gain(cells, by_flops, shape.visual_tokens, TEXT, int(questions))
        yield f"Gain at {questions} questions an image: {gain['both']:.1f} from these stages, {counted['both']:.1f} from FLOPs."


def main(words: list[str]) -> None:
    if words == ["sweep"]:
        print(tables())
    elif len(words) == 3 and words[:2] == ["sweep", "--profile"]:
        try:
            print(tables(read_profile(Path(words[2]))))
        except RequestError as error:
            sys.exit(f"error: {error}")
    elif words == ["stages"]:
        print("\n".join(by_stage(measured())))
    elif words == ["writer"]:
        found = writer()
        print(
            f"a thousand rows are received in {found['take']:.1f} ms and stored in {found['store']:.1f} ms, "
            f"{found['rows_per_second']:,.0f} rows a second; {found['sent']:.0f} bytes a row sent, {found['stored']:.0f} stored"
        )
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
