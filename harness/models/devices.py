"""On which devices models run, in which precision, and what these are called."""

from __future__ import annotations

from typing import Any

import torch

from harness.errors import RequestError


def pick_device(text: str) -> str:
    """Return the device that ``--device`` asks for; ``auto`` is a GPU where there is one.

    CPUs and CUDA devices are what is tested; others are refused.

    Raises:
        RequestError: where there is no such device, or nothing was tested there.
    """
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise RequestError(f"--device {text!r}: no such device; use auto, cpu or cuda") from None
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        raise RequestError(f"--device {text!r}: nothing was tested on a device of this kind; use auto, cpu or cuda")
    if not torch.cuda.is_available():
        raise RequestError(f"--device {text}: no CUDA device is usable here; use cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        there = "cuda:0 alone" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise RequestError(f"--device {text}: there is {there} here")
    return text


def placed_on(device: str, device_map: str | None) -> str:
    """Return the device that a model will lie on, or that of its parts if it lies on several.

    Args:
        device: that `pick_device` found.
        device_map: of transformers, which decides in its place where there is one; ``auto`` and its like take all GPUs there are.
    """
    if device_map is None:
        return device
    if device_map.partition(":")[0] in ("cpu", "cuda"):
        return device_map
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_on(device: str, dtype: str) -> torch.dtype:
    """Return the precision that ``--dtype`` asks for on a device.

    ``auto`` is float32 on a CPU; on a GPU bfloat16, or float16 where the card has no bfloat16.

    Raises:
        RequestError: for bfloat16 on a card that would emulate it.
    """
    lacks = torch.device(device).type == "cuda" and not has_bfloat16(device)
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.float16 if lacks else torch.bfloat16
    if dtype == "bfloat16" and lacks:
        raise RequestError(f"--dtype bfloat16: {names_of([torch.device(device)])} has none; use float16 or float32")
    found: torch.dtype = getattr(torch, dtype)
    return found


def has_bfloat16(device: str) -> bool:
    """Return whether a GPU computes with bfloat16 itself; torch emulates it on older cards."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def whole_float32() -> None:
    """Let float32 be float32 on a GPU: without this, convolutions round what they multiply to TF32's ten bits of mantissa.

    Where torch has ``fp32_precision``, that is set too: once somebody has set it, the older ``allow_tf32`` leaves convolutions as
    they are, and cannot be read before both say the same.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for part in _precisions():
        part.fp32_precision = "ieee"


def tf32_allowed() -> bool:
    """Return whether matmuls or convolutions of float32 may be rounded to TF32 on a GPU."""
    if parts := _precisions():
        return any(part.fp32_precision == "tf32" for part in parts)
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


def _precisions() -> list[Any]:
    """What holds the precision of float32 in matmuls, convolutions and recurrent layers; empty before torch 2.9."""
    cudnn: Any = torch.backends.cudnn
    parts = [torch.backends.cuda.matmul, cudnn, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    return parts if all(hasattr(part, "fp32_precision") for part in parts) else []


def devices_of(model: Any) -> list[torch.device]:
    """Return the devices that a model's weights lie on; those of one kind by their index."""
    found = {weight.device for weight in model.parameters()}
    return sorted(found, key=lambda device: (device.type, device.index or 0))


def names_of(devices: list[torch.device]) -> str:
    """Return what to call devices: a GPU by its index and its card, a CPU by the threads that compute on it."""
    cards = [f"cuda:{d.index or 0} {torch.cuda.get_device_name(d)}" for d in devices if d.type == "cuda"]
    others = [d.type for d in devices if d.type not in ("cuda", "cpu")]
    return ", ".join([*cards, *others]) or f"cpu, {torch.get_num_threads()} threads"
