"""The clocks that times are taken with, held against each other on known pieces of work."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median

import torch

from harness.engine.request import EngineRequest
from harness.engine.stopwatch import synchronise
from harness.run.machine_check.findings import PartFindings
from harness.run.machine_check.reference_cases import ReferenceQuestions

APART = 0.02
"""How far two clocks may be apart over one stretch of time, as a share of it."""
COARSEST = 1e-4
"""Seconds that the smallest step of the clock may take: a hundredth of the shortest stage that is worth timing."""
_SLEEP, _BUSY, _READS, _PAIRS = 0.3, 0.15, 50_000, 12
_CARD_ROUNDS = 3


def check_clocks(questions: ReferenceQuestions) -> PartFindings:
    """Hold clocks against each other: two of the wall, that of the process, and on a GPU the card's own.

    Args:
        questions: the embedded model on the device, for what is timed.
    """
    found = PartFindings("clocks", "each other")
    device = questions.adapter.device
    _smallest_step(found)
    _two_walls(found)
    _process(found)
    if device.type == "cuda":
        _card(found, device)
    _same_twice(found, questions)
    return found


def _smallest_step(found: PartFindings) -> None:
    reads = [time.perf_counter() for _ in range(_READS)]
    steps = [after - before for before, after in pairwise(reads)]
    rising = [step for step in steps if step > 0]
    smallest = min(rising, default=float("inf"))
    found.figures["smallest_step_seconds"] = smallest if rising else None
    if min(steps) < 0:
        found.differences.append(f"perf_counter goes back by {-min(steps):.1e} s")
    if smallest > COARSEST:
        found.differences.append(f"perf_counter moves in steps of {smallest:.1e} s, too coarse for stages of some milliseconds")
    found.said.append(f"perf_counter never goes back in {_READS:,} readings; its smallest step is {smallest:.1e} s")


def _two_walls(found: PartFindings) -> None:
    """A known stretch of time by two clocks; time.time is not among them, since somebody may set it."""
    first, second = _both_walls()
    time.sleep(_SLEEP)
    wall, other = (after - before for after, before in zip(_both_walls(), (first, second), strict=True))
    found.figures["wall_over_other_wall"] = wall / other
    name = "the raw monotonic clock" if _RAW is not None else "the monotonic clock"
    if abs(wall / other - 1) > APART or wall < _SLEEP * (1 - APART):
        found.differences.append(f"perf_counter counts {wall:.4f} s over a pause of {_SLEEP} s, {name} {other:.4f} s")
    found.said.append(f"over a pause of {_SLEEP} s perf_counter counts {wall:.4f} s, {name} {other:.4f} s")


def _both_walls() -> tuple[float, float]:
    """Both clocks at one moment: of some readings the one in which least time passed between the two."""
    readings = []
    for _ in range(_READINGS):
        before = time.perf_counter()
        other = time.clock_gettime(_RAW) if _RAW is not None else time.monotonic()
        readings.append((time.perf_counter() - before, before, other))
    _, wall, other = min(readings)
    return wall, other


_READINGS = 20
_RAW: int | None = getattr(time, "CLOCK_MONOTONIC_RAW", None)


def _process(found: PartFindings) -> None:
    """One thread at work: the process cannot use more time of a CPU than passes on the wall; less where others use it too."""
    wall, own = time.perf_counter(), time.thread_time()
    count = 0
    while time.perf_counter() - wall < _BUSY:
        count += 1
    own, wall = time.thread_time() - own, time.perf_counter() - wall
    found.figures["cpu_share_of_a_busy_thread"] = own / wall
    if own > wall * (1 + APART):
        found.differences.append(f"a busy thread used {own:.4f} s of a CPU in {wall:.4f} s by perf_counter")
    others = "" if own > 0.9 * wall else "; other programs use this CPU, and times are the noisier for it"
    found.said.append(f"a busy thread had {100 * own / wall:.0f} % of a CPU{others}")


def _card(found: PartFindings, device: torch.device) -> None:
    """Work on the card by its own events and by the wall, with a synchronisation at each end."""
    try:
        with torch.cuda.device(device):
            torch.cuda.Event(enable_timing=True).record()  # where there are none, this says so before anything is computed
        table = torch.randn(2048, 2048, device=device)

        def work() -> list[torch.Tensor]:
            return [table @ table for _ in range(50)]

        work()
        torch.cuda.synchronize(device)
        both = []
        for _ in range(_CARD_ROUNDS):
            with torch.cuda.device(device):
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                wall = time.perf_counter()
                start.record()
                work()
                end.record()
            torch.cuda.synchronize(device)
            both.append((time.perf_counter() - wall, start.elapsed_time(end) / 1e3))
        wall, card = min(both)  # the round in which the host was kept from reading its clock least
    except Exception as error:  # of a driver that has no events
        found.said.append(f"the card's own clock cannot be read ({type(error).__name__}), and was not compared")
        return
    found.figures["card_over_wall"] = card / wall
    if card > wall * (1 + APART) or card < wall * 0.5:
        found.differences.append(f"50 products take {card:.4f} s by the card's events, {wall:.4f} s by perf_counter")
    found.said.append(f"50 products take {card:.4f} s by the card's events, {wall:.4f} s by perf_counter")


def _same_twice(found: PartFindings, questions: ReferenceQuestions) -> None:
    """The unpruned model beside itself, by turns: what two times of one thing differ by on this machine now."""
    run, cell = questions.runs[0], next(cell for cell in questions.cells if cell.method == "none")
    request, device = EngineRequest(run.batch, cell.steps, cell.object.positions), [str(questions.adapter.device)]

    def timed() -> float:
        synchronise(device)
        start = time.perf_counter()
        questions.engine.run(request)
        synchronise(device)
        return time.perf_counter() - start

    timed()
    ratios = sorted(timed() / timed() for _ in range(_PAIRS))
    middle, low, high = median(ratios), ratios[_PAIRS // 4], ratios[-1 - _PAIRS // 4]
    found.figures["same_over_same"] = {"median": middle, "quartiles": [low, high], "pairs": _PAIRS}
    found.said.append(
        f"the unpruned model over itself, {_PAIRS} pairs: {middle:.3f}, half of them within {low:.3f} to {high:.3f} (1 is right)"
    )
