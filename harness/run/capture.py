"""The command `capture`: the signals of a real model as files, one a question, for `select`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models.load_options import NO_OPTIONS, LoadOptions
from harness.progress import track
from harness.run.cases import saved
from harness.run.levels import refuse_without_level
from harness.run.signal_origin import LAYER_SIGNALS, SignalOrigin, first_step, recorded_reads
from harness.store.archives import file_name
from methods.registry import MethodError, canonical, create
from methods.types import PROJECTOR, BudgetError, ModelShape, Selection, Selector, Signals, Step, TowerRead, decoder

if TYPE_CHECKING:
    from harness.models.adapter import Adapter
    from harness.run.batch_run import BatchRun

_INSIDE = LAYER_SIGNALS | {"rope_response", "text_features", "norm_scale", "rotary_mean"}
"""Signals that a step inside the LLM shows; all others are read before it."""
_NOTHING = Step(PROJECTOR, lambda signals, keep: Selection(torch.arange(keep)), 1, 1)
"""Stands for the step of a method where none is named: everything is read where it is by default."""


def capture(
    model: str,
    task: str,
    samples: int,
    out: Path,
    layer: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    options: LoadOptions = NO_OPTIONS,
    self_check: bool = True,
    method: str | None = None,
    dtype: str = "auto",
) -> list[Path]:
    """Write the signals of a real model on a task: one file a question, readable by `select`.

    Args:
        model: embedded model, folder or hub id.
        task: where images and questions come from.
        samples: images; all their questions come with them.
        out: folder.
        layer: the LLM layer before which text signals are taken; by default layer 2 of 32, or the same depth.
        seed: of the samples.
        device: where the model runs.
        options: how the model is loaded.
        self_check: whether the model is held against ``generate`` first.
        method: whose first step says where signals are read, of which words, and before which layer; by default each is
            read where most methods read it.
        dtype: of the model's weights, as `dtype_on` takes it; files are float32 whatever it is.

    Returns:
        The files written.

    Raises:
        RequestError: where the request is wrong, or the method's first step cannot be run on files.
    """
    from harness.engine.engine import Engine
    from harness.models import hf
    from harness.run.batch_run import BatchRun
    from harness.run.config import writable_folder
    from harness.run.self_check import run_self_check
    from harness.tasks import registry
    from methods.budget import at_depth

    if samples < 1:
        raise RequestError(f"--samples {samples}: must be at least 1 image")
    if method is not None and layer is not None:
        raise RequestError(f"--layer {layer}: --method {method} says before which layer; leave one of them away")
    made = registry.create(task)
    if method is not None:
        _check_method(method)
    adapter = hf.load(model, device, dtype, options)
    adapter.check_template()
    depth = at_depth(2, 32, adapter.shape.layers) if layer is None else layer
    if not 1 <= depth < adapter.shape.layers:
        raise RequestError(f"--layer {depth}: choose 1 to {adapter.shape.layers - 1}")
    if method is not None:
        _first_step(method, adapter.shape, adapter)
    writable_folder(out)
    run_self_check(model, adapter, self_check)
    written: list[Path] = []
    for sample in track("capture", made.samples(samples, seed), 0, samples):
        batch_run = BatchRun(Engine(adapter, 1), made, [sample], seed, wanted=adapter.gives)
        batch = batch_run.batch
        shape = adapter.shape_for(batch.pixels.spans[0])
        step = _NOTHING if method is None else _first_step(method, shape, adapter)
        at = step.site.layer if step.site.stage == 2 else depth
        gives = adapter.gives | (set() if batch_run.evidence is None else {"evidence"})
        reads = _tower_reads(step, gives, shape)
        origin = SignalOrigin.of(reads, step.words, at, shape)
        recorded = _record(batch_run, at, gives, reads, step)
        for place, (question, signals) in enumerate(zip(sample.questions, recorded)):
            arrays = {
                key: tensor.float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()
                for key, tensor in signals.items()
            }
            if "seeds" in step.needs:  # those that the engine's step would see; else `select --seed` says them
                seed_of = batch.question_seeds[place] if step.reads_text else batch.image_seeds[0]
                arrays["seeds"] = np.array(int(seed_of))
            path = out / f"{file_name(question.sample_id)}.npz"
            written.append(saved(path, arrays | origin.as_arrays()))
    return written


def _check_method(expression: str) -> None:
    """Raise a `RequestError` for an expression that is no method, before a model is loaded."""
    try:
        create(expression)
    except MethodError as error:
        raise RequestError(f"--method: {error}") from None
    refuse_without_level(expression)


def _first_step(expression: str, shape: ModelShape, adapter: Adapter) -> Step:
    """The first step of a method on an image, which must be one that files can show."""
    name = canonical(expression)
    try:
        step = first_step(create(expression), shape)
    except BudgetError as error:
        raise RequestError(f"--method {name}: {error}") from None
    cannot = SignalOrigin(frozenset()).differs(step) if step.site.stage == 0 else adapter.cannot((step,))
    if cannot is not None:
        raise RequestError(f"--method {name}: {cannot}")
    return step


def _tower_reads(step: Step, gives: Iterable[str], shape: ModelShape) -> tuple[TowerRead, ...]:
    """Where in the tower each signal that the model gives is read, for a step."""
    from harness.engine.tower_signals import default_reads

    return recorded_reads(step, default_reads(frozenset(gives) - _INSIDE, shape))


def _record(
    batch_run: BatchRun, layer: int, gives: frozenset[str], reads: tuple[TowerRead, ...], like: Step
) -> Iterable[dict[str, torch.Tensor]]:
    """The signals of every question of a one-image batch, by running the engine with steps that keep everything."""
    count, questions = batch_run.engine.adapter.shape.visual_tokens, len(batch_run.batch.questions)
    rows: list[dict[str, torch.Tensor]] = [{} for _ in range(questions)]

    def recorder(needs: frozenset[str], seeds: list[int]) -> Selector:
        def keep_all(signals: Signals, keep: int) -> Selection:
            assert signals.seeds is not None, "the step declares that it needs them"
            for place, seed in enumerate(signals.seeds.tolist()):
                found = {name: getattr(signals, name) for name in needs - {"seeds"}}
                row = {
                    name: value if name == "norm_scale" else value[place] for name, value in found.items() if value is not None
                }
                if signals.tile_places is not None:
                    row["tile_places"] = signals.tile_places
                if signals.grid is not None:  # of an image in tiles, there is none
                    row["grid"] = torch.tensor(signals.grid)
                for question in [seeds.index(seed)] if seed in seeds else range(questions):  # or the image's own stream
                    rows[question] |= row
            return Selection(torch.arange(signals.count, device=signals.device).expand(signals.batch, -1))

        return keep_all

    seeds = batch_run.batch.question_seeds.tolist()
    before = frozenset(gives - _INSIDE - {"carry", "sizes"}) | {"seeds"}
    after = frozenset(gives & _INSIDE) | {"seeds"}
    steps = (
        Step(PROJECTOR, recorder(before, seeds), count, count, before, reads=reads),
        replace(Step(decoder(layer), recorder(after, seeds), count, count, after), words=like.words),
    )
    batch_run.engine.run(EngineRequest(batch_run.batch, steps, "original"))
    return rows
