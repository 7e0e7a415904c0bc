"""How often the host waits for a GPU in one question, by torch's own word."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.run.machine_check.findings import PartFindings
from harness.run.machine_check.reference_cases import ReferenceQuestions

METHODS = ("none", "fastv", "divprune", "tome", "sparsevlm")


def check_synchronisations(questions: ReferenceQuestions) -> PartFindings:
    """Count the synchronisations that torch warns of in one question, under a few methods.

    Nothing is held against anything: the figures are for whoever wonders what a card waits for.

    Args:
        questions: the embedded model on the device.
    """
    found = PartFindings("synchronisations", "")
    if questions.adapter.device.type != "cuda":
        found.said.append("cannot be counted here: there is no device to wait for")
        return found
    engine, run = Engine(questions.adapter, 1), questions.runs[0]
    for cell in (cell for cell in questions.cells if cell.method in METHODS):
        request = EngineRequest(run.batch, cell.steps, cell.object.positions)
        engine.run(request)
        try:
            places = waits_of(lambda: engine.run(request))
        except Exception as error:  # of a torch or a driver that cannot warn
            found.said.append(f"cannot be counted here: torch does not warn of them ({type(error).__name__})")
            return found
        found.figures[cell.method] = dict(places)
        where = ", ".join(f"{place} {count}" for place, count in places.most_common(4))
        found.said.append(f"{cell.method}: {sum(places.values())}" + (f" ({where})" if where else ""))
    return found


def waits_of(run: Callable[[], object]) -> Counter[str]:
    """Return how often the host waits for a GPU at each place, such as ``decoding.py:12``, by torch's warnings.

    Args:
        run: what waits.
    """
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(one.filename).name}:{one.lineno}" for one in told if "synchroniz" in str(one.message))
