"""Shared fixtures, and one option: ``pytest --benchmark`` runs the benchmarks, plain ``pytest`` skips them."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

from tests.made_up_runs import edit_facts, make_run, stored_run

__all__ = ["edit_facts", "make_run", "stored_run"]

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, and by all that tests would start there
settings.register_profile("same", derandomize=True)  # the same examples each time, so that a red run can be repeated
settings.load_profile("same")


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


RATIOS: list[tuple[str, float, float, float, float | None]] = []
"""Name, median ms, median ms of the floor, their ratio, and the bound: filled by benchmarks, printed at the end."""


@pytest.fixture
def against_floor(benchmark, request):
    """Time a function beside its floor, round by round, and put the ratio of the medians into the table."""
    from statistics import median
    from time import perf_counter

    def run(function, floor, bound: float | None, rounds: int = 25) -> float:
        floors: list[float] = []

        def before():
            start = perf_counter()
            floor()
            floors.append(perf_counter() - start)

        benchmark.pedantic(function, setup=before, rounds=rounds, warmup_rounds=2)
        own, least = benchmark.stats.stats.median, median(floors[2:])
        benchmark.extra_info |= {"floor_ms": least * 1e3, "ratio": own / least, "bound": bound}
        RATIOS.append((request.node.name, own * 1e3, least * 1e3, own / least, bound))
        return own / least

    return run


@pytest.fixture
def ratios():
    """The table of ratios, for benchmarks that time their floors themselves."""
    return RATIOS


def pytest_terminal_summary(terminalreporter) -> None:
    if not RATIOS:
        return
    terminalreporter.section("medians beside their floors, one thread")
    terminalreporter.write_line(f"{'case':<62}{'ms':>10}{'floor ms':>11}{'ratio':>8}{'bound':>7}")
    for name, own, least, ratio, bound in RATIOS:
        limit = "" if bound is None else f"{bound:.3g}"
        mark = "  over" if bound is not None and ratio > bound else ""
        terminalreporter.write_line(f"{name:<62}{own:>10.3f}{least:>11.3f}{ratio:>8.2f}{limit:>7}{mark}")


@pytest.fixture(scope="session")
def adapter():
    """The embedded model."""
    from harness.models.hf import load

    return load("tiny")


@pytest.fixture(scope="session")
def work(adapter):
    """Three images of the bundled task with all their questions, in one batch."""
    from harness.engine.engine import Engine
    from harness.run.batch_run import BatchRun
    from harness.tasks.registry import create
    from methods.types import SIGNAL_NAMES

    task = create("shapes")
    return BatchRun(Engine(adapter, 6), task, list(task.samples(3, seed=7)), seed=0, wanted=SIGNAL_NAMES)


@pytest.fixture(scope="module")
def one_thread():
    """Torch computes with one thread: what is rounded is rounded alike, and times are of one core."""
    from harness.run.executors.local import threads

    with threads(1):
        yield
