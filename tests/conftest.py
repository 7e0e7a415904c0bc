"""Shared fixtures, and one option: ``pytest --benchmark`` runs the benchmarks, plain ``pytest`` skips them."""

from __future__ import annotations

import pytest


def pytest_addoption(parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run the benchmarks alone (pytest-benchmark cases)")


def pytest_collection_modifyitems(config, items) -> None:
    wanted = config.getoption("--benchmark")
    chosen, rest = [], []
    for item in items:
        is_benchmark = "benchmark" in getattr(item, "fixturenames", ())
        (chosen if is_benchmark == wanted else rest).append(item)
        if is_benchmark and not wanted:
            item.add_marker(pytest.mark.skip(reason="a benchmark; run with --benchmark"))
    if wanted:
        config.hook.pytest_deselected(items=rest)
        items[:] = chosen


@pytest.fixture(scope="session")
def adapter():
    """The embedded model."""
    from harness.models.hf import load

    return load("tiny")


@pytest.fixture(scope="session")
def work(adapter):
    """Three images of the bundled task with all their questions, in one batch."""
    from harness.engine import Engine
    from harness.measure import Work
    from harness.tasks.registry import create

    task = create("shapes")
    return Work(Engine(adapter, 6), task, list(task.samples(3, seed=7)), seed=0)
