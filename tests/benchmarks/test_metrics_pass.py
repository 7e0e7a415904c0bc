"""What the analysis of kept tokens costs beside the accuracy pass run without sharing, on the embedded model, defaults."""

import pytest

from harness.engine.engine import Engine
from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from harness.tasks.registry import create

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.benchmark(group="metrics")
def test_metrics_pass_of_the_default_cells(adapter, against_floor):
    """Diversity, coverage, bias, scores, layers and all chance nulls of every default cell; bound: a fifth of the pass."""
    cells = [cell for cell in make_cells(CompareConfig(), adapter.shape, True) if cell.skipped is None]
    wanted = frozenset().union(*(cell.needs for cell in cells))
    task = create("shapes")
    samples = list(task.samples(2, seed=7))
    shared = BatchRun(Engine(adapter, 8), task, samples, 0, True, wanted)
    ran = []
    for cell in cells:
        if cell.blind:
            continue
        recorder = Recorder(attention=True)
        batch = shared.batch if cell.grid is None else shared.make_batch(cell.grid)
        known = shared.shared if cell.grid is None and not cell.in_tower else None
        ran.append(
            (cell, shared.engine.run(EngineRequest(batch, cell.steps, cell.object.positions, known, recorder=recorder)), recorder)
        )

    def analysis() -> None:
        fresh = BatchRun(shared.engine, task, samples, 0, True, wanted)
        fresh.__dict__["shared"] = shared.shared
        analyst = fresh.analyst
        analyst.complexity()
        for cell, output, recorder in ran:
            analyst.run(cell, output, recorder)

    def accuracy_pass() -> None:
        alone = BatchRun(shared.engine, task, samples, 0, False, wanted)
        for cell in cells:
            alone.run(cell)

    against_floor(analysis, accuracy_pass, 0.2, rounds=3)
