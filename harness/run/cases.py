"""The commands `select` and `capture`: selections on tensors from files, and such files from a real model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.engine.request import EngineRequest
from harness.errors import RequestError, nearest
from harness.files import whole
from harness.models.load_options import NO_OPTIONS, LoadOptions
from harness.progress import track
from harness.store.archives import file_name, read_arrays
from harness.store.budgets import read_keep
from methods.keep import Keep
from methods.registry import MethodError, canonical, create
from methods.types import (
    OPTIONAL_SIGNALS,
    SIGNAL_NAMES,
    Budget,
    BudgetError,
    Method,
    ModelShape,
    Selection,
    Selector,
    Signals,
    Step,
)

if TYPE_CHECKING:
    from harness.run.batch_run import BatchRun

_TOKENS = {
    "features": 0, "vision_features": 0, "vision_keys": 0, "vision_keys_full": 0, "cls_attention": 1, "received_attention": 1,
    "image_embeds": 0, "text_attention": 2, "text_attention_ahead": 2, "text_logits": 2, "rope_response": 1, "keys": 0,
    "hidden_states": 0, "positions": 0, "evidence": 0, "sizes": 0,
}  # fmt: skip
"""Signals that run over visual tokens, and along which unbatched axis."""
_RANKS = {name: 2 for name in SIGNAL_NAMES} | {
    "text_attention": 3, "text_attention_ahead": 3, "text_logits": 3, "cls_feature": 1, "cls_key": 1, "evidence": 1,
    "sizes": 1, "seeds": 0, "norm_scale": 1,
}  # fmt: skip


@dataclass(frozen=True)
class SignalCase:
    """The signals that one file holds, batched, of one image and one question."""

    path: Path
    signals: Signals
    count: int


def select(method: str, paths: list[Path], keep: Keep | float | str, out: Path, seed: int = 0) -> list[Path]:
    """Run one method's selection on files, and write what it keeps under the files' own names.

    Args:
        method: an expression. Of a method with several steps, the first whose signals the files hold.
        paths: .npz files with signals, unbatched, under their names; keys ``out_*`` are not read.
        keep: tokens to keep, or a share of those of each file; where a file has fewer, all.
        out: a folder, or for one file a name that ends in .npz.
        seed: of random methods.

    Returns:
        The files written, one a case, as soon as each is done.

    Raises:
        RequestError: for a wrong method, file or signal; what is already written stays.
    """
    keep = read_keep(keep)
    try:
        made, name = create(method), canonical(method)
    except MethodError as error:
        raise RequestError(str(error)) from None
    single = out.suffix == ".npz"
    if single and len(paths) > 1:
        raise RequestError(f"--out {out}: one file cannot hold {len(paths)} cases; name a folder")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{twice}: two cases have this name; results are written under the cases' own names")
    folder = out.parent if single else out
    for path in paths:
        with suppress(OSError):
            if (out if single else folder / path.name).samefile(path):
                raise RequestError(f"--out {out}: would overwrite the case {path}; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {out}: cannot write there ({error.strerror or error})") from None
    written = []
    for path in track("select", paths, 0, len(paths)):
        case = read(path, seed)
        step = _step(made, name, case, keep.value if keep.share else None)
        count = keep.tokens(case.count)
        try:
            with torch.inference_mode():
                chosen = step.select(case.signals.only(step.needs), count)
        except (BudgetError, ValueError, RuntimeError) as error:
            raise RequestError(f"{path}: {name} failed on it ({str(error).splitlines()[0][:160]})") from None
        written.append(_write(chosen, out if single else folder / path.name))
    return written


def read(path: Path, seed: int = 0) -> SignalCase:
    """Read a file's signals, and add a batch axis to them.

    Args:
        path: an .npz file.
        seed: of random methods, where the file holds no seeds.

    Raises:
        RequestError: with what is wrong in the file.
    """
    data = read_arrays(path, leave="out_")
    grid = None
    if (stored := data.pop("grid", None)) is not None:
        if stored.shape != (2,) or stored.dtype.kind not in "iu" or (stored < 1).any():
            raise RequestError(f"{path}: grid must be two whole numbers (h, w) of at least 1")
        grid = (int(stored[0]), int(stored[1]))
    for key, array in data.items():
        if key not in SIGNAL_NAMES:
            raise RequestError(f"{path}: unknown signal {key!r}; {nearest(key, sorted(SIGNAL_NAMES))}")
        if array.ndim != _RANKS[key]:
            raise RequestError(f"{path}: {key} has {array.ndim} axes, {_RANKS[key]} are needed (no batch axis)")
        if not array.size and array.shape[_TOKENS.get(key, 0)]:
            raise RequestError(f"{path}: {key} has a width of 0")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RequestError(f"{path}: {key} holds NaN or infinity")
        if array.dtype.kind not in "fiub":
            raise RequestError(f"{path}: {key} holds {array.dtype}, not numbers")
    counts = {key: array.shape[_TOKENS[key]] for key, array in data.items() if key in _TOKENS}
    if grid is not None:
        counts["grid"] = grid[0] * grid[1]
    if not counts:
        raise RequestError(f"{path}: no signal of visual tokens in it; it holds {', '.join(sorted(data)) or 'nothing'}")
    if len(set(counts.values())) > 1:
        pairs = ", ".join(f"{key} {count}" for key, count in sorted(counts.items()))
        raise RequestError(f"{path}: signals differ in their number of visual tokens: {pairs}")
    count = next(iter(counts.values()))
    if count < 1:
        raise RequestError(f"{path}: holds no visual token")
    tensors: dict[str, Any] = {
        key: _tensor(array) if key == "norm_scale" else _tensor(array)[None] for key, array in data.items()
    }
    tensors.setdefault("seeds", torch.tensor([_stream(seed, path.stem)]))
    tensors.setdefault("sizes", torch.ones(1, count))
    if grid is not None and "positions" not in tensors:
        from harness.engine.signals import grid_coordinates

        tensors["positions"] = grid_coordinates(grid, "cpu")
    return SignalCase(path, Signals(**tensors, count=count, batch=1, grid=grid), count)


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == np.float16:
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(np.ascontiguousarray(array))


def _stream(seed: int, name: str) -> int:
    from harness.run.streams import stream

    return stream(seed, name)


def _step(method: Method, name: str, case: SignalCase, share: float | None) -> Step:
    """The method's first step whose signals the file holds."""
    grid = case.signals.grid or (1, case.count)
    width = case.signals.features.shape[-1] if case.signals.features is not None else 64
    shape = ModelShape(
        "file", case.count, grid, 8, 64, 4, 256, False, 14, 32, width, 8, 8, 8, 4 * width, True, 32000, joint_width=64
    )
    steps: tuple[Step, ...] = ()
    reason = "it removes nothing"
    for tokens in (max(1, case.count // 2), case.count):
        try:
            steps = method.steps(shape, Budget(tokens, "final", share=share))
        except BudgetError as error:
            reason = str(error)
        if steps:
            break
    else:
        raise RequestError(f"{case.path}: {name} makes no selection on a file ({reason})")
    missing: list[str] = []
    for step in steps:
        lacking = [n for n in sorted(step.needs - OPTIONAL_SIGNALS) if getattr(case.signals, n) is None]
        if not lacking:
            return step
        missing = missing or lacking
    held = sorted(n for n in SIGNAL_NAMES if getattr(case.signals, n) is not None)
    raise RequestError(f"{case.path}: {name} needs {', '.join(missing)}; the file gives {', '.join(held)}")


def _write(chosen: Selection, path: Path) -> Path:
    arrays = {"kept": chosen.indices[0].numpy()}
    for key in ("tokens", "sizes", "source"):
        value = getattr(chosen, key)
        if value is not None:
            arrays[key] = value[0].float().numpy() if value.dtype == torch.bfloat16 else value[0].numpy()
    return _saved(path, arrays)


def _saved(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    try:
        named: dict[str, Any] = {**arrays}
        with whole(path) as file:
            np.savez_compressed(file, **named)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path


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
) -> list[Path]:
    """Write the signals of a real model on a task: one file a question, readable by `select`.

    Args:
        model: embedded model, folder or hub id.
        task: where images and questions come from.
        samples: images; all their questions come with them.
        out: folder.
        layer: the LLM layer before which text signals are taken; by default layer 2 of 32, or the same depth.
        seed: of the samples.
        options: how the model is loaded.
        self_check: whether the model is held against ``generate`` first.

    Returns:
        The files written.
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
    made = registry.create(task)
    adapter = hf.load(model, device, options=options)
    adapter.check_template()
    depth = at_depth(2, 32, adapter.shape.layers) if layer is None else layer
    if not 1 <= depth < adapter.shape.layers:
        raise RequestError(f"--layer {depth}: choose 1 to {adapter.shape.layers - 1}")
    writable_folder(out)
    run_self_check(model, adapter, self_check)
    written: list[Path] = []
    for sample in track("capture", made.samples(samples, seed), 0, samples):
        batch_run = BatchRun(Engine(adapter, 1), made, [sample], seed, wanted=adapter.gives)
        recorded = _record(batch_run, depth, adapter.gives | (set() if batch_run.evidence is None else {"evidence"}))
        for question, signals in zip(sample.questions, recorded):
            arrays = {
                key: tensor.float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()
                for key, tensor in signals.items()
            }
            path = out / f"{file_name(question.sample_id)}.npz"
            grid = batch_run.batch.pixels.spans[0][0].grid  # of an image in tiles, there is none
            written.append(_saved(path, arrays | ({} if grid is None else {"grid": np.array(grid)})))
    return written


def _record(batch_run: BatchRun, layer: int, gives: frozenset[str]) -> Iterable[dict[str, torch.Tensor]]:
    """The signals of every question of a one-image batch, by running the engine with steps that keep everything."""
    from methods.types import PROJECTOR, decoder

    count, questions = batch_run.engine.adapter.shape.visual_tokens, len(batch_run.batch.questions)
    inside = {"text_attention", "text_attention_ahead", "text_logits", "rope_response", "keys", "text_keys", "hidden_states",
              "text_hidden", "text_features", "norm_scale"}  # fmt: skip
    rows: list[dict[str, torch.Tensor]] = [{} for _ in range(questions)]

    def recorder(needs: frozenset[str], seeds: list[int]) -> Selector:
        def keep_all(signals: Signals, keep: int) -> Selection:
            assert signals.seeds is not None, "the step declares that it needs them"
            for place, seed in enumerate(signals.seeds.tolist()):
                found = {name: getattr(signals, name) for name in needs - {"seeds"}}
                row = {
                    name: value if name == "norm_scale" else value[place] for name, value in found.items() if value is not None
                }
                for question in [seeds.index(seed)] if seed in seeds else range(questions):  # or the image's own stream
                    rows[question] |= row
            return Selection(torch.arange(signals.count, device=signals.device).expand(signals.batch, -1))

        return keep_all

    seeds = batch_run.batch.question_seeds.tolist()
    before = frozenset(gives - inside - {"carry", "sizes"}) | {"seeds"}
    after = frozenset(gives & inside) | {"seeds"}
    steps = (
        Step(PROJECTOR, recorder(before, seeds), count, count, before),
        Step(decoder(layer), recorder(after, seeds), count, count, after),
    )
    batch_run.engine.run(EngineRequest(batch_run.batch, steps, "original", batch_run.shared))
    return rows
