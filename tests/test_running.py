"""How pytest itself runs here: in two processes, and benchmarks in one."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import asks_for, wants_workers
from tests.needs import need

ROOT = Path(__file__).parents[1]
OTHERS = ("tests/benchmarks/test_metrics.py", "tests/results/test_benchmark_files.py")
PLAIN_FILES = ("tests/test_house.py", "tests/tasks/test_scoring.py")  # without torch


def ran(*words: str, code: int = 0) -> str:
    """What a pytest of its own prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_benchmarks_are_timed_in_one_process(tmp_path):
    """pytest-benchmark times nothing where there are two."""
    need("xdist")
    file = tmp_path / "times.json"
    told = ran("--benchmark", *OTHERS, "-k", "coverage_null", f"--benchmark-json={file}")
    assert "workers" not in told and "gw0" not in told and "PytestBenchmarkWarning" not in told
    timed = json.loads(file.read_text())["benchmarks"]
    assert timed and all(one["stats"]["rounds"] > 1 and one["stats"]["median"] > 0 for one in timed)


PLAIN = {"numprocesses": None, "tx": [], "dist": "no", "distload": False, "benchmark": False, "usepdb": False, "capture": "fd"}
ALONE = [
    {"benchmark": True}, {"numprocesses": 0}, {"numprocesses": 4}, {"usepdb": True}, {"capture": "no"}, {"dist": "each"},
    {"tx": ["popen"]}, {"distload": True},
]  # fmt: skip


def test_two_processes_unless_the_command_line_says_otherwise():
    assert wants_workers(SimpleNamespace(**PLAIN), ["tests"])
    assert wants_workers(SimpleNamespace(**PLAIN), ["tests/a.py", "tests/b.py"])
    for options in ALONE:
        assert not wants_workers(SimpleNamespace(**PLAIN | options), ["tests"]), options
    without = {name: value for name, value in PLAIN.items() if name not in ("numprocesses", "tx", "dist", "distload")}
    assert not wants_workers(SimpleNamespace(**without), ["tests"]), "-p no:xdist"
    for paths in (["tests/a.py"], ["tests/a.py::test_x"], ["tests/a.py::test_x", "tests/a.py::test_y[0.py]"]):
        assert not wants_workers(SimpleNamespace(**PLAIN), paths), paths


def test_a_plain_run_has_two_workers():
    need("xdist")
    assert "2 workers" in ran(*PLAIN_FILES, "-k", "nothing_of_this_name", code=5)


def test_ci_sums_up_what_its_stages_ran(tmp_path, capsys):
    total = runpy.run_path(str(ROOT / ".ci" / "total.py"))["main"]
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    logs[0].write_text("== 1 passed in 0.1s ==\n\x1b[32m==== \x1b[1m3 passed\x1b[0m, 2 skipped, 1 warning in 3.25s ====\x1b[0m\n")
    assert total(map(str, logs[:1])) == 0
    assert total(map(str, logs)) == 1, "a stage that left no log"
    logs[1].write_text("== 1 failed, 5 passed, 2 errors in 71.00s (0:01:11) ==\n")
    assert total(map(str, logs)) == 1
    assert capsys.readouterr().out.splitlines() == [
        "3 passed, 0 failed, 2 skipped", "3 passed, 1 failed, 2 skipped", "8 passed, 3 failed, 2 skipped",
    ]  # fmt: skip


@pytest.mark.parametrize("expression, asked", [
    ("", False), ("triton", True), ("triton or simdevice", True), ("gpu or triton", True), ("triton and not gpu", True),
    ("not triton", False), ("not (triton or gpu)", False), ("not triton and not gpu", False), ("gpu", False), ("not gpu", False),
])  # fmt: skip
def test_what_asks_for_triton(expression, asked):
    assert asks_for(expression, "triton") is asked
