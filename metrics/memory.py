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


def device_peak_bytes(device: torch.device | str) -> int | None:
    """Return the peak bytes that the allocator of a CUDA device handed out since `reset_device_peak`; None on a CPU.

    Source: ``torch.cuda.max_memory_allocated``.
    """
    import torch

    device = torch.device(device)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def reset_device_peak(device: torch.device | str) -> None:
    """Start a new peak on a CUDA device; nothing to do on a CPU."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def kv_bytes(layers: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Return the bytes of a KV cache, measured.

    Args:
        layers: (key, value) of each layer, [B, H, L, D]; layers may differ in L. A tensor expanded over the batch
            counts as often as it appears, as if it were copied.

    Returns:
        Bytes of all B rows together.
    """
    return sum(tensor.numel() * tensor.element_size() for pair in layers for tensor in pair)
