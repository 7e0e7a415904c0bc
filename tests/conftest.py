"""One option: ``pytest --benchmark`` runs the benchmarks, plain ``pytest`` skips them."""

from __future__ import annotations


def pytest_addoption(parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run the benchmarks alone (pytest-benchmark cases)")


def pytest_collection_modifyitems(config, items) -> None:
    import pytest

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
