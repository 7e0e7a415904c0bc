"""The command `select`: a method's selection on tensors from files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import RequestError, nearest
from harness.files import whole
from harness.models.devices import pick_device
from harness.progress import track
from harness.run.levels import refuse_without_level
from harness.run.selection_kernels import resolved
from harness.run.signal_origin import SignalOrigin, first_step
from harness.store.archives import read_arrays
from harness.store.budgets import read_keep
from methods.keep import Keep
from methods.kernels import using
from methods.registry import MethodError, canonical, create
from methods.signals import TOKEN_AXES
from methods.types import (
    OPTIONAL_SIGNALS,
    SIGNAL_NAMES,
    Budget,
    BudgetError,
    Method,
    ModelShape,
    Selection,
    Signals,
    Step,
)

_RANKS = {name: 2 for name in SIGNAL_NAMES} | {
    "text_attention": 3, "text_attention_ahead": 3, "text_logits": 3, "cls_feature": 1, "cls_key": 1, "evidence": 1,
    "sizes": 1, "seeds": 0, "norm_scale": 1, "cls_attention_tiles": 3, "cls_feature_first": 1, "cls_query": 1, "cls_key_full": 1,
    "cls_value_full": 1, "text_attention_ahead_unrotated": 3,
}  # fmt: skip


@dataclass(frozen=True)
class SignalCase:
    """The signals that one file holds, batched, of one image and one question."""

    path: Path
    signals: Signals
    count: int
    origin: SignalOrigin | None = None  # of a file that `capture` wrote


def select(
    method: str,
    paths: list[Path],
    keep: Keep | float | str,
    out: Path,
    seed: int = 0,
    kernels: str = "auto",
    device: str = "cpu",
) -> list[Path]:
    """Run one method's selection on files, and write what it keeps under the files' own names.

    Args:
        method: an expression. Of a method with several steps, the first whose signals the files hold.
        paths: .npz files with signals, unbatched, under their names; keys ``out_*`` are not read.
        keep: tokens to keep, or a share of those of each file; where a file has fewer, all.
        out: a folder, or for one file a name that ends in .npz.
        seed: of random methods.
        kernels: what runs greedy selections: ``torch``, or ``triton``, which on a CPU is Triton's interpreter; ``auto`` is
            Triton on a GPU alone.
        device: where selections run, such as ``cpu`` or ``cuda``.

    Returns:
        The files written, one a case, as soon as each is done.

    Raises:
        RequestError: for a wrong method, file or signal; what is already written stays.
    """
    device = pick_device(device)
    keep, ran = read_keep(keep), resolved(kernels, device)
    try:
        made, name = create(method), canonical(method)
    except MethodError as error:
        raise RequestError(str(error)) from None
    refuse_without_level(name)
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
        count = keep.tokens(case.count)
        step = _step(made, name, case, keep.value if keep.share else None, count)
        try:
            with torch.inference_mode(), using(ran):
                chosen = step.select(case.signals.to(device).only(step.needs), count)
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
    try:
        origin = SignalOrigin.taken_from(data)
    except ValueError as error:
        raise RequestError(f"{path}: {error}") from None
    tiles = data.pop("tile_places", None)
    for key, array in data.items():
        if key not in SIGNAL_NAMES:
            raise RequestError(f"{path}: unknown signal {key!r}; {nearest(key, sorted(SIGNAL_NAMES))}")
        if array.ndim != _RANKS[key]:
            raise RequestError(f"{path}: {key} has {array.ndim} axes, {_RANKS[key]} are needed (no batch axis)")
        if not array.size and array.shape[TOKEN_AXES.get(key, 0)]:
            raise RequestError(f"{path}: {key} has a width of 0")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RequestError(f"{path}: {key} holds NaN or infinity")
        if array.dtype.kind not in "fiub":
            raise RequestError(f"{path}: {key} holds {array.dtype}, not numbers")
    counts = {key: array.shape[TOKEN_AXES[key]] for key, array in data.items() if key in TOKEN_AXES}
    if grid is not None:
        counts["grid"] = grid[0] * grid[1]
    if not counts:
        raise RequestError(f"{path}: no signal of visual tokens in it; it holds {', '.join(sorted(data)) or 'nothing'}")
    if origin is not None and origin.shape is not None:
        counts["model"] = origin.shape.visual_tokens
    if len(set(counts.values())) > 1:
        pairs = ", ".join(f"{key} {count}" for key, count in sorted(counts.items()))
        raise RequestError(f"{path}: signals differ in their number of visual tokens: {pairs}")
    count = next(iter(counts.values()))
    if count < 1:
        raise RequestError(f"{path}: holds no visual token")
    if tiles is not None and (tiles.ndim != 2 or tiles.dtype.kind not in "iu" or (tiles < -1).any() or (tiles >= count).any()):
        raise RequestError(f"{path}: tile_places must be whole numbers [T, n] from -1 to {count - 1}")
    tensors: dict[str, Any] = {
        key: _tensor(array) if key == "norm_scale" else _tensor(array)[None] for key, array in data.items()
    }
    tensors.setdefault("seeds", torch.tensor([_stream(seed, path.stem)]))
    tensors.setdefault("sizes", torch.ones(1, count))
    if grid is not None and "positions" not in tensors:
        from harness.engine.signals import grid_coordinates

        tensors["positions"] = grid_coordinates(grid, "cpu")
    places = None if tiles is None else torch.from_numpy(tiles.astype(np.int64))
    return SignalCase(path, Signals(**tensors, count=count, batch=1, grid=grid, tile_places=places), count, origin)


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype == np.float16:
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(np.asarray(array, order="C"))  # `ascontiguousarray` would give a seed an axis


def _stream(seed: int, name: str) -> int:
    from harness.run.streams import stream

    return stream(seed, name)


def _step(method: Method, name: str, case: SignalCase, share: float | None, count: int | None = None) -> Step:
    """The method's first step whose signals the file holds; of a captured file, the first, which must read what it holds."""
    steps = _steps(method, name, case, share) if case.origin is None else (_captured_step(method, name, case, share, count),)
    missing: list[str] = []
    for step in steps:
        lacking = [n for n in sorted(step.needs - OPTIONAL_SIGNALS) if getattr(case.signals, n) is None]
        if not lacking:
            return step
        missing = missing or lacking
    held = sorted(n for n in SIGNAL_NAMES if getattr(case.signals, n) is not None)
    raise RequestError(f"{case.path}: {name} needs {', '.join(missing)}; the file gives {', '.join(held)}")


