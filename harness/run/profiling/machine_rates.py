"""What this machine can do at its best: a short calibration before a profile, in the model's precision and on its device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.stopwatch import Stopwatch, synchronise
from harness.run.profiling.bounds import MachineRates

_SPENT = 0.25  # seconds on each rate, about
_WORTH = 0.005  # seconds that a product or a copy takes at the least, so that starting it does not matter
_LARGEST = 8192, 2**30
"""Rows and columns of the matrices, and bytes of what is copied, at the most."""
_ROW = 4096  # numbers of a row that is read against a vector, as decoding reads weights
_WIDTH, _LAYERS = 32, 8  # of the small layers whose operations compute next to nothing


@torch.inference_mode()
def measured_rates(device: torch.device, dtype: torch.dtype) -> MachineRates:
    """Measure how fast a device multiplies matrices, copies, and runs operations that compute next to nothing.

    Each is the median of some tries, so that what else runs on the machine slows it down as it does the stages of a model.

    Args:
        device: that the model lies on; of several, one of them.
        dtype: of its weights.
    """
    wait, size, moved = [str(device)], 512, 2**25

    def product_of(rows: int) -> Callable[[], object]:
        left = torch.full((rows, rows), 0.5, device=device, dtype=dtype)
        products = torch.empty_like(left)
        return lambda: torch.mm(left, left, out=products)

    def copy_of(many: int) -> Callable[[], object]:
        source = torch.zeros(many // dtype.itemsize, device=device, dtype=dtype)
        target = torch.zeros_like(source)
        return lambda: target.copy_(source)

    def reading(many: int) -> Callable[[], object]:
        numbers = many // dtype.itemsize
        matrix = torch.zeros(numbers // _ROW, _ROW, device=device, dtype=dtype)
        vector = torch.ones(_ROW, device=device, dtype=dtype)
        return lambda: torch.mv(matrix, vector)

    while size < _LARGEST[0] and _once(product_of(size), wait) < _WORTH:
        size *= 2
    while moved < _LARGEST[1] and _once(copy_of(moved), wait) < _WORTH:
        moved *= 2
    small = [_SmallLayer().to(device, dtype) for _ in range(_LAYERS)]
    token = torch.ones(1, 1, _WIDTH, device=device, dtype=dtype)

    def layers() -> None:
        states = token
        for layer in small:
            states = layer(states)

    watch = CountingWatch(str(device))
    with watch.counting(), watch.stage("decode"):
        layers()
    product, copy, read = (_median(run, wait) for run in (product_of(size), copy_of(moved), reading(moved)))
    return MachineRates(
        flops=2.0 * size**3 / product, bytes=moved * max(2.0 / copy, 1.0 / read),
        launch=_median(layers, wait) / watch.operations["decode"],
        dtype=str(dtype).removeprefix("torch."), size=size, device=str(device),
    )  # fmt: skip


class _SmallLayer(torch.nn.Module):
    """A decoder layer of a few numbers' width, as models of transformers are written: what it takes is what calling it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = torch.nn.ModuleList(torch.nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(7))
        self.scale = torch.nn.Parameter(torch.ones(_WIDTH))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return states [1, 1, width] behind attention and an MLP."""
        normed = self._norm(states)
        query, key, value, out, gate, up, down = self.maps
        heads = [made(normed).view(1, 1, 2, -1).transpose(1, 2) for made in (query, key, value)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
        states = states + out(mixed.transpose(1, 2).reshape(1, 1, -1))
        normed = self._norm(states)
        added: torch.Tensor = states + down(torch.nn.functional.silu(gate(normed)) * up(normed))
        return added

    def _norm(self, states: torch.Tensor) -> torch.Tensor:
        return self.scale * (states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6))


def _once(run: Callable[[], object], wait: list[str]) -> float:
    """Seconds of one run behind one that is not timed."""
    run()
    synchronise(wait)
    start = time.perf_counter()
    run()
    synchronise(wait)
    return time.perf_counter() - start


def _median(run: Callable[[], object], wait: list[str]) -> float:
    """Median seconds of some runs."""
    found, begun = [_once(run, wait)], time.perf_counter()
    while len(found) < 3 or time.perf_counter() - begun < _SPENT:
        found.append(_once(run, wait))
    return float(median(found))


class CountingWatch(Stopwatch):
    """A stopwatch that counts the operations of torch in every stage, those of the stages inside it left out.

    Views, which compute nothing, do not count; on a GPU an operation is one launch or a few.

    Args:
        devices: to synchronise before the time is read.
    """

    def __init__(self, *devices: str) -> None:
        super().__init__(*devices)
        self.operations: Counter[str] = Counter()
        self._names: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count operations for a stage, and add its time, until the end of the ``with`` block."""
        self._names.append(name)
        try:
            with super().stage(name):
                yield
        finally:
            self._names.pop()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the operations of what is run within."""
        with _Counter(self):
            yield

    def operation(self) -> None:
        """Count one operation for the present stage; one outside of all stages is not counted."""
        if self._names:
            self.operations[self._names[-1]] += 1


class _Counter(TorchDispatchMode):
    """Tells a watch of every operation that computes something."""

    def __init__(self, watch: CountingWatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch, which has no types here
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of torch, and count it unless it returns a view."""
        returns = func._schema.returns
        if not any(found.alias_info is not None and not found.alias_info.is_write for found in returns):
            self.watch.operation()
        return func(*args, **(kwargs or {}))
