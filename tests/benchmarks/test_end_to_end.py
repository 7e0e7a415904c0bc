"""One cell end to end on the embedded model: three images with all their questions."""

import pytest

from harness.engine.request import EngineRequest
from methods.registry import create
from methods.types import Budget


@pytest.mark.benchmark(group="end to end")
@pytest.mark.parametrize("expression", ["none", "sts", "fastv", "tome"])
def test_cell(benchmark, work, expression):
    method = create(expression)
    steps = method.steps(work.engine.adapter.shape, Budget(64))
    benchmark.pedantic(lambda: work.engine.run(EngineRequest(work.batch, steps, method.positions)), rounds=5, warmup_rounds=1)