def _steps(method: Method, name: str, case: SignalCase, share: float | None) -> tuple[Step, ...]:
    """The method's steps on a file that does not say where its signals are from."""
    reason = "it removes nothing"
    for tokens in (max(1, case.count // 2), case.count):
        try:
            if steps := method.steps(_shape(case), Budget(tokens, "final", share=share)):
                return steps
        except BudgetError as error:
            reason = str(error)
    raise RequestError(f"{case.path}: {name} makes no selection on a file ({reason})")


def _captured_step(method: Method, name: str, case: SignalCase, share: float | None, count: int | None) -> Step:
    """The method's first step on a captured file, which must read what the file holds; the others act on what it leaves."""
    assert case.origin is not None, "the file was captured"
    try:
        step = first_step(method, _shape(case), count, share)
    except BudgetError as error:
        raise RequestError(f"{case.path}: {name} makes no selection on a file ({error})") from None
    if (other := case.origin.differs(step)) is not None:
        advice = "" if step.site.stage == 0 else f"; write it with capture --method {name!r}"
        raise RequestError(f"{case.path}: {name} {other}{advice}")
    return step


def _shape(case: SignalCase) -> ModelShape:
    """The model's figures, where the file tells them; else made-up ones, from which no selector takes its widths."""
    if case.origin is not None and case.origin.shape is not None:
        return case.origin.shape
    grid = case.signals.grid or (1, case.count)
    width = case.signals.features.shape[-1] if case.signals.features is not None else 64
    return ModelShape(
        "file", case.count, grid, 8, 64, 4, 256, False, 14, 32, width, 4, 4, 8, 4 * width, True, 32000, joint_width=64
    )


def _write(chosen: Selection, path: Path) -> Path:
    arrays = {"kept": chosen.indices[0].cpu().numpy()}
    for key in ("tokens", "sizes", "source"):
        value = getattr(chosen, key)
        if value is not None:
            arrays[key] = (value[0].float() if value.dtype == torch.bfloat16 else value[0]).cpu().numpy()
    return saved(path, arrays)


def saved(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays to an .npz file, the whole file or none of it.

    Args:
        path: of the file.
        arrays: by name.

    Raises:
        RequestError: where it cannot be written.
    """
    try:
        named: dict[str, Any] = {**arrays}
        with whole(path) as file:
            np.savez_compressed(file, **named)
    except OSError as error:
        raise RequestError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
