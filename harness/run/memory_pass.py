"""The memory pass: peak resident memory of every cell, each in a process of its own.

``python -m harness.run.memory_pass < request.json``: one process loads the model and runs nothing; for each cell it forks a
child that runs the cell once, on one image and one question, and reads its own peak. What a child starts with is
the same for all, so the peaks compare. Where there is no fork (Windows), nothing is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.request import EngineRequest
from harness.run.config import CompareConfig, load_plugins
from harness.store.runs import RunFolder

if TYPE_CHECKING:
    from harness.run.batch_run import BatchRun
    from harness.run.plan import Cell
    from harness.run.prepare import Levels


def run_memory_pass(config: CompareConfig, run: RunFolder, ids: dict[str, int], levels: Levels = ()) -> None:
    """Measure the peak memory of a request's cells, and store it; nothing is stored where it cannot be measured here.

    Args:
        config: the request.
        run: the folder that peaks go to.
        ids: of the cells in the run, by their keys.
        levels: of the cells of tuned methods.
    """
    for key, memory in peaks(config, levels).items():
        run.set_facts(ids[key], peak=memory)


def peaks(config: CompareConfig, levels: Levels = ()) -> dict[str, dict[str, int]]:
    """Return the peak memory of a request's cells, by their keys.

    Args:
        config: the request.
        levels: of the cells of tuned methods.

    Returns:
        ``peak_bytes``: the most that was ever resident, interpreter and weights included; ``working_bytes``: how much of
        it came on top of what was resident before the cell ran. Empty where it cannot be measured here.
    """
    if not hasattr(os, "fork") or not Path("/proc/self/status").exists():
        return {}
    command = [sys.executable, "-m", "harness.run.memory_pass"]
    request = json.dumps({**asdict(config), "levels": levels}, default=str)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False, env=environment)  # nosec B603
    found: dict[str, dict[str, int]] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def serve(request: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Load the model, fork for each cell, and return each one's peak; what a process for `peaks` does.

    Threads are kept to one, since a pool of them does not survive a fork.

    Args:
        request: a `CompareConfig` as JSON holds it, and ``levels`` of the cells of tuned methods, a key and a level each.
    """
    import torch

    from harness.engine.engine import Engine
    from harness.run.batch_run import BatchRun
    from harness.run.latency_pass import one_question
    from harness.run.prepare import prepare, set_levels

    torch.set_num_threads(1)
    levels = tuple((key, level) for key, level in request.pop("levels", ()))
    tuples = {name: tuple(request[name]) for name in ("methods", "keep", "plugin")}
    config = CompareConfig(**{**request, **tuples, "out": None})
    load_plugins(config.plugin)
    prepared = prepare(config, samples=1)
    set_levels(prepared, levels)
    engine = Engine(prepared.adapter, prepared.answer_tokens(config))
    found = {}
    for cell in prepared.active:
        sample = one_question(prepared.samples[0])
        batch_run = BatchRun(engine, prepared.task, [sample], config.seed, wanted=cell.needs, template=config.prompt)

        def run(cell: Cell = cell, batch_run: BatchRun = batch_run) -> None:
            batch = batch_run.batch_for(cell)
            engine.run(EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind))

        measured = _in_child(run)
        if measured is not None:
            found[cell.key] = measured
    return found


def _in_child(run: Callable[[], None]) -> dict[str, int] | None:
    """Peak and working memory of a function in a forked child; None where it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            before = _status("VmRSS")
            run()
            peak = _status("VmHWM")
            os.write(writer, json.dumps({"peak_bytes": peak, "working_bytes": max(0, peak - before)}).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found: dict[str, int] | None = json.loads(text) if text else None
    return found


def _status(name: str) -> int:
    """A figure of proc(5)'s status of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))


if __name__ == "__main__":
    print(json.dumps(serve(json.load(sys.stdin))))
