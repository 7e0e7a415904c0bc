"""Time by stage, with the device synchronised; inner stages are taken out of outer ones."""

from __future__ import annotations

import time
from contextlib import contextmanager

STAGES = ("vision", "projector", "selection", "prefill", "decode")


class Stopwatch:
    """Seconds spent in each stage. Off unless ``device`` is given: then entering a stage costs nothing."""

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.counts: dict[str, int] = {}
        self._open: list[float] = []

    @contextmanager
    def stage(self, name: str):
        if self.device is None:
            yield
            return
        self._synchronise()
        start = time.perf_counter()
        self._open.append(0.0)
        yield
        self._synchronise()
        spent = time.perf_counter() - start
        inner = self._open.pop()
        self.seconds[name] += spent - inner
        if self._open:
            self._open[-1] += spent

    def count(self, name: str, times: int) -> None:
        self.counts[name] = times

    def _synchronise(self) -> None:
        if self.device != "cpu":
            import torch

            if torch.device(self.device).type == "cuda":
                torch.cuda.synchronize(self.device)
