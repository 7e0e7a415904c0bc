"""Time by stage, with the device synchronised; inner stages are taken out of outer ones."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STAGES = ("preprocess", "vision", "projector", "layout", "selection", "prefill", "decode")
"""Stages of a pass, whose times add up to the whole.

``preprocess`` goes from decoded pixels and a text on the host to a batch on the device; ``layout`` lays the prompt out and embeds
it; ``selection`` is all that a method adds, and what is read for it.
"""


def synchronise(devices: Sequence[str]) -> None:
    """Wait until GPUs have done all that they were given; of other devices nothing is waited for.

    Args:
        devices: such as ``cpu`` and ``cuda:0``.
    """
    if cards := [device for device in devices if device.startswith("cuda")]:
        import torch

        for card in cards:
            torch.cuda.synchronize(card)


class Stopwatch:
    """Seconds spent in each stage, those of the stages inside it left out.

    Args:
        devices: to synchronise before the time is read, such as ``cpu``. None of them switches the watch off: entering a stage
            then costs nothing.
    """

    def __init__(self, *devices: str) -> None:
        self.devices = devices
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.counts: dict[str, int] = {}
        self._open: list[float] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time until the end of the ``with`` block to a stage, and take it out of the stage around it."""
        if not self.devices:
            yield
            return
        synchronise(self.devices)
        start = time.perf_counter()
        self._open.append(0.0)
        yield
        synchronise(self.devices)
        spent = time.perf_counter() - start
        inner = self._open.pop()
        self.seconds[name] += spent - inner
        if self._open:
            self._open[-1] += spent

    def count(self, name: str, times: int) -> None:
        """Note how many times a stage was repeated, such as decoding for every token."""
        self.counts[name] = times
