"""Which code runs the greedy loops: torch's operations, or one Triton kernel a loop where tensors are on a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from methods.lazy import torch

CHOICES = ("auto", "torch", "triton")
"""What may be asked for: ``auto`` is Triton for tensors on a CUDA device where `why_not_by_itself` says nothing, else torch."""
LARGEST = 1024
"""Tokens of an image at most in a kernel, which holds one number a token in registers; of more, torch selects."""

TALLEST = 2048
"""Rows of `covering` at most, which a kernel reads a column of at once; of more, registers spill, and torch selects."""


@dataclass(frozen=True, order=True)
class LoopRun:
    """Which code ran a greedy loop.

    Args:
        loop: its name in `methods.greedy`.
        tokens: N, of one image.
        ran: ``triton`` or ``torch``.
        reason: why not Triton, where Triton was meant to run; else empty.
    """

    loop: str
    tokens: int
    ran: str
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return asdict(self)


_FULL_RATE = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})
"""Compute capabilities of cards that compute in float64 at half the rate of float32; others do at a 32nd or a 64th.

CUDA C++ Programming Guide, throughput of native arithmetic instructions; a capability that is not here counts as slow.
"""
_asked: ContextVar[str] = ContextVar("kernels_asked", default="auto")
_seen: ContextVar[set[LoopRun] | None] = ContextVar("kernels_seen", default=None)


@contextmanager
def using(choice: str) -> Iterator[None]:
    """Have the greedy loops in this context run by the given code; a thread or process that starts inside asks for itself.

    Args:
        choice: one of `CHOICES`. Where Triton cannot take a tensor, torch does; `why_not` says it beforehand.

    Raises:
        ValueError: for anything else.
    """
    if choice not in CHOICES:
        raise ValueError(f"kernels {choice!r}: choose {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")
    token = _asked.set(choice)
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def observed() -> Iterator[set[LoopRun]]:
    """Collect which code runs each greedy loop in this context, one `LoopRun` for every loop and number of tokens."""
    found: set[LoopRun] = set()
    token = _seen.set(found)
    try:
        yield found
    finally:
        _seen.reset(token)


def taken_by_triton(loop: str, table: torch.Tensor) -> bool:
    """Return whether Triton runs a greedy loop here, and note it for `observed`.

    Args:
        loop: its name.
        table: [B, R, N] the numbers that it reads.
    """
    meant = _meant(str(table.device))
    reason = _cannot_take(loop, table) if meant else ""
    if (seen := _seen.get()) is not None:
        seen.add(LoopRun(loop, table.shape[-1], "triton" if meant and not reason else "torch", reason))
    return meant and not reason


def _meant(device: str) -> bool:
    """Whether what was asked for is Triton on a device, and Triton can run there."""
    asked = _asked.get()
    if asked == "auto":
        return why_not_by_itself(device) is None
    return asked == "triton" and why_not(device.partition(":")[0]) is None


def _cannot_take(loop: str, table: torch.Tensor) -> str:
    height, count = table.shape[-2:]
    if count > LARGEST:
        return f"{count:,} tokens are more than the {LARGEST:,} that a kernel holds"
    if loop == "covering" and height > TALLEST:
        return f"{height:,} rows are more than the {TALLEST:,} that a kernel holds"
    if table.dtype not in (torch.float32, torch.float64):
        return f"numbers of {str(table.dtype).removeprefix('torch.')} are not for a kernel"
    return ""


def why_not(device: str) -> str | None:
    """Return why Triton cannot run on a kind of device, or None where it can.

    Args:
        device: kind of device, such as ``cuda``. On a CPU Triton's interpreter runs kernels, slowly, where ``TRITON_INTERPRET=1``
            stands in the environment.
    """
    missing, interpreted = _installed()
    if missing is not None:
        return missing
    if interpreted:
        return None
    if device != "cuda":
        return f"Triton runs on CUDA devices, not on {device}"
    return _no_driver()


def why_not_by_itself(device: str) -> str | None:
    """Return why ``auto`` does not take Triton on a device, or None where it does.

    It takes it on a CUDA device alone, never interpreted, and on no card that is slow in float64, in which most loops compute:
    there one program an image may well be slower than torch's many.

    Args:
        device: such as ``cuda`` or ``cuda:1``.
    """
    kind = device.partition(":")[0]
    if kind != "cuda":
        return f"Triton runs on CUDA devices, not on {kind}"
    if (reason := why_not(kind)) is not None:
        return reason
    if _installed()[1]:
        return "TRITON_INTERPRET=1 stands in the environment, so Triton would be interpreted"
    return _slow(device)


@cache
def _slow(device: str) -> str | None:
    """Why a card's float64 is too slow for kernels that nobody asked for; cached, since every selection asks."""
    found = torch.cuda.get_device_capability(device)
    if found in _FULL_RATE:
        return None
    return f"a card of compute capability {found[0]}.{found[1]} is slow in float64; --kernels triton has the kernels all the same"


def triton_version() -> str | None:
    """Return Triton's version, with a word where its interpreter runs in place of a GPU; None where it is not installed."""
    missing, interpreted = _installed()
    if missing is not None:
        return None
    import triton

    return f"{triton.__version__}, interpreted" if interpreted else str(triton.__version__)


@cache
def _installed() -> tuple[str | None, bool]:
    """Why Triton cannot be imported, and whether its interpreter stands in for a GPU; Triton reads that once, as it is loaded."""
    try:
        import triton
    except ImportError as error:
        return ("Triton is not installed" if error.name == "triton" else f"Triton cannot be imported ({error})"), False
    knobs = getattr(triton, "knobs", None)  # which versions before 3.4 do not have
    return None, os.environ.get("TRITON_INTERPRET") == "1" if knobs is None else bool(knobs.runtime.interpret)


@cache
def _no_driver() -> str | None:
    """Why Triton finds no device to compile for; cached, since every selection asks."""
    import triton

    try:
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever a driver says
        return f"Triton finds no device ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return None
