"""Peak memory of a cell while it is timed, and the largest batch that fits: predicted from it, and said to be a prediction.

On a GPU the peak is what the allocator handed out. On a CPU it is what was resident, counted anew for every cell where the
platform lets a process begin a new peak (Linux); elsewhere it is not measured.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import floor
from pathlib import Path
from typing import Any

import torch

from methods.types import ModelShape, Schedule
from metrics.memory import device_peaks, peak_resident_bytes, reset_device_peaks

SPARED = 0.9
"""The part of the free memory that a predicted batch may fill."""
_MOST = 1_000_000  # prompts; a prediction of more says that memory does not bound the batch


@dataclass(frozen=True)
class CellPeak:
    """The peak memory of one cell at one batch size."""

    kind: str  # allocated (on GPUs) or resident (of the process)
    peak_bytes: int  # weights included; of several GPUs a sum, and an upper bound, since they peak at different times
    working: dict[str, int]  # by device, what came on top of what was there before the cell ran

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"kind": self.kind, "peak_bytes": self.peak_bytes, "working_bytes": sum(self.working.values())}


class PeakMeter:
    """Measures the peak memory of what runs between two calls.

    Args:
        devices: all that the model lies on.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        self.devices = devices
        self.on_gpu = any(device.type == "cuda" for device in devices)
        self._before: dict[str, int] = {}

    @property
    def kind(self) -> str:
        """What is measured: ``allocated``, ``resident`` or, where nothing can be, ``not measured``."""
        return "allocated" if self.on_gpu else "resident" if _begins_anew() else "not measured"

    def begin(self) -> None:
        """Begin a new peak."""
        if self.on_gpu:
            self._before = reset_device_peaks(self.devices)
        elif _begin_anew():
            self._before = {"cpu": peak_resident_bytes()}  # which is what is resident now

    def end(self) -> CellPeak | None:
        """Return the peak since `begin`; None where nothing can be measured."""
        if not self._before:
            return None
        peaks = device_peaks(self.devices) if self.on_gpu else {"cpu": peak_resident_bytes()}
        working = {name: max(0, peak - self._before.get(name, 0)) for name, peak in peaks.items()}
        return CellPeak("allocated" if self.on_gpu else "resident", sum(peaks.values()), working)


def free_bytes(devices: list[torch.device]) -> dict[str, int]:
    """Return what is free for a batch on each device, under the names that peaks have; empty where the platform does not tell."""
    found = {}
    for device in devices:
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # the allocator hands it out again
            found[f"cuda:{torch.cuda.current_device() if device.index is None else device.index}"] = free + held
    if found:
        return found
    known = [bytes_free for bytes_free in (_available(), _left_in_group()) if bytes_free is not None]
    return {"cpu": min(known)} if known else {}


@dataclass(frozen=True)
class LargestBatch:
    """How many prompts of a cell fit into memory together."""

    batch: int | None  # None where nothing tells
    how: str  # measured, predicted or unknown
    said: str  # one sentence: from what

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)


def largest_batch(
    peaks: Mapping[int, Mapping[str, int]], free: Mapping[str, int], failed: Mapping[int, str], kind: str, cache: float = 0.0
) -> LargestBatch:
    """Return the largest batch that fits: predicted by a straight line through the working memory of measured batches.

    Args:
        peaks: by batch size that ran, the working memory of each device in bytes.
        free: bytes for a batch on each device.
        failed: batch sizes that did not fit, with what was said.
        kind: allocated, resident or not measured.
        cache: bytes of one prompt's keys and values, on all devices together: a prompt takes no less, whatever was measured.
    """
    ran, first_failed = max(peaks, default=None), min(failed, default=None)
    if ran is None or not any(any(working.values()) for working in peaks.values()):
        if first_failed is not None:
            return LargestBatch(None, "unknown", f"batch {first_failed} did not fit, and no smaller one was measured")
        return LargestBatch(None, "unknown", f"memory was {kind if kind == 'not measured' else 'not seen to grow'} here")
    if not free:
        return LargestBatch(None, "unknown", "this platform does not tell how much memory is free")
    least = cache / len(free)
    most = min(
        _fits({batch: working.get(name, 0) for batch, working in peaks.items()}, room, least) for name, room in free.items()
    )
    sizes = " and ".join(map(str, sorted(peaks)[-2:]))
    line = "a straight line through" if len(peaks) > 1 else "in proportion to"
    said = (
        f"{line} the {kind} working memory of batch {sizes}, in {100 * SPARED:.0f} % of the {sum(free.values()) / 1e9:.1f} GB"
        " that were free beside the weights"
    )
    if first_failed is not None and most >= first_failed:
        return LargestBatch(ran, "measured", f"batch {ran} ran and batch {first_failed} did not fit; between was not tried")
    if most < ran:
        return LargestBatch(ran, "measured", f"batch {ran} ran, though less was predicted to fit; more was not tried")
    if most == _MOST:
        return LargestBatch(None, "unknown", f"memory does not bound it below {_MOST:,} prompts, {said}")
    return LargestBatch(most, "predicted", said)


def computed_bytes(shape: ModelShape, schedule: Schedule, text: float, batch: int, number: int) -> float:
    """Return the working memory of a batch by formula: caches, and the widest layer's states; a guess before anything ran.

    Args:
        shape: the model.
        schedule: of the method.
        text: tokens of a prompt that are not visual.
        batch: prompts.
        number: bytes of one number.
    """
    cached = 2.0 * shape.kv_heads * shape.head_dim * sum(count + text for count in schedule.in_cache)
    tower = max(schedule.vision_attention, default=0) * shape.tiles * (6 * shape.vision_width + 2 * shape.vision_mlp)
    layer = (max(schedule.llm, default=0) + text) * (6 * shape.width + 3 * max(map(shape.mlp_at, range(shape.layers))))
    return number * batch * (cached + max(tower, layer) + shape.vocabulary)


def _fits(points: Mapping[int, int], room: float, least: float) -> int:
    """The largest batch whose working memory on a straight line stays within the room."""
    (*_, (last, most)) = sorted(points.items())
    before = [(batch, working) for batch, working in sorted(points.items()) if batch < last]
    per_prompt, fixed = most / last, 0.0
    if before:
        batch, working = before[-1]
        slope = (most - working) / (last - batch)
        if slope > 0:
            per_prompt, fixed = slope, max(0.0, most - slope * last)
    per_prompt = max(per_prompt, least)
    return min(_MOST, max(0, floor((SPARED * room - fixed) / per_prompt))) if per_prompt > 0 else _MOST


def _begins_anew() -> bool:
    return Path("/proc/self/clear_refs").exists()


def _begin_anew() -> bool:
    """Set the peak of this process to what is resident now, see ``clear_refs`` of proc(5); whether that could be done.

    What was freed and is still held by the C library is given back before, where it knows how: it would hide what comes next.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_group() -> int | None:
    """What a control group leaves to this process, where it has a limit."""
    try:
        most, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
    except OSError:
        return None
    return max(0, int(most) - int(used)) if most.isdigit() and used.isdigit() else None
