"""Peak memory and the bytes of a KV cache. Torch is imported only where a device is asked about."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process in bytes, from its start on; freeing does not lower it.

    Measure one cell a subprocess to compare cells. Source: ``VmHWM`` of proc(5) on Linux, elsewhere ``ru_maxrss``
    of getrusage(2).

    Raises:
        OSError: where the platform has neither (Windows).
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass
    # second choice: on Linux ru_maxrss starts at the peak of the process that forked this one, often the larger
    try:
        import resource
    except ImportError as error:
        raise OSError("this platform has no getrusage; peak resident memory is measured on Linux and macOS") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux, bytes on macOS


def device_peaks(devices: Iterable[torch.device | str]) -> dict[str, int]:
    """Return the peak bytes that the allocator of each CUDA device handed out since `reset_device_peaks`; a CPU has none.

    Source: ``torch.cuda.max_memory_allocated``.

    Args:
        devices: of one kind or of several.

    Returns:
        Bytes by the name of a device, such as ``cuda:0``.
    """
    import torch

    return {f"cuda:{index}": torch.cuda.max_memory_allocated(index) for index in _cards(devices)}


def reset_device_peaks(devices: Iterable[torch.device | str]) -> dict[str, int]:
    """Start new peaks on CUDA devices; nothing to do on a CPU.

    Args:
        devices: of one kind or of several.

    Returns:
        The bytes that each had handed out, which are where its new peak begins.
    """
    import torch

    found = {}
    for index in _cards(devices):
        torch.cuda.reset_peak_memory_stats(index)
        found[f"cuda:{index}"] = torch.cuda.memory_allocated(index)
    return found


def _cards(devices: Iterable[torch.device | str]) -> list[int]:
    """Indices of those devices that are CUDA's."""
    import torch

    cards = [device for device in map(torch.device, devices) if device.type == "cuda"]
    return sorted({torch.cuda.current_device() if card.index is None else card.index for card in cards})


def kv_bytes(layers: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Return the bytes of a KV cache, measured.

    Args:
        layers: (key, value) of each layer, [B, H, L, D]; layers may differ in L. A tensor expanded over the batch
            counts as often as it appears, as if it were copied.

    Returns:
        Bytes of all B rows together.
    """
    return sum(tensor.numel() * tensor.element_size() for pair in layers for tensor in pair)
