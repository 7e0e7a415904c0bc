"""The memory pass: the peak memory of every cell; on a CPU each in a process of its own, on a GPU here.

On a GPU it is what the allocators of the model's devices handed out, counted anew for every cell. On a CPU it is resident
memory, by ``python -m harness.run.memory_pass < request.json``: one process loads the model and runs nothing; for each cell it
forks a child that runs the cell once, on one image and one question, and reads its own peak. What a child starts with is
the same for all, so the peaks compare. Where there is no fork (Windows), nothing is measured, and a note says so.
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
from harness.run.manifest import add_notes
from harness.store.runs import RunFolder
from methods.kernels import using

if TYPE_CHECKING:
    from harness.run.plan import Cell
    from harness.run.prepare import Levels, PreparedRun


def run_memory_pass(config: CompareConfig, run: RunFolder, prepared: PreparedRun, ids: dict[str, int]) -> None:
    """Measure the peak memory of a request's cells, and store it; a note says of which it could not be measured, and why.

    Args:
        config: the request.
        run: the folder that peaks go to.
        prepared: what the request needs, loaded.
        ids: of the cells in the run, by their keys.
    """
    from harness.run.prepare import levels_of

    here = any(device.type != "cpu" for device in prepared.adapter.devices)
    found, why = peaks_here(config, prepared) if here else peaks(config, levels_of(prepared))
    for key, memory in found.items():
        run.set_facts(ids[key], peak=memory)
    missing: dict[str, list[str]] = {}  # by the reason
    for cell in prepared.active:
        if cell.key not in found:
            missing.setdefault(why.get(cell.key, why[""]), []).append(f"{cell.method} at {cell.keep}")
    whole = not found and len(missing) == 1
    for reason, cells in missing.items():
        of = "" if whole else f" of {', '.join(cells)}"
        add_notes(run, [f"--memory: peak memory{of} was not measured: {reason}"])


def peaks_here(config: CompareConfig, prepared: PreparedRun) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the peak memory of a request's cells on the model's GPUs, by their keys, each cell on one image and one question.

    Args:
        config: the request.
        prepared: what the request needs, loaded.

    Returns:
        ``by_device``: the most that the allocator of each device handed out, weights included; ``peak_bytes``: their sum, with
        several devices an upper bound of what they held at any one time, since they peak at different times;
        ``working_bytes``: how much of it came on top of what was there before the cell ran. And why others have none, by
        their keys; by an empty one, why any other has none.
    """
    from harness.engine.engine import Engine
    from harness.run.batch_run import BatchRun
    from harness.run.failures import reason
    from harness.run.latency_pass import one_question
    from metrics.memory import device_peaks, reset_device_peaks

    adapter = prepared.adapter
    engine, found = Engine(adapter, prepared.answer_tokens(config)), dict[str, dict[str, Any]]()
    why = {"": "there is no image that can be read"}
    for cell in prepared.active:
        for sample in filter(lambda sample: sample.count, prepared.samples):  # the first on which the cell can be run
            try:
                batch_run = BatchRun(
                    engine, prepared.task, [one_question(sample)], config.seed, wanted=cell.needs, template=config.prompt
                )
                request = EngineRequest(batch_run.batch_for(cell), cell.given, cell.object.positions, None, cell.blind)
                engine.run(request)  # what is made once for a model is made by now
                before = reset_device_peaks(adapter.devices)
                engine.run(request)
                by_device = device_peaks(adapter.devices)
            except Exception as error:  # of this sample, or of memory
                why.setdefault(cell.key, reason(error))
                continue
            if by_device:
                peak = sum(by_device.values())
                working = max(0, peak - sum(before.values()))
                found[cell.key] = {"peak_bytes": peak, "working_bytes": working, "by_device": by_device}
            else:
                why[cell.key] = f"a device of the kind {adapter.device.type} is not asked for it"
            break
    return found, why


def peaks(config: CompareConfig, levels: Levels = ()) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the peak memory of a request's cells, by their keys.

    Args:
        config: the request.
        levels: of the cells of tuned methods.

    Returns:
        ``peak_bytes``: the most that was ever resident, interpreter and weights included; ``working_bytes``: how much of
        it came on top of what was resident before the cell ran. And why others have none, by their keys; by an empty one, why
        any other has none.
    """
    if not hasattr(os, "fork") or not Path("/proc/self/status").exists():
        return {}, {"": "this takes a fork and /proc, which this platform has not"}
    command = [sys.executable, "-m", "harness.run.memory_pass"]
    request = json.dumps({**asdict(config), "levels": levels}, default=str)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False, env=environment)  # nosec B603
    if done.returncode:
        return {}, {"": (done.stderr.strip().splitlines() or [f"its process ended with code {done.returncode}"])[-1][:200]}
    told: dict[str, dict[str, Any]] = json.loads(done.stdout)
    why = {key: f"alone in a process: {cell['failed']}" for key, cell in told.items() if "failed" in cell}
    return {key: cell for key, cell in told.items() if key not in why}, {"": "alone in a process it failed"} | why


def serve(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Load the model, fork for each cell, and return each one's peak, or why it ``failed``; what a process for `peaks` does.

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
            with using(config.kernels):
                engine.run(EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind))

        measured = _in_child(run)
        if measured is not None:
            found[cell.key] = measured
    return found


def _in_child(run: Callable[[], None]) -> dict[str, Any] | None:
    """Peak and working memory of a function in a forked child, or why it ``failed``; None where the child was killed."""
    from harness.run.failures import reason

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            before = _status("VmRSS")
            try:
                run()
            except Exception as error:
                os.write(writer, json.dumps({"failed": reason(error)}).encode())
            else:
                peak = _status("VmHWM")
                os.write(writer, json.dumps({"peak_bytes": peak, "working_bytes": max(0, peak - before)}).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def _status(name: str) -> int:
    """A figure of proc(5)'s status of this process, in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name + ":"))


if __name__ == "__main__":
    print(json.dumps(serve(json.load(sys.stdin))))
