"""The command `profile`: what methods cost on a model of true size, real or random weights; no task, no accuracy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from harness.engine.batch import Batch
from harness.engine.engine import Engine
from harness.errors import RequestError
from harness.models import hf
from harness.models.adapter import Adapter
from harness.models.devices import dtype_on, names_of, pick_device, placed_on, whole_float32
from harness.models.load_options import LoadOptions
from harness.progress import progress
from harness.run.cell_facts import measured_schedule
from harness.run.config import CompareConfig, load_plugins
from harness.run.latency_pass import LatencyRounds, time_batches
from harness.run.levels import refuse_without_level
from harness.run.plan import Cell, asked_for, make_cells
from harness.run.selection_kernels import kernel_facts, resolved
from harness.run.streams import stream
from harness.store.arrays import unpacked_counts
from methods.keep import keep_facts
from methods.kernels import observed, using
from methods.types import ModelShape, Schedule
from metrics import latency
from metrics.flops import Flops, flops

if TYPE_CHECKING:
    from harness.engine.self_check import SelfCheck

QUESTIONS = (1, 5, 18, 32)
"""Questions an image for which the gain of shared work is stated: captions, VQAv2, POPE, GQA."""


@dataclass(frozen=True)
class ProfileConfig:
    """A request for a profile: everything `profile` can be told, under the names of the command line."""

    model: str = "llava-1.5-7b"
    random_weights: bool = False
    methods: tuple[str, ...] = ("sts", "fastv", "sparsevlm")
    keep: tuple[str, ...] = ("192", "64")
    budget: str = "average"
    layers: int | None = None
    batch_size: int = 1
    text_tokens: int = 64
    answer_tokens: int = 4
    rounds: int = 10
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    device_map: str | None = None
    quantize: int | None = None
    companion: str | None = None
    max_pixels: int | None = None
    image_size: str | None = None
    kernels: str = "auto"  # of greedy selections
    plugin: tuple[str, ...] = ()
    self_check: bool = True

    def checked(self) -> ProfileConfig:
        """Return the request itself, or raise a `RequestError` for the first thing in it that cannot be."""
        for name in ("batch_size", "answer_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise RequestError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        if self.text_tokens < 2:
            raise RequestError(f"--text-tokens {self.text_tokens}: at least 2, one before the image and one after")
        if self.layers is not None and not self.random_weights:
            raise RequestError("--layers: only with --random-weights; a trained model has the layers it has")
        for option in LoadOptions.of(self).checked().given if self.random_weights else ():
            raise RequestError(f"{option}: is about trained weights; leave it or --random-weights away")
        return self


def profile(config: ProfileConfig) -> dict[str, Any]:
    """Measure FLOPs, latency by stage, memory and what shared work would gain, for methods and budgets.

    Args:
        config: the request.

    Returns:
        ``model``, ``device``, ``dtype``, ``image`` (visual tokens), ``batch_size`` and ``cells``; each cell with ``method``,
        ``keep``, ``flops``, ``latency`` (as in ``summary.json``, for the whole batch), ``selection_share`` of TTFT and of
        prefill, ``memory``, or ``skipped`` with its reason; ``sharing``, see `sharing_gain`; ``checks`` with the A/A ratio;
        ``kernels``: what was asked for, what was chosen, Triton's version, and which code ran each greedy loop, see `LoopRun`;
        ``self_check``, a `SelfCheck`.

    Raises:
        RequestError: where the request is wrong.
    """
    config = config.checked()
    load_plugins(config.plugin)
    asked = CompareConfig(
        model=config.model,
        task="profile",
        methods=config.methods,
        keep=config.keep,
        budget=config.budget,
        seed=config.seed,
        kernels=config.kernels,
    ).checked()
    wanted = asked_for(config.methods)
    for method in wanted:
        refuse_without_level(method)
    adapter = _adapter(config)
    checked = _self_check(config, adapter)
    side = _side(adapter)
    image = Image.fromarray(np.random.default_rng(config.seed).integers(0, 256, (side, side, 3), dtype=np.uint8))
    pixels = adapter.pixels([image])
    shape = adapter.shape_for(pixels.spans[0])
    marks = sum(span.marks for span in pixels.spans[0])
    cells = [
        cell for cell in make_cells(asked, shape, False, adapter.gives, config.text_tokens + marks, adapter.cannot)
        if cell.method != "blind" and cell.copies is None  # its counts are measured question by question, which compare does
        and not (cell.skipped and cell.reference and cell.method not in wanted)
    ]  # fmt: skip
    active = [cell for cell in cells if cell.skipped is None]
    for cell in cells:
        if cell.skipped is not None:  # told before minutes are spent on the others
            at = "" if cell.keep is None else f" at {cell.keep}"
            print(f"{cell.method}{at}: skipped, {cell.skipped}", file=sys.stderr)
    batches = [_batch(config, adapter, image, cell) for cell in active]
    engine = Engine(adapter, config.answer_tokens)
    with progress("profile", config.rounds + 1) as advance, using(config.kernels), observed() as loops:
        timed = time_batches(engine, active, batches, config.seed, config.rounds, advance=lambda: advance(1))
    active = [_as_it_ran(cell, place, timed, shape) for place, cell in enumerate(active)]
    counted = [flops(shape, _schedule(cell), config.text_tokens + marks) for cell in active]
    rows, places = [], {cell.key: place for place, cell in enumerate(active)}
    for cell in cells:
        place = places.get(cell.key)
        facts = {
            "method": cell.method,
            **keep_facts(cell.keep),
            "budget": cell.mode,
            "reference": cell.reference,
            "skipped": cell.skipped,
        }
        rows.append(facts if place is None else {**facts, **_figures(active[place], place, timed, counted, config.batch_size)})
    none = next(place for place, cell in enumerate(active) if cell.method == "none")
    stages = {place: timed.medians(place) for place in range(len(active))}
    visual, text = shape.visual_tokens, config.text_tokens
    return {
        "model": config.model, "weights": "random" if config.random_weights else "trained", "device": names_of(adapter.devices),
        "dtype": str(adapter.dtype).removeprefix("torch."), "layers": shape.layers, "image": visual, "text_tokens": text,
        "batch_size": config.batch_size, "cells": rows,
        "sharing": {str(q): sharing_gain(active, stages, visual, text, q) for q in QUESTIONS},
        "kernels": {**kernel_facts(config.kernels, str(adapter.device)), "loops": [loop.as_dict() for loop in sorted(loops)]},
        "checks": {"aa": _aa(timed, none)}, "self_check": asdict(checked),
    }  # fmt: skip


def as_text(found: Mapping[str, Any]) -> str:
    """Return a profile as a table for a terminal.

    Args:
        found: what `profile` returned.
    """
    lines = [
        f"{found['model']} ({found['weights']} weights, {found['layers']} LLM layers, {found['dtype']}) on {found['device']}; "
        f"{found['image']} visual and {found['text_tokens']} other tokens, batch of {found['batch_size']}",
        "",
        f"  {'method':<30}{'keep':>6}{'tokens':>8}{'TFLOPs':>9}{'vision':>9}{'select':>8}{'prefill':>9}{'decode':>8}"
        f"{'TTFT ms':>9}{'speed-up':>21}{'realised':>21}{'selection':>11}{'KV MB':>8}",
    ]
    stages = ("vision", "selection", "prefill", "decode", "ttft")
    for cell in found["cells"]:
        name, keep = cell["method"], cell["keep_label"] or "-"
        if cell["skipped"]:
            lines.append(f"  {name:<30}{keep:>6}  skipped: {cell['skipped']}")
            continue
        times = cell["latency"]
        vision, selection, prefill, decode, ttft = (f"{times[stage]['value']:.1f}" for stage in stages)
        ttft = "noisy" if times["noisy"] else ttft
        lines.append(
            f"  {name:<30}{keep:>6}{cell['tokens']['average']:>8.1f}{cell['flops']['total'] / 1e12:>9.3f}{vision:>9}"
            f"{selection:>8}{prefill:>9}{decode:>8}{ttft:>9}{_interval(times['ratio']):>21}"
            f"{_interval(times['realised_gain']):>21}{100 * cell['selection_share']['prefill']:>9.1f} %"
            f"{cell['memory']['kv_measured'] / 1e6:>8.1f}"
        )
    aa = _interval(found["checks"]["aa"], 3)
    lines += [
        "",
        "Times in ms, medians; speed-up of TTFT and of prefill over its promise (realised) with 95 % intervals; selection as",
    ]
    lines += [f"a share of prefill. A/A check: none against itself {aa}.", ""]
    lines += [_kernels(found["kernels"]), ""]
    if found["self_check"]["outcome"] != "equal":
        lines += [f"Self-check: {found['self_check']['said']}.", ""]
    lines += ["Expected gain of shared work in an accuracy pass over these cells, from the stages above:"]
    for questions, gain in found["sharing"].items():
        lines.append(
            f"  {questions:>3} questions an image: {gain['both']:.1f} times ({gain['across_questions']:.1f} across questions, "
            f"{gain['across_cells']:.1f} across cells)"
        )
    return "\n".join(lines)


def _kernels(found: Mapping[str, Any]) -> str:
    """Which code ran the greedy loops, and why not Triton where it was meant to."""
    if not found["loops"]:
        return "Greedy selection: none of these methods selects greedily."
    version = f" {found['triton']}" if found["triton"] else ""
    told = [
        f"{loop['loop']} of {loop['tokens']:,} tokens in {loop['ran']}"
        + (version if loop["ran"] == "triton" else f" ({loop['reason']})" if loop["reason"] else "")
        for loop in found["loops"]
    ]
    why = f"; {found['why']}" if found["why"] else ""
    return f"Greedy selection: {', '.join(told)}{why}."


def _interval(figure: Mapping[str, float | None] | None, digits: int = 2) -> str:
    """A figure with its interval; of a single round there is none."""
    shown = [] if figure is None else [f"{v:.{digits}f}" for n in ("value", "lo", "hi") if (v := figure[n]) is not None]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0] if shown else "-"


def _schedule(cell: Cell) -> Schedule:
    assert cell.schedule is not None, "cells that are timed are not skipped"
    return cell.schedule


def _as_it_ran(cell: Cell, place: int, timed: LatencyRounds, shape: ModelShape) -> Cell:
    """A cell with the counts that the timed run had, where the method decides them; a plan tells a bound alone."""
    if not cell.adaptive:
        return cell
    tower = timed.block_counts[place] if cell.in_tower else None
    kept = unpacked_counts(timed.layer_counts[place])[-1]
    return replace(cell, schedule=measured_schedule(cell.steps, shape, kept, timed.layer_counts[place], tower))


def _adapter(config: ProfileConfig) -> Adapter:
    from harness.models.published import random_model

    device = pick_device(config.device)
    resolved(config.kernels, placed_on(device, LoadOptions.of(config).placing))
    if not config.random_weights:
        return hf.load(config.model, device, config.dtype, options=LoadOptions.of(config))
    whole_float32()
    return random_model(config.model, device, dtype_on(device, config.dtype), config.layers, config.seed)


def _self_check(config: ProfileConfig, adapter: Adapter) -> SelfCheck:
    """What the self-check came to; a model with random weights has no processor to be asked with."""
    from harness.engine.self_check import SelfCheck
    from harness.run.self_check import run_self_check

    if config.random_weights and config.self_check:
        return SelfCheck("skipped", "with random weights the engine is not checked against generate of transformers")
    return run_self_check(config.model, adapter, config.self_check, config.plugin)


def _side(adapter: Adapter) -> int:
    """Pixels a side of a square image that the model takes as it is."""
    from harness.models.published import SIDE

    size = getattr(adapter.config.vision_config, "image_size", None) or 448
    return SIDE.get(adapter.name, size[0] if isinstance(size, (list, tuple)) else int(size))


def _batch(config: ProfileConfig, adapter: Adapter, image: Image.Image, cell: Cell) -> Batch:
    """The image as often as the batch is large, each with a question of random tokens."""
    count, device = config.batch_size, adapter.device
    random = np.random.default_rng(config.seed)
    words = random.integers(3, adapter.shape.vocabulary // 2, config.text_tokens).tolist()
    before = min(config.text_tokens // 2, 35)
    seeds = torch.tensor([stream(config.seed, i) for i in range(count)], device=device)
    embeds = None
    if "text_embeds" in cell.needs:
        embeds = torch.randn(count, 1, adapter.shape.joint_width, device=device, dtype=adapter.dtype)
    return Batch(
        pixels=adapter.pixels([image] * count, cell.grid), prefix=words[:before], questions=[words[before:]] * count,
        image=torch.arange(count, device=device), image_seeds=seeds, question_seeds=seeds, text_embeds=embeds,
        question_words=[words[before:]] * count,
    )  # fmt: skip


def _figures(cell: Cell, place: int, timed: LatencyRounds, counted: list[Flops], batch: int) -> dict[str, Any]:
    """FLOPs, latency and memory of one cell; `none` is the first."""
    promise, medians = counted[0].llm_prefill / counted[place].llm_prefill, timed.medians(place)
    found = latency.summarise(timed.seconds(place), timed.seconds(0), promise)
    ttft = float(np.sum([medians[stage] for stage in latency.FIRST_TOKEN]))
    return {
        "tokens": {"final": _schedule(cell).final, "average": _schedule(cell).average},
        "flops": {**counted[place].as_dict(), "total": counted[place].total},
        "latency": found,
        "selection_share": {
            "ttft": medians["selection"] / ttft, "prefill": medians["selection"] / medians["prefill"],
        },
        "memory": {
            "kv_measured": timed.kv_bytes[place],
            "kv_predicted": None if cell.adaptive else round(batch * counted[place].kv_bytes),
            "peak_bytes": sum(timed.peak_bytes[place].values()) if place in timed.peak_bytes else None,
        },
    }  # fmt: skip


def _aa(timed: LatencyRounds, none: int) -> dict[str, float | None]:
    from metrics.medians import median

    ttft = [latency.ttft(timed.seconds(none, repeat)) for repeat in (0, 1)]
    return median(ttft[0] / ttft[1]).as_dict()


def sharing_gain(
    cells: list[Cell], stages: dict[int, dict[str, float]], visual: int, text: int, questions: int
) -> dict[str, float]:
    """Return what an accuracy pass over these cells would gain from shared work, from the stages measured alone.

    Args:
        cells: of the sweep.
        stages: by place of a cell, seconds of each stage for one image and one question.
        visual: tokens of the image.
        text: tokens of a prompt beside them.
        questions: asked of one image.

    Returns:
        ``across_questions``: time of each question alone over that of an image's questions together, tower and projector
        once a cell. What stands before the first step that reads the question is run once an image: of prefill the part
        of the layers before it, at the length of the image and all questions; the rest once a question.
        ``across_cells``: the further gain of running tower and projector once for all cells that do not act inside it,
        and of taking the layers before the first step inside the LLM from the unpruned model's run.
        ``both``: their product.
    """
    alone = per_cell = shared = 0.0
    longer = (visual + questions * text) / (visual + text)
    for place, cell in enumerate(cells):
        own = stages[place]
        seeing, rest = own["vision"] + own["projector"], own["selection"] + own["decode"]
        alone += questions * (seeing + own["selection"] + own["prefill"] + own["decode"])
        first = next((step.site for step in cell.steps if step.reads_text), None)
        if first is None:
            together = own["selection"] + own["prefill"] * longer + questions * own["decode"]
        else:
            layers = _schedule(cell).llm
            whole = sum(layers[: first.layer]) / sum(layers) if first.stage == 2 and sum(layers) > 0 else 0.0
            together = own["prefill"] * (whole * longer + (1 - whole) * questions) + questions * rest
        per_cell += seeing + together
        shared += together + (seeing if cell.in_tower or cell.grid is not None else 0.0)
        if cell.steps and all(step.site.stage == 2 for step in cell.steps):
            layers = _schedule(cell).llm
            shared -= own["prefill"] * longer * sum(layers[: cell.steps[0].site.layer]) / sum(layers)
    shared += max(stages[0]["vision"] + stages[0]["projector"], 0.0)
    return {"across_questions": alone / per_cell, "across_cells": per_cell / shared, "both": alone / shared}
