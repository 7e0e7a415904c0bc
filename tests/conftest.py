"""Shared fixtures, and how tests are run: in two processes, or the benchmarks alone with ``pytest --benchmark``."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from shutil import rmtree
from tempfile import mkdtemp

import pytest

if "--benchmark" not in sys.argv:  # before torch and numpy are imported: threads that wait for each other cost tiny models most
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

from hypothesis import settings

from tests.made_up_runs import edit_facts, make_run, stored_run
from tests.needs import STRICT, import_or_fail, installed, need
from tests.statistics.promises import table

__all__ = ["edit_facts", "make_run", "stored_run"]

WORKERS = 2
if STRICT:
    pytest.importorskip = import_or_fail
if "PRUNESCOPE_CACHE" not in os.environ:  # no test writes into the folder of whoever runs it; xdist's processes share one
    os.environ["PRUNESCOPE_CACHE"] = made_cache = mkdtemp(prefix="prunescope-cache-")
    atexit.register(rmtree, made_cache, ignore_errors=True)
if installed("torchvision"):  # before a test imports it beside a torch that it was not built for
    from harness.models.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, and by all that tests would start there
settings.register_profile("same", derandomize=True)  # the same examples each time, so that a red run can be repeated
settings.load_profile("same")


def pytest_configure(config) -> None:
    """Have Triton interpret kernels where its tests are asked for: it reads that as it is imported, and never again."""
    if asks_for(config.option.markexpr, "triton"):
        os.environ.setdefault("TRITON_INTERPRET", "1")


def asks_for(expression: str, mark: str) -> bool:
    """Return whether ``-m`` lets tests of a mark run, and leaves out those without one."""
    from _pytest.mark.expression import Expression

    if not expression:
        return False
    asked = Expression.compile(expression)
    plain = asked.evaluate(lambda name, **_: False)
    return asked.evaluate(lambda name, **_: name == mark) and not plain


def pytest_addoption(parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run the benchmarks alone (pytest-benchmark cases)")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config) -> None:
    """Run tests in two processes, a file's tests in one of them, unless the command line says otherwise.

    This stands here and not in ``addopts``, where ``-n`` would break ``-p no:xdist``, and where it could not be left out: a
    benchmark shares its time with nobody, and a second process for the tests of one file would wait in vain.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ and wants_workers(config.option, config.args):
        config.option.numprocesses, config.option.dist = WORKERS, "loadfile"
        config.option.loadscopereorder = False  # by folders: files of few tests are the longest here, and would come last
    if getattr(config.option, "dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ:
        config.option.benchmark_skip = not config.option.benchmark  # else pytest-benchmark warns of what is skipped anyway


def wants_workers(option, arguments: list[str]) -> bool:
    """Return whether tests should be shared among processes, by the options and paths of a command line."""
    if getattr(option, "numprocesses", 0) is not None or option.tx or option.dist != "no" or option.distload:
        return False  # there is no xdist, or it was told what to do
    paths = {argument.partition("::")[0] for argument in arguments}
    one_file = len(paths) == 1 and all(path.endswith(".py") for path in paths)
    return not (option.benchmark or option.usepdb or option.capture == "no" or one_file)


def pytest_runtest_setup(item) -> None:
    for mark in item.iter_markers("needs"):
        need(*mark.args)


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


COMPARED: list[list] = []
"""Of a task's rules: its name, and how many answers, and how many of them were scored differently; printed at the end."""


@pytest.fixture
def compared_rules(record_property):
    """Takes a row for the table of rules, which the process that writes the summary reads from the test's report."""
    return lambda name, *counts: record_property("compared rules", [name, *counts])


def pytest_runtest_logreport(report) -> None:
    if report.when == "call":
        COMPARED.extend(list(value) for name, value in report.user_properties if name == "compared rules")


@pytest.fixture
def ratios():
    """The table of ratios, for benchmarks that time their floors themselves."""
    return RATIOS


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    promises = [tuple(value) for report in reports for name, value in report.user_properties if name == "promise"]
    if promises:
        terminalreporter.section("what the statistics promise, and what was simulated (99 % interval)")
        for line in table(sorted(promises)):
            terminalreporter.write_line(line)
    if COMPARED:
        terminalreporter.section("official rules beside lmms-eval's own, and ours beside the official")
        heads = ("task", "answers", "disagree", "ours alone right", "official alone right", "undecided")
        terminalreporter.write_line(f"{heads[0]:<12}" + "".join(f"{head:>{len(head) + 3}}" for head in heads[1:]))
        for name, *counts in [*sorted(COMPARED), ["all", *map(sum, zip(*(row[1:] for row in COMPARED)))]]:
            cells = "".join(f"{count:>{len(head) + 3},}" for head, count in zip(heads[1:], counts))
            terminalreporter.write_line(f"{name:<12}{cells}")
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
